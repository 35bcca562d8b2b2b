"""Hotwords by hand, and against counting whole phrases in texts."""

import random

import pytest
import torch

from espnet_mtla.search.hotwords import Boundaries, Hotwords, HotwordScorer

PIECES = ["<blank>", "<unk>", "▁new", "▁york", "▁city", "er", "s", "▁a", "<sos/eos>"]
EOS = len(PIECES) - 1
STARTS = [piece.startswith("▁") for piece in PIECES]
IDS = {piece: token for token, piece in enumerate(PIECES)}


def pieces(text):
    return [IDS[piece] for piece in text.split()]


def hotwords_of(*phrases, bonus=6.0):
    boundaries = Boundaries(ends_before=STARTS, begins_after=[True] * len(PIECES))
    return Hotwords([pieces(phrase) for phrase in phrases], bonus, boundaries, EOS)


def gains(hotwords, tokens, eos=EOS):
    """What each token of one hypothesis adds, and <eos> at its end."""
    scorer = HotwordScorer(hotwords, 1, 1)
    fed, found = [eos, *tokens], []
    for last, token in zip(fed, [*tokens, eos], strict=True):
        found.append(scorer.score(torch.tensor([last]))[0, token].item())
    return found


@pytest.mark.parametrize(
    ("phrases", "text", "wanted"),
    [
        # A phrase gains its bonus in equal shares, and keeps it at the end.
        (["▁new ▁york ▁city"], "▁new ▁york ▁city", [2, 2, 2, 0]),
        (["▁new ▁york ▁city"], "▁a ▁new ▁york ▁city ▁a", [0, 2, 2, 2, 0, 0]),
        # A match that fails gives back its shares: at another word, or at the end.
        (["▁new ▁york ▁city"], "▁new ▁york ▁a", [2, 2, -4, 0]),
        (["▁new ▁york ▁city"], "▁new ▁york", [2, 2, -4]),
        # It may begin anew with the token that failed.
        (["▁new ▁york"], "▁new ▁new ▁york", [3, 0, 3, 0]),
        # A word that goes on is another word.
        (["▁new"], "▁new er ▁a", [6, -6, 0, 0]),
        (["▁new"], "▁new s", [6, -6, 0]),
        (["▁new"], "▁new ▁a", [6, 0, 0]),
        # The tokens of a phrase inside a longer word.
        (["▁new er"], "▁new er", [3, 3, 0]),
        (["▁new er"], "▁new er s", [3, 3, -6, 0]),
        # Each occurrence counts.
        (["▁new"], "▁new ▁new", [6, 6, 0]),
        # A phrase that begins another one: both gain. While "new" is complete, "new
        # york" holds its share too, and gives that back if it does not come.
        (["▁new", "▁new ▁york"], "▁new ▁york", [9, 3, 0]),
        (["▁new", "▁new ▁york"], "▁new ▁a", [9, -3, 0]),
        (["▁new", "▁new ▁york"], "▁new er", [9, -9, 0]),
        # A phrase that ends another one, or overlaps it.
        (["▁york", "▁new ▁york"], "▁new ▁york", [3, 9, 0]),
        (["▁new ▁york", "▁york ▁city"], "▁new ▁york ▁city", [3, 6, 3, 0]),
        (["▁new ▁york", "▁york ▁city"], "▁new ▁york ▁a", [3, 6, -3, 0]),
        # A phrase given twice is one phrase.
        (["▁new", "▁new"], "▁new", [6, 0]),
    ],
)
def test_gains_computed_by_hand(phrases, text, wanted):
    found = gains(hotwords_of(*phrases), pieces(text))
    assert found == pytest.approx(wanted, abs=1e-5)


LETTERS = ["<blank>", "<unk>", "<space>", "a", "r", "t", "<sos/eos>"]


def letters(text):
    return [LETTERS.index("<space>" if c == " " else c) for c in text]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("art", [2, 2, 2, 0]),
        ("art a", [2, 2, 2, 0, 2, -2]),
        ("a art", [2, -2, 2, 2, 2, 0]),
        ("tart", [0, 0, 0, 0, 0]),  # no beginning of a word
        ("arta", [2, 2, 2, -6, 0]),  # no end of a word
    ],
)
def test_words_of_letters(text, wanted):
    space = [name == "<space>" for name in LETTERS]
    hotwords = Hotwords([letters("art")], 6.0, Boundaries(space, space), 6)
    assert gains(hotwords, letters(text), eos=6) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_only_whole_phrases_gain(seed):
    """The sum over a text is the bonus for each occurrence at its word boundaries."""
    draw = random.Random(seed)
    space = [name == "<space>" for name in LETTERS]
    phrase = lambda: " ".join(  # noqa: E731
        "".join(draw.choices("art", k=draw.randint(1, 3)))
        for _ in range(draw.randint(1, 3))
    )
    phrases = {phrase() for _ in range(5)}
    text = " ".join(phrase() for _ in range(8))
    hotwords = Hotwords([letters(p) for p in phrases], 1.5, Boundaries(space, space), 6)
    words = text.split()
    count = sum(
        words[place : place + len(p.split())] == p.split()
        for p in phrases
        for place in range(len(words))
    )
    found = gains(hotwords, letters(text), eos=6)
    assert sum(found) == pytest.approx(1.5 * count, abs=1e-4)
    assert max(found) <= hotwords.largest_gain + 1e-6


def test_rows_move_with_their_matches():
    hotwords = hotwords_of("▁new ▁york ▁city")
    scorer = HotwordScorer(hotwords, 2, 2)
    scorer.score(torch.full((4,), EOS))
    scorer.score(torch.tensor(pieces("▁a ▁new ▁new ▁a")))
    scorer.reorder(torch.tensor([1, 0, 2, 2]))
    scorer.select(torch.tensor([1, 0]))  # rows: new, new, new york, a
    found = scorer.score(torch.tensor(pieces("▁york ▁a ▁york ▁york")))
    city = found[:, IDS["▁city"]].tolist()
    assert city == pytest.approx([2, 0, 2, 0], abs=1e-5)
