"""tokenise: ESPnet's layout, and every token of the text in the list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from espnet2.text.char_tokenizer import CharTokenizer
from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet2.text.word_tokenizer import WordTokenizer
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.data.table import write_table
from espnet_mtla.data.tokens import TokenOptions, splitter
from test.support.toy_folder import TEXTS

Command = Callable[..., tuple[int, str, str]]
LINES = {
    **TEXTS,
    "n1": "<noise> hello <laugh>hello",
    "n2": "l'été à Zürich, 你好 世界",
    "n3": "two  spaces",
}
# Between the fewest (the characters) and the most that this text allows.
SIZES = {"bpe": 60, "unigram": 48}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_table("text", LINES)
    Path("symbols").write_text("<noise>\n<laugh>\n", encoding="utf-8")
    return Path("text")


def espnet_tokenizer(
    token_type: str,
) -> SentencepiecesTokenizer | CharTokenizer | WordTokenizer:
    if token_type == "char":
        return CharTokenizer(non_linguistic_symbols="symbols")
    if token_type == "word":
        return WordTokenizer()
    return SentencepiecesTokenizer("out/bpe.model")


@pytest.mark.parametrize("token_type", ["bpe", "unigram", "char", "word"])
def test_espnet_finds_every_token(
    text: Path, command: Command, token_type: str
) -> None:
    size = ["--vocab_size", SIZES[token_type]] if token_type in SIZES else []
    options = ["--token_type", token_type, "--non_linguistic_symbols", "symbols", *size]
    code, _, err = command("tokenise", "--text", text, "--output_dir", "out", *options)
    assert code == 0, err
    assert "<unk>" not in err
    tokens = Path("out/tokens.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert tokens[:2] == ["<blank>", "<unk>"]
    assert tokens[-1] == "<sos/eos>"
    assert len(set(tokens)) == len(tokens)
    if size:
        assert len(tokens) == SIZES[token_type]
    converter = TokenIDConverter("out/tokens.txt")
    tokenizer = espnet_tokenizer(token_type)
    for line in LINES.values():
        made = tokenizer.text2tokens(line)
        ids = converter.tokens2ids(made)
        assert converter.unk_id not in ids
        again = tokenizer.tokens2text(converter.ids2tokens(ids))
        single = token_type != "char"  # the others make one space of several
        assert again == (" ".join(line.split()) if single else line)
    assert "<noise>" in tokens
    assert "<laugh>" in tokens or token_type == "word"


@pytest.mark.parametrize("token_type", ["bpe", "unigram", "char", "word"])
def test_same_text_same_bytes(text: Path, command: Command, token_type: str) -> None:
    made = []
    for output in ("one", "two"):
        options = [
            "--token_type",
            token_type,
            "--vocab_size",
            SIZES.get(token_type, 60),
        ]
        code, _, err = command(
            "tokenise", "--text", text, "--output_dir", output, *options
        )
        assert code == 0, err
        made.append([path.read_bytes() for path in sorted(Path(output).iterdir())])
    assert made[0] == made[1]


@pytest.mark.parametrize("token_type", ["bpe", "unigram"])
def test_size_limits_are_named_and_work(
    text: Path, command: Command, token_type: str
) -> None:
    def call(size: int) -> tuple[int, str]:
        options = ["--token_type", token_type, "--vocab_size", size]
        code, _, err = command(
            "tokenise", "--text", text, "--output_dir", "out", *options
        )
        return code, err

    for size, words in ((5000, "the maximum is "), (4, "the minimum is ")):
        code, err = call(size)
        assert code == 1
        assert not Path("out").exists()
        limit = int(err.split(words)[1])
        code, err = call(limit + (1 if size == 5000 else -1))
        assert code == 1
        code, err = call(limit)
        assert code == 0, err
        assert len(Path("out/tokens.txt").read_text().splitlines()) == limit
        for path in Path("out").iterdir():
            path.unlink()
        Path("out").rmdir()


def test_words_below_the_count_are_unknown(text: Path, command: Command) -> None:
    options = ["--token_type", "word", "--min_count", 2]
    code, _, err = command("tokenise", "--text", text, "--output_dir", "out", *options)
    assert code == 0, err
    assert Path("out/tokens.txt").read_text().split() == [
        "<blank>",
        "<unk>",
        "hello",
        "<sos/eos>",
    ]
    assert "22 of 24 tokens of the text (91.67 %) are <unk>" in err


def test_vocabulary_of_characters_is_a_limit(text: Path, command: Command) -> None:
    options = ["--token_type", "char", "--vocab_size", 8]
    code, _, err = command("tokenise", "--text", text, "--output_dir", "out", *options)
    assert code == 0, err
    assert len(Path("out/tokens.txt").read_text().splitlines()) == 8
    assert "are <unk>" in err


def test_long_lines_are_not_skipped(text: Path, command: Command) -> None:
    write_table(text, LINES | {"long": "q" * 5000 + " ß"})
    options = ["--token_type", "unigram", "--vocab_size", 48]
    code, _, err = command("tokenise", "--text", text, "--output_dir", "out", *options)
    assert code == 0, err
    assert "ß\n" in Path("out/tokens.txt").read_text(encoding="utf-8")


def test_normalisation_is_said(text: Path, command: Command) -> None:
    write_table(text, LINES | {"x": "wait…"})
    options = ["--token_type", "bpe", "--vocab_size", 60]
    code, _, err = command("tokenise", "--text", text, "--output_dir", "out", *options)
    assert code == 0, err
    assert "normalisation changes 1 texts, such as 'wait…'" in err


def test_model_of_an_earlier_run_goes(text: Path, command: Command) -> None:
    base = ["tokenise", "--text", text, "--output_dir", "out"]
    assert command(*base, "--token_type", "bpe", "--vocab_size", 60)[0] == 0
    assert command(*base, "--token_type", "char")[0] == 0
    assert [path.name for path in Path("out").iterdir()] == ["tokens.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token_type", "bpe"], "bpe needs --vocab_size"),
        (["--vocab_size", 3], "--vocab_size 3: must be above 3"),
        (["--token_type", "word", "--min_count", 0], "--min_count 0"),
        (
            ["--token_type", "char", "--non_linguistic_symbols", "no"],
            "no: no such file",
        ),
    ],
)
def test_bad_options(
    text: Path, command: Command, options: list[object], message: str
) -> None:
    code, _, err = command("tokenise", "--text", text, "--output_dir", "out", *options)
    assert (code, message in err) == (1, True)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<a>\n\n<b>\n", "symbols:2: empty line"),
        ("<a b>\n", "symbols:1: empty line or white space"),
        ("<unk>\n", "symbols:1: <unk> is in every token list"),
        ("<a>\n<a>\n", "symbols:2: '<a>' and '<a>' cannot be told apart"),
        ("<n\n<noise>\n", "symbols:2: '<noise>' and '<n' cannot be told apart"),
    ],
)
def test_bad_symbols(text: Path, command: Command, content: str, message: str) -> None:
    Path("symbols").write_text(content)
    options = ["--token_type", "char", "--non_linguistic_symbols", "symbols"]
    code, _, err = command("tokenise", "--text", text, "--output_dir", "out", *options)
    assert (code, message in err) == (1, True)


def test_bad_text(text: Path, command: Command) -> None:
    options = ["--output_dir", "out", "--token_type", "word"]
    code, _, err = command("tokenise", "--text", "gone", *options)
    assert (code, "gone: no such file" in err) == (1, True)
    write_table(text, {"a": "", "b": ""})
    code, _, err = command("tokenise", "--text", text, *options)
    assert (code, "text: no text to make tokens from" in err) == (1, True)
    write_table(text, {"a": "this is <unk> here"})
    code, _, err = command("tokenise", "--text", text, *options)
    assert (code, "holds the reserved token <unk>" in err) == (1, True)
    assert not Path("out").exists()


@given(st.text(st.sampled_from("ab <>n\t'é你"), max_size=40))
def test_characters_are_split_as_espnet_does(line: str) -> None:
    symbols = ("<n>", "ab", "<a")
    ours = splitter(TokenOptions("char", symbols=symbols))(line)
    assert ours == CharTokenizer(non_linguistic_symbols=symbols).text2tokens(line)
