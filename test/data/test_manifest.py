"""Kaldi folders to TSV and back, sound and features; bad lines are named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from espnet_mtla.data.features import read_features, write_features
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.manifest import read_manifest
from espnet_mtla.data.table import read_table, write_table
from test.support.toy_folder import TEXTS

HEADER = "id\taudio\tn_frames\ttgt_text\tspeaker"


@pytest.fixture
def feats(toy: Path) -> Path:
    """``feats``: the toy folder with features in place of sound."""
    folder = Path("feats")
    generator = np.random.default_rng(0)
    rows = {key: generator.normal(size=(5 + len(key), 3)) for key in TEXTS}
    written = write_features(folder / "fbank80.zip", rows.items())
    write_table(folder / "feats.scp", written.places_in(folder))
    frames = {key: str(count) for key, count in written.frames.items()}
    write_table(folder / "utt2num_frames", frames)
    for name in ("text", "utt2spk"):
        write_table(folder / name, read_table(toy / name))
    write_table(folder / "text.de", {key: f"{key} auf Deutsch" for key in TEXTS})
    return folder


def tables(folder: Path) -> dict[str, dict[str, str]]:
    return {
        path.name: read_table(path) for path in folder.iterdir() if not path.suffix
    } | {"source": read_table(folder / DataFolder.read(folder).source)}


def test_features_there_and_back(feats: Path, command) -> None:
    code, out, _ = command(
        *("convert_data", feats, "feats/train.tsv", "--source_text", "text.de")
    )
    assert (code, out) == (0, "feats/train.tsv: 4 utterances\n")
    lines = Path("feats/train.tsv").read_text().splitlines()
    assert lines[0] == f"{HEADER}\tsrc_text"
    first = lines[1].split("\t")
    assert first[1].startswith("fbank80.zip:")
    assert (first[0], *first[2:]) == ("a1", "7", "hello world", "a", "a1 auf Deutsch")
    code, out, _ = command(
        *("convert_data", "feats/train.tsv", "back", "--source_text", "text.de")
    )
    assert (code, out) == (0, "back: 4 utterances\n")
    Path("feats/train.tsv").unlink()
    Path("back/spk2utt").unlink()
    assert tables(Path("back")) == tables(feats)
    place = read_table("back/feats.scp")["é4"]
    assert read_features(place).shape == (7, 3)


def test_sound_there_and_back(toy: Path, command) -> None:
    assert command("convert_data", toy, "all.tsv")[0] == 0
    rows = [line.split("\t") for line in Path("all.tsv").read_text().splitlines()[1:]]
    assert [(row[1], row[2]) for row in rows][:2] == [
        ("toy/0.wav", "16000"),
        ("toy/1.wav", "19200"),
    ]
    assert command("convert_data", "all.tsv", "back")[0] == 0
    assert read_table("back/wav.scp") == read_table("toy/wav.scp")
    assert read_table("back/utt2num_samples")["a1"] == "16000"
    for name in ("text", "utt2spk", "spk2utt"):
        assert read_table(f"back/{name}") == read_table(f"toy/{name}")


def test_a_tsv_made_elsewhere(feats: Path) -> None:
    """A byte-order mark, CRLF, no speaker, other columns, an absolute path."""
    place = read_table(feats / "feats.scp")["a1"]
    Path("x.tsv").write_bytes(
        b"\xef\xbb\xbfid\taudio\tn_frames\ttgt_text\tlang\r\n"
        + f"u1\t{feats.resolve()}/{Path(place).name}\t7\tein Satz\tde\r\n".encode()
    )
    folder = read_manifest("x.tsv", "text.de")
    assert folder.tables["text.de"] == {"u1": "ein Satz"}
    assert folder.tables["utt2spk"] == {"u1": "u1"}
    assert read_features(folder.wav["u1"]).shape == (7, 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["id\taudio\tn_frames"],
            r"x\.tsv: no column 'tgt_text'; the first",
        ),
        ([HEADER], r"x\.tsv: no utterances"),
        ([HEADER, "u1\ta.wav\t7\ttext"], r"x\.tsv:2: 4 values, the header has 5"),
        ([HEADER, "u1\ta.wav\tx\ttext\ts"], "u1: n_frames 'x' is no number"),
        ([HEADER, "\ta.wav\t7\tt\ts"], r"x\.tsv:2: no id"),
        ([HEADER, "u1\t\t7\tt\ts"], r"x\.tsv:2: no audio"),
        ([HEADER, "u 1\ta.wav\t7\tt\ts"], r"x\.tsv:2: white space in id 'u 1'"),
        ([HEADER, "u1\ta.wav\t7\tt\tA B"], r"tsv:2: white space in speaker 'A B'"),
        ([HEADER, *2 * ["u1\ta.wav\t7\ttext\ts"]], "tsv:3: id 'u1' occurs twice"),
        ([HEADER, "u1\tn.zip:3:9\t7\tt\ts"], r"u1: .*n\.zip: no such file"),
        (
            [HEADER, "u1\tfeats/fbank80.zip:9:99999\t7\tt\ts"],
            r"u1: .*fbank80\.zip:9:99999: beyond the end",
        ),
        (
            [HEADER, "u1\ta.wav\t7\tt\ts", "u2\tfeats/fbank80.zip:9:9\t7\tt\ts"],
            "u2: sound and features in one file",
        ),
    ],
)
@pytest.mark.usefixtures("feats")
def test_a_bad_tsv_is_named(command, lines, message) -> None:
    Path("x.tsv").write_text("\n".join(lines) + "\n")
    code, _, err = command("convert_data", "x.tsv", "back")
    assert code == 1
    assert re.search(message, err), err
    assert not Path("back").exists()


def test_what_cannot_be_converted_is_named(toy: Path, command) -> None:
    for arguments, message in (
        ((toy, "back"), "one must end in .tsv"),
        ((toy, "x.tsv", "--target_text", "text.xx"), "toy/text.xx: no such file"),
        (("nix.tsv", "back"), "nix.tsv: no such file"),
    ):
        code, _, err = command("convert_data", *arguments)
        assert code == 1
        assert message in err
    write_table(toy / "segments", {"a1": "a1 0 1"})
    for name in ("text", "utt2spk"):
        write_table(toy / name, {"a1": "x"})
    assert "toy: has segments" in command("convert_data", toy, "x.tsv")[2]
    (toy / "segments").unlink()
    write_table(toy / "wav.scp", {"a1": "toy/0.wav"})
    (toy / "text").write_text("a1 one\ttab two\ttabs\n")
    assert "a1: a tab in tgt_text" in command("convert_data", toy, "x.tsv")[2]
    assert not Path("x.tsv").exists()
