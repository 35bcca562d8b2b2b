"""Sizes of blocks and grids of the Triton kernels: arithmetic on shapes alone.

The constants at the top are estimates for an H100; measurements should settle them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.layout import EntryLayout

TILE_BYTES = 40 * 1024
"""Bytes of a tile of entries. An H100's shared memory holds three of each of two
programs of a processor."""
LEAST_SPLIT, USUAL_SPLIT = 128, 512
"""Entries of a split, at least: to occupy each processor once, and eight times."""


@dataclass(frozen=True)
class Launch:
    """Launch parameters of the attention kernel.

    Attributes:
        block_m: queries of a program.
        block_s: entries of a tile.
        splits: programs among which the entries of a row are split.
        warps: of a program.
        stages: tiles that are loaded ahead.
    """

    block_m: int
    block_s: int
    splits: int
    warps: int
    stages: int


def plan(
    layout: EntryLayout,
    itemsize: int,
    groups: int,
    queries: int,
    slots: int,
    processors: int,
) -> Launch:
    """Choose block sizes from the shapes alone, without timing or asking the device.

    Args:
        layout: of an entry.
        itemsize: bytes of a number.
        groups: rows times entry heads.
        queries: of each group.
        slots: entries allocated in a row.
        processors: multiprocessors of the device.
    """
    block_m = min(max(power_of_two(queries), 16), 64)
    if itemsize == 4:  # float32 accumulators and queries: twice the registers
        block_m = min(block_m, 32)
    # The largest power of two of entries that fit TILE_BYTES.
    entry_bytes = layout.width * itemsize
    block_s = min(max(power_of_two(TILE_BYTES // entry_bytes + 1) // 2, 16), 128)
    # Enough splits to occupy every processor once if they have LEAST_SPLIT entries, or
    # eight times, which balances rows of different lengths, at USUAL_SPLIT entries.
    programs = groups * -(-queries // block_m)
    few = min(-(-processors // programs), slots // LEAST_SPLIT)
    usual = min(-(-8 * processors // programs), slots // USUAL_SPLIT)
    wide = block_m == 64 and layout.value_width > 256
    return Launch(
        block_m,
        block_s,
        splits=max(few, usual, 1),
        warps=8 if wide else 4,
        stages=3 if block_m < 64 else 2,
    )


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least ``number``.

    >>> [power_of_two(number) for number in (1, 2, 3, 288)]
    [1, 2, 4, 512]
    """
    return 1 << max(number - 1, 0).bit_length()


def tile_width(width: int) -> int:
    """Return the width of a tile of a matrix product: a power of two, at least 16."""
    return max(power_of_two(width), 16)
