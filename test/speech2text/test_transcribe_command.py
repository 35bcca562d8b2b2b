"""The command: formats, files, and continuing after a bad file."""

from __future__ import annotations

import json
import sys

import pytest

from espnet_mtla import __main__ as top
from espnet_mtla.bin import transcribe
from espnet_mtla.errors import UserError
from test.support.toy_folder import forget_flac_length

DECODING = ["--beam_size", "2", "--min_length_ratio", "0.15", "--device", "cpu"]


@pytest.fixture
def run(model, monkeypatch):
    def call(*words):
        command = ["transcribe", *map(str, words), "--model", str(model), *DECODING]
        monkeypatch.setattr(sys, "argv", command)
        transcribe.main()

    return call


def test_lines_in_the_order_of_the_files(run, data, capsys):
    files = [data / f"u{i}.wav" for i in (2, 0, 1)]
    run(*files)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [key for key, _ in rows] == list(map(str, files))
    run(files[1])
    assert capsys.readouterr().out == rows[1][1] + "\n"
    run(*files, "--format", "json", "--timestamps")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in found] == [text for _, text in rows]
    assert all(one["words"][0]["start"] >= 0 for one in found if one["text"])


def test_a_file_each(run, data, tmp_path, capsys):
    run(data / "u0.wav", data / "u2.wav", "--format", "srt", "--output_dir", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["u0.srt", "u2.srt"]
    assert " --> " in (tmp_path / "u2.srt").read_text()
    assert "2 files written to" in capsys.readouterr().out


def test_a_bad_file_does_not_stop_the_others(run, data, tmp_path, capsys):
    whole = (data / "u2.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    short = tmp_path / "short.wav"
    short.write_bytes(whole[:4] + b"\xff\xff\xff\xff" + whole[8:])
    (tmp_path / "text.wav").write_text("nothing to hear")
    with pytest.raises(UserError, match="2 of 4 files failed"):
        run(tmp_path / "cut.wav", data / "u0.wav", tmp_path / "text.wav", short)
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert "cut.wav: truncated" in shown.err
    assert "text.wav: unreadable audio" in shown.err
    with pytest.raises(UserError, match=r"text\.wav: unreadable audio"):
        run(tmp_path / "text.wav")
    assert not capsys.readouterr().err  # one line, which the error itself becomes


def test_what_has_no_length_or_is_no_file_does_not_stop_the_others(
    run, data, tmp_path, capsys
):
    import os

    import soundfile

    flac = tmp_path / "open.flac"
    soundfile.write(flac, soundfile.read(data / "u0.wav")[0], 8000)
    forget_flac_length(flac)
    os.mkfifo(tmp_path / "fifo.wav")
    left_open = bytearray((data / "u2.wav").read_bytes())
    place = left_open.index(b"data")
    left_open[place + 4 : place + 8] = b"\0\0\0\0"
    (tmp_path / "open.wav").write_bytes(left_open)
    with pytest.raises(UserError, match="1 of 5 files failed"):
        run(
            *(flac, data / "u0.wav", tmp_path / "fifo.wav"),
            *(tmp_path / "open.wav", data / "u2.wav"),
        )
    shown = capsys.readouterr()
    texts = [line.split("\t")[1] for line in shown.out.splitlines()]
    assert len(texts) == 4 and texts[0] == texts[1] and texts[2] == texts[3]
    assert "fifo.wav: a pipe or a device" in shown.err


def test_a_sound_too_short_is_named_and_the_batch_goes_on(run, data, tmp_path, capsys):
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "blip.wav", np.zeros(200, np.float32), 8000)
    with pytest.raises(UserError, match="1 of 3 files failed"):
        run(data / "u0.wav", tmp_path / "blip.wav", data / "u1.wav")
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2 and "blip.wav: " in shown.err


def test_what_cannot_be_written_apart_is_refused_first(run, data, tmp_path):
    other = tmp_path / "u0.wav"
    other.write_bytes(b"")
    with pytest.raises(UserError, match=r"u0\.wav would both become .*u0\.txt"):
        run(data / "u0.wav", other, "--output_dir", tmp_path / "out")
    with pytest.raises(UserError, match="srt with several files needs --output_dir"):
        run(data / "u0.wav", other, "--format", "srt")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"output_dir .*u0\.wav: is a file; name a"):
        run(data / "u1.wav", "--output_dir", other)


def test_commands_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["espnet-mtla"])
    top.main()
    listed = capsys.readouterr().out
    assert (
        "\n  transcribe      Transcribe sound files" in listed and "cli" not in listed
    )
    monkeypatch.setattr(sys, "argv", ["espnet-mtla", "transscribe"])
    with pytest.raises(SystemExit):
        top.main()
    assert "did you mean transcribe?" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["espnet-mtla", "transcribe", "--help"])
    with pytest.raises(SystemExit) as left:
        top.main()
    assert left.value.code == 0 and "--model" in capsys.readouterr().out


def test_a_length_that_is_no_number_is_named(run, capsys):
    with pytest.raises(SystemExit):
        run("a.wav", "--longest_seconds", "long")
    assert "'long' given, trained, or a number of seconds" in capsys.readouterr().err
