"""Decode FLAC in which libsndfile cannot seek: without a length, or inside an archive.

A FLAC header may declare no length, as encoders that write to a pipe do. An entry of an
archive is followed by other data, and libFLAC, which looks for the end when it seeks,
fails there. Both are decoded from the first sample to the last.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import soundfile

_BLOCK = 1 << 16
# The narrowest type of W64, which has no limit of 4 GB, that holds the samples exactly.
_SUBTYPES = {"PCM_S8": "PCM_16", "PCM_16": "PCM_16", "PCM_24": "PCM_24"}


class ArchiveEntry(io.FileIO):
    """An archive from ``offset`` to its end, as a file that begins at 0."""

    def __init__(self, path: Path, offset: int) -> None:
        super().__init__(path)
        self._offset = offset
        self.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            offset += self._offset
        return super().seek(offset, whence) - self._offset

    def tell(self) -> int:
        return super().tell() - self._offset


def decode_flac(stream: str | BinaryIO, source: str, frames: int | None) -> io.BytesIO:
    """Decode a FLAC stream into a file in memory that can be seeked in.

    Args:
        stream: a file's name, or the open file at any position.
        source: name of the recording, for errors.
        frames: samples per channel to decode; None decodes to the end of the stream.

    Raises:
        UserError: the stream is damaged, or ends before ``frames``.
    """
    import soundfile

    class Sequential(soundfile.SoundFile):
        """Not seekable: soundfile seeks after each read, which fails at the end."""

        def seekable(self) -> bool:
            return False

    if not isinstance(stream, str):
        stream.seek(0)
    decoded, left = io.BytesIO(), frames
    try:
        with Sequential(stream) as sound, _writer(decoded, sound) as target:
            while left is None or left:
                wanted = _BLOCK if left is None else min(left, _BLOCK)
                samples = sound.read(wanted, dtype="int32", always_2d=True)
                target.write(samples)
                if left is not None:
                    left -= len(samples)
                if len(samples) < wanted:
                    break
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise UserError(f"{source}: truncated or damaged: {reason}") from None
    if frames is not None and left:
        raise UserError(
            f"{source}: truncated: sound ends at sample {frames - left} of {frames}"
        )
    decoded.seek(0)
    return decoded


def _writer(target: io.BytesIO, like: soundfile.SoundFile) -> soundfile.SoundFile:
    """Open a W64 file for writing with the rate, channels and precision of ``like``."""
    import soundfile

    return soundfile.SoundFile(
        target,
        "w",
        like.samplerate,
        like.channels,
        _SUBTYPES[like.subtype],
        format="W64",
    )
