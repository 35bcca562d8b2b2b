"""Translation, understanding, summarisation: data in, losses, hypotheses out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError
from espnet_mtla.model.checkpoint import load, load_all
from test.support.toy_corpus import WORDS, Toy

INTENTS = ("up", "down")
SHORT = {"max_epoch": 1, "batch_size": 7}


@pytest.fixture
def tasks_toy(tmp_path: Path) -> Toy:
    """The corpus with an intent before each text, and the words alone beside it."""
    toy = Toy(tmp_path / "toy")
    for folder in (toy.train, toy.valid):
        words = read_table(folder / "text")
        intents = {key: INTENTS[i % 2] for i, key in enumerate(words)}
        write_table(folder / "text.words", words)
        both = {key: f"{intents[key]} {text}" for key, text in words.items()}
        write_table(folder / "text", both)
    tokens = ["<blank>", "<unk>", *INTENTS, *WORDS, "<sos/eos>"]
    toy.tokens.write_text("\n".join(tokens) + "\n")
    return toy


def log_of(folder: Path) -> str:
    return (folder / "train.log").read_text()


def decode(monkeypatch, toy: Toy, model: Path, *options: str) -> dict[str, str]:
    """Average, decode the validation set, and give back its texts."""
    from espnet_mtla.bin import inference
    from espnet_mtla.task.average import Criterion, average

    average(model, Criterion.parse("valid.acc.max"), 1)
    output = model / "decode"
    arguments = ("--model_dir", model, "--data", toy.valid, "--output_dir", output)
    words = ["inference", *map(str, arguments), "--beam_size", "2", *options]
    monkeypatch.setattr(sys, "argv", words)
    inference.main()
    return read_table(output / "1best_recog" / "text")


def test_translation_has_ctc_on_the_words_spoken(monkeypatch, tasks_toy):
    toy, model = tasks_toy, tasks_toy.folder / "st"
    options = ("--task", "st", "--source_text", "text.words")
    toy("--collect_stats", *options, **SHORT)
    toy("--output_dir", model, *options, **SHORT)
    assert "loss_ctc" in log_of(model)
    hypotheses = decode(monkeypatch, toy, model)
    assert hypotheses.keys() == read_table(toy.valid / "text").keys()
    with pytest.raises(UserError, match=r"trained on the table text\.words, not on"):
        decode(monkeypatch, toy, model, "--ctc_weight", "0.3")
    (toy.train / "text.words").unlink()
    with pytest.raises(UserError, match=r"text\.words: no such file"):
        toy("--output_dir", model, *options, **SHORT)


def test_understanding_has_a_loss_for_the_intent(monkeypatch, tasks_toy, caplog):
    toy, model = tasks_toy, tasks_toy.folder / "slu"
    options = ("--task", "slu", "--source_text", "text.words")
    toy("--collect_stats", *options, **SHORT)
    toy("--output_dir", model, *options, **SHORT)
    assert "loss_intent" in log_of(model) and "acc_intent" in log_of(model)
    assert "2 intents in training" in caplog.text
    assert len(decode(monkeypatch, toy, model)) == 3
    texts = read_table(toy.valid / "text")
    key = next(iter(texts))
    write_table(toy.valid / "text", {**texts, key: f"high {texts[key]}"})
    with pytest.raises(UserError, match=rf"{key}: intent 'high' is unknown"):
        toy("--output_dir", toy.folder / "other", *options, **SHORT)


@pytest.mark.parametrize("mode", ["fixed", "recompute"])
def test_summarisation_reads_text(monkeypatch, tasks_toy, mode):
    toy, model = tasks_toy, tasks_toy.folder / "sum"
    for folder in (toy.train, toy.valid):
        (folder / "wav.scp").unlink()
    config = {
        **SHORT,
        **dict.fromkeys(("frontend", "normalize", "encoder")),
        **{"frontend_conf": {}, "encoder_conf": {}},
        "decoder_conf": {
            **{"embed_dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 16},
            **{"attention": "mha", "prompt_mode": mode},
        },
        "projector_conf": {"kernel": 3},
    }
    options = ("--task", "sum", "--source_text", "text.words")
    toy("--collect_stats", *options, **config)
    shapes = read_table(toy.stats / "train" / "source_shape")
    assert set(shapes.values()) == {"2"}
    toy("--output_dir", model, *options, **config)
    assert yaml.safe_load((model / "config.yaml").read_text())["task"] == "sum"
    hypotheses = decode(monkeypatch, toy, model, "--max_length_ratio", "-3")
    assert hypotheses.keys() == read_table(toy.valid / "text").keys()
    costs = json.loads((model / "decode" / "efficiency.json").read_text())
    assert (costs["input"], costs["audio_seconds"]) == ("text", 6)
    with pytest.raises(UserError, match="encoder: text needs none"):
        other = {**config, "encoder": "conformer"}
        toy("--output_dir", toy.folder / "other", *options, **other)
    with pytest.raises(UserError, match=r"projector_conf.*stack.*kernel"):
        other = {**config, "projector_conf": {"stack": 2}}
        toy("--output_dir", toy.folder / "other", *options, **other)


def test_source_and_target_must_match(tasks_toy):
    toy = tasks_toy
    words = read_table(toy.valid / "text.words")
    dropped = words.popitem()[0]
    write_table(toy.valid / "text.words", words)
    with pytest.raises(UserError, match=rf"text\.words: utterance {dropped}"):
        toy("--collect_stats", "--task", "st", "--source_text", "text.words")


def test_a_decoder_without_ctc_starts_from_a_recogniser(tasks_toy):
    """What a recipe does: encoder and CTC are handed on, and only one has a place."""
    toy, encoder, model = tasks_toy, *(tasks_toy.folder / n for n in ("enc", "st"))
    options = ("--task", "st", "--source_text", "text.words")
    toy("--collect_stats", *options, **SHORT)
    toy("--output_dir", encoder, *options, **SHORT, model_conf={"ctc_weight": 1.0})
    states = encoder / "1epoch.pth"
    handed = ("--encoder_model", states)
    decoder = {**SHORT, "model_conf": {"ctc_weight": 0.0}, "freeze_param": ["encoder"]}
    toy("--output_dir", model, *options, *handed, **decoder)
    ours, theirs = load_all(model / "1epoch.pth"), load(states)
    for name in theirs:
        if name.startswith("encoder."):
            assert torch.equal(ours[name], theirs[name])
    assert not any(name.startswith("ctc.") for name in ours)
