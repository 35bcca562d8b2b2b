"""`convert llama`: samples, phases in the log, distillation, and bad input."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert import progress
from espnet_mtla.hf.convert.build import Target, convert
from espnet_mtla.hf.convert.heal import Healing
from espnet_mtla.hf.convert.original import Original
from espnet_mtla.hf.convert.text import TextBlocks, spread
from test.hf.convert.conftest import TEXT
from test.support.real_weights import real_weights
from test.support.tiny_llama import LLAMA_SIZES
from test.support.tiny_llama import run_convert as run

PROMPTS = ["Licensed under the", "You may"]
READ = ["--text", TEXT, "--length", 32]


def greedy(folder: Path, prompt: str, tokens: int) -> str:
    """Continue a prompt, each token the best one after a pass without a cache."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = ids.size(1)
    with torch.no_grad():
        for _ in range(tokens):
            best = model(ids, use_cache=False).logits[:, -1:].argmax(-1)
            ids = torch.cat((ids, best), dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_samples_are_the_greedy_continuations_of_each_model(
    trained, tmp_path, monkeypatch, capsys
) -> None:
    folder, output = trained[0], tmp_path / "out"
    options = ["--heal_steps", 3, "--distil", "--prompts", *PROMPTS]
    options += ["--prompt_tokens", 7, "--kv_lora_rank", 8, "--qk_rope_head_dim", 8]
    run(monkeypatch, "llama", folder, output, *READ, *options)
    lines = capsys.readouterr().out.splitlines()
    for prompt in PROMPTS:
        start = lines.index(f"prompt: {prompt}")
        shown = dict(line.strip().split(": ", 1) for line in lines[start + 1 :][:3])
        assert list(shown) == ["before", "after conversion", "after healing"]
        assert shown["before"] == repr(greedy(folder, prompt, 7))
        assert shown["after healing"] == repr(greedy(output, prompt, 7))


def test_samples_need_no_text(trained, tmp_path, monkeypatch, capsys) -> None:
    options = ["--to", "mla", "--prompts", PROMPTS[0], "--prompt_tokens", 5]
    run(monkeypatch, "llama", trained[0], tmp_path / "out", *options)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"prompt: {PROMPTS[0]}")
    before, after = lines[start + 1 : start + 3]
    # MLA of full width loses nothing.
    assert before.partition(": ")[2] == after.partition(": ")[2] != "''"


def test_the_command_distils(trained, tmp_path, monkeypatch) -> None:
    """Its weights are those of the same training in Python, not of plain healing."""
    weights, same = {}, ["--heal_steps", 3, "--batch", 2]
    for name, options in (("plain", []), ("distilled", ["--distil", 0.5])):
        output = tmp_path / name
        run(monkeypatch, "llama", trained[0], output, *READ, *same, *options)
        weights[name] = load_file(output / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(trained[0])
    text = trained[2]
    converted, _ = convert(
        model, Target("mtla", 2, context=32), spread(text.training, 16)
    )
    original = Original(model, text.training)
    Healing(3, 2, distil=0.5).run(converted, text.training, original)
    expected = converted.state_dict()
    for name, weight in weights["distilled"].items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
    name = "model.layers.0.mlp.up_proj.weight"
    apart = (weights["plain"][name] - weights["distilled"][name]).abs().max()
    assert apart > 1e-4


def test_each_phase_is_in_the_log_with_its_time(
    trained, tmp_path, monkeypatch, caplog
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    options = ["--heal_steps", 4, "--batch", 2, "--held_out", 3]
    run(monkeypatch, "llama", trained[0], tmp_path / "out", *READ, *options)
    messages = [record.getMessage() for record in caplog.records]
    phases = ["loading", "perplexity, before", "conversion"]
    phases += ["perplexity, after conversion", "healing", "saving"]
    for name in phases:
        assert f"{name} ..." in messages
        assert any(
            message.startswith(f"{name}: ") and message.endswith(" s")
            for message in messages
        )
    order = [messages.index(f"{name} ...") for name in phases]
    assert order == sorted(order)
    for step in range(1, 5):
        assert any(m.startswith(f"healing: {step} of 4, loss ") for m in messages)


def test_progress_is_logged_at_most_every_interval(monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track("abcdefgh", "letters", 8)) == list("abcdefgh")
    # The clock is 0 at the start, 4 at "a", 8 at "b": lines at 12 s and at 24 s.
    assert [record.getMessage() for record in caplog.records] == [
        "letters: 2 of 8, 12 s",
        "letters: 5 of 8, 24 s",
    ]


def test_at_most_so_many_blocks_are_held_out(trained) -> None:
    folder, _, text = trained
    tokenizer = AutoTokenizer.from_pretrained(folder)
    few = TextBlocks.read([TEXT], tokenizer, 32, most=3)
    assert len(few.held_out) == 3 < len(text.held_out)
    whole = torch.cat((text.training, text.held_out))
    assert torch.equal(torch.cat((few.training, few.held_out)), whole)


def bad_folders(tmp_path: Path, source: Path) -> dict[str, tuple[Path, str]]:
    """Return folders that cannot be converted, with what the message says."""
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = tmp_path / "bare"
    LlamaConfig(**LLAMA_SIZES, vocab_size=300).save_pretrained(bare)
    pickled = tmp_path / "pickled"
    shutil.copytree(bare, pickled)
    torch.save({}, pickled / "pytorch_model.bin")
    other = tmp_path / "other"
    shutil.copytree(source, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    silent = tmp_path / "silent"
    shutil.copytree(source, silent)
    for file in silent.glob("tokenizer*"):
        file.unlink()
    return {
        "empty": (empty, "config.json: no such file; the folder has no model config"),
        "bare": (bare, "bare: no model.safetensors in this folder"),
        "pickled": (pickled, "pytorch_model.bin: a pickle, which can run code"),
        "other": (other, "model_type 'gpt2' can't be converted; llama, mistral, qwen2"),
        "silent": (silent, "silent: no tokeniser to read the text with"),
    }


@pytest.mark.parametrize("conversion", ["llama", "curve"])
def test_bad_folders_are_one_line(trained, tmp_path, monkeypatch, conversion) -> None:
    folders = bad_folders(tmp_path, trained[0])
    for name, (folder, message) in folders.items():
        text = TEXT if conversion == "llama" else f"licence={TEXT}"
        # Without a text, a folder without a tokeniser can be converted.
        reads = conversion == "curve" or name == "silent"
        options = ["--text", text, "--length", 32] if reads else []
        if reads and name in ("bare", "pickled"):
            for file in trained[0].glob("tokenizer*"):
                shutil.copy(file, folder)
        with pytest.raises(UserError) as raised:
            run(monkeypatch, conversion, folder, tmp_path / "out", *options)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.txt: the file is empty"),
        (b" \n\n", "text.txt: the file is empty"),
        (b"a\xff", "text.txt: not UTF-8 text"),
        (b"a few words", r"text.txt: \d+ tokens, two blocks of 32 are needed"),
        (None, "text.txt"),
    ],
    ids=["empty", "blank", "latin", "short", "missing"],
)
def test_bad_texts_are_one_line(
    trained, tmp_path, monkeypatch, content: bytes | None, message: str
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        options = ["--text", text, "--length", 32]
        run(monkeypatch, "llama", trained[0], tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_missing_text_is_one_line_of_the_command(trained, tmp_path) -> None:
    words = ["llama", trained[0], tmp_path / "out", "--text", tmp_path / "none.txt"]
    done = subprocess.run(
        [sys.executable, "-m", "espnet_mtla.bin.convert", *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "none.txt" in last and "Traceback" not in done.stderr


@pytest.mark.real_weights
def test_a_published_model_without_loss(tmp_path, monkeypatch, capsys) -> None:
    """MLA of full width: same perplexity, same continuations, as many bytes."""
    folder = real_weights("smollm2-135m")
    options = ["--to", "mla", "--text", TEXT, "--length", 256, "--held_out", 2]
    options += ["--calibration", 2, "--prompts", "The capital of France is"]
    run(monkeypatch, "llama", folder, tmp_path / "out", *options)
    lines = capsys.readouterr().out.splitlines()
    assert "cache: 46080 bytes per token before, 46080 after" in lines
    (line,) = (line for line in lines if line.startswith("perplexity"))
    words = line.replace(",", "").split()
    assert float(words[5]) == pytest.approx(float(words[7]), rel=1e-4)
    before, after = lines[lines.index(f"prompt: {options[-1]}") + 1 :][:2]
    assert before.partition(": ")[2] == after.partition(": ")[2]
    assert "Paris" in before
