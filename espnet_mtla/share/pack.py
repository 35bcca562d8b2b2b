"""Pack a trained model into one folder that works on any machine.

It holds ``model.safetensors`` (weights), ``config.yaml`` (settings that the model is
built from), ``tokens.txt``, the files of tokeniser and normalisation, ``decode.yaml``
(decoding settings) and ``README.md`` (the model card).
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.model.files import (
    copy_tokenizer,
    export_upstream,
    portable_upstream,
    tokeniser_files,
)
from espnet_mtla.model.originals import read_originals
from espnet_mtla.settings.names import (
    CONFIG,
    DECODE,
    HOTWORDS,
    LM,
    MODEL,
    NGRAM,
    README,
    STATS,
    TOKENIZER,
    TOKENS,
    WEIGHTS,
)
from espnet_mtla.share.card import Card, card_text

if TYPE_CHECKING:
    from torch import nn

    from espnet_mtla.model.base import DecoderOnlyModel
    from espnet_mtla.search.options import DecodeOptions


def pack(folder: Path, target: Path, options: DecodeOptions, card: Card) -> list[str]:
    """Pack an experiment, and load the result once to check it.

    Args:
        folder: the experiment.
        target: folder to write; an older packed model there is replaced.
        options: default decoding settings of the packed model.
        card: entries of the model card by its author.

    Returns:
        Names of the files written.

    Raises:
        UserError: the experiment has no finished model, its configuration refers to
            files outside, or ``target`` holds something other than a packed model.
    """
    from espnet_mtla.model.build import load_model

    source = folder / MODEL
    if not source.is_file():
        raise UserError(f"{source}: {no_file(source)}; `espnet-mtla average` makes it")
    present = target.iterdir() if target.exists() else ()
    occupied = any(not path.name.startswith(".") for path in present)
    if occupied and not (target / WEIGHTS).is_file():
        raise UserError(f"{target}: holds something else than a packed model; move it")
    model, args = load_model(folder / CONFIG, source)
    config = portable(vars(args), folder / CONFIG)
    if model.decoder is not None:
        config["decoder_conf"] = model.decoder.config.complete()
    with atomic_folder(target) as aside:
        _write_files(aside, vars(args), config)
        save_weights(model, aside / WEIGHTS)
        options = copy_fusion(options, model, aside)
        write_yaml(aside / DECODE, asdict(options))
        card = replace(card, originals=tuple(read_originals(folder, args)))
        text = card_text(folder, model, config, options, card)
        (aside / README).write_text(text, encoding="utf-8")
        _check(aside, model)
        return sorted(path.name for path in aside.iterdir())


def copy_fusion(
    options: DecodeOptions, model: DecoderOnlyModel, target: Path
) -> DecodeOptions:
    """Copy language models and hotwords into a packed folder.

    Returns:
        The options with the names that the files have in ``target``.

    Raises:
        UserError: a file is missing, or a language model has other tokens.
    """
    names: dict[str, str] = {}
    if options.lm is not None:
        names["lm"] = LM
        _pack_lm(Path(options.lm), model, target / LM)
    if options.ngram is not None:
        names["ngram"] = NGRAM + (".gz" if options.ngram.endswith(".gz") else "")
    if isinstance(options.hotwords, str):
        names["hotwords"] = HOTWORDS
    for option in {*names} - {"lm"}:
        source = Path(getattr(options, option))
        if not source.is_file():
            raise UserError(f"{option}: {source}: {no_file(source)}")
        (target / names[option]).write_bytes(source.read_bytes())
    return options.replaced(**names)


def _pack_lm(path: Path, model: DecoderOnlyModel, target: Path) -> None:
    from espnet_mtla.model.build import load_model
    from espnet_mtla.model.files import locate_weights

    try:
        weights = path if path.is_file() else locate_weights(path)
    except UserError as error:
        raise UserError(f"lm: {error}") from None
    lm, args = load_model(weights.parent / CONFIG, weights)
    if getattr(args, "task", "asr") != "lm" or lm.token_list != model.token_list:
        raise UserError(f"lm {path}: not a language model over the model's tokens")
    assert lm.decoder is not None, "language models have one"
    config = portable(vars(args), weights.parent / CONFIG)
    config["decoder_conf"] = lm.decoder.config.complete()
    target.mkdir()
    _write_files(target, vars(args), config)
    save_weights(lm, target / WEIGHTS)
    _check(target, lm)


def portable(args: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return a model's settings with the paths of its files inside the packed folder.

    Args:
        args: settings of the trained model, with absolute paths.
        where: the file that they were read from, for messages.

    Raises:
        UserError: a setting refers to a file that is not packed.
    """
    from espnet_mtla.task.tasks import task_class

    parser = ArgumentParser()
    task_class(args.get("task", "asr")).add_task_arguments(parser)
    # Older configurations lack options that were added later; these have defaults.
    names = [action.dest for action in parser._actions if action.dest in args]
    config = {name: args[name] for name in names}
    config["token_list"] = TOKENS
    for option, name in tokeniser_files(args["token_type"]).items():
        config[option] = name if args[option] is not None else None
    if args["normalize"] == "global_mvn":
        config["normalize_conf"] = {**args["normalize_conf"], "stats_file": STATS}
    config["frontend_conf"] = portable_upstream(
        config["frontend"], config["frontend_conf"]
    )
    base = config.get("decoder_base_model")
    if base is not None and Path(base).is_absolute():  # a record, and not read
        config["decoder_base_model"] = Path(base).name
    for key, text in _texts(config):
        if Path(text).is_absolute():
            raise UserError(
                f"{where}: {key}: {text} is a file of this machine, which is not packed"
            )
    return config


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the value of every string in nested settings."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{index}]")


def _write_files(
    target: Path, args: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write configuration, token list, and files of tokeniser and normalisation."""
    tokens = "".join(f"{token}\n" for token in args["token_list"])
    (target / TOKENS).write_text(tokens, encoding="utf-8")
    for option, name in tokeniser_files(args["token_type"]).items():
        if args[option] is None:
            continue
        if name == TOKENIZER:
            copy_tokenizer(args[option], target / name)
        else:
            (target / name).write_bytes(Path(args[option]).read_bytes())
    if args["normalize"] == "global_mvn":
        stats = Path(args["normalize_conf"]["stats_file"])
        (target / STATS).write_bytes(stats.read_bytes())
    export_upstream(args["frontend"], args["frontend_conf"], target)
    write_yaml(target / CONFIG, config)


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, its keys in their order."""
    import yaml

    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        yaml.safe_dump(dict(content), stream, sort_keys=False, allow_unicode=True)


def save_weights(model: DecoderOnlyModel, path: Path) -> None:
    """Write all parameters and buffers; tied ones twice, since both names are loaded.

    The file's metadata has the decoder's settings, which loading compares with the
    configuration.
    """
    import torch
    from safetensors.torch import save_file

    # Safetensors refuses views, and tensors that share memory.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    metadata = {"format": "pt"}
    if model.decoder is not None:
        metadata["decoder"] = json.dumps(
            model.decoder.config.complete(), sort_keys=True
        )
    save_file(copies, path, metadata=metadata)
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file, in place.

    Safetensors writes it in an order that changes from call to call. The file begins
    with the header's length, 8 bytes, and the header, JSON padded by spaces.
    """
    with open(path, "r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
        data = text.encode().ljust(length)
        if len(data) != length:
            raise AssertionError(f"{path}: header of {length} bytes became longer")
        stream.seek(8)
        stream.write(data)


def _check(folder: Path, model: nn.Module) -> None:
    """Load the folder and require that all weights equal those of ``model``."""
    import torch

    from espnet_mtla.model.build import load_model

    loaded, _ = load_model(folder / CONFIG, folder / WEIGHTS)
    before, after = model.state_dict(), loaded.state_dict()
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            raise AssertionError(f"{folder}: {name} differs after loading")
