"""Training and decoding with the tokens of a Transformers tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_mtla import Speech2Text
from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.data.tokens import TokenOptions, read_lines, tokenise
from espnet_mtla.errors import UserError
from espnet_mtla.hf.speech import MTLASpeechConfig, MTLASpeechProcessor
from espnet_mtla.model.build import load_model
from espnet_mtla.recognise.options import DecodeOptions
from espnet_mtla.recognise.output import write_output
from espnet_mtla.recognise.recogniser import Recognised
from espnet_mtla.search.beam import Hypothesis
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from espnet_mtla.task.average import Criterion, average
from test.support.tiny_tokenizer import byte_level, word_marks
from test.support.toy_corpus import RATE, Toy

NO_CTC = {"model_conf": {"ctc_weight": 0.0}, "normalize": "utterance_mvn"}


def use_tokenizer(toy: Toy, rows: int = 330) -> tuple[object, ...]:
    """Make the token list; return the options that name it for ``train``."""
    folder = byte_level(toy.folder / "model", rows=rows)
    out = toy.folder / "tokens"
    options = TokenOptions("hf", hf_tokenizer=str(folder))
    tokenise(read_lines([toy.train / "text"]), out, options)
    toy.tokens = out / "tokens.txt"
    return ("--token_type", "hugging_face", "--bpemodel", out / "tokenizer")


def test_train_decode_pack_and_move(toy: Toy, tmp_path: Path) -> None:
    options = use_tokenizer(toy)
    toy("--collect_stats", *options, **NO_CTC)
    counted = (toy.stats / "valid" / "text_shape").read_text().splitlines()
    tokeniser = HFTokeniser(toy.folder / "tokens" / "tokenizer")
    first = (toy.valid / "text").read_text().splitlines()[0].split(" ", 1)[1]
    assert counted[0].split()[1] == str(len(tokeniser.text2tokens(first)))
    out = tmp_path / "exp"
    toy("--output_dir", out, "--max_epoch", 1, *options, **NO_CTC)
    average(out, Criterion.parse("valid.acc.max"), 1)
    model, args = load_model(out / "config.yaml", out / "model.pth")
    assert args.token_type == "hf" and len(model.token_list) == 330
    assert model.decoder is not None and model.decoder.output.out_features == 330
    assert model.token_list[model.sos] == "<|endoftext|>"
    assert model.token_list[model.eos] == "<|im_end|>"
    wanted = {"beam_size": 3, "min_length_ratio": 0.5, "max_length_ratio": 0.9}
    sound = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    before = Speech2Text.from_pretrained(out, device="cpu", **wanted)(sound, rate=RATE)
    pack(out, tmp_path / "packed", DecodeOptions(**wanted), Card("me/it"))
    shutil.rmtree(out)
    shutil.rmtree(toy.folder)
    moved = shutil.move(tmp_path / "packed", tmp_path / "elsewhere")
    after = Speech2Text.from_pretrained(moved, device="cpu")(sound, rate=RATE)
    assert str(before) == str(after) and before.score == after.score
    files = {path.name for path in Path(moved).iterdir()}
    assert "tokenizer" in files and "bpe.model" not in files
    config = yaml.safe_load((Path(moved) / "config.yaml").read_text())
    assert config["bpemodel"] == "tokenizer"
    with pytest.raises(UserError, match=r"token_type hf; use espnet_mtla\.Speech2Text"):
        MTLASpeechProcessor.from_packed(moved)
    with pytest.raises(UserError, match="token_type hf: the classes of Transformers"):
        MTLASpeechConfig(config, ["a"]).check()


def test_the_first_token_of_the_list_can_be_written(toy: Toy) -> None:
    """Id 0 is CTC's blank in other lists; here it is a token like others."""
    options = use_tokenizer(toy)
    changes = {"model_conf": {**NO_CTC["model_conf"], "sym_sos": "Ġ"}}
    toy("--collect_stats", *options, **{**NO_CTC, **changes})
    out = toy.folder / "exp"
    toy("--output_dir", out, "--max_epoch", 1, *options, **{**NO_CTC, **changes})
    average(out, Criterion.parse("valid.acc.max"), 1)
    model, _ = load_model(out / "config.yaml", out / "model.pth")
    assert model.token_list[model.sos] == "Ġ"
    with torch.no_grad():
        model.decoder.output.weight.zero_()
        model.decoder.norm.weight.zero_()
        model.decoder.norm.bias.fill_(1.0)
        model.decoder.output.weight[0] = 1.0  # whatever was before, token 0 follows
    torch.save(model.state_dict(), out / "model.pth")
    decode = {"beam_size": 2, "max_length_ratio": 0.5, "min_length_ratio": 0.5}
    speech2text = Speech2Text.from_pretrained(out, device="cpu", **decode)
    sound = np.zeros(4000, np.float32)
    tokens = speech2text(sound, rate=RATE).nbest[0].tokens
    assert set(tokens) == {"<|endoftext|>"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, r"model_conf\.ctc_weight: 0\.3 given, 0 needed with token_type hf"),
        (
            {"model_conf": {"ctc_weight": 0.0, "sym_eos": "</s>"}},
            r"model_conf\.sym_eos: '</s>' is not in the token list",
        ),
    ],
)
def test_what_does_not_go_together(toy: Toy, changes: dict, words: str) -> None:
    options = use_tokenizer(toy)
    settings = {"normalize": "utterance_mvn", **changes}
    with pytest.raises(UserError, match=words):
        toy("--collect_stats", *options, **settings)


def test_a_list_of_another_tokenizer_is_refused(toy: Toy) -> None:
    options = use_tokenizer(toy)
    byte_level(toy.folder / "tokens" / "tokenizer", pieces=290)
    with pytest.raises(
        UserError, match=r"the tokenizer has 290 tokens, and the token "
    ):
        toy("--collect_stats", *options, **NO_CTC)


def test_a_tokenizer_of_another_kind_is_refused(toy: Toy) -> None:
    """Its tokens are not in the list; the list is to blame, and not the texts."""
    options = use_tokenizer(toy)
    word_marks(toy.folder / "tokens" / "tokenizer")
    with pytest.raises(UserError, match=r"^bpemodel: .*the token list .* another one"):
        toy("--collect_stats", *options, **NO_CTC)


def test_a_line_break_in_a_text_does_not_break_the_table(tmp_path: Path) -> None:
    tokens = ["a", "b"]
    nbest = [Hypothesis([0, 1], -1.0, False)]
    results = [Recognised("u1", 1.0, 5, 5, nbest, 0.1)]
    write_output(tmp_path, results, tokens, "\n".join, {})
    assert (tmp_path / "1best_recog" / "text").read_text() == "u1 a b\n"


@pytest.mark.parametrize("separator", ["", " "])
def test_line_breaks_of_a_language_model_are_spaces(
    tmp_path: Path, separator: str
) -> None:
    """A decoded text is one line of a table, whatever the model writes."""
    tokeniser = HFTokeniser(byte_level(tmp_path / "model", rows=330))
    written = "one\ntwo\r\nthree\0four\x1b\u2028five\x85"
    tokens = tokeniser.text2tokens(written)
    tokeniser.separator = separator
    text = tokeniser.tokens2text(tokens)
    assert text == "one two  three four  five "
    write_table(tmp_path / "text", {"u1": text})
    assert read_table(tmp_path / "text")["u1"].split() == text.split()
