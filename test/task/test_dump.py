"""Features made once: the same YAML trains, and decodes, from sound or from them."""

from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_mtla.data.folder import FEATURES
from espnet_mtla.data.format import Settings, format_audio
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.data.utterance_table import UtteranceTable
from espnet_mtla.errors import UserError
from espnet_mtla.frontend.record import check_made_by
from espnet_mtla.model.checkpoint import load
from espnet_mtla.model.files import link_upstream
from espnet_mtla.settings.names import CHECKPOINT_KEYS
from espnet_mtla.task.dump import Storage, dump_features
from espnet_mtla.task.feature_maker import FeatureMaker, read_frontend
from test.support.toy_corpus import SETTINGS, make_corpus

FBANK = {"frontend": "fbank", "frontend_conf": {"fs": 8000, "n_mels": 12}}
ARGS = Namespace(**FBANK)


@pytest.fixture(scope="module")
def formatted(tmp_path_factory) -> Path:
    """Folders of the toy corpus as the pipeline would have them."""
    folder = tmp_path_factory.mktemp("dump")
    for name, count, seed in (("train", 7, 1), ("valid", 3, 2)):
        make_corpus(folder / "raw", name, count, seed)
        format_audio(folder / "raw" / name, folder / name, Settings(fs=8000))
    return folder


def online(path: Path, args: Namespace) -> dict[str, np.ndarray]:
    maker = FeatureMaker(args, "cpu")
    return {key: maker(key, place) for key, place in read_table(path).items()}


@pytest.mark.parametrize("kind", ["zip", "ark"])
def test_offline_equals_online(formatted, tmp_path, kind):
    target = tmp_path / "made"
    dump_features(formatted / "train", target, ARGS, Storage(kind, size=3))
    table = UtteranceTable(target / FEATURES)
    for key, wanted in online(formatted / "train" / "wav.scp", ARGS).items():
        assert np.abs(table[key] - wanted).max() < 1e-4
    frames = read_table(target / "utt2num_frames")
    assert frames == {key: str(len(table[key])) for key in table}
    assert sorted(p.suffix for p in (target / "data").iterdir()) == sorted(
        3 * [f".{kind}", ".json"]
    )
    for name in ("text", "utt2spk", "spk2utt", "utt2num_samples", "utt2dur"):
        assert (target / name).read_text() == (formatted / "train" / name).read_text()
    assert json.loads((target / "frontend.json").read_text()) == FBANK


def test_finished_archives_are_kept_and_changed_ones_made_again(
    formatted, tmp_path, caplog
):
    caplog.set_level("INFO")
    source, target = tmp_path / "train", tmp_path / "made"
    shutil.copytree(formatted / "train", source)
    dump_features(source, target, ARGS, Storage(size=3))
    (target / "data" / "feats.1.zip").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in (target / "data").glob("*.zip")}
    dump_features(source, target, ARGS, Storage(size=3))
    assert "2 of 3 archives are there already" in caplog.text
    after = {p.name: p.stat().st_mtime_ns for p in (target / "data").glob("*.zip")}
    assert before.items() < after.items()
    os.utime(read_table(source / "wav.scp")["train-06"])
    caplog.clear()
    dump_features(source, target, ARGS, Storage(size=3))
    assert "2 of 3 archives are there already" in caplog.text
    caplog.clear()
    more = Namespace(frontend="fbank", frontend_conf={"fs": 8000, "n_mels": 13})
    dump_features(source, target, more, Storage(size=9), nj=2)
    assert "already" not in caplog.text
    assert [p.name for p in (target / "data").glob("*.zip")] == ["feats.0.zip"]
    assert UtteranceTable(target / FEATURES)["train-00"].shape[1] == 13


def test_an_estimate_of_the_disk_comes_first(formatted, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    dump_features(formatted / "train", tmp_path / "made", ARGS, Storage())
    assert "7 utterances, 0.00 hours, 94 frames a second of 12 x float32" in caplog.text
    usage = shutil._ntuple_diskusage(10**12, 10**12, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"GB needed, 0\.0 GB free; choose one"):
        dump_features(formatted / "train", tmp_path / "full", ARGS, Storage())
    assert not (tmp_path / "full" / FEATURES).exists()


def test_sound_that_cannot_be_used_is_named(formatted, tmp_path):
    source = tmp_path / "train"
    shutil.copytree(formatted / "train", source)
    with pytest.raises(UserError, match="same folder"):
        dump_features(source, source, ARGS, Storage())
    with pytest.raises(UserError, match=r"train-0\d: .*8000 Hz, and the front-end tak"):
        other = Namespace(frontend="fbank", frontend_conf={"fs": 16000})
        dump_features(source, tmp_path / "made", other, Storage())
    sounds = read_table(source / "wav.scp")
    broken = tmp_path / "broken.flac"
    broken.write_bytes(Path(sounds["train-03"]).read_bytes()[:300])
    write_table(source / "wav.scp", {**sounds, "train-03": str(broken)})
    with pytest.raises(UserError, match=r"^train-03: .*broken\.flac: "):
        dump_features(source, tmp_path / "made", ARGS, Storage(size=2))
    assert not (tmp_path / "made" / FEATURES).exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"frontend": "none"}, "frontend: none makes no features"),
        (
            {"frontend": "mfcc"},
            "frontend: 'mfcc' given, one of default, fbank, s3prl, transformers",
        ),
        (
            {"frontend": "fbank", "frontend_conf": {"mels": 3}},
            r"frontend_conf\.mels: unknown key",
        ),
        (
            {
                "frontend": "s3prl",
                "frontend_conf": {"upstream": "fbank", "finetune": True},
            },
            "finetune: the encoder's output changes",
        ),
    ],
)
def test_a_config_without_a_fixed_front_end_is_refused(tmp_path, config, message):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=message):
        FeatureMaker(read_frontend(path), "cpu")


def test_a_model_is_named_beside_the_config(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("frontend: fbank\nfrontend_conf: {n_mels: 20}\n")
    assert read_frontend(path, None, None).frontend_conf == {"n_mels": 20}
    with pytest.raises(UserError, match=r"frontend_conf\.model: unknown key"):
        read_frontend(path, None, "owner/name")


def losses(folder: Path) -> list[float]:
    stats = load(folder / "checkpoint.pth")["reporter"]["stats"]
    parts = ("train", "valid")
    return [stats[epoch][part]["loss"] for epoch in (1, 2) for part in parts]


def run(toy, name: str, folders: dict[str, Path], frontend: dict) -> list[float]:
    """Losses of two epochs from these folders, with statistics of their own."""
    toy.train, toy.valid = folders["train"], folders["valid"]
    toy.stats = toy.folder / f"stats_{name}"
    toy("--collect_stats", **frontend)
    exp = toy.folder / name
    toy("--output_dir", exp, "--max_epoch", 2, **frontend)
    return losses(exp)


def test_the_same_config_trains_from_sound_and_from_features(formatted, toy, tmp_path):
    folders = {name: formatted / name for name in ("train", "valid")}
    made = {name: tmp_path / name for name in folders}
    for name, folder in folders.items():
        dump_features(folder, made[name], ARGS, Storage())
    from_sound = run(toy, "sound", folders, FBANK)
    from_features = run(toy, "features", made, FBANK)
    np.testing.assert_allclose(from_features, from_sound, rtol=1e-4)
    given = run(toy, "none", made, {"frontend": "none", "frontend_conf": {}})
    np.testing.assert_allclose(given, from_sound, rtol=1e-4)
    for part in ("train", "valid"):
        shapes = [
            (toy.folder / f"stats_{name}" / part / "speech_shape").read_text()
            for name in ("sound", "features", "none")
        ]
        assert len(set(shapes)) == 1
    toy.train, toy.stats = made["train"], toy.folder / "stats_features"
    with pytest.raises(
        UserError, match=r'train: features of .*"n_mels": 12.*dump them'
    ):
        toy(
            *("--output_dir", toy.folder / "other"),
            **{**FBANK, "frontend_conf": {"fs": 8000, "n_mels": 20}},
        )


def s3prl_frontend(path: Path, seed: int) -> dict[str, object]:
    """A tiny upstream, whose form depends on the seed."""
    pytest.importorskip("s3prl", reason="the extra ssl is not installed")
    from test.support.tiny_upstreams import make_wavlm

    checkpoint = make_wavlm(path.with_suffix(".pt"), normalize=not seed)
    settings = {"upstream": "wavlm_local", "path": str(checkpoint)}
    return {"frontend": "s3prl", "frontend_conf": settings}


def whisper_frontend(path: Path, seed: int) -> dict[str, object]:
    """A tiny Whisper, whose width depends on the seed."""
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    from test.support.tiny_encoders import make_whisper

    folder = make_whisper(path, encoder_ffn_dim=24 + seed)
    return {"frontend": "transformers", "frontend_conf": {"model": str(folder)}}


@pytest.mark.parametrize("make_frontend", [s3prl_frontend, whisper_frontend])
def test_features_of_an_upstream_train_as_the_upstream_does(
    make_frontend, formatted, toy, tmp_path
):
    """A weighted sum of layers, in float16: equal to the rounding of stored states."""
    frontend = make_frontend(tmp_path / "tiny", 0)
    key = CHECKPOINT_KEYS[frontend["frontend"]]
    path = Path(frontend["frontend_conf"][key])
    folders, made = {}, {}
    for name in ("train", "valid"):
        folders[name] = tmp_path / "16k" / name
        format_audio(formatted / "raw" / name, folders[name], Settings(fs=16000))
        made[name] = tmp_path / "made" / name
        storage = Storage(dtype="float16")
        dump_features(folders[name], made[name], Namespace(**frontend), storage)
    stored = UtteranceTable(made["train"] / FEATURES)["train-00"]
    assert (stored.dtype, stored.shape[1]) == (np.float16, 3 * 16)
    settings = {
        **frontend,
        "normalize": "utterance_mvn",
        "encoder_conf": {**SETTINGS["encoder_conf"], "input_layer": "linear"},
    }
    from_sound = run(toy, "sound", folders, settings)
    from_features = run(toy, "features", made, settings)
    np.testing.assert_allclose(from_features, from_sound, rtol=2e-3)
    exp = toy.folder / "features"
    (copy,) = exp.glob("upstream*")
    settings = frontend["frontend_conf"]
    for place in (path, copy):
        check_made_by(
            made["train"], frontend["frontend"], {**settings, key: str(place)}
        )
    other = make_frontend(tmp_path / "other", 1)
    with pytest.raises(UserError, match=r"train: features of .*dump them ag"):
        check_made_by(made["train"], frontend["frontend"], other["frontend_conf"])
    names = torch.load(exp / "1epoch.pth", weights_only=True)
    assert [name for name in names if name.startswith("frontend")] == [
        "frontend.weights"
    ]
    check_it_can_be_moved(exp, path, folders["valid"], tmp_path)


def delete(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_it_can_be_moved(exp: Path, upstream: Path, data: Path, tmp_path: Path):
    """Experiment and pack hold the upstream: trained from features, they read sound."""
    import sys
    from unittest import mock

    from espnet_mtla.bin import inference, pack

    shutil.copy(exp / "1epoch.pth", exp / "model.pth")
    folders = ["--model_dir", str(exp), "--output_dir", str(tmp_path / "packed")]
    command = ["pack", *folders]
    with mock.patch.object(sys, "argv", command):
        pack.main()
    options = ["--ctc_weight", "0", "--min_length_ratio", "0.2"]
    texts = []
    for number, folder in enumerate((exp, tmp_path / "packed")):
        moved = tmp_path / f"moved{number}"
        shutil.copytree(folder, moved)
        (copy,) = folder.glob("upstream*")
        delete(copy)
        delete(upstream)
        command = ["inference", "--model_dir", str(moved), "--data", str(data)]
        out = tmp_path / f"out{number}"
        with mock.patch.object(
            sys, "argv", [*command, "--output_dir", str(out), *options]
        ):
            inference.main()
        texts.append((out / "1best_recog" / "token_int").read_text())
    assert texts[0] == texts[1]
    assert any(line.split(maxsplit=1)[1:] for line in texts[0].splitlines())


def test_an_upstream_is_taken_along_from_another_disk(tmp_path, monkeypatch):
    for name in ("model", "config.json"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        (tmp_path / "hub" / name).write_text(name)
    linked = link_upstream(tmp_path / "hub", tmp_path / "one")
    assert linked == tmp_path / "one" / "upstream"
    assert (linked / "model").stat().st_nlink == 2
    assert link_upstream(linked, tmp_path / "one") == linked

    def refuse(*_: object) -> None:
        raise OSError(18, "another device")

    monkeypatch.setattr(os, "link", refuse)
    copied = link_upstream(tmp_path / "hub" / "model", tmp_path / "two")
    assert copied.read_text() == "model"
    assert copied.stat().st_nlink == 1
