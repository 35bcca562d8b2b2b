"""The asterisk recipe's data: input that is broken, and packages that do not come."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from espnet_mtla.errors import UserError
from test.support.asterisk_corpus import (
    FS,
    LETTERS,
    fails_with,
    run_data,
    sizes,
    small_options,
    sound_file,
)

# ---------------------------------------------------------------- what goes wrong


def test_no_corpus_folder(tmp_path: Path) -> None:
    fails_with(run_data(tmp_path, "--corpus", "nowhere"), "nowhere", "--corpus")


def test_size_of_nothing(corpus: Path, tmp_path: Path) -> None:
    done = run_data(tmp_path, "--corpus", str(corpus), "--test_sentences", "0")
    fails_with(done, "--test_sentences 0")


def test_missing_list_and_sounds(
    local: SimpleNamespace, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no core-sounds-en\.txt\.gz.*--corpus"):
        local.corpus.read_corpus(tmp_path / "empty", "en")
    sound_file(corpus, "digits/1").unlink()
    with pytest.raises(
        UserError, match=r"no digits/1\.wav.*asterisk-core-sounds-en-wav"
    ):
        local.corpus.read_corpus(corpus, "en")


def test_folder_unpacked_in_part(local: SimpleNamespace, corpus: Path) -> None:
    for letter in LETTERS[:6]:
        sound_file(corpus, f"phonetic/{letter}_p").unlink()
    with pytest.raises(UserError, match=r"6 of the .* sound files .* are missing"):
        local.corpus.read_corpus(corpus, "en")


def test_broken_list(local: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "core-sounds-en.txt"
    path.write_text("; a comment: is none\ndigits/1 one\n")
    with pytest.raises(UserError, match="line 2: no 'name: text': 'digits/1 one'"):
        local.corpus.read_transcripts(path)


def test_truncated_list(local: SimpleNamespace, corpus: Path) -> None:
    path = next(corpus.rglob("*.gz"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"core-sounds-en\.txt\.gz: broken"):
        local.corpus.read_corpus(corpus, "en")


def stereo(path: Path) -> None:
    soundfile.write(path, np.ones((800, 2)) * 0.1, FS)


def wrong_rate(path: Path) -> None:
    soundfile.write(path, np.ones(800) * 0.1, 16000)


def not_a_number(path: Path) -> None:
    soundfile.write(path, np.full(800, np.nan), FS, subtype="FLOAT")


def only_silence(path: Path) -> None:
    soundfile.write(path, np.zeros(800), FS)


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), FS)


def no_bytes(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (stereo, "2 channels"),
        (wrong_rate, "16000 Hz, and the corpus has 8000 Hz"),
        (not_a_number, "samples that are not finite"),
        (only_silence, "no sound in it"),
        (no_samples, "no sound in it"),
        (no_bytes, "unreadable sound file"),
    ],
)
def test_bad_sound_names_the_file(
    local: SimpleNamespace, corpus: Path, tmp_path: Path, spoil: object, message: str
) -> None:
    """Nothing is written, not even earlier sets."""
    spoil(sound_file(corpus, "demo-six"))
    with pytest.raises(UserError, match=rf"demo-six\.wav: .*{message}"):
        local.prepare.prepare({"en": corpus}, tmp_path / "data", sizes(local), 1)
    assert not (tmp_path / "data").exists()


def test_too_long_is_left_out_and_counted(
    local: SimpleNamespace, corpus: Path, capsys: pytest.CaptureFixture
) -> None:
    time = np.arange(16 * FS) / FS
    soundfile.write(sound_file(corpus, "demo-six"), 0.1 * np.sin(900 * time), FS)
    local.prepare.plan("en", corpus, sizes(local), 1, {})
    assert "1 dropped: longer than 15 s" in capsys.readouterr().out


# ---------------------------------------------------------------- fetching


def write_tools(folder: Path, apt: str) -> str:
    """A PATH on which ``apt-get`` runs ``apt`` and ``dpkg -x`` copies the corpus."""
    folder.mkdir()
    for name, body in {
        "apt-get": f'echo "$PWD $*" >>{folder}/calls\n{apt}',
        "dpkg": f'cp -r {folder.parent}/corpus/. "$3"',
    }.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.usefixtures("corpus")
def test_fetch_once(tmp_path: Path) -> None:
    """Index and packages are below downloads/; a second run downloads nothing."""
    touch = 'case "$*" in *download*) for p in %s; do : >"${p}_1_all.deb"; done;; esac'
    names = "asterisk-core-sounds-en asterisk-core-sounds-en-wav"
    path = write_tools(tmp_path / "tools", touch % names)
    for _ in range(2):
        done = run_data(tmp_path, *small_options(), path=path)
        assert done.returncode == 0, done.stderr
    update, download = (tmp_path / "tools/calls").read_text().splitlines()
    apt = tmp_path / "downloads/apt"
    assert f"-c {apt}/apt.conf update" in update
    assert download.startswith(f"{apt}/packages ")
    assert download.endswith(f"download {names}")
    config = (apt / "apt.conf").read_text()
    assert f'Dir::State "{apt}/state"' in config
    assert f'Dir::Cache "{apt}/cache"' in config
    assert "://" not in config


def test_fetch_failing(tmp_path: Path) -> None:
    path = write_tools(
        tmp_path / "tools", "echo W: meh >&2; echo E: no host >&2; exit 100"
    )
    done = run_data(tmp_path, path=path)
    fails_with(done, "(E: no host)", "asterisk-core-sounds-en-wav", "--corpus")
    assert not (tmp_path / "downloads/corpus-en").exists()
    assert not (tmp_path / "data").exists()


def test_unpacking_failing_leaves_no_folder(tmp_path: Path) -> None:
    path = write_tools(
        tmp_path / "tools",
        "for p in asterisk-core-sounds-en asterisk-core-sounds-en-wav; "
        'do : >"${p}_1_all.deb"; done',
    )
    (tmp_path / "tools/dpkg").write_text(
        '#!/bin/sh\n: >"$3/half"; echo bad >&2; exit 2'
    )
    done = run_data(tmp_path, path=path)
    fails_with(done, "dpkg -x", "(bad)", "--corpus")
    assert not (tmp_path / "downloads/corpus-en").exists()


def test_no_apt(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    done = run_data(tmp_path, path=str(tmp_path / "tools"))
    fails_with(done, "no apt-get", "asterisk-core-sounds-en and asterisk", "--corpus")


def test_stopped_in_its_last_set_it_leaves_the_old_ones(
    local: SimpleNamespace,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tmp_path / "data"
    local.prepare.prepare({"en": corpus}, data, sizes(local), seed=1)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    write = local.prepare.write_sound

    def stop(folder: Path, *arguments: object) -> float:
        if "test_sentences" in str(folder):
            raise KeyboardInterrupt
        return write(folder, *arguments)

    monkeypatch.setattr(local.prepare, "write_sound", stop)
    with pytest.raises(KeyboardInterrupt):
        local.prepare.prepare({"en": corpus}, data, sizes(local), seed=2)
    after = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert after == before
