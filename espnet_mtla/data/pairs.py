"""Folders of text pairs (source and target per utterance) without audio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.data.folder import DROPPED, dropped_before, refuse_replacing
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError


def filter_pairs(
    folder: str | Path,
    target: str | Path,
    names: tuple[str, str],
    max_words: int | None = None,
    empty_target: bool = False,
) -> dict[str, str]:
    """Replace ``target`` by the pairs of ``folder`` in which no text is empty.

    Args:
        folder, target: input and output folders.
        names: tables of the source and target texts.
        max_words: truncate each source to this number of words.
        empty_target: keep pairs with an empty target, as in a test set. Pairs with an
            empty source are always dropped.
    Returns:
        The reason for each pair dropped here; ``target/dropped`` has those of
        ``folder/dropped``, too.
    Raises:
        UserError: the keys of the two tables differ, or no pair is left.
    """
    refuse_replacing(folder, target)
    paths = [Path(folder) / name for name in names]
    sources, texts = (read_table(path) for path in paths)
    _same_keys(paths, sources, texts)
    dropped: dict[str, str] = {}
    needed = list(zip(paths, (sources, texts), strict=True))[: 1 if empty_target else 2]
    for key in sources:
        for path, table in needed:
            if not table[key].strip():
                dropped.setdefault(key, f"empty {path.name}")
    kept = [key for key in sources if key not in dropped]
    shorter = {key: " ".join(sources[key].split()[:max_words]) for key in kept}
    cut = sum(len(shorter[key].split()) < len(sources[key].split()) for key in kept)
    _print_counts(folder, len(sources), dropped, cut)
    if not kept:
        first = min(dropped, default="")
        reason = f"the first, {first}: {dropped[first]}" if first else "it is empty"
        raise UserError(f"{folder}: no pair is left; {reason}")
    with atomic_folder(target) as aside:
        write_table(aside / names[0], shorter)
        write_table(aside / names[1], {key: texts[key] for key in kept})
        write_table(aside / DROPPED, dropped_before(Path(folder), kept) | dropped)
    return dropped


def _same_keys(paths: list[Path], sources: Iterable[str], texts: Iterable[str]) -> None:
    """Raise UserError unless both tables have the same keys."""
    ours, theirs = set(sources), set(texts)
    if ours == theirs:
        return
    key = min(ours ^ theirs)
    has, lacks = paths if key in ours else paths[::-1]
    raise UserError(
        f"{lacks}: {key} of {has} is missing ({len(ours)} sources, {len(theirs)} "
        "texts): each needs the other"
    )


def _print_counts(
    folder: str | Path, total: int, dropped: dict[str, str], cut: int
) -> None:
    """Print the numbers of pairs: in, dropped by reason, kept and truncated."""
    print(f"{folder!s:<30}{'pairs':>9}")
    print(f"{'in':<30}{total:>9}")
    for reason, count in sorted(Counter(dropped.values()).items()):
        print(f"{f'dropped, {reason}':<30}{count:>9}")
    print(f"{'kept':<30}{total - len(dropped):>9}")
    print(f"{'  of them cut to --max_words':<30}{cut:>9}")
