"""Random damage of files."""

from __future__ import annotations

import random

NUMBERS = (b"0", b"-1", b"1e308", b"9" * 5000, b"nan", b"null", b"[[[[", b"\\u0000")
BYTES = (
    b"\0" * 8,
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"\n",
    b"\r",
    b"\t",
    b"\xc3",
    b"|",
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with one to four changes: bits, cuts, splices, odd values."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        size = len(changed)
        first = chance.randrange(size + 1)
        last = min(size, first + chance.choice((1, 2, 8, 64)))
        source = chance.randrange(size + 1)
        block = changed[source : source + chance.choice((1, 8, 64))]
        kind = chance.randrange(7)
        if kind == 0 and first < size:
            changed[first] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[first:]
        elif kind == 2:
            del changed[first:last]
        elif kind == 3:
            changed[first:first] = block
        elif kind == 4:
            changed[first:last] = block
        else:
            changed[first:last] = chance.choice(NUMBERS if kind == 5 else BYTES)
    return bytes(changed)
