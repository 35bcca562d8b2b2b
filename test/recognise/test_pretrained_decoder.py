"""The engine serves a decoder that began from a language model, as it is or converted.

Beams share a prompt, batches change nothing, caches are quantised and planned for.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from espnet_mtla import Speech2Text
from espnet_mtla.attention import CacheOptions
from espnet_mtla.decoder.memory import Load, cache_bytes, sketch
from espnet_mtla.diagnose.prove import Prover
from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq
from espnet_mtla.recognise.load import TrainedModel
from espnet_mtla.recognise.utterances import list_utterances, load_sound
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from test.support.tiny_checkpoints import save_tiny
from test.support.tiny_experiment import TOKENS, make_model
from test.support.tiny_recipes import check_same

CONF = {
    "gqa": {},
    "mla": {"attention": "mla"},
    "mtla_s2": {"attention": "mtla", "attention_conf": {"kv_lora_rank": 12}},
}


@pytest.fixture(scope="module", params=CONF)
def experiment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An experiment whose checkpoint is gone."""
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(folder / "checkpoint", "qwen2", vocab_size=len(TOKENS))
    conf = {"model": str(folder / "checkpoint"), **CONF[request.param]}
    made = make_model(folder / "exp", decoder="pretrained", decoder_conf=conf)
    shutil.rmtree(folder / "checkpoint")
    return made


def test_all_promises_hold(experiment: Path, data: Path) -> None:
    options = DecodeOptions(beam_size=3, nbest=2, min_length_ratio=0.15)
    trained = TrainedModel.from_folder(experiment, torch.device("cpu"), options)
    utterances = list_utterances(data, trained.fs)[:4]
    sounds = [load_sound(utterance, trained.fs) for utterance in utterances]
    results = list(Prover(trained, options, sounds, batch_size=3).results())
    assert not [result for result in results if result.fails]
    checked = {r.check for r in results if r.difference is not None}
    assert {"batch = single", "cached = uncached", "beam 1 = greedy"} <= checked
    assert {"cache = formula", "recipe = Speech2Text"} <= checked


@torch.no_grad()
def test_a_quantised_cache_is_smaller_and_near(experiment: Path) -> None:
    """8 bits a number and 4 bytes a head of an entry; logits within 10 %."""
    torch.manual_seed(1)
    cpu, options = torch.device("cpu"), DecodeOptions()
    decoder = TrainedModel.from_folder(experiment, cpu, options).model.decoder
    assert decoder is not None
    tokens = torch.tensor([3, 5, 4, 6]).repeat_interleave(2)
    prompt = 0.3 * torch.randn(4, 30, decoder.config.embed_dim)
    lengths, logits, sizes = torch.tensor([30, 7, 20, 1]), [], []
    for cache in (CacheOptions(), CacheOptions(dtype="int8")):
        state = decoder.prefill(prompt, lengths, max_tokens=1, beam=2, options=cache)
        logits.append(decoder.step(tokens, state))
        sizes.append(state.used_nbytes)
    near = 0.1 * float(logits[0].abs().max())
    torch.testing.assert_close(*logits, rtol=0, atol=near)
    assert not torch.equal(*logits)
    assert sizes[1] < 0.55 * sizes[0]


def test_planning_knows_the_trained_decoder(experiment: Path) -> None:
    config = yaml.safe_load((experiment / "config.yaml").read_text())
    options = DecodeOptions()
    trained = TrainedModel.from_folder(experiment, torch.device("cpu"), options)
    decoder, load = trained.model.decoder, Load(2, 3, 9, 5)
    assert decoder is not None
    name = decoder.config.attention
    name += "_s2" if name == "mtla" else ""
    planned = sketch(name, len(TOKENS), config["decoder_conf"])
    assert cache_bytes(planned, load) == cache_bytes(decoder, load)
    counts = [sum(p.numel() for p in d.parameters()) for d in (planned, decoder)]
    assert counts[0] == counts[1]


def test_it_is_packed_by_itself(experiment: Path, data: Path, tmp_path: Path) -> None:
    options = DecodeOptions(beam_size=3, min_length_ratio=0.15)
    pack(experiment, tmp_path / "packed", options, Card("me/tiny"))
    config = yaml.safe_load((tmp_path / "packed" / "config.yaml").read_text())
    assert config["decoder_base_model"] == "checkpoint"
    texts = [
        Speech2Text.from_pretrained(folder, beam_size=3, min_length_ratio=0.15)(
            data / "u2.wav"
        ).text
        for folder in (experiment, tmp_path / "packed")
    ]
    assert texts[0] == texts[1] != ""
    model = MTLAForSpeechSeq2Seq.from_packed(tmp_path / "packed")
    model.save_pretrained(tmp_path / "saved")
    again = MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "saved")
    check_same(again.eval(), model.eval())
