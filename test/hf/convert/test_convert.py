"""Conversion: exact at full width, close at reduced width, better after healing."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.build import Target, convert
from espnet_mtla.hf.convert.factor import low_rank
from espnet_mtla.hf.convert.source import check_source
from espnet_mtla.hf.convert.text import perplexity
from test.support.tiny_llama import LLAMA_SIZES, llama
from test.support.tiny_llama import run_convert as run

TEXT = Path(__file__).resolve().parents[3] / "LICENSE"


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("to", ["mla", "mtla"])
def test_at_stride_1_and_full_rank_nothing_changes(
    kv_heads: int, bias: bool, to: str
) -> None:
    source = llama(num_key_value_heads=kv_heads, attention_bias=bias)
    batch = torch.randint(0, 50, (3, 20))
    for blocks in (None, batch):
        model, kept = convert(source, Target(to, down_rate=1), blocks)
        assert kept == [1.0, 1.0]
        with torch.no_grad():
            expected = source(batch).logits
            got = model(batch, use_cache=False).logits
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)
            cached = model.generate(batch, max_new_tokens=6, do_sample=False)
        wanted = source.generate(batch, max_new_tokens=6, do_sample=False)
        assert torch.equal(cached, wanted)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_raw_window_that_covers_a_row_changes_nothing(stride: int) -> None:
    """Raw tokens are seen as the original sees them, whatever the stride."""
    source = llama()
    batch = torch.randint(0, 50, (3, 12))
    model, _ = convert(source, Target("mtla", stride, raw_window=12), batch)
    with torch.no_grad():
        expected = source(batch).logits
        torch.testing.assert_close(
            model(batch, use_cache=False).logits, expected, rtol=0, atol=1e-8
        )
    # Behind the window a chunk is the mean of its tokens.
    attention = model.model.layers[0].self_attn
    latent = torch.randn(1, 2 * stride, attention.settings.kv_lora_rank).double()
    merged = attention.merge(latent, None, None)[0, stride - 1 :: stride]
    means = latent[0].unflatten(0, (2, stride)).mean(1)
    torch.testing.assert_close(merged, means, rtol=0, atol=1e-6)


def test_a_raw_window_without_merging_is_refused() -> None:
    with pytest.raises(UserError, match="raw_window: 8 given, 0 at stride 1"):
        Target("mla", down_rate=1, raw_window=8)


def test_one_layers_attention_is_the_same_without_the_norms_around_it() -> None:
    """Logits hide the last digits: Llama's norms pass through float32."""
    source = llama()
    batch = torch.randint(0, 50, (2, 16))
    model, _ = convert(source, Target("mtla", down_rate=1), batch)
    x = torch.randn(2, 16, 32, dtype=torch.float64)
    position = torch.arange(16)[None]
    angles = source.model.rotary_emb(x, position)
    attention = source.model.layers[1].self_attn
    future = torch.full((16, 16), -torch.inf, dtype=torch.float64).triu(1)
    expected, _ = attention(x, angles, future[None, None])
    converted = model.model.layers[1].self_attn
    got = converted.attend_all(x, angles=converted.angles(position, x.dtype))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_without_rotation_only_rotation_is_lost() -> None:
    """At position 0 the rotation is the identity."""
    source = llama()
    batch = torch.randint(0, 50, (4, 1))
    for rope in (2, 6, 10):
        model, _ = convert(source, Target("mla", 1, qk_rope_head_dim=rope))
        assert model.config.kv_lora_rank == 32 - rope
        torch.testing.assert_close(
            model(batch).logits, source(batch).logits, rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_scaled_rotation_is_kept(kind: str) -> None:
    scaling = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}
    if kind != "linear":
        scaling["original_max_position_embeddings"] = 32
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    source = llama(rope_scaling=scaling)
    source.generation_config.eos_token_id = [7, 9]
    batch = torch.randint(0, 50, (2, 40))
    model, _ = convert(source, Target("mtla", down_rate=1))
    got, expected = model(batch).logits, source(batch).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)
    assert model.generation_config.eos_token_id == [7, 9]


def test_qwens_biases_are_kept() -> None:
    source = llama(Qwen2ForCausalLM, Qwen2Config, use_sliding_window=False)
    batch = torch.randint(0, 50, (2, 12))
    model, _ = convert(source, Target("mla", down_rate=1))
    got, expected = model(batch).logits, source(batch).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """As the hub has them: GQA, tied, llama3's rotation, bfloat16, several files."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 32
    source = llama(tie_word_embeddings=True, rope_scaling=scaling).bfloat16()
    folder = tmp_path_factory.mktemp("sharded")
    source.save_pretrained(folder, max_shard_size="12KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.mark.parametrize(
    ("dtype", "near"), [("float32", 1e-3), ("bfloat16", 0.15)], ids=str
)
def test_a_checkpoint_as_the_hub_has_them(
    sharded, tmp_path, monkeypatch, capsys, dtype: str, near: float
) -> None:
    output = tmp_path / "out"
    run(monkeypatch, "llama", sharded, output, "--down_rate", 1, "--dtype", dtype)
    assert "mtla at stride 1" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert model.dtype == getattr(torch, dtype) and model.config.kv_lora_rank == 16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    source = AutoModelForCausalLM.from_pretrained(sharded, dtype=model.dtype)
    batch = torch.randint(0, 50, (2, 40))
    with torch.no_grad():
        apart = model(batch).logits.softmax(-1) - source(batch).logits.softmax(-1)
    assert apart.float().abs().max() < near


def test_shards_that_are_missing_cut_off_or_incomplete(
    sharded, tmp_path, monkeypatch
) -> None:
    broken, shard = tmp_path / "broken", "model-00002-of"
    shutil.copytree(sharded, broken)
    path = next(broken.glob(f"{shard}*"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{shard}.*: cut off or not a safetensors"):
        run(monkeypatch, "llama", broken, tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=rf"{shard}") as raised:
        run(monkeypatch, "llama", broken, tmp_path / "out")
    assert "\n" not in str(raised.value)
    weights = load_file(path := next(sharded.glob(f"{shard}*")))
    name = min(weights)
    del weights[name]
    save_file(weights, broken / path.name, {"format": "pt"})
    with pytest.raises(UserError, match=f"missing weights: {name}; the checkpoint"):
        run(monkeypatch, "llama", broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_low_rank_is_the_best_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 12, dtype=torch.float64) @ torch.randn(12, 12).double()
    metric = torch.eye(12, dtype=torch.float64)
    encode, decode, kept = low_rank(x.T @ x / 500, metric, 5)
    error = (x - x @ encode.T @ decode.T).square().sum()
    singular = torch.linalg.svdvals(x).square()
    torch.testing.assert_close(error, singular[5:].sum())
    assert kept == pytest.approx(float(singular[:5].sum() / singular.sum()))
    assert (x @ encode.T).square().mean(0) == pytest.approx(torch.ones(5))


def test_the_more_is_kept_the_nearer_and_text_helps(trained) -> None:
    # On text that it has read: of the little that it has not, a small model knows
    # too little for the differences to stand out.
    _, model, text = trained
    seen = text.training[:48]

    def after(rank: int, blocks=text.training) -> float:
        target = Target("mla", 1, rank, 8, context=32)
        return perplexity(convert(model, target, blocks)[0], seen)

    # 32 numbers a token, of which 8 go on turning: 24 lose nothing but rotation.
    assert after(4) > after(8) > after(24)
    assert after(24) == pytest.approx(perplexity(model, seen), rel=0.02)
    assert after(4) < after(4, None)


def test_the_command_converts_heals_and_says_so(
    trained, tmp_path, monkeypatch, capsys, caplog
) -> None:
    folder, *_ = trained
    caplog.set_level(logging.INFO)
    options = ["--down_rate", 2, "--qk_rope_head_dim", 8, "--kv_lora_rank", 16]
    training = ["--text", TEXT, "--length", 32, "--heal_steps", 60]
    training += ["--learning_rate", 3e-3]
    output = tmp_path / "out"
    run(monkeypatch, "llama", folder, output, *options, *training)
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith("perplexity"))
    words = line.replace(",", "").split()
    before, after, healed = (float(words[i]) for i in (5, 7, 10))
    assert before > 1 and healed < after
    assert "cache: 256 bytes per token before, 96 after" in shown
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.config.down_rate == model.config.trained_down_rate == 2
    assert (output / "tokenizer.json").exists()
    with pytest.raises(UserError, match="exists already; name a new folder"):
        run(monkeypatch, "llama", folder, output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "mla", "--down_rate", 2], "down_rate: 2 given, 1 for mla"),
        (["--down_rate", 0], "down_rate: 0 given"),
        (["--qk_rope_head_dim", 34], "qk_rope_head_dim: 34 given, an even number up"),
        (["--kv_lora_rank", 3], "kv_lora_rank: 3 given, an even number >= 4"),
        (["--batch", 0], "batch: 0 given"),
        (["--length", 0], "length: 0 given, 1 or more"),
        (["--learning_rate", 0], "learning_rate: 0.0 given"),
        (["--heal_steps", 5], r"heal_steps: 5 given, text to train on \(--text\)"),
        (["--distil"], r"distil: 1.0 given, training \(--heal_steps\) is needed"),
        (
            ["--distil", 2, "--heal_steps", 1, "--text", TEXT],
            "distil: 2.0 given, a value from 0 to 1",
        ),
        (["--held_out", 0], "held_out: 0 given, 1 or more"),
        (["--prompts", ""], "prompts: an empty one given"),
        (["--text", TEXT, "--length", 9000], "two blocks of 9000 are needed"),
    ],
)
def test_targets_that_cannot_be_are_named(
    trained, tmp_path, monkeypatch, arguments: list, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(monkeypatch, "llama", trained[0], tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_what_is_no_llama_is_refused_by_name(tmp_path, monkeypatch) -> None:
    from transformers import GPT2Config, MistralConfig

    GPT2Config().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="model_type 'gpt2' can't be converted"):
        run(monkeypatch, "llama", tmp_path / "gpt2", tmp_path / "out")
    with pytest.raises(UserError, match="sliding_window=7 can't be converted"):
        check_source("m", MistralConfig(sliding_window=7))
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(UserError, match="rope_type 'dynamic' can't be converted"):
        check_source("m", LlamaConfig(rope_scaling=dynamic))
    with pytest.raises(UserError, match="not a checkpoint of Transformers"):
        run(monkeypatch, "llama", tmp_path / "nothing", tmp_path / "out")
    LlamaConfig(**LLAMA_SIZES, vocab_size=9).save_pretrained(tmp_path / "bare")
    torch.save({}, tmp_path / "bare" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: a pickle, which"):
        run(monkeypatch, "llama", tmp_path / "bare", tmp_path / "out")
