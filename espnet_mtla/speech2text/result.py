"""What comes out: a text, its alternatives, and when each word was said."""

from __future__ import annotations

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
    """A hypothesis; ``score`` is the search's, a weighted sum of log-probabilities."""

    text: str
    tokens: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Transcript:
    """What was recognised in one recording of ``seconds``.

    ``text`` is what was said or, from a model of translation, what it means. A model of
    understanding also gives the ``intent``, with which its ``nbest`` texts begin.

    ``nbest`` holds the hypotheses, the best first, of which ``text`` and ``score`` are
    copies. ``words`` is None unless timestamps were asked for. ``parts`` is how many
    pieces a long recording was cut into; its ``nbest`` has one entry then.
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

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON; keys without content are left out."""
        plain = asdict(self)
        return {k: v for k, v in plain.items() if v is not None}


def joined(key: str, pieces: list[Transcript], starts: list[float]) -> Transcript:
    """The pieces of one recording as a whole; ``starts`` in seconds, one a piece."""
    if len(pieces) == 1:
        return pieces[0]
    best = [piece.nbest[0] for piece in pieces]
    text = " ".join(piece.text for piece in pieces if piece.text)
    tokens = tuple(token for one in best for token in one.tokens)
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
    nbest = (Alternative(text, tokens, score),)
    # Of a long recording nobody knows which part holds what is wanted.
    intent = pieces[0].intent
    return Transcript(key, seconds, text, score, nbest, words, len(pieces), intent)
