"""Checks before a training starts: unknown symbols, initial parameters."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.data.token_list import build_tokeniser, find_unknown, read_token_list
from espnet_mtla.errors import UserError
from espnet_mtla.model.checkpoint import load
from espnet_mtla.task.source import Source

logger = logging.getLogger(__name__)


def check_symbols(
    args: Namespace, sources: Mapping[str, Source], allow_unk: bool
) -> None:
    """Count symbols that are not in the token list; training uses <unk> for them.

    Raises:
        UserError: there are some and ``allow_unk`` is false, or the list is of another
            Transformers tokenizer.
    """
    token_list = read_token_list(args.token_list, args.token_type)
    tokeniser = build_tokeniser(
        args.token_type, args.bpemodel, args.non_linguistic_symbols
    )
    if isinstance(tokeniser, HFTokeniser):
        tokeniser.check_list(token_list, f"bpemodel: {args.bpemodel}")
    for part, source in sources.items():
        found = find_unknown(source.texts, tokeniser, token_list)
        table = source.target
        if not found.total:
            found = find_unknown(source.source_texts, tokeniser, token_list)
            table = source.folder / args.source_text
        logger.info("%s: %d symbols outside the token list", part, found.total)
        if found.total and not allow_unk:
            raise UserError(
                f"{table}: {found.first_utterance}: symbol "
                f"{found.first_symbol!r} is not in the token list ({found.total} such "
                "in all); make the list from this text too, or give --allow_unk true"
            )


def check_init_param(specs: Sequence[str]) -> None:
    """Check that each ``path:source:target:excluded`` names a file with that source.

    espnet2 would unpickle the file, and ignore a missing source.

    Raises:
        UserError: names the file, or the source and the modules that the file has.
    """
    for spec in specs:
        path, *keys = spec.split(":")
        if len(keys) > 3:
            raise UserError(
                f"init_param: {spec}: path:source:target:excluded is the form"
            )
        states = load(path)
        source = keys[0] if keys else ""
        if source and not any(name.startswith(f"{source}.") for name in states):
            parts = ", ".join(sorted({name.split(".")[0] for name in states}))
            raise UserError(f"init_param: {path}: has no {source}; it has {parts}")


def encoder_parts(path: Path) -> list[str]:
    """Return specs of ``init_param`` for all that an encoder model has.

    Args:
        path: parameters of a model that was trained with CTC alone.

    Raises:
        UserError: the file has none of these parts.
    """
    modules = {name.split(".")[0] for name in load(path)}
    parts = [part for part in ("frontend", "encoder", "ctc") if part in modules]
    if not parts:
        raise UserError(
            f"encoder_model: {path}: has no frontend, encoder or ctc; it has "
            + ", ".join(sorted(modules))
        )
    return [f"{path}:{part}:{part}" for part in parts]


def check_adapted(specs: Sequence[str], adapted: Collection[str]) -> None:
    """Refuse initial parameters for parts with adapters, whose names are others.

    Args:
        specs: ``path:source:target:excluded``, as of ``init_param``.
        adapted: parts that the option ``lora`` names.
    """
    for spec in specs:
        target = [*spec.split(":"), "", ""][2]
        for part in adapted:
            if not target or target == part or target.startswith(f"{part}."):
                raise UserError(
                    f"init_param: {spec}: {part} has adapters (lora); train without "
                    f"init_param for {part}, or without lora"
                )


def without_ctc(specs: Sequence[str]) -> list[str]:
    """Return ``specs`` for a model without CTC: those whose target is not ``ctc``."""
    kept = [spec for spec in specs if spec.split(":")[2:3] != ["ctc"]]
    if len(kept) < len(specs):
        logger.info(
            "init_param: this model has no CTC: the ctc parameters are not loaded"
        )
    return kept
