"""A reference system for speech: Whisper as the package faster-whisper decodes it.

It has seen other data than the recipe's models, so its row in a table is a reference,
not a competitor in the same conditions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.data.audio import open_audio, read_span
from espnet_mtla.data.corpus import plain_words
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.score.baseline import Question

LANGUAGES = "utt2lang"
"""Table of the language spoken, such as nl; without it Whisper detects the language."""


@dataclass(frozen=True)
class Options:
    """Settings of the decoding.

    Attributes:
        model: name of a size, such as base, or a folder in CTranslate2's format.
        translate: write English, whatever is spoken.
        beam_size: faster-whisper's own default.
    """

    model: str = "base"
    translate: bool = False
    beam_size: int = 5


def faster_whisper(question: Question) -> dict[str, str]:
    """Answer each key with the transcript, or English translation, of its audio.

    Where the training texts have no upper-case letters, answers are lower-case and
    without punctuation, as :func:`plain_words` writes them.

    Raises:
        UserError: faster-whisper is not installed, or cannot load the model.
    """
    options = question.whisper
    folder = DataFolder.read(question.data)
    languages = folder.tables.get(LANGUAGES, {})
    texts = read_table(question.train / question.target).values()
    write = str if is_cased(texts) else plain_words
    transcribe = load(options)
    answers = {}
    for key in question.keys:
        with open_audio(folder.wav[key]) as sound:
            if sound.samplerate != 16000:
                raise UserError(f"{key}: {sound.samplerate} Hz, Whisper takes 16000")
            samples = read_span(sound, folder.wav[key])
        segments, _ = transcribe(
            samples.astype("float32"),
            language=languages.get(key),
            task="translate" if options.translate else "transcribe",
            beam_size=options.beam_size,
            without_timestamps=True,
        )
        text = " ".join(segment.text.strip() for segment in segments)
        answers[key] = write(" ".join(text.split()))
    return answers


def load(options: Options) -> Callable[..., Any]:
    """Return the method ``transcribe`` of a loaded model."""
    try:
        from faster_whisper import WhisperModel
    except ModuleNotFoundError:
        raise UserError(
            "the baseline faster_whisper needs the package: pip install faster-whisper"
        ) from None
    if "/" in options.model and not (Path(options.model) / "model.bin").is_file():
        raise UserError(
            f"--whisper_model {options.model}: no model.bin in this folder; name a "
            "size such as base, or a folder in CTranslate2's format"
        )
    try:
        model = WhisperModel(options.model, device="cpu", compute_type="float32")
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines() or ["no reason given"]
        raise UserError(f"--whisper_model {options.model}: {reason[0]}") from None
    # It would log a line for each utterance.
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    transcribe: Callable[..., Any] = model.transcribe
    return transcribe


def is_cased(texts: Iterable[str]) -> bool:
    """Return True if a text has an upper-case letter."""
    return any(text != text.lower() for text in texts)
