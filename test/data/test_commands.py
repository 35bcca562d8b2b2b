"""A command in ``wav.scp`` runs when a folder is formatted, and never else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_mtla.data.audio_shards import Settings
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.format import format_audio
from espnet_mtla.data.manifest import write_manifest
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.data.utterance_table import UtteranceTable
from espnet_mtla.data.validate import Checks, inspect
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import list_utterances, read_sound
from espnet_mtla.task.source import check_rate, open_source

RAN = "ran"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _folder_with_a_pipe() -> Path:
    folder = Path("data")
    folder.mkdir()
    soundfile.write("tone.wav", np.zeros(1600, np.int16), 16000)
    (folder / "wav.scp").write_text(f"u1 touch {RAN}; cat tone.wav |\n")
    (folder / "text").write_text("u1 a\n")
    return folder


def test_validation_leaves_commands_of_wav_scp_alone() -> None:

    inspect(_folder_with_a_pipe(), Checks())
    assert not Path(RAN).exists()


def test_formatting_a_data_folder_runs_its_commands() -> None:
    """A warning, not a promise: ``wav.scp`` is a program, as it is with Kaldi."""

    format_audio(_folder_with_a_pipe(), "out", Settings())
    assert Path(RAN).exists()


def test_no_other_reader_runs_its_commands() -> None:
    """Training's table, decoding, a TSV's lengths, the check of the sampling rate."""

    folder = _folder_with_a_pipe()
    (key,) = read_table(folder / "wav.scp")
    write_table(folder / "utt2num_samples", {key: "8000"})
    readers: list[Callable[[], object]] = [
        lambda: UtteranceTable(folder / "wav.scp")[key],
        lambda: read_sound(list_utterances(folder, 8000)[0], 8000),
        lambda: check_rate(open_source(folder, "text", "", True), 8000),
    ]
    for read in readers:
        with pytest.raises(
            UserError, match=r"a (command|pipe).*format_audio"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
    (folder / "utt2num_samples").unlink()
    with pytest.raises(UserError, match=r"a command.*format_audio"):
        write_manifest(DataFolder.read(folder), Path("a.tsv"))
    with pytest.raises(UserError, match=r"a command.*format_audio"):
        list_utterances(folder, 8000)
    assert not Path(RAN).exists()
