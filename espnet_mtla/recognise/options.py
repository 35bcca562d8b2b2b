"""Decoding options of commands: from the command line, a YAML file or a model folder.

The command line overrides the file, and the file overrides the defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from espnet_mtla.errors import UserError
from espnet_mtla.search.options import (
    ALIASES,
    ESPNET_REFUSED,
    FUSION_FILES,
    DecodeOptions,
)
from espnet_mtla.settings.checks import true_or_false
from espnet_mtla.settings.names import DECODE

logger = logging.getLogger(__name__)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--ngpu``, ``--config`` and the decoding options."""
    parser.add_argument(
        "--ngpu", type=int, choices=(0, 1), default=0, help="0: CPU (default), 1: GPU"
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with any of the decoding options below; its values override "
        "those of the file that its key `base` names",
    )
    add_decoding_options(parser)


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of :class:`DecodeOptions` and each ESPnet name.

    An option that is not on the command line is absent from the parsed arguments, so
    that it does not override a value of a YAML file.
    """
    group = parser.add_argument_group("decoding options")
    for option in fields(DecodeOptions):
        aliases = [alias for alias, name in ALIASES.items() if name == option.name]
        value_type = _text if option.default is None else type(option.default)
        shown_type = {bool: "true|false", _text: "STR"}
        for name in (option.name, *aliases):
            text = f"{option.metadata['help']} (default: {_shown(option.default)})"
            group.add_argument(
                f"--{name}",
                type=true_or_false if value_type is bool else value_type,
                default=argparse.SUPPRESS,
                metavar=shown_type.get(value_type, value_type.__name__.upper()),
                help=text if name == option.name else f"same as --{option.name}",
            )
    for name in ESPNET_REFUSED:
        # A command may have an option of that name itself.
        with contextlib.suppress(argparse.ArgumentError):
            group.add_argument(
                f"--{name}", nargs="*", action=_Refused, help=argparse.SUPPRESS
            )


class _Refused(argparse.Action):
    """Refuse an option of ESPnet's commands with what to use instead."""

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: Any) -> None:
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, **rest)

    def __call__(self, *_: object) -> None:
        raise UserError(f"--{self.dest} (ESPnet): {ESPNET_REFUSED[self.dest]}")


def _text(text: str) -> str | None:
    return None if text.lower() in ("null", "none") else text


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_options(args: argparse.Namespace) -> DecodeOptions:
    """Return the options of ``--config`` with those of the command line over them.

    Raises:
        UserError: an unknown option in the file, or a value out of range.
    """
    return _from_file(args.config).replaced(**explicit_options(args))


def folder_options(folder: Path) -> DecodeOptions:
    """Return the options of a model folder: its ``decode.yaml``, if it has one.

    Paths in the file are relative to the folder.

    Raises:
        UserError: an unknown option in the file, or a value out of range.
    """
    file = folder / DECODE
    return _from_file(file if file.exists() else None).relative_to(folder)


def without_files(options: DecodeOptions) -> DecodeOptions:
    """Return the options without language models and hotwords, which is logged.

    For a model whose files do not include theirs.
    """
    names = [name for name in FUSION_FILES if getattr(options, name) is not None]
    if names:
        left = ", ".join(f"{name} {getattr(options, name)}" for name in names)
        logger.warning("not part of this model, pass it to generate: %s", left)
    nothing = dict.fromkeys(FUSION_FILES)
    return options.replaced(**nothing, lm_weight=0.0, ngram_weight=0.0)


def _from_file(file: Path | None) -> DecodeOptions:
    from espnet_mtla.settings.yaml_files import load_config

    values = {} if file is None else load_config(file)
    return DecodeOptions.from_mapping(values, where=str(file))


def explicit_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the decoding options that were given on the command line, by name."""
    names = {*ALIASES, *(option.name for option in fields(DecodeOptions))}
    return {name: value for name, value in vars(args).items() if name in names}
