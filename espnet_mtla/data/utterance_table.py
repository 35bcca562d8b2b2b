"""The audio or features of a folder's utterances as a mapping from key to array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.data.features import read_features
from espnet_mtla.data.folder import FEATURES
from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# espnet2's name for this kind of table, in `train_data_path_and_name_and_type`.
TYPE = "utterance"


class UtteranceTable(Mapping[str, "np.ndarray"]):
    """Arrays of ``wav.scp`` or ``feats.scp``, read on access.

    A value is (samples,) float32 in [-1, 1], or (frames, width) float32 or float16.
    Unreadable data raises :class:`UserError` that begins with the key. No file stays
    open, so that the table can be sent to worker processes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.places = read_table(path)

    def __getitem__(self, key: str) -> np.ndarray:
        source = self.places[key]
        try:
            if self.path.name == FEATURES:
                return read_features(source)
            return _read_samples(source)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _read_samples(source: str) -> np.ndarray:
    from espnet_mtla.data.audio import open_audio, read_span

    with open_audio(source) as sound:
        return read_span(sound, source)
