"""Token lists, unknown symbols and batches."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_mtla.data.token_list import (
    build_tokeniser,
    find_unknown,
    read_token_list,
    word_starts,
)
from espnet_mtla.errors import UserError
from espnet_mtla.model.batch import Preprocess, collate

LIST = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
OPTIONS = Namespace(
    token_list=LIST, token_type="word", bpemodel=None, non_linguistic_symbols=None
)


def test_a_list_is_read_in_order(tmp_path: Path):
    path = tmp_path / "tokens.txt"
    path.write_text("\n".join([*LIST[:3], "\u2028", "<sos/eos>"]) + "\n", "utf-8")
    assert read_token_list(path)[3] == "\u2028"  # a line separator is a symbol too


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["<blank>", "<unk>", "a", "a", "<sos/eos>"], "token 'a' occurs twice"),
        (["<unk>", "<blank>", "a", "<sos/eos>"], "<blank> must come first"),
        (["<blank>", "<unk>", "<sos/eos>", "a"], "<sos/eos> last"),
        (["<blank>", "a", "b", "<sos/eos>"], "<unk> is missing"),
    ],
)
def test_a_wrong_list_is_refused(tokens, message):
    with pytest.raises(UserError, match=message):
        read_token_list(tokens)


def test_unknown_symbols_are_counted_and_the_first_is_named():
    found = find_unknown(
        {"u1": "a b", "u2": "b x y", "u3": "x"}, build_tokeniser("word", None), LIST
    )
    assert (found.total, found.first_symbol, found.first_utterance) == (3, "x", "u2")
    assert found.counts == {"x": 2, "y": 1}


@pytest.mark.parametrize(
    ("token_type", "bpemodel", "message"),
    [
        ("bpe", None, "needs --bpemodel"),
        ("bpe", "absent.model", "absent.model: no such file"),
        ("phone", None, "token_type: 'phone' given"),
    ],
)
def test_a_tokeniser_that_cannot_be_built_is_explained(token_type, bpemodel, message):
    with pytest.raises(UserError, match=message):
        build_tokeniser(token_type, bpemodel)


def test_an_utterance_becomes_ids_with_unk_for_the_rest():
    prepare = Preprocess(OPTIONS)
    out = prepare("u1", {"speech": np.zeros(5, np.float32), "text": "a x b"})
    assert out["text"].tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("speech", "message"),
    [
        (np.zeros((5, 2, 1)), r"u1: \(5, 2, 1\); \(samples,\) of one channel"),
        (np.zeros(0), "u1: no samples"),
        (np.array([0, np.nan]), "u1: NaN or infinite"),
        (np.array([0, np.inf]), "u1: NaN or infinite"),
    ],
)
def test_bad_sound_names_the_utterance(speech, message):
    prepare = Preprocess(OPTIONS)
    with pytest.raises(UserError, match=message):
        prepare("u1", {"speech": speech, "text": "a"})


def test_a_batch_is_padded_and_knows_its_lengths():
    rows = [
        ("u1", {"speech": np.ones(3, np.float32), "text": np.array([2, 3])}),
        ("u2", {"speech": np.ones(5, np.float32), "text": np.array([2])}),
    ]
    names, batch = collate(rows)
    assert names == ["u1", "u2"]
    assert batch["speech"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["text"].tolist() == [[2, 3], [2, -1]]
    assert torch.equal(batch["speech_lengths"], torch.tensor([3, 5]))
    assert torch.equal(batch["text_lengths"], torch.tensor([2, 1]))


@pytest.mark.parametrize(
    "token_type, tokens, starting",
    [
        ("char", ["<blank>", "<space>", "a", "▁"], ["<space>"]),
        ("bpe", ["<blank>", "▁play", "ing", "▁"], ["▁play", "▁"]),
        ("word", ["<blank>", "play", "music"], ["<blank>", "play", "music"]),
    ],
)
def test_tokens_that_begin_a_word(token_type, tokens, starting):
    found = word_starts(tokens, token_type)
    assert [t for t, starts in zip(tokens, found, strict=True) if starts] == starting
