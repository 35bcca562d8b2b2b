"""Results of transcription: a text, its alternatives, and the times of words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Word:
    """``start`` and ``end`` in seconds from the beginning of the recording.

    ``confidence`` is the geometric mean of CTC's probabilities over the word's frames.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Alternative:
    """A hypothesis.

    Attributes:
        tokens: its tokens, without <sos> and <eos>.
        score: weighted sum of log-probabilities, by which hypotheses are ranked.
        token_int: ids of the tokens.
    """

    text: str
    tokens: tuple[str, ...]
    score: float
    token_int: tuple[int, ...] = ()


EspnetResult = tuple[str, list[str], list[int], Alternative]
"""An entry of the list that ESPnet's ``Speech2Text`` returns: text, tokens, token ids
and hypothesis, of which ESPnet's users read ``score``."""


@dataclass(frozen=True)
class Transcript:
    """Text of one recording.

    It is also a sequence of hypotheses in the form of ESPnet's ``Speech2Text``, the
    best first::

        text, token, token_int, hyp = transcript[0]
        for text, token, token_int, hyp in transcript: ...

    Attributes:
        key: the file's path, or the name of the sound.
        seconds: length of the recording.
        text: the words said, or their translation by a model of translation. A model
            of understanding gives the words without the intent.
        score: score of the best hypothesis.
        nbest: hypotheses, the best first; their texts begin with the intent.
        words: times of the words; None unless timestamps were asked for.
        parts: number of pieces that a long recording was cut into; ``nbest`` has one
            entry if there are several.
        intent: intent, from a model of understanding.
    """

    key: str
    seconds: float
    text: str
    score: float
    nbest: tuple[Alternative, ...]
    words: tuple[Word, ...] | None = None
    parts: int = 1
    intent: str | None = None

    def __str__(self) -> str:
        return self.text

    def __iter__(self) -> Iterator[EspnetResult]:
        for one in self.nbest:
            yield one.text, list(one.tokens), list(one.token_int), one

    def __len__(self) -> int:
        return len(self.nbest)

    def __getitem__(self, index: int) -> EspnetResult:
        return list(self)[index]

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON, without those that are None."""
        plain = asdict(self)
        return {k: v for k, v in plain.items() if v is not None}


def joined(key: str, pieces: list[Transcript], starts: list[float]) -> Transcript:
    """Return the transcript of a recording from those of its pieces.

    Args:
        key: name of the recording.
        pieces: transcripts of the pieces, in order.
        starts: seconds at which the pieces start.
    """
    if len(pieces) == 1:
        return pieces[0]
    best = [piece.nbest[0] for piece in pieces]
    text = " ".join(piece.text for piece in pieces if piece.text)
    tokens = tuple(token for one in best for token in one.tokens)
    ids = tuple(token for one in best for token in one.token_int)
    score = sum(piece.score for piece in pieces)
    words = None
    if pieces[0].words is not None:
        words = tuple(
            Word(
                w.text, round(w.start + start, 3), round(w.end + start, 3), w.confidence
            )
            for piece, start in zip(pieces, starts, strict=True)
            for w in piece.words or ()
        )
    seconds = round(sum(piece.seconds for piece in pieces), 6)
    nbest = (Alternative(text, tokens, score, ids),)
    intent = pieces[0].intent  # any piece could hold the command: the first is taken
    return Transcript(key, seconds, text, score, nbest, words, len(pieces), intent)
