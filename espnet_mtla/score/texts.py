"""Read texts to score: Kaldi ``text``, plain lines or JSONL, paired by key."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from espnet_mtla.data.folder import dropped_before
from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError
from espnet_mtla.score.form import HINT, forms, read_lines
from espnet_mtla.score.metric import Request
from espnet_mtla.text_files import parse_json

KEYS = ("key", "id", "utt_id")
SHOWN_KEYS = 3

Texts = dict[str, tuple[str, ...]]


def read_request(
    refs: Sequence[str | Path],
    hyp: str | Path,
    other: str | Path | None = None,
    form: str = "auto",
    fields: tuple[str, str] = ("text", "text"),
    **options: Any,
) -> Request:
    """Read references (one file or several) and hypotheses, and pair them.

    Plain lines are paired by line number, other formats by key. All texts are converted
    to Unicode's composed form (NFC), so that accents compare equal however they are
    encoded; a warning is logged if that changes a text.

    Args:
        refs: files of references, each one set.
        hyp: file of hypotheses.
        other: file of hypotheses of a second system, or ``None``.
        form: one of :data:`espnet_mtla.score.form.FORMATS`. With ``auto``, files
            named ``*.jsonl`` are ``jsonl``; the others are all ``kaldi`` or all
            ``lines``.
        fields: JSONL fields with the text of references and of hypotheses; a
            reference may be a list of texts.
        options: the remaining fields of :class:`Request`.
    Returns:
        The request. Hypotheses may be empty; at least one reference has a word.
    Raises:
        UserError: a file is broken, or the files have different keys.
    """
    systems = [hyp] if other is None else [hyp, other]
    shapes = forms([*refs, *systems], form)
    reads = zip(refs, shapes, strict=False)
    first, *more = [_read(path, shape, fields[0]) for path, shape in reads]
    for path, texts in zip(refs[1:], more, strict=True):
        _same_keys(path, texts, refs[0], first, form)
    hyps, *second = [
        _hypotheses((path, form, shape), fields[1], refs[0], first)
        for path, shape in zip(systems, shapes[len(refs) :], strict=True)
    ]
    _require_words(refs, (first, *more), form == "auto" and "kaldi" in shapes)
    beyond = tuple(
        (*texts[1:], *(text for table in more for text in table[key]))
        for key, texts in first.items()
    )
    single = tuple(texts[0] for texts in first.values())
    others = second[0] if second else None
    return Request(tuple(first), single, hyps, others, beyond, **options)


def whole_set(ref: str | Path, keys: Collection[str]) -> int:
    """Return the number of utterances before any were left out of a data folder.

    Args:
        ref: references; the file ``dropped`` beside it lists what was left out.
        keys: the utterances in it.
    """
    return len(keys) + len(dropped_before(Path(ref).parent, frozenset(keys)))


def _read(path: str | Path, form: str, field: str) -> Texts:
    """Read the texts of each key; only references in JSONL may have several."""
    texts: Texts
    if form == "lines":
        texts = {str(n): (line,) for n, line in enumerate(read_lines(path), 1)}
    elif form == "jsonl":
        texts = _read_jsonl(path, field)
    else:
        texts = {key: (text,) for key, text in _read_kaldi(path).items()}
    if not texts:
        raise UserError(f"{path}: no utterance in it, nothing to score")
    return _composed(path, texts)


def _composed(path: str | Path, texts: Texts) -> Texts:
    composed = {k: tuple(normalize("NFC", t) for t in texts[k]) for k in texts}
    changed = [key for key in texts if composed[key] != texts[key]]
    if changed:
        logging.warning(
            "%s: %d texts are not in composed form (NFC), the first is %s; they are "
            "scored in it",
            *(path, len(changed), changed[0]),
        )
    return composed


def _read_kaldi(path: str | Path) -> dict[str, str]:
    try:
        return read_table(path)
    except UserError as error:
        if not Path(path).is_file():
            raise
        raise UserError(f"{error}; {HINT}") from None


def _read_jsonl(path: str | Path, field: str) -> Texts:
    texts: Texts = {}
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        item = parse_json(line, place)
        if not isinstance(item, dict) or field not in item:
            there = ", ".join(item) if isinstance(item, dict) else "no object"
            raise UserError(
                f"{place}: no field {field!r} (there is: {there}); see --ref_field and "
                "--hyp_field"
            )
        key = next((item[name] for name in KEYS if name in item), None)
        if not isinstance(key, (str, int)) or key == "":
            raise UserError(
                f"{place}: no key; one of {', '.join(KEYS)} is needed, text or number"
            )
        key = str(key)
        if key in texts:
            raise UserError(f"{place}: key {key!r} occurs twice")
        values = item[field] if isinstance(item[field], list) else [item[field]]
        if not values or not all(isinstance(text, str) for text in values):
            raise UserError(f"{place}: {key}: {field!r} is neither text nor texts")
        if any("\ud800" <= character <= "\udfff" for character in "".join(values)):
            raise UserError(f"{place}: {key}: half a character in {field!r}")
        texts[key] = tuple(values)
    return texts


def _require_words(
    paths: Sequence[str | Path], tables: Sequence[Texts], guessed: bool
) -> None:
    texts = [text for table in tables for values in table.values() for text in values]
    if not any(text.strip() for text in texts):
        hint = f"; or {HINT}" if guessed else ""
        names = ", ".join(map(str, paths))
        raise UserError(f"{names}: none of {len(texts)} references has a word{hint}")


def _hypotheses(
    file: tuple[str | Path, str, str], field: str, ref: str | Path, refs: Texts
) -> tuple[str, ...]:
    """The texts of a (path, form asked for, form) in the order of ``refs``."""
    path, form, shape = file
    table = _read(path, shape, field)
    _same_keys(path, table, ref, refs, form)
    for key, texts in table.items():
        if len(texts) > 1:
            raise UserError(f"{path}: {key}: {len(texts)} hypotheses; one is scored")
    return tuple(table[key][0] for key in refs)


def _same_keys(
    path: str | Path, table: Texts, ref: str | Path, refs: Texts, form: str
) -> None:
    lacks = [key for key in refs if key not in table]
    extra = [key for key in table if key not in refs]
    if not lacks and not extra:
        return
    parts = []
    if lacks:
        parts.append(f"{path} lacks {len(lacks)} of {len(refs)} ({_first(lacks)})")
    if extra:
        parts.append(f"{ref} lacks {len(extra)} of {len(table)} ({_first(extra)})")
    hint = ""
    if form == "auto" and (len(lacks) == len(refs) or len(table) == len(refs)):
        hint = f"; or {HINT}"
    raise UserError(
        f"the utterances differ: {'; '.join(parts)}; score the data set that was"
        f" decoded, whole{hint}"
    )


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
