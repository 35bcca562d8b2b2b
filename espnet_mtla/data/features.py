"""Feature matrices in archives: written once, read in any order without unpacking.

Two kinds of archive, told apart by their ending. ``.zip`` is uncompressed and holds an
``.npy`` file an utterance; a place in it is ``file.zip:offset:length`` in bytes, so
that one seek and one read give the matrix. ``.ark`` is Kaldi's; a place is
``file.ark:offset``. Half precision, which Kaldi does not know, goes into an ark as
kaldiio's ``NPY`` entries.

Writing::

    written = write_features(folder / "feats.0.zip", rows, "float16")
    write_table(folder / "feats.scp", written.places_in(folder))

where ``rows`` yields (key, matrix). Reading: :func:`read_features`, or a whole
``feats.scp`` as a mapping by :class:`espnet_mtla.data.utterance_table.UtteranceTable`.
"""

from __future__ import annotations

import io
import re
import struct
import tokenize
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ENDINGS = (".zip", ".ark")
DTYPES = ("float32", "float16")
_ZIP = re.compile(r"(?P<path>.+\.zip):(?P<offset>\d+):(?P<length>\d+)")
_ARK = re.compile(r"(?P<path>.+\.ark):(?P<offset>\d+)(?P<part>\[[\d:,]*\])?")
_NPY_MAGIC = b"\x93NUMPY"
# Entries of an ark that hold numbers alone. Pickled ones ("PKL") would run code.
_ARK_HEADS = (b"\0BFM", b"\0BDM", b"\0BCM", b"\0BCM2", b"\0BCM3", b"NPY")
# What numpy and kaldiio raise for a header that says something else than it should:
# numpy evaluates it, and both believe the sizes in it.
_DAMAGED = (
    AssertionError,
    EOFError,
    MemoryError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
)
# A fixed date, so that the same features give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass
class Written:
    """What an archive holds: places below its folder, frames by key, and the width."""

    places: dict[str, str] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    width: int = 0

    def places_in(self, folder: str | Path) -> dict[str, str]:
        """``feats.scp``: the places with the folder that the archive is in."""
        return {key: f"{folder}/{place}" for key, place in self.places.items()}


def write_features(
    path: str | Path,
    rows: Iterable[tuple[str, np.ndarray]],
    dtype: str = "float32",
) -> Written:
    """Write (key, matrix) pairs to ``path``, whole or not at all.

    Args:
        path: ends in ``.zip`` or ``.ark``.
        rows: matrices (frames, width), the same width for all.
        dtype: ``float32`` or ``float16``.
    Raises:
        UserError: a matrix that is empty, of another width or beyond the range of
            ``dtype``, or a key that stands twice; named.
    """
    path = Path(path)
    if path.suffix not in ENDINGS or dtype not in DTYPES:
        raise UserError(f"{path}: {dtype}: .zip or .ark of float32 or float16 needed")
    written = Written()
    with atomic_file(path, "wb") as stream:
        archive = _ZipArchive(stream) if path.suffix == ".zip" else _ArkArchive(stream)
        with closing(archive):
            for key, matrix in rows:
                matrix = _checked(written, path, key, matrix, dtype)
                written.places[key] = f"{path.name}:{archive.add(key, matrix)}"
                written.frames[key] = len(matrix)
    return written


def _checked(
    written: Written, path: Path, key: str, matrix: np.ndarray, dtype: str
) -> np.ndarray:
    import numpy as np

    if key in written.places:
        raise UserError(f"{path}: key {key!r} stands twice")
    if matrix.ndim != 2 or not matrix.size:
        raise UserError(f"{path}: {key}: (frames, width) needed, not {matrix.shape}")
    written.width = written.width or matrix.shape[1]
    if matrix.shape[1] != written.width:
        raise UserError(
            f"{path}: {key}: {matrix.shape[1]} features, others have {written.width}"
        )
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(matrix, dtype=dtype)
    if not np.isfinite(stored).all():
        raise UserError(f"{path}: {key}: NaN, infinite or too large for {dtype}")
    return stored


class _ZipArchive:
    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.zip = zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)

    def add(self, key: str, matrix: np.ndarray) -> str:
        import numpy as np

        whole = io.BytesIO()
        np.save(whole, matrix, allow_pickle=False)
        # No slash: a tool that unpacks the archive stays inside its folder.
        name = key.replace("%", "%25").replace("/", "%2F")
        self.zip.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), whole.getbuffer())
        return f"{self.stream.tell() - whole.tell()}:{whole.tell()}"

    def close(self) -> None:
        self.zip.close()


class _ArkArchive:
    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def add(self, key: str, matrix: np.ndarray) -> str:
        import kaldiio

        place = self.stream.tell() + len(f"{key} ".encode())
        how = None if matrix.dtype == "float32" else "numpy"
        kaldiio.save_ark(self.stream, {key: matrix}, write_function=how)
        return str(place)

    def close(self) -> None:
        pass


def holds_features(source: str) -> bool:
    """Whether a table's value is a place of features, not of sound (``flac.ark``)."""
    if _ZIP.fullmatch(source):
        return True
    match = _ARK.fullmatch(source)
    if match is None or not Path(match["path"]).is_file():
        return False
    with open(match["path"], "rb") as stream:
        stream.seek(int(match["offset"]))
        return stream.read(5).startswith(_ARK_HEADS)


def check_places(table: str | Path, places: Mapping[str, str]) -> int:
    """Every place must be inside its archive; the width of the first one's features.

    Raises:
        UserError: names the table, the key and what is wrong.
    """
    sizes: dict[Path, int] = {}
    width = 0
    for key, place in places.items():
        try:
            path, end = feature_file(place)
            if path not in sizes:
                if not path.is_file():
                    raise UserError(f"{path}: no such file")
                sizes[path] = path.stat().st_size
            if sizes[path] < end:
                raise UserError(f"{place}: beyond the end of {path}: is it truncated?")
            width = width or read_features(place).shape[1]
        except UserError as error:
            raise UserError(f"{table}: {key}: {error}") from None
    return width


def feature_file(source: str) -> tuple[Path, int]:
    """The archive that a place is in, and the bytes it must have at least.

    Raises:
        UserError: no place in a ``.zip`` or ``.ark``.
    """
    if match := _ZIP.fullmatch(source):
        return Path(match["path"]), int(match["offset"]) + int(match["length"])
    if match := _ARK.fullmatch(source):
        return Path(match["path"]), int(match["offset"]) + 1
    raise UserError(f"{source}: FILE.zip:OFFSET:LENGTH or FILE.ark:OFFSET needed")


def read_features(source: str) -> np.ndarray:
    """The matrix (frames, width) at a place, float32 or float16 as it was written.

    Raises:
        UserError: no such archive, or no whole matrix of numbers at this place.
    """
    import numpy as np

    path, end = feature_file(source)
    if not path.is_file():
        raise UserError(f"{source}: {path}: no such file")
    if path.stat().st_size < end:
        raise UserError(f"{source}: beyond the end of {path}: is it truncated?")
    match = _ZIP.fullmatch(source)
    matrix = (
        _read_npy(path, int(match["offset"]), int(match["length"]), source)
        if match
        else _read_ark(path, source)
    )
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.size:
        raise UserError(
            f"{source}: {matrix.dtype} of shape {matrix.shape}, a matrix of features "
            "needed"
        )
    if not np.isfinite(matrix).all():
        raise UserError(f"{source}: features that are NaN or infinite")
    return matrix


def _read_npy(path: Path, offset: int, length: int, source: str) -> np.ndarray:
    import numpy as np

    with open(path, "rb") as stream:
        stream.seek(offset)
        data = stream.read(length)
    if not data.startswith(_NPY_MAGIC):
        raise UserError(f"{source}: no features at this place of the archive")
    whole = io.BytesIO(data)
    try:
        matrix = np.load(whole, allow_pickle=False)
    except _DAMAGED as error:
        reason = str(error).split("\n")[0] or "not a whole matrix"
        raise UserError(f"{source}: damaged features: {reason}") from None
    if whole.tell() != length:
        raise UserError(
            f"{source}: the features have {whole.tell()} bytes, not {length}"
        )
    return matrix


def _read_ark(path: Path, source: str) -> np.ndarray:
    import kaldiio

    match = _ARK.fullmatch(source)
    assert match is not None, "feature_file has found an archive's place"
    with open(path, "rb") as stream:
        stream.seek(int(match["offset"]))
        head = stream.read(5)
    if not head.startswith(_ARK_HEADS):
        raise UserError(f"{source}: no matrix at this place of the archive")
    try:
        return kaldiio.load_mat(source)
    except _DAMAGED as error:
        reason = str(error).split("\n")[0] or "not a whole matrix"
        raise UserError(f"{source}: damaged features: {reason}") from None
