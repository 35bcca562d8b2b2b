"""Decoding options on the command line and in YAML; the command line wins."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from espnet_mtla.errors import UserError
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.settings.checks import true_or_false


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add model, data, device and ``--config``, and an option a field."""
    parser.add_argument(
        "--model_dir", type=Path, required=True, help="holds config.yaml and model.pth"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="data folder: wav.scp, perhaps segments",
    )
    parser.add_argument(
        "--config", type=Path, help="YAML with any of the decoding options below"
    )
    parser.add_argument(
        "--ngpu", type=int, choices=(0, 1), default=0, help="0: CPU (default), 1: GPU"
    )
    add_decoding_options(parser)


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """An option for each field of :class:`DecodeOptions`, left out unless given."""
    group = parser.add_argument_group("decoding options")
    for option in fields(DecodeOptions):
        kind = _text if option.default is None else type(option.default)
        group.add_argument(
            f"--{option.name}",
            type=true_or_false if kind is bool else kind,
            # Left out unless given, so that the YAML's value is not overwritten.
            default=argparse.SUPPRESS,
            metavar={bool: "true|false", _text: "STR"}.get(kind, kind.__name__.upper()),
            help=f"{option.metadata['help']} (default: {_shown(option.default)})",
        )


def _text(text: str) -> str | None:
    return None if text.lower() in ("null", "none") else text


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_options(args: argparse.Namespace) -> DecodeOptions:
    """Defaults, then the YAML's values, then those of the command line.

    Raises:
        UserError: An unknown key in the YAML, or a value out of range.
    """
    from espnet_mtla.settings.yaml_files import load_yaml

    known = [option.name for option in fields(DecodeOptions)]
    values: dict[str, Any] = {}
    if args.config is not None:
        values = load_yaml(args.config)
        for key in values:
            if key not in known:
                raise UserError(
                    f"{args.config}: unknown key {key!r}; valid: {', '.join(known)}"
                )
    return DecodeOptions(**{**values, **given_options(args)})


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The decoding options that stood on the command line."""
    known = [option.name for option in fields(DecodeOptions)]
    return {name: value for name, value in vars(args).items() if name in known}
