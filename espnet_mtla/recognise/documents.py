"""The sources of a folder of texts, as token ids: what a model of text decodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import Sound

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel


@dataclass(frozen=True)
class Document:
    """Its token ids; as one of sound it says how large it makes a batch."""

    key: str
    tokens: tuple[int, ...]

    @property
    def frames(self) -> int:
        return len(self.tokens)

    def load(self) -> Sound:
        """As a recogniser takes it."""
        import numpy as np

        return Sound(self.key, np.array(self.tokens, dtype=np.int64))


def list_documents(data: Path, trained: TrainedModel) -> list[Document]:
    """Every source of a folder, sorted by key.

    Raises:
        UserError: The table is missing or empty, or a source has no words.
    """
    from espnet_mtla.data.folder import read_table

    path = data / trained.source_text
    table = read_table(path)
    if not table:
        raise UserError(f"{path}: nothing to decode")
    documents = []
    for key, text in sorted(table.items()):
        tokens = trained.read_source(text)
        if not tokens:
            raise UserError(f"{path}: {key}: no words; drop it with filter_texts")
        documents.append(Document(key, tuple(tokens)))
    return documents
