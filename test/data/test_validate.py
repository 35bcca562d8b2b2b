"""validate_data: each fault is named at its line, and --fix repairs without loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.table import LOST_LINES, read_table, write_table
from test.support.toy_folder import RATE, TEXTS, snapshot, tone

Command = Callable[..., tuple[int, str, str]]


def test_good_folder(toy: Path, command: Command) -> None:
    before = snapshot(toy)
    code, out, err = command("validate_data", toy)
    assert (code, out) == (0, "")
    assert "4 utterances" in err
    assert command("validate_data", toy, "--fix")[0] == 0
    assert snapshot(toy) == before


def append(path: Path, line: bytes) -> None:
    path.write_bytes(path.read_bytes() + line)


def short_flac(toy: Path) -> None:
    soundfile.write("x.flac", tone(1.0), RATE)
    (toy / "1.wav").write_bytes(Path("x.flac").read_bytes()[:-3000])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "order": (
        lambda toy: append(toy / "text", b"a0 x\n"),
        "text:5: a0: not in byte order: é4 <",
    ),
    "double": (
        lambda toy: append(toy / "text", "é4 x\n".encode()),
        "text:5: é4: key occurs twice: first in line 4",
    ),
    "byte-order mark": (
        lambda toy: (toy / "text").write_text("\ufeff" + (toy / "text").read_text()),
        "text:1: byte-order mark",
    ),
    "crlf": (lambda toy: append(toy / "text", b"z x\r\n"), "text: line ends are CRLF"),
    "not utf-8": (lambda toy: append(toy / "text", b"z \xff\n"), "text:5: not UTF-8"),
    "empty line": (lambda toy: append(toy / "text", b"\n"), "text:5: empty line"),
    "empty text": (
        lambda toy: write_table(toy / "text", TEXTS | {"a2": ""}),
        "text:2: a2: empty text",
    ),
    "empty second text": (
        lambda toy: write_table(toy / "text.tc.de", TEXTS | {"a2": ""}),
        "text.tc.de:2: a2: empty text",
    ),
    "lacks text": (
        lambda toy: write_table(
            toy / "text", {k: v for k, v in TEXTS.items() if k != "b/3"}
        ),
        "wav.scp:3: b/3: not in text",
    ),
    "lacks sound": (
        lambda toy: write_table(toy / "text", TEXTS | {"z": "x"}),
        "text:4: z: not in wav.scp",
    ),
    "speakers": (
        lambda toy: write_table(toy / "spk2utt", {"a": "a1", "b": "b/3 a2", "é": "é4"}),
        "spk2utt:1: a: differs from utt2spk: utterance a2",
    ),
    "missing sound": (
        lambda toy: (toy / "1.wav").unlink(),
        "wav.scp:2: a2: unusable audio: toy/1.wav: no such audio file",
    ),
    "truncated wav": (
        lambda toy: (toy / "1.wav").write_bytes((toy / "1.wav").read_bytes()[:-9]),
        "wav.scp:2: a2: unusable audio: toy/1.wav: truncated",
    ),
    "truncated flac": (
        short_flac,
        "wav.scp:2: a2: unusable audio: toy/1.wav: truncated",
    ),
    "zero length": (
        lambda toy: soundfile.write(toy / "1.wav", tone(0), RATE),
        "wav.scp:2: a2: unusable audio: toy/1.wav: no samples",
    ),
    "no sound": (
        lambda toy: (toy / "1.wav").write_bytes(b"some other thing"),
        "wav.scp:2: a2: unusable audio: toy/1.wav: unreadable audio",
    ),
    "no path": (
        lambda toy: write_table(
            toy / "wav.scp", read_table(toy / "wav.scp") | {"a2": ""}
        ),
        "wav.scp:2: a2: unusable audio: no path",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_and_repaired(toy: Path, command: Command, fault: str) -> None:
    make, message = FAULTS[fault]
    make(toy)
    broken = {
        name: content
        for name, content in snapshot(toy).items()
        if not name.endswith(".wav")
    }
    code, out, err = command("validate_data", toy)
    assert code == 1
    assert any(line.startswith(message) for line in out.splitlines()), out
    assert err.splitlines()[-1].startswith("error: toy: ")
    assert "Traceback" not in err
    code, out, err = command("validate_data", toy, "--fix")
    assert code == 0, out + err
    made = DataFolder.read(toy)
    assert set(made.utterances) <= set(TEXTS)
    assert len(made.utterances) >= 3
    assert snapshot(toy / ".backup" / "1") == broken, "nothing may be lost"
    counts = next(line for line in out.splitlines() if line.startswith("in "))
    total, kept, dropped = (int(word) for word in counts.split() if word.isdigit())
    assert total == kept + dropped
    assert kept == len(made.utterances)
    listed = read_table(toy / "dropped") if dropped else {}
    assert len(listed) == dropped
    assert command("validate_data", toy)[0] == 0


def test_missing_files(toy: Path, command: Command) -> None:
    (toy / "text").unlink()
    code, out, _ = command("validate_data", toy)
    assert (code, "text: missing file" in out) == (1, True)
    assert command("validate_data", toy, "--no_text")[0] == 0
    code, _, err = command("validate_data", toy, "--fix")
    assert (code, "toy/text: missing" in err) == (1, True)
    code, _, err = command("validate_data", "nowhere")
    assert (code, "nowhere: no such data folder" in err) == (1, True)


def test_empty_texts_where_they_are_allowed(toy: Path, command: Command) -> None:
    write_table(toy / "text", TEXTS | {"a2": ""})
    code, _, err = command("validate_data", toy, "--allow_empty_text")
    assert code == 0, err
    assert "toy/text: 1 of 4 texts are empty, the first is a2" in err
    assert command("validate_data", toy, "--allow_empty_text", "--fix")[0] == 0
    assert read_table(toy / "text") == TEXTS | {"a2": ""}
    assert command("validate_data", toy)[0] == 1


def test_speakers_are_made(toy: Path, command: Command) -> None:
    (toy / "spk2utt").unlink()
    (toy / "utt2spk").unlink()
    code, _, err = command("validate_data", toy)
    assert (code, "--fix writes them" in err) == (0, True)
    assert command("validate_data", toy, "--fix")[0] == 0
    assert read_table(toy / "utt2spk") == {key: key for key in TEXTS}
    write_table(toy / "spk2utt", {"s": "a1 a2 b/3 é4"})
    (toy / "utt2spk").unlink()
    assert command("validate_data", toy, "--fix")[0] == 0
    assert set(read_table(toy / "utt2spk").values()) == {"s"}


def test_segments(toy: Path, command: Command) -> None:
    recordings = {"r1": "toy/0.wav", "r2": "toy/1.wav", "r3": "toy/gone.wav"}
    write_table(toy / "wav.scp", recordings)
    write_table(toy / "reco2lang", dict.fromkeys(recordings, "en"))
    segments = {"a1": "r1 0 0.5", "a2": "r1 0.9 2.5", "b/3": "r9 0 1", "é4": "r3 0 1"}
    write_table(toy / "segments", segments | {"bad": "r1 2 1"})
    code, out, _ = command("validate_data", toy)
    assert code == 1
    for message in (
        "segments:2: a2: outside the recording: r1 0.9 2.5 of 1.00 s",
        "segments:3: b/3: recording not in wav.scp: r9",
        "segments:4: bad: bad segment",
        "wav.scp:3: r3: unusable audio",
    ):
        assert message in out
    assert command("validate_data", toy, "--fix")[0] == 0
    assert read_table(toy / "segments") == {"a1": "r1 0 0.5"}
    assert read_table(toy / "wav.scp") == {"r1": "toy/0.wav"}
    assert read_table(toy / "reco2lang") == {"r1": "en"}
    assert read_table(toy / "dropped")["é4"] == "unusable audio"


@pytest.mark.parametrize("key", ["a\u20092", "a\u00a02", "a\u30002", "a\x002"])
def test_a_line_without_a_valid_key_is_counted_and_listed(
    toy: Path, command: Command, key: str
) -> None:
    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        table = toy / name
        if table.is_file():
            table.write_text(table.read_text().replace("a2", key))
    code, out, err = command("validate_data", toy, "--fix")
    assert code == 0, out + err
    assert "in 4 = kept 3 + dropped 1 keys" in out
    (place, reason), *others = read_table(toy / "dropped").items()
    assert place == "wav.scp:2" and not others
    assert reason in LOST_LINES


def test_fix_that_would_leave_nothing_changes_nothing(
    toy: Path, command: Command
) -> None:
    write_table(toy / "text", {key + "x": "other keys" for key in TEXTS})
    before = snapshot(toy)
    code, _, err = command("validate_data", toy, "--fix")
    assert (code, "--fix would leave no utterance" in err) == (1, True)
    assert snapshot(toy) == before


def test_second_repair_keeps_both_backups(toy: Path, command: Command) -> None:
    append(toy / "text", b"z x\n")
    assert command("validate_data", toy, "--fix")[0] == 0
    append(toy / "text", b"y x\n")
    assert command("validate_data", toy, "--fix")[0] == 0
    assert sorted(path.name for path in (toy / ".backup").iterdir()) == ["1", "2"]
    assert sorted(read_table(toy / "dropped")) == ["y", "z"]


def test_long_lists_are_cut(toy: Path, command: Command) -> None:
    for number in range(30):
        append(toy / "text", f"z{number:02} x\n".encode())
    code, out, _ = command("validate_data", toy, "--max_lines", 5)
    assert code == 1
    assert out.count(": not in wav.scp") == 6
    assert "text: not in wav.scp: 25 more" in out


def test_sound_can_be_left_alone_and_commands_are_not_run(
    toy: Path, command: Command
) -> None:
    (toy / "1.wav").unlink()
    assert command("validate_data", toy, "--no_audio")[0] == 0
    wav = read_table(toy / "wav.scp") | {"a2": "touch was_run |"}
    write_table(toy / "wav.scp", wav)
    code, _, err = command("validate_data", toy)
    assert (code, "1 commands in wav.scp were not run" in err) == (0, True)
    assert not Path("was_run").exists()
