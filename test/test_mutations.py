"""Damaged files of everything that is parsed: an error of one line, or success.

Each file is changed in many ways, by a fixed random seed. Whatever comes of it, no
exception but UserError leaves a reader, nothing waits, and no file appears elsewhere.
"""

from __future__ import annotations

import gzip
import importlib
import random
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_mtla.errors import UserError
from test.support.arpa import random_arpa
from test.support.damage import mutate
from test.support.repository import ROOT
from test.support.toy_folder import tone

MUTATIONS = 60
MODEL_MUTATIONS = 16
MOST_SECONDS = 10.0


def wav() -> bytes:
    soundfile.write("source.wav", tone(0.2), 16000)
    return Path("source.wav").read_bytes()


def flac() -> bytes:
    soundfile.write("source.flac", tone(0.2), 16000)
    return Path("source.flac").read_bytes()


def read_sound(path: Path) -> None:
    from espnet_mtla.data.audio import check_readable, open_audio, read_span

    check_readable(str(path))
    with open_audio(str(path)) as sound:
        read_span(sound, str(path), channel="mean")


def entry() -> bytes:
    sound = wav()
    head = b"AUDIO\x04" + len(sound).to_bytes(4, "little")
    return head + sound


def features(kind: str) -> bytes:
    matrix = np.arange(12, dtype="float32").reshape(4, 3)
    if kind == "ark":
        import kaldiio

        kaldiio.save_ark("source.ark", {"u": matrix})
    else:
        with (
            zipfile.ZipFile("source.zip", "w") as archive,
            archive.open("u", "w") as to,
        ):
            np.save(to, matrix)
    return Path(f"source.{kind}").read_bytes()


def read_matrices(path: Path) -> None:
    from espnet_mtla.data.features import read_features

    read_features(f"{path}:{2 if path.suffix == '.ark' else '31:176'}")


def read_folder(path: Path) -> None:
    """``path`` is one table of a data folder."""
    from espnet_mtla.data.filter import read_seconds
    from espnet_mtla.data.folder import DataFolder
    from espnet_mtla.data.validate import Checks, inspect

    inspect(path.parent, Checks(sound=False))
    folder = DataFolder.read(path.parent)
    for key in folder.utterances:
        folder.span(key)
    read_seconds(folder)


TABLES = {
    "wav.scp": b"r1 a.wav\nr2 b.ark:7\nr3 cat c |\n",
    "segments": b"u1 r1 0.0 1.5\nu2 r2 1 -1\nu3 r3 0.25 2\n",
    "text": "u1 some words\nu2 é ü\nu3 \u2009more\n".encode(),
    "utt2spk": b"u1 s1\nu2 s1\nu3 s2\n",
    "utt2dur": b"u1 1.5\nu2 2\nu3 1.75\n",
}


def read_tsv(path: Path) -> None:
    from espnet_mtla.data.manifest import read_manifest

    read_manifest(path)


def read_scores(path: Path) -> None:
    from espnet_mtla.score.metric import score
    from espnet_mtla.score.texts import read_request

    other = path.with_name("other.jsonl")
    other.write_bytes(JSONL)
    score("wer", read_request([path], other, resamples=10))


JSONL = b'{"key": "a", "text": "one two"}\n{"key": "b", "text": ["three"]}\n'
YAML = b"a: 1\nb: &x [1e-3, 2001-01-01]\nc: {d: *x, e: 'f'}\nbase: base.yaml\n"
TSV = b"id\taudio\tn_frames\ttgt_text\nu1\ta.wav\t7\tx y\nu2\tb.wav\t9\tz\n"
XML = b"""<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>
<nite:root nite:id="m" xmlns:nite="http://nite.sourceforge.net/">
<w nite:id="m.w1" starttime="1.5" endtime="2.25">Okay</w>
<w nite:id="m.w2" starttime="2.25" endtime="2.25" punc="true">.</w>
<segment nite:id="m.s1" transcriber_start="1.0" transcriber_end="3.5">
<nite:child href="m.words.xml#id(m.w1)..id(m.w2)"/></segment></nite:root>
"""


def read_yaml(path: Path) -> None:
    from espnet_mtla.settings.yaml_files import load_config

    path.with_name("base.yaml").write_text("g: 2\n")
    load_config(path)


def read_nxt(path: Path) -> None:
    sys.path.insert(0, str(ROOT / "egs2/ami/asr1/local"))
    try:
        nxt = importlib.import_module("nxt")
    finally:
        sys.path.pop(0)
    nxt.read_words(path)
    nxt.read_segments(path)


def read_tokens(path: Path) -> None:
    from espnet_mtla.data.token_list import read_token_list, word_starts

    word_starts(read_token_list(path), "bpe")


def checkpoint(name: str) -> bytes:
    import torch
    from safetensors.torch import save_file

    content = {"a.weight": torch.ones(3, 2), "b": torch.zeros(1)}
    if name.endswith(".pth"):
        torch.save({**content, "reporter": {"epoch": 1}}, name)
    else:
        save_file(content, name, metadata={"decoder": "{}"})
    return Path(name).read_bytes()


def read_checkpoint(path: Path) -> None:
    from espnet_mtla.model.checkpoint import load_all, notes_of

    load_all(path)
    notes_of(path)


def read_ngrams(path: Path) -> None:
    from espnet_mtla.search.ngram import read_arpa

    read_arpa(path)


def statistics() -> bytes:
    np.savez("source.npz", count=2, sum=np.ones(3), sum_square=np.ones(3))
    return Path("source.npz").read_bytes()


def read_statistics(path: Path) -> None:
    from argparse import Namespace

    from espnet_mtla.model.components import build_normalize

    conf = {"stats_file": str(path)}
    build_normalize(Namespace(normalize="global_mvn", normalize_conf=conf), 3)


FORMATS: dict[str, tuple[Callable[[], bytes], Callable[[Path], None]]] = {
    "sound.wav": (wav, read_sound),
    "sound.flac": (flac, read_sound),
    "sound.ark": (entry, lambda path: read_sound(Path(f"{path}:0"))),
    "flac.ark": (flac, lambda path: read_sound(Path(f"{path}:0"))),
    "feats.ark": (lambda: features("ark"), read_matrices),
    "feats.zip": (lambda: features("zip"), read_matrices),
    **{name: (lambda name=name: TABLES[name], read_folder) for name in TABLES},
    "manifest.tsv": (lambda: TSV, read_tsv),
    "texts.jsonl": (lambda: JSONL, read_scores),
    "config.yaml": (lambda: YAML, read_yaml),
    "nxt.xml": (lambda: XML, read_nxt),
    "tokens.txt": (lambda: "<blank>\n<unk>\n▁a\nb\n<sos/eos>\n".encode(), read_tokens),
    "model.pth": (lambda: checkpoint("a.pth"), read_checkpoint),
    "model.safetensors": (lambda: checkpoint("a.safetensors"), read_checkpoint),
    "lm.arpa": (lambda: random_arpa(2, seed=1).encode(), read_ngrams),
    "lm.arpa.gz": (lambda: gzip.compress(random_arpa(2, 1).encode()), read_ngrams),
    "feats_stats.npz": (statistics, read_statistics),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, beside which no file may appear."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def check(read: Callable[[Path], None], path: Path, what: str) -> bool:
    """Read a damaged file; return whether it was refused."""
    began = time.process_time()
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error), f"{what}: {error}"
        return True
    except Exception as error:
        kept = Path(path).read_bytes() if Path(path).is_file() else b""
        raise AssertionError(f"{what}: {error!r}, of {kept!r}") from error
    finally:
        assert time.process_time() - began < MOST_SECONDS, what
    return False


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_in_one_line(name: str) -> None:
    make, read = FORMATS[name]
    whole = make()
    chance = random.Random(name)
    folder = Path("data")
    folder.mkdir()
    if name in TABLES:
        for table, content in TABLES.items():
            (folder / table).write_bytes(content)
    path = folder / name
    path.write_bytes(whole)
    assert not check(read, path, "undamaged")
    refused = 0
    for number in range(MUTATIONS):
        path.write_bytes(mutate(whole, chance))
        refused += check(read, path, f"{name}, mutation {number}")
    assert refused > MUTATIONS // 10


FINDINGS = {
    "config.yaml": [
        b"? [a]\n: 1\n",
        b"a: 2001-02-31\n",
        b"[" * 20_000,
        b"a: &a [*a]\n",
    ],
    "texts.jsonl": [b"[" * 100_000, b'{"key": "a", "text": "\\ud800"}\n', b"\xff\n"],
    "wav.scp": [b"r1 a.ark:" + b"9" * 5000 + b"\nr2 b\nr3 c\n", b"r1\nr2 b\nr3 c\n"],
    "segments": [b"u1 r1 nan nan\nu2 r2 1 -1\nu3 r3 0 1\n", b"u1 r1 0 inf\n"],
    "utt2dur": [b"u1 nan\nu2 1\nu3 1\n", b"u1 -1\nu2 1\nu3 1\n", b"u1 1e999\n"],
    "manifest.tsv": [TSV.replace(b"\t7\t", b"\t\xd9\xa3\t"), TSV[:-3], b"\n"],
    "nxt.xml": [
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        XML.replace(b"1.5", b"nan"),
    ],
    "tokens.txt": [b"", b"<blank>\n<unk>\na\na\n<sos/eos>\n", b"\xff"],
    "lm.arpa": [b"\\data\\\nngram 1=99999999999\n", b"\\data\\\nngram 1=x\n"],
}
"""Small files that readers once failed on, or might."""


@pytest.mark.parametrize("name", FINDINGS)
def test_earlier_findings_stay_refused(name: str) -> None:
    Path("data").mkdir()
    for table, content in TABLES.items():
        Path("data", table).write_bytes(content)
    for content in FINDINGS[name]:
        Path("data", name).write_bytes(content)
        refused = check(FORMATS[name][1], Path("data", name), repr(content[:60]))
        assert refused or name in ("nxt.xml", "wav.scp"), content[:60]


def test_damaged_model_folders(model: Path) -> None:
    import torch

    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.options import folder_options

    folder = Path(shutil.copytree(model, "model"))
    (folder / "decode.yaml").write_text("beam_size: 2\nnbest: 1\nctc_weight: 0.3\n")

    def read(path: Path) -> None:
        options = folder_options(path.parent)
        TrainedModel.from_folder(path.parent, torch.device("cpu"), options)

    chance = random.Random("model")
    for name in ("config.yaml", "decode.yaml", "model.pth"):
        whole = (folder / name).read_bytes()
        assert not check(read, folder / name, "undamaged")
        for number in range(MODEL_MUTATIONS):
            (folder / name).write_bytes(mutate(whole, chance))
            check(read, folder / name, f"{name}, mutation {number}")
        (folder / name).write_bytes(whole)


def test_keys_that_climb_stay_in_their_folder() -> None:
    """Names of files come from keys; no key leads out of the output folder."""
    from espnet_mtla.data.audio_shards import Settings
    from espnet_mtla.data.format import format_audio
    from espnet_mtla.data.table import write_table

    soundfile.write("a.wav", tone(0.1), 16000)
    keys = ("../../climbs", "/tmp/absolute", "..", ".", "%2e%2e/x", "a\\..\\b")
    write_table("in/wav.scp", dict.fromkeys(keys, "a.wav"))
    write_table("in/text", dict.fromkeys(keys, "words"))
    before = set(Path().rglob("*"))
    format_audio("in", "out", Settings())
    new = [path for path in set(Path().rglob("*")) - before if path.is_file()]
    assert len([path for path in new if path.suffix == ".flac"]) == len(keys)
    assert all(Path("out") in path.parents for path in new)
    assert not Path("/tmp/absolute.flac").exists()
