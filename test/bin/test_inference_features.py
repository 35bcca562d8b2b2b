"""Decoding a folder of stored features gives what decoding its sound gives."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml

from espnet_mtla.bin import inference
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError
from espnet_mtla.settings.yaml_files import load_yaml
from espnet_mtla.task.dump import Storage, dump_features
from test.support.tiny_experiment import FS


@pytest.fixture(scope="module")
def features(model, data, tmp_path_factory) -> Path:
    """The tiny data as features of the tiny model's front-end."""
    folder = tmp_path_factory.mktemp("features") / "test"
    config = load_yaml(model / "config.yaml")
    args = Namespace(frontend=config["frontend"], frontend_conf=config["frontend_conf"])
    dump_features(data, folder, args, Storage("ark"))
    return folder


def decode(command, model: Path, data: Path, out: Path) -> tuple[dict, list[dict]]:
    command(inference, model_dir=model, data=data, output_dir=out, beam_size=2)
    lines = (out / "utterances.jsonl").read_text().splitlines()
    return read_table(out / "1best_recog" / "token_int"), list(map(json.loads, lines))


def test_the_same_hypotheses_and_scores(command, model, data, features, tmp_path):
    tokens, lines = decode(command, model, data, tmp_path / "sound")
    stored_tokens, stored_lines = decode(command, model, features, tmp_path / "stored")
    assert stored_tokens == tokens
    for ours, theirs in zip(stored_lines, lines, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-3)
        assert ours["encoder_frames"] == theirs["encoder_frames"]
    # Without the length of the sound, a frame counts as 10 ms, which it is here.
    frames = read_table(features / "utt2num_frames")
    for line in stored_lines:
        assert line["audio_seconds"] == int(frames[line["key"]]) / 100


def test_the_length_of_the_sound_is_used_where_it_is_known(
    command, model, features, tmp_path
):
    samples = dict.fromkeys(read_table(features / "feats.scp"), str(2 * FS))
    write_table(features / "utt2num_samples", samples)
    _, lines = decode(command, model, features, tmp_path / "out")
    (features / "utt2num_samples").unlink()
    assert {line["audio_seconds"] for line in lines} == {2.0}


def test_a_model_without_front_end(command, model, data, features, tmp_path):
    config = yaml.safe_load((model / "config.yaml").read_text())
    config |= {"frontend": None, "frontend_conf": {}, "input_size": 20}
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text(yaml.safe_dump(config))
    states = torch.load(model / "model.pth", weights_only=True)
    states = {k: v for k, v in states.items() if not k.startswith("frontend.")}
    torch.save(states, bare / "model.pth")
    tokens, _ = decode(command, model, features, tmp_path / "whole")
    found, _ = decode(command, bare, features, tmp_path / "found")
    assert found == tokens
    with pytest.raises(UserError, match="test: holds sound, and the model takes feat"):
        decode(command, bare, data, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_features_of_another_front_end_are_refused(command, model, features, tmp_path):
    made = json.loads((features / "frontend.json").read_text())
    for change, message in (
        ({**made, "frontend": "fbank"}, 'features of {"frontend": "fbank"'),
        (None, "features of an unknown front-end"),
    ):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        for name in ("feats.scp", "utt2num_frames"):
            (other / name).write_text((features / name).read_text())
        (other / "frontend.json").unlink(missing_ok=True)
        if change:
            (other / "frontend.json").write_text(json.dumps(change))
        with pytest.raises(UserError, match=message):
            decode(command, model, other, tmp_path / "out")


def test_a_truncated_archive_names_the_utterance(command, model, features, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    archive = tmp_path / "cut.ark"
    source = features / "data" / "feats.0.ark"
    archive.write_bytes(source.read_bytes()[:-100])
    places = read_table(features / "feats.scp")
    last = max(places, key=lambda key: int(places[key].rpartition(":")[2]))
    places[last] = f"{archive}:{places[last].rpartition(':')[2]}"
    write_table(other / "feats.scp", places)
    (other / "frontend.json").write_text((features / "frontend.json").read_text())
    with pytest.raises(UserError, match=rf"^{last}: .*cut\.ark:\d+: damaged feat"):
        decode(command, model, other, tmp_path / "out")
