"""WAV headers that declare no length: find them, and write the actual length.

Programs that write to a pipe put a length near the maximum, or 0, into the header.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

from espnet_mtla.errors import UserError

UNKNOWN_LENGTH = 0x7FFF_0000
"""A declared length of this or above means that the program did not know it."""


def _find_samples(head: bytes) -> tuple[int, int] | None:
    """Return the offset of a WAV file's samples and their declared size in bytes."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    position = 12
    while position + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, position)
        if name == b"data":
            return position + 8, size
        position += 8 + size + size % 2
    return None


def lacks_length(path: Path) -> bool:
    """Return True if a WAV file has samples but its header declares 0 bytes.

    Raises:
        UserError: the file is truncated, which libsndfile would accept.
    """
    with open(path, "rb") as stream:
        head = stream.read(4)
        if head != b"RIFF":
            return False
        data = _find_samples(head + stream.read(1 << 16))
        if data is None:
            return False
        start, declared = data
        size = path.stat().st_size
        if size - start < declared < UNKNOWN_LENGTH:
            raise UserError(
                f"{path}: truncated: {size - start} of {declared} bytes of samples"
            )
        return declared == 0 and not _only_chunks(stream, start, size)


def _only_chunks(stream: BinaryIO, position: int, end: int) -> bool:
    """Return True if only complete RIFF chunks, or none, lie before ``end``.

    This distinguishes a recording without samples from one without a declared length.
    """
    while position + 8 <= end:
        stream.seek(position)
        name, size = struct.unpack("<4sI", stream.read(8))
        if not (name.isascii() and name.decode().isprintable()):
            return False
        position += 8 + size + size % 2
    return position in (end, end + 1)  # a last byte of padding may be missing


def repair_length(data: bytes, source: str) -> bytes:
    """Write the actual length into a WAV header that declares none.

    The length is in the four bytes before the samples. A declared length is checked
    and not changed.
    """
    wav_data = _find_samples(data[: 1 << 16])
    if wav_data is None:
        return data
    start, declared = wav_data
    actual = len(data) - start
    if actual < declared < UNKNOWN_LENGTH:
        raise UserError(f"{source}: truncated: {actual} of {declared} bytes of samples")
    empty = declared == 0 and _only_chunks(io.BytesIO(data), start, len(data))
    if declared > actual or (declared == 0 and not empty):
        size = struct.pack("<I", actual)
        riff = struct.pack("<I", len(data) - 8)
        return data[:4] + riff + data[8 : start - 4] + size + data[start:]
    return data
