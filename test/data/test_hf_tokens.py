"""Tokens of a Transformers tokenizer: the model's ids, and exact texts."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.data.token_list import build_tokeniser, read_token_list, word_starts
from espnet_mtla.data.tokens import TokenOptions
from espnet_mtla.errors import UserError
from test.support.tiny_tokenizer import byte_level, with_rows, word_marks

TEXTS = [
    "low mid high",
    "It's  two spaces , and a point .",
    "café in Zürich, 你好 ☃ 🎈",
    "ends with </s> or <|im_end|> in it <s>",
    "a\nb",
    "",
]
MAKERS = {"byte_level": byte_level, "word_marks": word_marks}


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return MAKERS[request.param](tmp_path / "model")


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_the_tokenizer(folder: Path, text: str) -> None:
    theirs = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    ours = build_tokeniser("hf", folder)
    tokens = ours.text2tokens(text)
    ids = [ours.names.index(token) for token in tokens]
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert theirs.decode(ids) == text
    assert ours.tokens2text(tokens) == text.replace("\n", " ")
    assert not {theirs.eos_token_id, theirs.bos_token_id} & set(ids)


def test_every_token_has_a_name_of_one_word(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    names = HFTokeniser(folder).names
    assert len(set(names)) == len(names) == len(theirs)
    assert all(name.split() == [name] for name in names if "<token" not in name)
    same = [theirs.convert_tokens_to_ids(name) == i for i, name in enumerate(names)]
    assert same.count(False) == sum(name.startswith("<token ") for name in names) <= 1


@pytest.mark.parametrize("extra", [0, 9])
def test_a_line_for_each_row_of_the_embedding(
    folder: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
    extra: int,
) -> None:
    size = len(AutoTokenizer.from_pretrained(folder))
    with_rows(folder, size + extra)
    (tmp_path / "text").write_text("u1 low mid\nu2 high </s> ☃\n")
    out = tmp_path / "out"
    words = ("--text", tmp_path / "text", "--output_dir", out, "--hf_tokenizer", folder)
    code, _, err = command("tokenise", *words, "--token_type", "hugging_face")
    assert code == 0, err
    tokens = read_token_list(out / "tokens.txt", "hf")
    assert len(tokens) == size + extra
    assert [token for token in tokens if token.startswith("<unused ")] == [
        f"<unused {size + number}>" for number in range(extra)
    ]
    copy = HFTokeniser(out / "tokenizer")
    copy.check_list(tokens, "list")
    assert copy.tokens2text([*copy.text2tokens("low mid"), *tokens[size:]]) == "low mid"
    assert "<unk>" not in err and "2 texts" in err


def test_a_tokenizer_alone_has_no_padding_rows(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "alone")
    assert not (folder / "config.json").exists()
    tokeniser = HFTokeniser(folder)
    assert (tokeniser.sos, tokeniser.eos) == ("<|endoftext|>", "<|im_end|>")


def test_words_begin_at_marks_of_either_type() -> None:
    assert word_starts(["Ġa", "b", "▁c", "d"], "hf") == [True, False, True, False]


def test_worker_processes_get_a_copy(folder: Path) -> None:
    tokeniser = HFTokeniser(folder)
    copy = pickle.loads(pickle.dumps(tokeniser))
    assert copy.text2tokens(TEXTS[2]) == tokeniser.text2tokens(TEXTS[2])


def test_a_tokenizer_of_another_model_is_refused(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = byte_level(tmp_path / "model", rows=100)
    (tmp_path / "text").write_text("u1 low\n")
    words = ("--text", tmp_path / "text", "--output_dir", tmp_path / "out")
    code, _, err = command(
        "tokenise", *words, "--token_type", "hf", "--hf_tokenizer", folder
    )
    assert code == 1 and "the tokenizer of another model" in err
    assert "100 rows" in err and err.strip().count("\n") == 0
    assert not (tmp_path / "out" / "tokens.txt").exists()


def test_a_list_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    one = HFTokeniser(byte_level(tmp_path / "one"))
    other = HFTokeniser(byte_level(tmp_path / "other", pieces=290))
    with pytest.raises(UserError, match="where: the tokenizer has 290 tokens, and the"):
        other.check_list(one.names, "where")


def test_folders_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"no tokenizer: none of tokenizer\.json"):
        HFTokeniser(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="no tokenizer that Transformers can load"):
        HFTokeniser(tmp_path)


def test_a_tokenizer_that_ends_no_text_is_refused(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    shutil.rmtree(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has no eos_token"):
        HFTokeniser(folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"token_type": "hf"}, "--token_type hf and --hf_tokenizer NAME belong"),
        ({"token_type": "char", "hf_tokenizer": "x"}, "belong together"),
        (
            {"token_type": "hf", "hf_tokenizer": "x", "vocab_size": 9},
            "leave out --vocab_size",
        ),
    ],
)
def test_options_that_do_not_go_together(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        TokenOptions(**settings)
