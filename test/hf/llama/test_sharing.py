"""Exported folders load without the package; modified ones are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from espnet_mtla.errors import UserError
from espnet_mtla.hf import LlamaMTLAConfig, LlamaMTLAForCausalLM
from espnet_mtla.hf.convert.source import load_source
from espnet_mtla.hf.llama.export import export, needed_sources
from test.support.tiny_llama import tiny, tokens

ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("espnet_mtla", "espnet2", "triton_kernels"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = torch.load(sys.argv[2], weights_only=True)
shown = model.eval().generate(batch, do_sample=False, num_beams=2, max_new_tokens=7)
torch.save(shown, sys.argv[2])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny(2, dtype=torch.float32).save_pretrained(folder)
    return folder


def test_what_was_loaded_is_told_as_transformers_tells_it(saved) -> None:
    """Its lists or sets stay such: Transformers' own tests compare them."""
    found = LlamaMTLAForCausalLM.from_pretrained(saved, output_loading_info=True)[1]
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert type(found["missing_keys"]) is type(found["unexpected_keys"])


def test_an_exported_folder_loads_without_the_package(tmp_path) -> None:
    model, batch = tiny(3, dtype=torch.float32), tokens(2, 7)
    files = export(model, tmp_path / "shared")
    assert len(files) < 54
    torch.save(batch, tmp_path / "tokens.pt")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    for name in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if not os.path.isdir(os.path.join(name, "espnet_mtla")):
            environment["PYTHONPATH"] += name + os.pathsep
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "shared"), "tokens.pt"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = model.generate(batch, do_sample=False, num_beams=2, max_new_tokens=7)
    shown = torch.load(tmp_path / "tokens.pt", weights_only=True)
    assert torch.equal(shown, expected)


def test_an_export_holds_no_import_of_the_package() -> None:
    sources = needed_sources("espnet_mtla.hf.llama.modeling")
    for text in sources.values():
        assert "from espnet_mtla" not in text and "import espnet_mtla" not in text
    assert "espnet_mtla.attention.decoding.backend" not in sources


def rewrite_weights(folder, target, change) -> None:
    """A copy of a saved model with other weights."""
    target.mkdir()
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})


def test_missing_weights_are_named(saved, tmp_path) -> None:
    name = "model.layers.1.self_attn.wkv_a.weight"
    rewrite_weights(saved, tmp_path / "m", lambda weights: weights.pop(name))
    with pytest.raises(UserError, match=f"missing weights: {name}; the checkpoint"):
        LlamaMTLAForCausalLM.from_pretrained(tmp_path / "m")


def test_weights_left_over_are_named(saved, tmp_path) -> None:
    extra = {f"model.layers.{i}.self_attn.q_proj.weight": torch.ones(1) for i in "0123"}
    rewrite_weights(saved, tmp_path / "m", lambda weights: weights.update(extra))
    with pytest.raises(UserError, match=r"unexpected weights: model\.l.* and 1 more"):
        LlamaMTLAForCausalLM.from_pretrained(tmp_path / "m")


def test_weights_of_another_size_are_named(saved, tmp_path) -> None:
    name = "model.layers.0.self_attn.wkv_a.weight"
    cut = {name: torch.ones(18, 32)}
    rewrite_weights(saved, tmp_path / "m", lambda weights: weights.update(cut))
    with pytest.raises(UserError, match=f"mismatched weights: {name}; the check"):
        LlamaMTLAForCausalLM.from_pretrained(tmp_path / "m")
    load = LlamaMTLAForCausalLM.from_pretrained
    assert load(tmp_path / "m", ignore_mismatched_sizes=True).config.down_rate == 2


def test_folders_that_do_not_say_what_they_hold(saved, tmp_path) -> None:
    load, index = LlamaMTLAForCausalLM.from_pretrained, "model.safetensors.index.json"
    (tmp_path / "model.safetensors").write_bytes(
        (saved / "model.safetensors").read_bytes()
    )
    with pytest.raises(
        UserError, match=r"config\.json: no such file; the folder has no"
    ):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{oops")
    with pytest.raises(UserError, match=r"config\.json' is not a valid JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / index).write_text('{"metadata": {}, "weight_map": {"a": "b-1.st"}}')
    with pytest.raises(UserError, match=r"b-1\.st") as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_pickles_are_not_read(saved, tmp_path) -> None:
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"no model\.safetensors in this folder"):
        LlamaMTLAForCausalLM.from_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: a pickle, which can run"):
        LlamaMTLAForCausalLM.from_pretrained(tmp_path)
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="cut off or not a safetensors file"):
        LlamaMTLAForCausalLM.from_pretrained(tmp_path)


def test_a_hub_name_that_is_not_there_is_one_line(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing: no such folder") as raised:
        LlamaMTLAForCausalLM.from_pretrained("nobody/nothing", local_files_only=True)
    assert "\n" not in str(raised.value)


def test_a_hub_that_is_not_there_is_said_at_once(monkeypatch) -> None:
    from huggingface_hub import constants

    def no_patience(seconds: float) -> None:
        pytest.fail(f"waits {seconds} s to try again")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", no_patience)
    for load in (LlamaMTLAForCausalLM.from_pretrained, load_source):
        with pytest.raises(UserError, match=r"nothing: no such fol.*cannot be reached"):
            load("nobody/nothing", dtype=torch.float32)


def test_another_stride_for_trained_weights_is_noticed(saved) -> None:
    assert json.loads((saved / "config.json").read_text())["trained_down_rate"] == 2
    with pytest.raises(UserError, match="down_rate: 3 given, the weights were trained"):
        LlamaMTLAForCausalLM.from_pretrained(saved, down_rate=3)
    config = LlamaMTLAConfig.from_pretrained(saved)
    config.down_rate = 4
    with pytest.raises(UserError, match="trained with 2"):
        LlamaMTLAForCausalLM.from_pretrained(saved, config=config)
    meant = LlamaMTLAForCausalLM.from_pretrained(
        saved, down_rate=3, trained_down_rate=None
    )
    assert meant.config.down_rate == 3
