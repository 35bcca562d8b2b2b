"""Pretrained models of a trained one: named in its card with their licences."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from espnet_mtla.errors import UserError
from espnet_mtla.model.originals import (
    Original,
    describe,
    read_originals,
    record_originals,
)
from espnet_mtla.recognise.options import DecodeOptions
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from test.support.stand_in_hub import serve


def make_folder(folder: Path, card: str = "", **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if card:
        (folder / "README.md").write_text(card)
    return folder


FOLDERS = {
    "a card": ("---\nlicense: apache-2.0\ntags: [x]\n---\n# It\n", {}, "apache-2.0"),
    "a named licence": (
        "---\nlicense: other\nlicense_name: llama3.2\n---\n",
        {},
        "llama3.2",
    ),
    "a configuration": ("# no header\n", {"license": "mit"}, "mit"),
    "nothing": ("", {}, None),
    "a broken header": ("---\nlicense: [\n---\n", {}, None),
    "a list": ("---\nlicense: [a]\n---\n", {}, None),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_licences_of_folders(tmp_path: Path, what: str) -> None:
    card, config, license = FOLDERS[what]
    folder = make_folder(tmp_path / "small-lm", card, **config)
    assert describe("decoder", str(folder)) == Original("decoder", "small-lm", license)


def test_a_folder_of_the_hub_has_its_name(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "copy", _name_or_path="owner/lm")
    assert describe("decoder", str(folder)).name == "owner/lm"
    other = make_folder(tmp_path / "other", _name_or_path="/home/me/lm")
    assert describe("decoder", str(other)).name == "other"


def test_an_unreachable_hub_leaves_a_licence_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serve(monkeypatch, tmp_path / "cache"):
        assert describe("decoder", "owner/lm") == Original("decoder", "owner/lm", None)


def args(tmp_path: Path) -> Namespace:
    card = "---\nlicense: apache-2.0\n---\n"
    model = make_folder(tmp_path / "lm", card, _name_or_path="owner/lm")
    sound = make_folder(tmp_path / "whisper")
    return Namespace(
        frontend="transformers",
        frontend_conf={"model": str(sound)},
        decoder="pretrained",
        decoder_conf={"model": str(model)},
    )


def test_training_records_them_once(tmp_path: Path) -> None:
    options = args(tmp_path)
    record_originals(options, tmp_path)
    (tmp_path / "lm" / "README.md").unlink()
    record_originals(options, tmp_path)  # resumed
    assert read_originals(tmp_path, options) == [
        Original("frontend", "whisper", None),
        Original("decoder", "owner/lm", "apache-2.0"),
    ]


def test_nothing_pretrained_is_not_recorded(tmp_path: Path) -> None:
    plain = Namespace(frontend="fbank", frontend_conf={}, decoder="transformer")
    record_originals(plain, tmp_path)
    assert not list(tmp_path.iterdir()) and read_originals(tmp_path, plain) == []
    older = Namespace(decoder_base_model=str(make_folder(tmp_path / "lm")))
    assert read_originals(tmp_path, older) == [Original("decoder", "lm", None)]


def test_a_broken_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "originals.json").write_text('[{"who": 1}]')
    with pytest.raises(UserError, match="not a list of models as training writes it"):
        read_originals(tmp_path, Namespace())


def test_the_card_names_them(model: Path, tmp_path: Path) -> None:
    record_originals(args(tmp_path), model)
    try:
        pack(model, tmp_path / "packed", DecodeOptions(), Card("me/it", "mit"))
    finally:
        (model / "originals.json").unlink()
    text = (tmp_path / "packed" / "README.md").read_text()
    assert "- frontend: whisper, licence unknown" in text
    assert "- decoder: owner/lm, licence apache-2.0" in text
    assert "Look up the unknown licences" in text
    header = yaml.safe_load(text.split("---")[1])
    assert header["base_model"] == ["owner/lm"] and header["license"] == "mit"
