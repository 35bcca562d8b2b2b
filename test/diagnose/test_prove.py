"""All checks pass for a tiny model, and each fails for a model that violates it."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace

import pytest
import torch

from espnet_mtla.bin import prove
from espnet_mtla.diagnose.check_result import (
    CheckResult,
    as_table,
    hypotheses_apart,
    worst,
)
from espnet_mtla.diagnose.prove import CHECKS, Prover
from espnet_mtla.errors import UserError
from espnet_mtla.search.beam import Hypothesis


def test_everything_holds(prover):
    findings = {found.check: found for found in prover.results()}
    assert not [found for found in findings.values() if found.fails]
    made = {name for name, found in findings.items() if found.difference is not None}
    promised = {
        *("batch = single", "cached = uncached", "beam 1 = greedy"),
        *("cache = formula", "recipe = Speech2Text"),
    }
    assert promised <= made
    assert {"triton = reference", "flash_attn = reference"} <= set(findings)
    assert max(len(result.nbest[0].tokens) for result in prover.alone) > 5


def again(prover):
    """The same without what was computed before."""
    return Prover(prover.trained, prover.options, prover.sounds, prover.batch_size)


def test_a_first_word_by_itself(prover, monkeypatch):
    """The greedy loop keeps to the rules of intent_first, as the search does.

    <eos> is probable and forbidden at first, so that the rules change the text.
    """
    options = prover.options.replaced(intent_first=True, min_length_ratio=0.3)
    other = Prover(prover.trained, options, prover.sounds, prover.batch_size)
    model = prover.trained.model
    weight = model.decoder.output.weight.detach().clone()
    weight[model.eos] *= 3.0
    monkeypatch.setattr(model.decoder.output.weight, "data", weight)
    results = list(other.results(["batch", "cache", "greedy", "speech2text"]))
    assert [found.check for found in results if found.fails] == []
    greedy = options.replaced(beam_size=1, nbest=1, ctc_weight=0.0)
    plain = greedy.replaced(intent_first=False)
    with torch.inference_mode():
        both = [
            [other._greedy(model.decoder, sound, o).tokens for sound in prover.sounds]
            for o in (greedy, plain)
        ]
    assert both[0] != both[1]


def test_language_models_and_hotwords(prover):
    """The greedy loop has none: it is compared with a search that has none."""
    fusion = {"hotwords": ["ab", "gag"], "hotword_bonus": 9.0}
    options = prover.options.replaced(**fusion)
    other = Prover(prover.trained, options, prover.sounds, prover.batch_size)
    assert other.alone[0].nbest != prover.alone[0].nbest
    (result,) = other.beam_1_is_greedy()
    assert not result.fails


def test_a_batch_that_leaks(prover, monkeypatch):
    from espnet_mtla.model.speech import DecoderOnlySpeechModel

    encode = DecoderOnlySpeechModel.encode

    def leaky(self, speech, lengths, keys=()):
        encoded, frames = encode(self, speech, lengths, keys)
        return encoded + 0.5 * (len(speech) > 1), frames

    monkeypatch.setattr(DecoderOnlySpeechModel, "encode", leaky)
    (found,) = again(prover).batch_is_single()
    assert found.fails and found.verdict.startswith("DIFFERENT u")


@pytest.mark.parametrize("check", ["cached_is_uncached", "beam_1_is_greedy"])
def test_a_cache_that_forgets(prover, monkeypatch, check):
    decoder = prover.trained.model.decoder
    prefill = decoder.prefill

    def forgetful(prompt, lengths, **options):
        return prefill(prompt.roll(1, 2), lengths, **options)

    fresh = again(prover)
    assert fresh.alone
    monkeypatch.setattr(decoder, "prefill", forgetful)
    (result,) = getattr(fresh, check)()
    assert result.fails


def test_a_call_that_decodes_otherwise(prover, monkeypatch):
    from espnet_mtla.speech2text.sound import SoundReader

    fresh = again(prover)
    assert fresh.alone
    resample = SoundReader._to_rate

    def louder(self, samples, *rest):
        return resample(self, samples, *rest)[: len(samples) // 2]

    monkeypatch.setattr(SoundReader, "_to_rate", louder)
    (result,) = fresh.recipe_is_speech2text()
    assert result.fails


def test_an_encoder_alone(tmp_path, data):
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.utterances import list_utterances, load_sound
    from espnet_mtla.search.options import DecodeOptions
    from test.support.tiny_experiment import make_model

    folder = make_model(tmp_path / "encoder", ctc_weight=1.0)
    trained = TrainedModel.from_folder(folder, torch.device("cpu"), DecodeOptions())
    sounds = [load_sound(u, trained.fs) for u in list_utterances(data, trained.fs)[:3]]
    findings = list(Prover(trained, DecodeOptions(), sounds).results())
    assert [f.check for f in findings if f.difference is not None] == [
        "batch = single",
        "recipe = Speech2Text",
    ]
    assert not any(f.fails for f in findings)
    assert "the model has no decoder" in as_table(findings)


def test_differences_of_hypotheses():
    one = Hypothesis([1, 2], -4.0, False)
    assert hypotheses_apart([one], [one]) == 0.0
    assert hypotheses_apart([one], [replace(one, score=-4.4)]) == pytest.approx(1 / 11)
    assert hypotheses_apart([one], [replace(one, tokens=[1])]) == math.inf
    assert hypotheses_apart([one], [one, one]) == math.inf


def test_the_table_and_nan():
    broken = CheckResult("a = b", "two", math.nan, 1e-3, "u1")
    other = CheckResult("c = d", "three", math.inf, 1e-3, "u2")
    assert broken.fails and other.fails and not CheckResult("e = f", "no GPU").fails
    shown = as_table([broken, other, CheckResult("e = f", "no GPU")])
    assert "DIFFERENT u1" in shown and "tokens" in shown and "not made" in shown


@pytest.fixture
def run(monkeypatch, model, data):
    def call(*words):
        command = ["prove", str(model), str(data), "--beam_size", "2", *words]
        monkeypatch.setattr(sys, "argv", command)
        prove.main()

    return call


def test_the_command(run, capsys, monkeypatch):
    run("--num_utts", "2", "--min_length_ratio", "0.1")
    shown = capsys.readouterr().out
    assert "recipe = generate()" in shown and "tokens of 2 utterances" in shown
    assert "2 utterances alone and 2 at a time" in shown and "DIFFERENT" not in shown
    monkeypatch.setattr(
        Prover, "results", lambda *_: iter([CheckResult("a = b", "", 1.0)])
    )
    with pytest.raises(UserError, match="1 of 1 fail: a = b"):
        run()


def test_checks_by_name(run, capsys):
    run("--num_utts", "5", "--only", "batch", "formula")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[-2:]] == [
        *("batch = single", "cache = formula")
    ]
    assert "5 utterances alone and 5 at a time" in lines[-2]
    assert tuple(CHECKS) == prove.CHECKS
    with pytest.raises(SystemExit):
        run("--only", "batches")


def test_what_differs_is_shown(run, capsys, monkeypatch):
    """A model whose encoder sees the batch: key, and both hypotheses."""
    from espnet_mtla.model.speech import DecoderOnlySpeechModel

    encode = DecoderOnlySpeechModel.encode

    def leaky(self, speech, lengths, keys=()):
        encoded, frames = encode(self, speech, lengths, keys)
        return encoded + 0.5 * (len(speech) > 1), frames

    monkeypatch.setattr(DecoderOnlySpeechModel, "encode", leaky)
    with pytest.raises(UserError, match="1 of 1 fail: batch = single"):
        run("--only", "batch", "--batch_size", "4", "--min_length_ratio", "0.15")
    shown = capsys.readouterr().out
    assert "6 utterances alone and 4 at a time" in shown
    assert re.search(r"^u0: alone -\d+\.\d+ \[.*\], batch -\d+\.\d+ \[", shown, re.M)


def test_no_number_is_worse_than_nan():
    result = worst("a = b", "three", [("u1", 2.0), ("u2", math.nan), ("u3", 1.0)], 3.0)
    assert result.fails and result.where == "u2"
    assert not worst("a = b", "two", [("u1", 2.0), ("u2", 3.0)], 3.0).fails


def test_bad_options(run, capsys):
    with pytest.raises(UserError, match="bfloat16: its rounding would hide"):
        run("--dtype", "bfloat16")
    with pytest.raises(SystemExit):
        run("--num_utts", "0")
    assert "num_utts: '0' given, a whole number >= 1" in capsys.readouterr().err


def test_a_model_of_text(tmp_path, monkeypatch, capsys):
    """Packed too, since that is how such a model would be proved elsewhere."""
    from espnet_mtla.search.options import DecodeOptions
    from espnet_mtla.share.card import Card
    from espnet_mtla.share.pack import pack
    from test.support.tiny_experiment import make_text_model, make_texts

    folder = make_text_model(tmp_path / "exp")
    data = make_texts(tmp_path / "data")
    pack(folder, tmp_path / "packed", DecodeOptions(), Card("me/text"))
    words = ["--beam_size", "3", "--min_length_ratio", "-4", "--max_length_ratio", "-9"]
    command = ["prove", str(tmp_path / "packed"), str(data), *words]
    monkeypatch.setattr(sys, "argv", command)
    prove.main()
    shown = capsys.readouterr().out
    assert shown.count(" same") == 4 and shown.count("the model takes no sound") == 2
    assert "pipeline_tag: summarization" in (tmp_path / "packed/README.md").read_text()

    from espnet_mtla.model.text import DecoderOnlyTextModel

    def leaky(_, encoded, lengths, __):
        return encoded.roll(len(encoded), 1), lengths

    monkeypatch.setattr(DecoderOnlyTextModel, "project", leaky)
    monkeypatch.setattr(sys, "argv", [*command, "--only", "batch"])
    with pytest.raises(UserError, match="1 of 1 fail: batch = single"):
        prove.main()
