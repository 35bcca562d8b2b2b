"""A packed model is whole, portable and the same model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from espnet_mtla import Speech2Text
from espnet_mtla.bin import pack as command
from espnet_mtla.errors import UserError
from espnet_mtla.model.build import load_model
from espnet_mtla.model.checkpoint import load
from espnet_mtla.model.files import NEEDED
from test.support.arpa import random_arpa
from test.support.tiny_experiment import TOKENS, make_lm, make_model
from test.support.toy_folder import snapshot

FILES = {"README.md", "config.yaml", "decode.yaml", "model.safetensors", "tokens.txt"}
OPTIONS = {"min_length_ratio": 0.15, "device": "cpu"}


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["pack", *map(str, words)])
    command.main()


def test_the_packed_model_says_what_the_trained_one_says(model, packed, data):
    assert {path.name for path in packed.iterdir()} == FILES
    files = sorted(data.glob("*.wav"))
    packed_model = Speech2Text.from_pretrained(packed, **OPTIONS)
    trained = Speech2Text.from_pretrained(model, beam_size=3, **OPTIONS)
    assert packed_model.options.beam_size == 3, "as decode.yaml says"
    pairs = list(zip(packed_model(files), trained(files), strict=True))
    assert all(a == b for a, b in pairs) and len({str(a) for a, _ in pairs}) > 2


def test_language_models_and_hotwords_are_taken_along(
    monkeypatch, model, data, tmp_path
):
    """The folder is moved, and what it was packed from is gone."""
    make_lm(tmp_path / "from" / "lm")
    (tmp_path / "from" / "n.arpa").write_text(random_arpa(2, seed=3))
    (tmp_path / "from" / "words").write_text("abc d\ngag\n")
    weights = {"lm_weight": 0.4, "ngram_weight": 0.2, "hotword_bonus": 3.0}
    config = tmp_path / "decode.yaml"
    config.write_text(yaml.safe_dump({"beam_size": 3, **weights}))
    files = {"lm": "lm", "ngram": "n.arpa", "hotwords": "words"}
    files = {name: str(tmp_path / "from" / file) for name, file in files.items()}
    words = [word for name, file in files.items() for word in (f"--{name}", file)]
    sounds = sorted(data.glob("*.wav"))
    options = {"beam_size": 3, "device": "cpu", **weights, **files}
    wanted = Speech2Text.from_pretrained(model, **options)(sounds)
    plain = Speech2Text.from_pretrained(model, beam_size=3, device="cpu")(sounds)
    options = ("--output_dir", tmp_path / "packed", "--config", config, *words)
    run(monkeypatch, "--model_dir", model, *options)
    shutil.rmtree(tmp_path / "from")
    moved = shutil.move(tmp_path / "packed", tmp_path / "moved")
    names = {path.name for path in (tmp_path / "moved").iterdir()}
    assert names == {*FILES, "lm", "ngram.arpa", "hotwords.txt"}
    found = Speech2Text.from_pretrained(moved, device="cpu")(sounds)
    assert [t.score for t in found] == [t.score for t in wanted]
    assert [t.score for t in found] != [t.score for t in plain]


@pytest.mark.parametrize("name", ["lm", "ngram", "hotwords"])
def test_missing_files_are_refused_by_name(monkeypatch, model, tmp_path, name):
    words = ("--output_dir", tmp_path / "packed", f"--{name}", tmp_path / "none")
    with pytest.raises(UserError, match=f"{name}: .*none: no such"):
        run(monkeypatch, "--model_dir", model, *words)
    assert not (tmp_path / "packed").exists()


def test_it_works_elsewhere_by_itself(packed, data, tmp_path):
    """Moved, in another process, another folder and an environment without paths."""
    moved = tmp_path / "moved"
    shutil.copytree(packed, moved)
    root = str(command.__file__).rsplit("/espnet_mtla/", 1)[0]
    code = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from espnet_mtla import Speech2Text\n"
        f"print(Speech2Text.from_pretrained({str(moved)!r}, device='cpu',"
        f"min_length_ratio=0.15)({str(data / 'u2.wav')!r}))"
    )
    shown = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        env={"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    here = Speech2Text.from_pretrained(packed, **OPTIONS)(data / "u2.wav")
    assert shown.stdout == f"{here}\n" and here.text


def test_nothing_in_it_names_this_machine(packed, model):
    for path in packed.iterdir():
        for word in (str(model), str(model.parent), str(packed.parent)):
            assert word.encode() not in path.read_bytes(), path.name
    config = yaml.safe_load((packed / "config.yaml").read_text())
    assert config["decoder_conf"]["attention_conf"]["down_rate"] == 2
    assert "output_dir" not in config and config["token_list"] == "tokens.txt"
    assert (packed / "tokens.txt").read_text().splitlines() == TOKENS


def test_the_card_tells_scores_and_use(packed):
    text = (packed / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "apache-2.0" and header["language"] == "en"
    (result,) = header["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 3.0 and result["dataset"]["name"] == "test"
    assert "3.00 [2.00, 4.50]" in text and "On noise." in text
    assert 'Speech2Text.from_pretrained("me/tiny")' in text
    assert "attention mtla (" in text and "down_rate 2" in text


def test_statistics_travel(tmp_path, data):
    folder = make_model(tmp_path / "exp")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    stats = folder / "feats_stats.npz"
    width = config["frontend_conf"]["n_mels"]
    np.savez(stats, count=2, sum=np.ones(width), sum_square=3 * np.ones(width))
    config |= {"normalize": "global_mvn", "normalize_conf": {"stats_file": str(stats)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    model, _ = load_model(folder / "config.yaml")
    torch.save(model.state_dict(), folder / "model.pth")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "--model_dir", folder, "--output_dir", tmp_path / "packed")
    before = Speech2Text.from_pretrained(folder, **OPTIONS)(data / "u1.wav")
    shutil.rmtree(folder)
    assert (tmp_path / "packed" / "feats_stats.npz").is_file()
    after = Speech2Text.from_pretrained(tmp_path / "packed", **OPTIONS)
    assert after(data / "u1.wav") == before


def test_packing_again_replaces(packed, model, tmp_path, monkeypatch, capsys):
    target = tmp_path / "again"
    for _ in range(2):
        run(monkeypatch, "--model_dir", model, "--output_dir", target, "--name", "a/b")
    assert {path.name for path in target.iterdir()} == FILES
    assert f"{target}: " in capsys.readouterr().out
    one, other = (load(folder / "model.safetensors") for folder in (target, packed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_packed(model, tmp_path, monkeypatch):
    target = tmp_path / "target"
    base = ["--model_dir", model, "--output_dir", target]
    with pytest.raises(UserError, match="name a b: owner/name of letters"):
        run(monkeypatch, *base, "--name", "a b")
    with pytest.raises(UserError, match=r"model\.pth: no such file; .*average"):
        run(monkeypatch, "--model_dir", tmp_path, "--output_dir", target)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="full: holds something else"):
        run(monkeypatch, "--model_dir", model, "--output_dir", tmp_path / "full")
    from espnet_mtla.share.pack import portable

    config = yaml.safe_load((model / "config.yaml").read_text())
    config["ctc_conf"] = {"x": "/a"}
    with pytest.raises(UserError, match=r"ctc_conf\.x: /a is a file of this machine"):
        portable(config, model / "config.yaml")
    assert not target.exists()


@pytest.fixture
def broken(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "broken")
    return tmp_path / "broken"


def fails(folder, match):
    with pytest.raises(UserError, match=match) as caught:
        Speech2Text.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_weights_cut_off(broken):
    whole = (broken / "model.safetensors").read_bytes()
    for size in (len(whole) // 2, 5, 0):
        (broken / "model.safetensors").write_bytes(whole[:size])
        fails(broken, r"model\.safetensors: cut off or not a safetensors file")


def test_a_pickle_by_the_name_of_safetensors(broken, model):
    (broken / "model.safetensors").write_bytes((model / "model.pth").read_bytes())
    fails(broken, r"model\.safetensors: cut off or not a safetensors file")


def test_a_token_list_of_another_size(broken):
    text = (broken / "tokens.txt").read_text()
    (broken / "tokens.txt").write_text(text.replace("a\n", ""))
    fails(broken, "trained with 11 tokens, and the token list has 10")


def test_parameters_missing_and_too_many(broken):
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    weights["decoder.other"] = weights.pop("decoder.norm.weight")
    save_file(weights, broken / "model.safetensors")
    fails(broken, r"does not fit .*decoder\.norm\.weight.*decoder\.other")


def test_a_stride_that_was_changed_after_training(broken):
    text = (broken / "config.yaml").read_text()
    assert "down_rate: 2" in text
    (broken / "config.yaml").write_text(text.replace("down_rate: 2", "down_rate: 3"))
    fails(broken, r"decoder_conf\.attention_conf\.down_rate 2, and its .* says 3; put")


@pytest.mark.parametrize("noted", [True, False], ids=["new", "before-the-option"])
def test_a_raw_window_that_was_added_after_training(broken, noted):
    """Also if the weights were packed by a version that did not have the option."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    weights = broken / "model.safetensors"
    if not noted:
        with safe_open(weights, "pt") as file:
            settings = json.loads(file.metadata()["decoder"])
        del settings["attention_conf"]["raw_window"]
        metadata = {"format": "pt", "decoder": json.dumps(settings)}
        save_file(load_file(weights), weights, metadata=metadata)
    text = (broken / "config.yaml").read_text()
    (broken / "config.yaml").write_text(
        text.replace("down_rate: 2", "down_rate: 2\n    raw_window: 4").replace(
            "    raw_window: 0\n", ""
        )
    )
    fails(broken, r"decoder_conf\.attention_conf\.raw_window 0, and its .* says 4; put")


def test_impossible_sizes(broken):
    text = (broken / "config.yaml").read_text()
    (broken / "config.yaml").write_text(text.replace("down_rate: 2", "down_rate: 0"))
    fails(broken, "down_rate: 0 given, a whole number >= 1 is needed")


@pytest.mark.parametrize("name", ["bpe.model", "tokens.txt"])
@pytest.mark.parametrize("there", [False, True])
def test_files_that_are_missing_or_something_else(broken, name, there):
    config = yaml.safe_load((broken / "config.yaml").read_text())
    if name == "bpe.model":
        config |= {"token_type": "bpe", "bpemodel": name}
    (broken / "config.yaml").write_text(yaml.safe_dump(config))
    (broken / name).unlink(missing_ok=True)
    if there:
        (broken / name).write_text("nothing\n")
    wrong = {"bpe.model": "no model of sentencepiece"}
    fails(broken, f"{name}: {wrong.get(name, '<blank>') if there else 'no such file'}")


@pytest.mark.parametrize("there", [False, True])
def test_statistics_are_read_where_no_weights_follow(broken, there):
    """With weights they are not: normalisation's own values are in the weights."""
    config = yaml.safe_load((broken / "config.yaml").read_text())
    statistics = {"stats_file": "feats_stats.npz"}
    config |= {"normalize": "global_mvn", "normalize_conf": statistics}
    (broken / "config.yaml").write_text(yaml.safe_dump(config))
    (broken / "feats_stats.npz").unlink(missing_ok=True)
    if there:
        (broken / "feats_stats.npz").write_text("nothing\n")
    message = r"no \.npz" if there else "no such file"
    with pytest.raises(UserError, match=f"feats_stats.npz: {message}"):
        load_model(broken / "config.yaml")


def test_a_config_of_something_else(broken):
    config = yaml.safe_load((broken / "config.yaml").read_text())
    lacking = {name: {k: v for k, v in config.items() if k != name} for name in NEEDED}
    for missing, kept in {**lacking, "token_list": {}}.items():
        (broken / "config.yaml").write_text(yaml.safe_dump(kept))
        fails(broken, f"broken: the configuration has no '{missing}'; training and")


def test_a_config_is_missing(broken):
    (broken / "config.yaml").unlink()
    fails(broken, r"config\.yaml: no such file")


def test_packing_twice_gives_the_same_bytes(model, packed, tmp_path):
    """In another process with other hashes, too; the order of metadata is by chance."""
    from espnet_mtla.share.pack import save_weights

    decode = tmp_path / "decode.yaml"
    decode.write_text("beam_size: 3\n")
    words = ("--model_dir", model, "--output_dir", tmp_path / "again")
    words += ("--config", decode, "--name", "me/tiny", "--license", "apache-2.0")
    words += ("--language", "en", "--about", "On noise.")
    subprocess.run(
        [sys.executable, "-m", "espnet_mtla.bin.pack", *map(str, words)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    assert snapshot(tmp_path / "again") == snapshot(packed)
    weights = (packed / "model.safetensors").read_bytes()
    loaded, _ = load_model(packed / "config.yaml", packed / "model.safetensors")
    for _ in range(6):
        save_weights(loaded, tmp_path / "weights")
        assert (tmp_path / "weights").read_bytes() == weights
