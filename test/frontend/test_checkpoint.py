"""Checkpoints of encoders: every layout of weights, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.checkpoint import checkpoint_files
from espnet_mtla.frontend.encoder_folder import (
    encoder_digest,
    export_encoder,
    load_encoder,
)
from espnet_mtla.frontend.pretrained import TransformersFrontend
from test.support.tiny_encoders import NAMES, make_encoder, noise

SAFE = "model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("originals")
    return {name: make_encoder(root / name, name) for name in NAMES}


@pytest.fixture
def folder(originals, tmp_path) -> Path:
    """A Whisper to be changed by a test."""
    return Path(shutil.copytree(originals["whisper"], tmp_path / "whisper"))


def output(folder: Path) -> torch.Tensor:
    return TransformersFrontend(str(folder), -1).to_store(noise([9000])[0][0])


def renamed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Weights as a model with a head has them, and names from before torch 2.1."""
    names = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    found = {}
    for name, value in tensors.items():
        for new, old in names.items():
            name = name.replace(new, old)
        found[prefix + name] = value
    return {**found, "lm_head.weight": torch.zeros(3, 16)}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("wav2vec2_base", "wav2vec2."),
        ("hubert_base", "hubert."),
        ("wavlm_large", "wavlm."),
        ("w2v_bert", "wav2vec2_bert."),
    ],
)
def test_models_with_heads_and_old_names(name, prefix, originals, tmp_path) -> None:
    folder = shutil.copytree(originals[name], tmp_path / name)
    tensors = load_file(folder / SAFE)
    old = renamed(tensors, prefix)
    assert any("weight_g" in key for key in old) == (name != "w2v_bert")
    save_file(old, folder / SAFE)
    assert torch.equal(output(folder), output(originals[name]))
    extra = renamed(tensors, "")
    del extra["lm_head.weight"]
    save_file({**extra, "masked_spec_embed": torch.zeros(16)}, folder / SAFE)
    assert torch.equal(output(folder), output(originals[name]))


def test_torch_files_and_shards(folder, originals) -> None:
    expected = output(originals["whisper"])
    tensors = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(output(folder), expected)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    places = {}
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{part:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, folder / file)
        places |= dict.fromkeys(chosen, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{SAFE}.index.json").write_text(json.dumps(index))
    assert torch.equal(output(folder), expected)
    assert len(checkpoint_files(folder)) == 5
    (folder / file).unlink()
    with pytest.raises(UserError, match=r"00002\.safetensors: no such file, a part"):
        output(folder)
    (folder / f"{SAFE}.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json: no weight_map"):
        output(folder)


def test_half_precision_weights_become_single(folder, originals) -> None:
    tensors = {name: v.bfloat16() for name, v in load_file(folder / SAFE).items()}
    save_file(tensors, folder / SAFE)
    encoder = load_encoder(folder)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    torch.testing.assert_close(
        output(folder), output(originals["whisper"]), rtol=0, atol=0.1
    )


def test_only_the_encoder_is_read(folder, monkeypatch) -> None:
    """Whisper's decoder stays in the file."""
    import safetensors

    read = []
    original = safetensors.safe_open

    class Spy:
        def __init__(self, *args) -> None:
            self.file = original(*args)

        def __enter__(self):
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.inner.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.inner.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    load_encoder(folder)
    assert read
    assert all(name.startswith("model.encoder.") for name in read)


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_encoder_is_the_same(name, originals, tmp_path) -> None:
    export_encoder(str(originals[name]), tmp_path / "new")
    assert encoder_digest(str(tmp_path / "new")) == encoder_digest(str(originals[name]))
    assert torch.equal(output(tmp_path / "new"), output(originals[name]))


def test_a_digest_depends_on_weights_and_settings(folder, originals) -> None:
    before = encoder_digest(str(originals["whisper"]))
    tensors = load_file(folder / SAFE)
    tensors["model.decoder.layer_norm.bias"] += 1
    save_file(tensors, folder / SAFE)
    assert encoder_digest(str(folder)) == before
    tensors["model.encoder.layer_norm.bias"] += 1
    save_file(tensors, folder / SAFE)
    changed = encoder_digest(str(folder))
    assert changed != before
    edit(folder / "preprocessor_config.json", hop_length=80)
    assert encoder_digest(str(folder)) not in (before, changed)


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None deletes one."""
    content = {**json.loads(file.read_text()), **changes}
    content = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(content))


class Code:
    """Its pickle creates a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("was_run"),)


def pickled(folder: Path) -> None:
    (folder / SAFE).unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin")


def plain_pickle(folder: Path) -> None:
    (folder / SAFE).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Code()))


def without(*names: str):
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def with_file(name: str, content: bytes):
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def with_values(name: str, **changes: object):
    return lambda folder: edit(folder / name, **changes)


def with_tensors(**changes: torch.Tensor | None):
    def change(folder: Path) -> None:
        tensors = load_file(folder / SAFE)
        for name, value in changes.items():
            name = "model.encoder." + name.replace("__", ".")
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value
        save_file(tensors, folder / SAFE)

    return change


REFUSED = {
    "no config": (
        without("config.json"),
        r"config\.json: no such file; a folder as Tr",
    ),
    "no weights": (without(SAFE), r"whisper: no model\.safetensors, the weights"),
    "no extractor": (
        without("preprocessor_config.json"),
        r"whisper: no preprocessor_config\.json, the settings of its features; copy it",
    ),
    "adapters": (
        with_file("adapter_config.json", b"{}"),
        r"whisper: has unmerged adapters of PEFT \(adapter_config\.json\); merge them",
    ),
    "config not JSON": (with_file("config.json", b"{"), r"config\.json: not JSON"),
    "config a list": (with_file("config.json", b"[]"), r"config\.json: not a JSON obj"),
    "language model": (
        with_values("config.json", model_type="llama"),
        r"a model of type 'llama' is no speech encoder; valid: whisper, wavlm, hub",
    ),
    "no type": (
        with_values("config.json", model_type=None),
        r"a model of type None is no speech encoder",
    ),
    "mels": (
        with_values("preprocessor_config.json", feature_size=128),
        r"128 mels in preprocessor_config\.json, and 80 in config\.json",
    ),
    "dither": (
        with_values("preprocessor_config.json", dither=0.1),
        r"dither 0\.1 in WhisperFeatureExtractor: features would be random",
    ),
    "another's extractor": (
        with_values(
            "preprocessor_config.json",
            feature_extractor_type="Wav2Vec2FeatureExtractor",
        ),
        r"feature extractor Wav2Vec2FeatureExtractor, and the model takes Whisper",
    ),
    "wrong field": (
        with_values("config.json", d_model="wide"),
        r"config\.json: \w+",
    ),
    "fewer layers": (
        with_values("config.json", encoder_layers=1),
        r"unexpected weights layers\.1.*not of its config",
    ),
    "more layers": (
        with_values("config.json", encoder_layers=3),
        r"no weights layers\.2.* and \d+ more; the checkpoint is not of",
    ),
    "another width": (
        with_tensors(layer_norm__bias=torch.zeros(4)),
        r"weights layer_norm\.bias of shape \(4,\), and config\.json says \(16,\)",
    ),
    "a weight is missing": (
        with_tensors(layer_norm__bias=None),
        r"no weights layer_norm\.bias; the checkpoint is not of its config",
    ),
    "cut off": (with_file(SAFE, b"1234"), r"model\.safetensors: cut off or not a"),
    "pickle": (pickled, r"pytorch_model\.bin: a pickle with more than tensors"),
    "plain pickle": (plain_pickle, r"pytorch_model\.bin: (a pickle with|cut off or)"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_bad_folders_are_named(fault, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = REFUSED[fault]
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        TransformersFrontend(str(folder))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model: ")
    assert not (tmp_path / "was_run").exists()


def test_wrong_settings_are_named(originals) -> None:
    whisper, wavlm = str(originals["whisper"]), str(originals["wavlm_base"])
    for settings, message in (
        ({"model": whisper, "fs": 8000}, r"fs: 8000: .* takes 16000 Hz"),
        ({"model": whisper, "layer": 3}, r"layer: 3: .* has 0 to 2"),
        ({"model": whisper, "layer": -4}, r"layer: -4: .* has 0 to 2"),
        ({"model": wavlm, "keep_padding": True}, r"keep_padding: wavlm pads nothing"),
        (
            {"model": "no_such_folder"},
            r"model: no_such_folder: no such folder, and not",
        ),
    ):
        with pytest.raises(UserError, match=message):
            TransformersFrontend(**settings)


def test_settings_of_a_processor_of_transformers_5(folder, originals) -> None:
    """Saving a processor writes the extractor's settings into another file."""
    old = folder / "preprocessor_config.json"
    new = {"feature_extractor": json.loads(old.read_text()), "processor_class": "X"}
    old.unlink()
    (folder / "processor_config.json").write_text(json.dumps(new))
    assert torch.equal(output(folder), output(originals["whisper"]))
