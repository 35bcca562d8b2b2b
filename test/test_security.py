"""Each claim of SECURITY.md: what runs code when it is read, and what does not.

A pickle that was run, or a module that was imported, leaves the file ``ran``.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_mtla.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RAN = "ran"
TOUCH = f"import pathlib; pathlib.Path({RAN!r}).touch()\n"


class Harmful:
    """Pickled as the call that makes the file ``ran``."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(RAN),))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def experiment(model: Path, tmp_path: Path) -> Path:
    """A trained folder, to be spoilt."""
    return Path(shutil.copytree(model, tmp_path / "exp"))


def test_the_harm_that_these_tests_look_for_is_real() -> None:
    pickle.loads(pickle.dumps(Harmful()))
    assert Path(RAN).exists()


def _initial(path: Path) -> None:
    from espnet_mtla.task.checks import check_init_param

    check_init_param([f"{path}:encoder:encoder"])


def _reference(path: Path) -> None:
    from espnet_mtla.hf.convert.recipe import from_reference

    from_reference(path, Path("out.pth"))


def _average(path: Path) -> None:
    from espnet_mtla.task.average import Criterion, average

    shutil.copy(path, "checkpoint.pth")
    average(Path(), Criterion.parse("valid.acc.max"), 1)


def _resume(path: Path) -> None:
    from espnet_mtla.model.checkpoint import repair

    shutil.copy(path, "checkpoint.pth")
    repair(Path())


DOORS: dict[str, Callable[[Path], None]] = {
    "init_param": _initial,
    "reference": _reference,
    "average": _average,
    "resume": _resume,
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("door", DOORS)
def test_a_checkpoint_with_code_is_refused_unrun(door: str, old_format: bool) -> None:
    """What espnet2 would unpickle is refused before espnet2 sees it."""
    states = {"encoder.weight": torch.zeros(1), "other": Harmful()}
    torch.save(states, "bad.pth", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UserError) as caught:
        DOORS[door](Path("bad.pth"))
    assert "\n" not in str(caught.value)
    assert not Path(RAN).exists()


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_model_with_code_in_its_weights_is_refused_unrun(
    experiment: Path, name: str
) -> None:
    from espnet_mtla import Speech2Text

    torch.save({"other": Harmful()}, experiment / name)
    with pytest.raises(UserError):
        Speech2Text.from_pretrained(experiment)
    assert not Path(RAN).exists()


@pytest.mark.parametrize("name", ["config.yaml", "decode.yaml"])
@pytest.mark.parametrize("tag", ["object/apply:pathlib.Path.touch", "name:os.system"])
def test_yaml_makes_plain_values_alone(experiment: Path, name: str, tag: str) -> None:
    from espnet_mtla import Speech2Text

    with open(experiment / name, "a", encoding="utf-8") as stream:
        stream.write(f"beam_size: !!python/{tag} [{RAN}]\n")
    with pytest.raises(UserError, match=name):
        Speech2Text.from_pretrained(experiment)
    assert not Path(RAN).exists()


@pytest.mark.parametrize("part", ["frontend", "normalize", "encoder"])
def test_a_configuration_chooses_from_fixed_lists(experiment: Path, part: str) -> None:
    """No class is imported by a name that a file gives."""
    from espnet_mtla import Speech2Text

    Path("evil.py").write_text(TOUCH + "class Evil: pass\n")
    sys.path.insert(0, str(Path.cwd()))
    try:
        config = yaml.safe_load((experiment / "config.yaml").read_text())
        config[part] = "evil:Evil"
        (experiment / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(UserError, match=f"{part}: 'evil:Evil' given, one of"):
            Speech2Text.from_pretrained(experiment)
    finally:
        sys.path.remove(str(Path.cwd()))
    assert not Path(RAN).exists()


def test_a_configuration_can_name_files_elsewhere(experiment: Path) -> None:
    """They are read as what they are to be, such as a list of tokens."""
    from espnet_mtla.recognise.load import TrainedModel, choose_device
    from espnet_mtla.search.options import DecodeOptions

    config = yaml.safe_load((experiment / "config.yaml").read_text())
    elsewhere = Path("elsewhere.txt").resolve()
    elsewhere.write_text("".join(f"{token}\n" for token in config["token_list"]))
    config["token_list"] = str(elsewhere)
    (experiment / "config.yaml").write_text(yaml.safe_dump(config))
    trained = TrainedModel.from_folder(experiment, choose_device(0), DecodeOptions())
    assert trained.model.token_list == elsewhere.read_text().split()


def test_statistics_hold_no_pickles(experiment: Path) -> None:
    from espnet_mtla.model.build import load_model

    np.savez(
        experiment / "feats_stats.npz",
        **{name: np.array([Harmful()]) for name in ("count", "sum", "sum_square")},
    )
    config = yaml.safe_load((experiment / "config.yaml").read_text())
    config |= {"normalize": "global_mvn", "normalize_conf": {}}
    (experiment / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"feats_stats\.npz: no \.npz of statistics"):
        load_model(experiment / "config.yaml")
    assert not Path(RAN).exists()


def test_python_files_in_a_model_folder_are_never_imported(experiment: Path) -> None:
    from espnet_mtla import Speech2Text

    for name in ("__init__", "model", "modeling", "hubconf", "sitecustomize", "torch"):
        (experiment / f"{name}.py").write_text(TOUCH)
    rng = np.random.default_rng(0)
    speech2text = Speech2Text.from_pretrained(experiment)
    speech2text(rng.standard_normal(4000), rate=8000)
    assert not Path(RAN).exists()


def test_an_encoder_of_transformers_runs_no_code(tmp_path: Path) -> None:
    from espnet_mtla.frontend.pretrained import TransformersFrontend
    from test.support.tiny_encoders import make_encoder

    folder = make_encoder(tmp_path / "encoder", "whisper")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("code", "__init__", "modeling", "whisper"):
        (folder / f"{name}.py").write_text(TOUCH)
    TransformersFrontend(str(folder))
    assert not Path(RAN).exists()


def test_an_upstream_of_s3prl_can_run_code() -> None:
    """A warning, not a promise: should this fail, SECURITY.md can say something better.

    S3PRL evaluates a text of the checkpoint; weights alone do not help against that.
    """
    pytest.importorskip("s3prl", reason="the extra ssl is not installed")
    from espnet_mtla.frontend.upstream import load_upstream

    code = f"__import__('pathlib').Path({RAN!r}).touch()"
    torch.save({"cfg": {"conv_feature_layers": code}, "model": {}}, "upstream.pt")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_upstream("wavlm_local", "upstream.pt")
    assert Path(RAN).exists()


@pytest.fixture
def with_code() -> Path:
    """A folder for Transformers that brings a model type, and code, of its own."""
    folder = Path("with_code")
    folder.mkdir()
    auto = {name: f"evil.{name}" for name in ("AutoConfig", "AutoModelForCausalLM")}
    settings = {"model_type": "evil", "auto_map": auto}
    folder.joinpath("config.json").write_text(json.dumps(settings))
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.AutoTokenizer", None]}}
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(tokenizer))
    folder.joinpath("evil.py").write_text(f"{TOUCH}class AutoConfig: pass\n")
    return folder


def test_code_of_a_transformers_folder_is_neither_run_nor_asked_about(
    with_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_mtla.bin.convert import _tokenizer
    from espnet_mtla.hf import LlamaMTLAForCausalLM
    from espnet_mtla.hf.convert.source import load_source

    asked: list[object] = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    with pytest.raises(UserError):
        load_source(str(with_code), torch.float32)
    with pytest.raises((UserError, ValueError)):
        LlamaMTLAForCausalLM.from_pretrained(with_code)
    assert _tokenizer(argparse.Namespace(source=str(with_code), text=None)) is None
    assert not asked
    assert not Path(RAN).exists()


def test_a_file_name_is_no_command(experiment: Path) -> None:
    """Not even where a file of that name is there."""
    from espnet_mtla import Speech2Text

    speech2text = Speech2Text.from_pretrained(experiment)
    name = f"touch {RAN} |"
    with pytest.raises(UserError, match="no such audio file"):
        speech2text(name)
    Path(name).write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"a name that ends in \| is not read"):
        speech2text(name)
    assert not Path(RAN).exists()


@pytest.mark.parametrize(
    "place", [f"touch {RAN} |", f"touch {RAN} |:0:9", f"x.ark:0; touch {RAN} |"]
)
def test_places_of_features_are_no_commands(place: str) -> None:
    from espnet_mtla.data.features import read_features

    with pytest.raises(UserError):
        read_features(place)
    assert not Path(RAN).exists()


def test_features_hold_no_pickles() -> None:
    from espnet_mtla.data.features import read_features

    np.save("bad.npy", np.array([Harmful()]), allow_pickle=True)
    raw = Path("bad.npy").read_bytes()
    Path("bad.zip").write_bytes(raw)
    Path("bad.ark").write_bytes(b"u " + raw.replace(b"\x93NUMPY", b"NPY"))
    for place in (f"bad.zip:0:{len(raw)}", "bad.ark:2"):
        with pytest.raises(UserError):
            read_features(place)
    assert not Path(RAN).exists()


def test_a_packed_folder_holds_no_other_files(model: Path) -> None:
    """A token or a note beside the model is no part of what is given away."""
    from espnet_mtla.recognise.options import read_options
    from espnet_mtla.share.card import Card
    from espnet_mtla.share.pack import pack

    source = Path(shutil.copytree(model, "source"))
    for name in (".netrc", "notes.txt"):
        (source / name).write_text("secret")
    options = read_options(argparse.Namespace(config=None))
    names = pack(source, Path("packed"), options, Card("me/tiny"))
    assert "model.safetensors" in names
    assert not {".netrc", "notes.txt"} & set(names)


def test_every_claim_names_tests_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 10
    for file, test in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file}::{test}"
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    claims = [row for row in rows if not row.endswith(("| test |", "| --- |"))]
    for row in claims:
        assert "`test/" in row, f"a claim without a test: {row}"
    ours = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    unnamed = [name for name in ours[1:-1] if name not in text]
    assert not unnamed
