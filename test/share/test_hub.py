"""Upload to and download from a stand-in hub, with all of its errors."""

from __future__ import annotations

import sys

import pytest

from espnet_mtla import Speech2Text
from espnet_mtla.bin import upload
from espnet_mtla.errors import UserError
from espnet_mtla.share.hub import find_model
from test.support.stand_in_hub import TOKEN, serve


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["upload", *map(str, words)])
    upload.main()


def test_up_and_down_again(hub, packed, data, monkeypatch, capsys):
    run(monkeypatch, packed, "me/tiny", "--private")
    assert f"is now {hub.address}/me/tiny" in capsys.readouterr().out
    assert hub.private == {"me/tiny": True}
    written = {path.name: path.read_bytes() for path in packed.iterdir()}
    assert hub.files["me/tiny"] == written
    options = {"device": "cpu", "min_length_ratio": 0.15}
    remote = Speech2Text.from_pretrained("me/tiny", **options)
    local = Speech2Text.from_pretrained(packed, **options)
    assert remote(data / "u0.wav") == local(data / "u0.wav")
    hub.close()
    assert find_model("me/tiny").is_dir(), "what was downloaded needs no hub"


def test_the_token_comes_from_a_file(hub, packed, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="HF_TOKEN is not set: a token with write"):
        run(monkeypatch, packed, "me/tiny")
    file = tmp_path / "token"
    file.write_text("\n")
    with pytest.raises(UserError, match="token is empty"):
        run(monkeypatch, packed, "me/tiny", "--token_file", file)
    file.write_text(f"{TOKEN}\n")
    run(monkeypatch, packed, "me/tiny", "--token_file", file)
    assert "README.md" in hub.files["me/tiny"]
    file.write_text("hf_wrong")
    with pytest.raises(UserError, match="401; is the token right") as caught:
        run(monkeypatch, packed, "me/tiny", "--token_file", file)
    assert "hf_wrong" not in str(caught.value)


def test_what_is_no_pack_stays_here(hub, model, packed, monkeypatch):
    with pytest.raises(
        UserError, match=r"no model\.safetensors, .*espnet-mtla pack. makes"
    ):
        run(monkeypatch, model, "me/tiny")
    with pytest.raises(UserError, match="tiny: owner/name is needed"):
        run(monkeypatch, packed, "tiny")
    assert not hub.requests


def test_names_that_lead_nowhere(hub, monkeypatch):
    with pytest.raises(UserError, match="no/such: no such folder, and no such mod"):
        find_model("no/such")
    for name in ("nowhere", "a/b/c", "./a", "~/nowhere/else"):
        with pytest.raises(UserError, match="no such folder, and not a name"):
            find_model(name)
    hub.close()
    with pytest.raises(UserError, match="no/such: no such folder, not downloaded bef"):
        find_model("no/such")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no/such: no such folder, not downloaded bef"):
        find_model("no/such")


@pytest.mark.parametrize("name", ["notes.txt", "lm"])
def test_a_link_out_of_the_folder_is_not_published(
    hub, packed, monkeypatch, tmp_path, name
):
    import shutil

    folder = shutil.copytree(packed, tmp_path / "linked")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("secret")
    (folder / name).symlink_to(tmp_path / "secrets" / ("" if name == "lm" else "key"))
    with pytest.raises(UserError, match=f"{name}: a link to .*secrets.*, outside"):
        run(monkeypatch, folder, "me/tiny")
    assert "me/tiny" not in hub.files
    (folder / name).unlink()
    (folder / "copy.md").symlink_to("README.md")  # inside: that is published anyway
    run(monkeypatch, folder, "me/tiny")
    assert "README.md" in hub.files["me/tiny"]
