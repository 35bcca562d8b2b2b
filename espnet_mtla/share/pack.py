"""One folder that holds a trained model and nothing that ties it to where it was made.

``model.safetensors`` (weights), ``config.yaml`` (what the model is built from),
``tokens.txt``, the tokeniser's and the normalisation's files, ``decode.yaml`` (how it
was decoded) and ``README.md``, the model card.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.errors import UserError
from espnet_mtla.model.files import link_upstream, upstream_path
from espnet_mtla.settings.names import (
    CONFIG,
    DECODE,
    MODEL,
    README,
    STATS,
    SYMBOLS,
    TOKENISER,
    TOKENS,
    WEIGHTS,
)
from espnet_mtla.share.card import Card, describe

if TYPE_CHECKING:
    from torch import nn

    from espnet_mtla.model.base import DecoderOnlyModel
    from espnet_mtla.search.options import DecodeOptions


def pack(folder: Path, target: Path, options: DecodeOptions, card: Card) -> list[str]:
    """Pack the experiment ``folder`` into ``target``, and load it from there once.

    Args:
        options: how the model is to be decoded unless its user says otherwise.
        card: what the model card says beyond the folder's own results.

    Returns:
        Names of the files written.
    Raises:
        UserError: the folder holds no finished model, its configuration points outside,
            or ``target`` holds something else than a packed model.
    """
    from espnet_mtla.model.build import load_model

    source = folder / MODEL
    if not source.is_file():
        raise UserError(
            f"{source}: no such file; python -m espnet_mtla.bin.average makes it"
        )
    kept = target.iterdir() if target.exists() else ()
    strange = any(not path.name.startswith(".") for path in kept)
    if strange and not (target / WEIGHTS).is_file():
        raise UserError(f"{target}: holds something else than a packed model; move it")
    model, args = load_model(folder / CONFIG, source)
    config = portable(vars(args), folder / CONFIG)
    if model.decoder is not None:
        config["decoder_conf"] = model.decoder.config.complete()
    with atomic_folder(target) as aside:
        _write_files(aside, vars(args), config)
        save_weights(model, aside / WEIGHTS)
        write_yaml(aside / DECODE, asdict(options))
        text = describe(folder, model, config, options, card)
        (aside / README).write_text(text, encoding="utf-8")
        _check(aside, model)
        return sorted(path.name for path in aside.iterdir())


def portable(args: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The settings that a model is built from, its files by their names in a pack.

    Raises:
        UserError: a setting points to a file that would be left behind.
    """
    from espnet_mtla.task.tasks import task_class

    parser = ArgumentParser()
    task_class(args.get("task", "asr")).add_task_arguments(parser)
    # Older configurations lack options that were added since: those have defaults.
    names = [action.dest for action in parser._actions if action.dest in args]
    config = {name: args[name] for name in names}
    config["token_list"] = TOKENS
    for option, name in (("bpemodel", TOKENISER), ("non_linguistic_symbols", SYMBOLS)):
        config[option] = name if args[option] is not None else None
    if args["normalize"] == "global_mvn":
        config["normalize_conf"] = {**args["normalize_conf"], "stats_file": STATS}
    upstream = upstream_path(config["frontend"], config["frontend_conf"])
    if upstream is not None:
        config["frontend_conf"] = {**config["frontend_conf"], "path": upstream.name}
    for key, text in _texts(config):
        if Path(text).is_absolute():
            raise UserError(
                f"{where}: {key}: {text} is a file of this machine; a packed model "
                "cannot take it along"
            )
    return config


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested settings, with the dotted name of its place."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{place}]")


def _write_files(
    target: Path, args: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    tokens = "".join(f"{token}\n" for token in args["token_list"])
    (target / TOKENS).write_text(tokens, encoding="utf-8")
    for option in ("bpemodel", "non_linguistic_symbols"):
        if args[option] is not None:
            (target / config[option]).write_bytes(Path(args[option]).read_bytes())
    if args["normalize"] == "global_mvn":
        stats = Path(args["normalize_conf"]["stats_file"])
        (target / STATS).write_bytes(stats.read_bytes())
    upstream = upstream_path(args["frontend"], args["frontend_conf"])
    if upstream is not None:
        link_upstream(upstream, target)
    write_yaml(target / CONFIG, config)


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Plain keys and values, in the order in which they are given."""
    import yaml

    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        yaml.safe_dump(dict(content), stream, sort_keys=False, allow_unicode=True)


def save_weights(model: DecoderOnlyModel, path: Path) -> None:
    """All parameters and buffers; tied ones are written twice, as they are loaded.

    The decoder's settings are noted beside them, so that a changed one is found out.
    """
    import torch
    from safetensors.torch import save_file

    # The format refuses tensors that share memory, and views.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    notes = {"format": "pt"}
    if model.decoder is not None:
        notes["decoder"] = json.dumps(model.decoder.config.complete(), sort_keys=True)
    save_file(copies, path, metadata=notes)


def _check(folder: Path, model: nn.Module) -> None:
    """What was written is read back, and must be the same model."""
    import torch

    from espnet_mtla.model.build import load_model

    again, _ = load_model(folder / CONFIG, folder / WEIGHTS)
    before, after = model.state_dict(), again.state_dict()
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            raise AssertionError(f"{folder}: {name} is not what it was")
