"""Feature matrices in archives, with random access.

The suffix selects the format. ``.zip`` is uncompressed and holds one ``.npy`` file per
utterance; a place is ``file.zip:offset:length`` in bytes, so that one seek and one read
return the matrix. ``.ark`` is Kaldi's format; a place is ``file.ark:offset``. Kaldi has
no half precision: an ark stores it as kaldiio's ``NPY`` entries.

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
from espnet_mtla.errors import UserError, no_file

if TYPE_CHECKING:
    import numpy as np

ENDINGS = (".zip", ".ark")
DTYPES = ("float32", "float16")
_ZIP = re.compile(r"(?P<path>.+\.zip):(?P<offset>[0-9]{1,18}):(?P<length>[0-9]{1,18})")
_ARK = re.compile(r"(?P<path>.+\.ark):(?P<offset>[0-9]{1,18})(?P<part>\[[\d:,]*\])?")
_NPY_MAGIC = b"\x93NUMPY"
# Ark entries that hold only numbers. Pickled ones ("PKL") could execute code.
_ARK_HEADS = (b"\0BFM", b"\0BDM", b"\0BCM", b"\0BCM2", b"\0BCM3", b"NPY")
# What numpy and kaldiio raise for a damaged header: numpy evaluates its text, and both
# trust its sizes.
DAMAGED = (
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
# A fixed date makes archives of equal features identical.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass
class Written:
    """Contents of an archive: places relative to its folder, frames by key, width."""

    places: dict[str, str] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    width: int = 0

    def places_in(self, folder: str | Path) -> dict[str, str]:
        """Return the rows of ``feats.scp``; ``folder`` is that of the archive."""
        return {key: f"{folder}/{place}" for key, place in self.places.items()}


def write_features(
    path: str | Path,
    rows: Iterable[tuple[str, np.ndarray]],
    dtype: str = "float32",
) -> Written:
    """Write (key, matrix) pairs to ``path`` atomically.

    Args:
        path: ends in ``.zip`` or ``.ark``.
        rows: matrices (frames, width), the same width for all.
        dtype: ``float32`` or ``float16``.
    Raises:
        UserError: a matrix is empty, of another width or beyond the range of ``dtype``,
            or a key is duplicate; names the key.
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
    """Check a matrix, and convert it to ``dtype``; arguments of `write_features`."""
    import numpy as np

    if key in written.places:
        raise UserError(f"{path}: key {key!r} occurs twice")
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
    """Writer of ``.zip``; ``add`` returns the place, ``OFFSET:LENGTH``."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.zip = zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)

    def add(self, key: str, matrix: np.ndarray) -> str:
        import numpy as np

        whole = io.BytesIO()
        np.save(whole, matrix, allow_pickle=False)
        # Escape slashes: unpacking must not write outside the target folder.
        name = key.replace("%", "%25").replace("/", "%2F")
        self.zip.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), whole.getbuffer())
        return f"{self.stream.tell() - whole.tell()}:{whole.tell()}"

    def close(self) -> None:
        self.zip.close()


class _ArkArchive:
    """Writer of ``.ark``; ``add`` returns the place, ``OFFSET``."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def add(self, key: str, matrix: np.ndarray) -> str:
        import kaldiio

        place = self.stream.tell() + len(f"{key} ".encode())
        # None: Kaldi's own binary format.
        function = None if matrix.dtype == "float32" else "numpy"
        kaldiio.save_ark(self.stream, {key: matrix}, write_function=function)
        return str(place)

    def close(self) -> None:
        pass


def holds_features(source: str) -> bool:
    """Return True if a table's value locates features, not audio (``flac.ark``)."""
    if _ZIP.fullmatch(source):
        return True
    match = _ARK.fullmatch(source)
    if match is None or not Path(match["path"]).is_file():
        return False
    with open(match["path"], "rb") as stream:
        stream.seek(int(match["offset"]))
        return stream.read(5).startswith(_ARK_HEADS)


def check_places(table: str | Path, places: Mapping[str, str]) -> int:
    """Check that every place is inside its archive; return the width of the first.

    Raises:
        UserError: a place is invalid; names the table, the key and the defect.
    """
    sizes: dict[Path, int] = {}
    width = 0
    for key, place in places.items():
        try:
            path, end = feature_file(place)
            if path not in sizes:
                if not path.is_file():
                    raise UserError(f"{path}: {no_file(path)}")
                sizes[path] = path.stat().st_size
            if sizes[path] < end:
                raise UserError(f"{place}: beyond the end of {path}: is it truncated?")
            width = width or read_features(place).shape[1]
        except UserError as error:
            raise UserError(f"{table}: {key}: {error}") from None
    return width


def feature_file(source: str) -> tuple[Path, int]:
    """Return the archive of a place, and the smallest size that it can have.

    >>> feature_file("a.zip:100:28")
    (PosixPath('a.zip'), 128)

    Raises:
        UserError: ``source`` is no place in a ``.zip`` or ``.ark``.
    """
    if match := _ZIP.fullmatch(source):
        return Path(match["path"]), int(match["offset"]) + int(match["length"])
    if match := _ARK.fullmatch(source):
        return Path(match["path"]), int(match["offset"]) + 1
    raise UserError(f"{source}: FILE.zip:OFFSET:LENGTH or FILE.ark:OFFSET needed")


def read_features(source: str) -> np.ndarray:
    """Read the matrix (frames, width) at a place; float32 or float16 as stored.

    Raises:
        UserError: the archive is missing, or has no complete matrix at this place.
    """
    import numpy as np

    path, end = feature_file(source)
    if not path.is_file():
        raise UserError(f"{source}: {path}: {no_file(path)}")
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
    except DAMAGED as error:
        reason = str(error).split("\n")[0] or "incomplete matrix"
        raise UserError(f"{source}: damaged features: {reason}") from None
    if whole.tell() != length:
        raise UserError(
            f"{source}: the features have {whole.tell()} bytes, not {length}"
        )
    return matrix


def _read_ark(path: Path, source: str) -> np.ndarray:
    import kaldiio

    match = _ARK.fullmatch(source)
    assert match is not None, "read_features calls this for places in an ark alone"
    with open(path, "rb") as stream:
        stream.seek(int(match["offset"]))
        head = stream.read(5)
    if not head.startswith(_ARK_HEADS):
        raise UserError(f"{source}: no matrix at this place of the archive")
    try:
        return kaldiio.load_mat(source)
    except DAMAGED as error:
        reason = str(error).split("\n")[0] or "incomplete matrix"
        raise UserError(f"{source}: damaged features: {reason}") from None
