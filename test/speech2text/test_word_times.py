"""Times of words, against all possible alignments, in seconds."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.speech2text.align import (
    align,
    group_words,
    spread,
)
from espnet_mtla.speech2text.result import Transcript, Word
from espnet_mtla.speech2text.subtitles import as_srt, clock, group, wrapped


def best_by_trying_all(log_probs, tokens):
    """Score of the best path that collapses to ``tokens``."""
    frames, labels = log_probs.shape
    best = -float("inf")
    for path in itertools.product(range(labels), repeat=frames):
        if [k for k, _ in itertools.groupby(path) if k] == tokens:
            best = max(best, sum(float(log_probs[t, k]) for t, k in enumerate(path)))
    return best


@settings(max_examples=15)
@given(
    tokens=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_the_path_is_the_best_of_all(tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(6, 3, generator=generator).log_softmax(-1)
    spans = align(log_probs, tokens)
    path = [0] * 6
    for token, span in zip(tokens, spans, strict=True):
        for frame in range(span.first, span.last + 1):
            path[frame] = token
    assert [k for k, _ in itertools.groupby(path) if k] == tokens
    score = sum(float(log_probs[t, k]) for t, k in enumerate(path))
    assert score == pytest.approx(best_by_trying_all(log_probs, tokens), abs=1e-5)


def test_more_tokens_than_frames():
    with pytest.raises(ValueError, match="3 tokens in 3 frames"):
        align(torch.zeros(3, 4), [1, 1, 2])
    assert align(torch.zeros(3, 4), []) == []
    assert spread(["a", "b"], 3.0) == [Word("a", 0, 1.5, 0.0), Word("b", 1.5, 3, 0.0)]
    assert spread([], 3.0) == []


def test_a_hypothesis_that_cannot_be_aligned_is_told(speech2text, data, caplog):
    from espnet_mtla.speech2text.align import WordTimes

    samples = speech2text.reader.clip(data / "u1.wav").read()
    words = WordTimes(speech2text.trained)("u1", samples, [3, 2] * 20)
    assert [(word.text, word.confidence) for word in words] == [("a", 0.0)] * 20
    assert words[-1].end == pytest.approx(len(samples) / 8000, abs=1e-3)
    assert "u1: 40 tokens cannot be aligned with" in caplog.text


def test_words_of_pieces_characters_and_words():
    def pieces(tokens):
        return "".join(tokens).replace("▁", " ").strip()

    tokens = ["▁mo", "ba", "▁", "de", "ro"]
    assert group_words(tokens, pieces) == [("moba", [0, 1]), ("dero", [3, 4])]

    def characters(tokens):
        return "".join(" " if t == "<space>" else t for t in tokens)

    tokens = ["<space>", "a", "b", "<space>", "c"]
    assert group_words(tokens, characters) == [("ab", [1, 2]), ("c", [4])]
    assert group_words(["x", "y"], " ".join) == [("x", [0]), ("y", [1])]
    assert group_words([], " ".join) == []


def test_times_are_those_of_the_sound(speech2text, data):
    found = speech2text(data / "u2.wav", timestamps=True)
    frame = 4 * 80 / 8000  # subsampling x hop / rate
    for word in found.words[:-1]:
        assert word.start / frame == pytest.approx(round(word.start / frame), abs=1e-6)
    assert [word.text for word in found.words] == found.text.split()
    for word, after in itertools.pairwise(found.words):
        assert 0 <= word.start < word.end <= after.start < found.seconds
        assert 0 < word.confidence <= 1
    assert "words" not in speech2text(data / "u2.wav").as_dict()


def test_a_model_without_ctc_is_refused(tmp_path, data):
    from test.support.tiny_experiment import make_model

    folder = make_model(tmp_path / "asr", ctc_weight=0.0)
    with pytest.raises(UserError, match="timestamps: the model has no CTC"):
        Speech2Text.from_pretrained(folder)(data / "u0.wav", timestamps=True)


def test_subtitles():
    words = [
        Word("one", 0.5, 0.6, 1.0),
        Word("two", 0.7, 1.5, 1.0),
        Word("three", 3.0, 3.5, 1.0),  # after a pause
        *(Word("many", 4 + i / 4, 4.2 + i / 4, 1.0) for i in range(20)),  # too much
    ]
    assert [len(part) for part in group(words)] == [2, 16, 5]
    shown = as_srt(Transcript("key", 9.0, "", 0.0, (), tuple(words)))
    assert shown.startswith("1\n00:00:00,500 --> 00:00:01,500\none two\n\n2\n00:00:03,")
    for block in shown.strip().split("\n\n"):
        assert len(block.splitlines()) <= 4
    assert clock(3661.5) == "01:01:01,500" and clock(59.9996) == "00:01:00,000"
    assert wrapped(["x" * 50, "a", "b"]) == ["x" * 50, "a b"]
    with pytest.raises(ValueError, match="timestamps"):
        as_srt(Transcript("key", 1.0, "a", 0.0, ()))
