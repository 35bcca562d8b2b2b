"""The plan command for recipe and Transformers configs; bad input is named."""

import argparse
import sys

import pytest
import yaml

from espnet_mtla.bin import plan
from espnet_mtla.errors import UserError


def table(capsys, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["plan", *map(str, options)])
    plan.main()
    _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("attention")
    return {row.split()[0]: [float(cell) for cell in row.split()[1:]] for row in rows}


def test_smaller_caches_let_more_in(capsys, monkeypatch):
    rows = table(capsys, monkeypatch, "--memory", "4G", "--beam_size", 20)
    assert list(rows) == plan.ATTENTIONS
    for column in (1, 2, 3):
        fits = [rows[name][column] for name in ("mha", "mla", "mtla_s2", "mtla_s4")]
        assert fits == sorted(fits) and fits[0] < fits[-1]
    assert rows["mtla_s4"][0] < rows["mtla_s2"][0] < rows["mla"][0] < rows["mha"][0]


def test_a_config_sets_the_sizes(capsys, monkeypatch, tmp_path):
    config = tmp_path / "config.yaml"
    decoder = {"num_layers": 2, "embed_dim": 64, "num_heads": 4, "attention": "mtla"}
    decoder["attention_conf"] = {"down_rate": 4, "kv_lora_rank": 32}
    raw = {"token_list": ["a"] * 30, "decoder_conf": decoder}
    raw["frontend_conf"] = {"fs": "8k", "hop_length": 80}
    raw["projector_conf"] = {"stack": 1}
    config.write_text(yaml.safe_dump(raw))
    given = ("--config", config, "--attention", "mtla_s2", "--beam_size", 1)
    small = table(capsys, monkeypatch, *given)["mtla_s2"]
    # 10 s: 250 frames are 125 chunks, 51 tokens at most 26; r + d_R = 32 + 8; 2 layers
    assert small[0] == pytest.approx((125 + 26) * 40 * 4 * 2 / 2**20, abs=0.06)


def test_a_pretrained_decoder_has_the_sizes_of_its_checkpoint(
    capsys, monkeypatch, tmp_path
):
    """Weights are not needed; latent types are those of conversion."""
    from test.support.tiny_checkpoints import save_tiny

    save_tiny(tmp_path / "checkpoint", "llama", num_hidden_layers=64)
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    conf = {"model": str(tmp_path / "checkpoint"), "prompt_mode": "recompute"}
    raw = {"decoder": "pretrained", "decoder_conf": conf, "input_size": 80}
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump({**raw, "frontend": None}))
    given = ("--config", config, "--beam_size", 1, "--frames_per_second", 20)
    rows = table(capsys, monkeypatch, *given)
    # 10 s: 200 frames and 51 tokens; two heads of width 8; latents 16 + 8 wide.
    numbers = {"gqa": 251 * 32, "mla": 251 * 24, "mtla_s2": 126 * 24}
    for name, count in numbers.items():
        assert rows[name][0] == pytest.approx(count * 4 * 64 / 2**20, abs=0.06)
    # The vocabulary is the checkpoint's: 60 tokens, and not the 5000 of the default.
    config.write_text(yaml.safe_dump({**raw, "token_list": ["a"] * 5000}))
    assert table(capsys, monkeypatch, *given)["gqa"] == rows["gqa"]


def test_nothing_fits_into_too_little(capsys, monkeypatch):
    rows = table(capsys, monkeypatch, "--memory", "1M", "--attention", "mha")
    assert rows["mha"][1:] == [0, 0, 0]


@pytest.mark.parametrize("text", ["12 apples", "", "-3G", "0"])
def test_a_bad_memory_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="24G is needed"):
        plan.memory(text)
    assert plan.memory("1.5 GiB") == 3 * 2**29


def test_a_bad_attention_is_named(capsys, monkeypatch):
    with pytest.raises(UserError, match="'mha_s2' given"):
        table(capsys, monkeypatch, "--attention", "mha_s2")


@pytest.mark.parametrize("option", ["--frames_per_second", "--seconds"])
@pytest.mark.parametrize("value", ["-5", "inf"])
def test_a_rate_is_a_number_above_0(option, value, capsys, monkeypatch):
    with pytest.raises(UserError, match=f"{option}: .* a number in \\(0, inf\\) is"):
        table(capsys, monkeypatch, f"{option}={value}")


@pytest.mark.parametrize(
    ("config", "rate"),
    [
        ({}, 16000 / 128 / 4 / 2),  # conv2d and a stack of 2 are the defaults
        ({"frontend": "fbank", "projector_conf": {"stack": 1}}, 25),
        ({"frontend": "fbank", "frontend_conf": {"frame_shift": 20, "fs": "8k"}}, 6.25),
        ({"frontend": None, "input_size": 80, "projector_conf": {"stack": 1}}, 25),
        ({"frontend": None, "input_size": 80, "encoder": None}, 50),
        ({"encoder": "transformer", "encoder_conf": {"input_layer": "linear"}}, 62.5),
        ({"task": "sum", "frontend": None}, 1),
    ],
)
def test_frames_of_a_second_are_those_of_the_parts(config: dict, rate: float) -> None:
    assert plan.frames_per_second(config) == pytest.approx(rate)


def test_a_front_end_that_is_not_here_has_a_way_out(tmp_path) -> None:
    conf = {"upstream": "wavlm_local", "path": str(tmp_path / "none.pt")}
    with pytest.raises(UserError, match="or give --frames_per_second"):
        plan.frames_per_second({"frontend": "s3prl", "frontend_conf": conf})
    with pytest.raises(UserError, match="projector_conf"):
        plan.frames_per_second({"projector_conf": {"stak": 1}})
