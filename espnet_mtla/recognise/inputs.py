"""Inputs of a model in a data folder: sounds, or texts for a model of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import (
    Sound,
    Utterance,
    check_input,
    list_utterances,
    load_sound,
)

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel


@dataclass(frozen=True)
class Document:
    """Token ids of a text."""

    key: str
    tokens: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Length as the option ``batch_frames`` counts it: in tokens."""
        return len(self.tokens)


Input = Utterance | Document


def list_inputs(data: Path, trained: TrainedModel) -> list[Input]:
    """Return the inputs in a folder, sorted by key.

    Raises:
        UserError: the folder is missing, empty or inconsistent, or holds another kind
            of input than the model takes.
    """
    if trained.read_source is not None:
        return [*_list_documents(data, trained.source_text, trained.read_source)]
    check_input(data, trained)
    from espnet_mtla.model.frames import seconds_per_frame

    frame = seconds_per_frame(trained.fs, trained.model.frontend)
    return [*list_utterances(data, trained.fs, 1 / frame)]


def load_input(item: Input, trained: TrainedModel) -> Sound:
    """Return an input for a recogniser; its sound is read now.

    Raises:
        UserError: the sound cannot be read; names the utterance.
    """
    if isinstance(item, Utterance):
        return load_sound(item, trained.fs)
    import numpy as np

    return Sound(item.key, np.array(item.tokens, dtype=np.int64))


def _list_documents(
    data: Path, source_text: str, read_source: Callable[[str], list[int]]
) -> list[Document]:
    from espnet_mtla.data.table import read_table

    path = data / source_text
    table = read_table(path)
    if not table:
        raise UserError(f"{path}: nothing to decode")
    documents = []
    for key, text in sorted(table.items()):
        tokens = read_source(text)
        if not tokens:
            raise UserError(
                f"{path}: {key}: no words; espnet-mtla filter_texts removes it"
            )
        documents.append(Document(key, tuple(tokens)))
    return documents
