"""AMI: words of segments, microphones, splits, and what is refused or counted."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.data.audio import open_audio
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.errors import UserError
from test.support.ami_corpus import CHANNELS, MEETINGS, segment, write_ami, write_layer
from test.support.corpus_sound import FS, speech_like

ROOT = Path(__file__).resolve().parents[3]
LOCAL = ROOT / "egs2" / "ami" / "asr1" / "local"


@pytest.fixture(scope="module")
def ami(load_local) -> ModuleType:
    return load_local("ami/asr1")


@pytest.fixture
def corpus(tmp_path: Path) -> SimpleNamespace:
    """A corpus that a test may spoil: sound of 3 s, one segment an agent."""
    annotations = write_ami(tmp_path, segments=1, seconds=4.0)
    return SimpleNamespace(
        top=tmp_path, audio=tmp_path / "amicorpus", annotations=annotations
    )


def prepare(
    ami: ModuleType, corpus: SimpleNamespace, mic: str = "ihm", drop_bad: bool = False
) -> DataFolder:
    """Train, as it was written."""
    source = ami.Source(corpus.audio, corpus.annotations, mic, drop_bad)
    ami.prepare(source, LOCAL / "split", corpus.top / "data")
    return DataFolder.read(corpus.top / "data" / f"train_{mic}")


# ---------------------------------------------------------------- what is written


def test_headsets(ami: ModuleType, corpus: SimpleNamespace, capsys) -> None:
    folder = prepare(ami, corpus)
    a = "MES2A_ES2002a_Headset-1_00000500_00002000"
    b = "MES2B_ES2002a_Headset-0_00001500_00003000"
    audio = corpus.audio / "ES2002a" / "audio"
    assert folder.wav == {
        "ES2002a.Headset-0": str(audio / "ES2002a.Headset-0.wav"),
        "ES2002a.Headset-1": str(audio / "ES2002a.Headset-1.wav"),
    }
    assert folder.segments == {
        a: "ES2002a.Headset-1 0.500 2.000",
        b: "ES2002a.Headset-0 1.500 3.000",
    }
    assert folder.tables == {
        "text": {a: "okay so the café opens", b: "right we have twenty minutes"},
        "utt2spk": {a: "MES2A", b: "MES2B"},
    }
    output = capsys.readouterr().out
    assert "train: 137 meetings in, 1 kept, 136 dropped" in output
    assert "eval: 2 segments in, 2 kept, 0 dropped" in output


def test_official_split() -> None:
    sets = {
        name: (LOCAL / "split" / f"{name}.txt").read_text().split()
        for name in ("train", "dev", "eval")
    }
    assert [len(meetings) for meetings in sets.values()] == [137, 18, 16]
    assert len({meeting for meetings in sets.values() for meeting in meetings}) == 171
    assert all(meeting in sets[name] for name, meeting in MEETINGS.items())


def test_single_distant_microphone(ami: ModuleType, corpus: SimpleNamespace) -> None:
    folder = prepare(ami, corpus, "sdm1")
    assert folder.wav == {
        "ES2002a.sdm1": str(corpus.audio / "ES2002a/audio/ES2002a.Array1-01.wav")
    }
    assert len(folder.segments) == len(CHANNELS)


def test_array(ami: ModuleType, corpus: SimpleNamespace, monkeypatch) -> None:
    """Eight files, each one sample later than the one before, add up to the first."""
    folder = prepare(ami, corpus, "mdm8")
    (source,) = folder.wav.values()
    assert source.count(".wav") == 8
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with open_audio(source, run_commands=True) as sound:
        mixed = sound.read()
    first, _ = soundfile.read(corpus.audio / "ES2002a/audio/ES2002a.Array1-01.wav")
    assert mixed.shape == first.shape
    inner = slice(100, -100)  # the fixture moves sound round the ends
    np.testing.assert_allclose(mixed[inner], first[inner], atol=1e-3)


def test_two_channels_in_one_file(ami: ModuleType, corpus: SimpleNamespace) -> None:
    """ES2010d's first microphone is such a file."""
    path = corpus.audio / "ES2002a/audio/ES2002a.Array1-01.wav"
    one, _ = soundfile.read(path)
    soundfile.write(path, np.stack([one, 0 * one], axis=1), FS)
    (source,) = prepare(ami, corpus, "sdm1").wav.values()
    assert source.endswith("|")
    command = [sys.executable, *source.removesuffix("|").split()[1:]]
    env = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    mono, _ = soundfile.read(io.BytesIO(done.stdout))
    np.testing.assert_allclose(mono, one, atol=1e-4)


def test_meetings_without_an_array(ami: ModuleType, corpus: SimpleNamespace) -> None:
    (corpus.audio / "IS1003b" / "audio").mkdir(parents=True)
    assert len(prepare(ami, corpus, "sdm1").wav) == 1
    with pytest.raises(UserError, match=r"IS1003b\.A\.words\.xml: no such file"):
        prepare(ami, corpus, "ihm")


# ---------------------------------------------------------------- the array


@settings(max_examples=10)
@given(late=st.lists(st.integers(-20, 20), min_size=1, max_size=4))
def test_delay_and_sum_undoes_delays(load_local, late: list[int]) -> None:
    array_sum = load_local("ami/asr1", "array_sum")
    sound = np.pad(speech_like(1.3, 5), 40).astype(np.float32)
    channels = np.stack([np.roll(sound, n) for n in (0, *late)])
    mixed = array_sum.delay_and_sum(channels, FS)
    assert mixed.shape == sound.shape
    np.testing.assert_allclose(mixed, sound, atol=2e-3)


# ---------------------------------------------------------------- words of a segment

WORDS = """
<w nite:id="m.A.words0" starttime="1.0" endtime="1.2">Caf&#232;s</w>
<w nite:id="m.A.words1">untimed</w>
<w nite:id="m.A.words2" starttime="2.0" endtime="2.0" punc="true">,</w>
<vocalsound nite:id="m.A.words3" starttime="2.1" endtime="2.4" type="laugh"/>
<w nite:id="m.A.words4" starttime="2.5" endtime="2.6" trunc="true">th</w>
<disfmarker nite:id="m.A.words5"/>
<gap nite:id="m.A.words6" starttime="3.0" endtime="3.9"/>
<w nite:id="m.A.words7" starttime="4.0" endtime="4.4">T_V_</w>
<w nite:id="m.A.words8" starttime="4.5" endtime="4.6">It&#39;s</w>
<transformerror nite:id="m.A.words9"/>
<w nite:id="m.A.words10" starttime="5.0" endtime="5.2">well-known</w>
<w nite:id="m.A.words11" starttime="5.0" endtime="5.2"> @ </w>
"""


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        (0, 0, "cafès"),
        (0, 4, "cafès untimed th"),
        (2, 3, ""),
        (5, 6, ""),
        (3, 8, "th t_v_ it's"),
        (9, 11, "well-known"),
        (0, 11, "cafès untimed th t_v_ it's well-known"),
    ],
)
def test_words_of_a_range(
    ami: ModuleType, tmp_path: Path, first: int, last: int, text: str
) -> None:
    path = write_layer(tmp_path, "words", "m.A", WORDS.splitlines())
    lines = [segment("m.A", 0, 1.0, 2.0, first, last)]
    cut = ami.read_segments(write_layer(tmp_path, "segments", "m.A", lines))[0]
    assert ami.Words(path).cut(cut.ranges) == text


@given(word=st.text(max_size=12))
def test_clean_words_have_a_letter_or_are_none(load_local, word: str) -> None:
    clean = load_local("ami/asr1", "nxt").clean
    made = clean(word)
    assert clean(made) == made
    assert not made or (made.split() == [made] and any(map(str.isalnum, made)))


# ---------------------------------------------------------------- dropped and refused


def rewrite_segments(corpus: SimpleNamespace, *lines: str) -> None:
    write_layer(corpus.annotations, "segments", "ES2002a.A", lines)


def cut(n: int, start: object, end: object, first: int = 0, last: int = 3) -> str:
    return segment("ES2002a.A", n, start, end, first, last)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (cut(1, 1.0, 2.0, 5, 5), "have no words"),
        (
            '<segment nite:id="s" transcriber_start="1" transcriber_end="2"/>',
            "no words",
        ),
        (cut(1, 2.0, 2.0), "end before they begin"),
        (cut(1, 2.0001, 2.0004), "end before they begin"),
        (cut(1, "nan", 2.0), "end before they begin"),
        (cut(1, "", 2.0), "have no times"),
        (cut(1, 4.1, 4.4), "go beyond the end of the sound"),
        (cut(1, 3.0, 5.0), "go beyond the end of the sound"),
        (cut(1, 0.5, 2.0), "occur twice"),
    ],
)
def test_segments_left_out_are_counted(
    ami: ModuleType, corpus: SimpleNamespace, capsys, line: str, reason: str
) -> None:
    rewrite_segments(corpus, cut(0, 0.5, 2.0), line)
    folder = prepare(ami, corpus)
    assert len(folder.utterances) == 2  # one of A, one of B
    output = capsys.readouterr().out
    assert "train: 3 segments in, 2 kept, 1 dropped" in output
    assert f"{reason}, such as ES2002a.A.segments.xml" in output


def test_words_that_are_not_there(
    ami: ModuleType, corpus: SimpleNamespace, capsys
) -> None:
    rewrite_segments(corpus, cut(0, 0.5, 2.0), cut(1, 2.0, 3.0, 0, 99))
    message = r"name words that are not there.*sync\.1: ES2002a\.A\.words99.*--drop_bad"
    with pytest.raises(UserError, match=message):
        prepare(ami, corpus)
    prepare(ami, corpus, drop_bad=True)
    assert "train: 3 segments in, 2 kept, 1 dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "amicorpus/ES2002a/audio/ES2002a.Headset-1.wav",
        "ami_public_manual_1.6.2/words/ES2002a.A.words.xml",
        "ami_public_manual_1.6.2/segments/ES2002a.A.segments.xml",
    ],
)
def test_missing_file(
    ami: ModuleType, corpus: SimpleNamespace, capsys, name: str
) -> None:
    (corpus.top / name).unlink()
    with pytest.raises(UserError, match=rf"{Path(name).name}: no such.*--drop_bad"):
        prepare(ami, corpus)
    assert not (corpus.top / "data").exists()
    assert len(prepare(ami, corpus, drop_bad=True).utterances) == 1
    output = capsys.readouterr().out
    assert "train: 2 speakers in, 1 kept, 1 dropped" in output


def test_missing_microphone_of_the_array(
    ami: ModuleType, corpus: SimpleNamespace
) -> None:
    (corpus.audio / "ES2002a/audio/ES2002a.Array1-05.wav").unlink()
    assert prepare(ami, corpus, "sdm1").wav
    with pytest.raises(UserError, match=r"ES2002a\.Array1-05\.wav: no such"):
        prepare(ami, corpus, "mdm8")


def test_no_meetings_file(ami: ModuleType, corpus: SimpleNamespace) -> None:
    (corpus.annotations / "corpusResources" / "meetings.xml").unlink()
    with pytest.raises(UserError, match=r"meetings\.xml: no such file.*--annotations"):
        ami.find_annotations(corpus.audio, None)


def test_annotations_are_found(ami: ModuleType, corpus: SimpleNamespace) -> None:
    for place in (corpus.top, corpus.audio, corpus.annotations):
        assert ami.find_annotations(place, None) == corpus.annotations
    assert ami.find_annotations(corpus.top / "x", corpus.annotations)
    older = corpus.annotations.rename(corpus.top / "ami_manual_1.6.1")
    assert ami.find_annotations(corpus.top, None) == older


def test_unknown_speaker(ami: ModuleType, corpus: SimpleNamespace) -> None:
    path = corpus.annotations / "corpusResources" / "meetings.xml"
    path.write_text(path.read_text().replace('nxt_agent="B"', 'nxt_agent="C"'))
    with pytest.raises(UserError, match=r"ES2002a\.B.*agent B is not in meetings\.xml"):
        prepare(ami, corpus)


def test_speaker_without_a_channel(ami: ModuleType, corpus: SimpleNamespace) -> None:
    path = corpus.annotations / "corpusResources" / "meetings.xml"
    path.write_text(path.read_text().replace('channel="0"', ""))
    with pytest.raises(UserError, match=r"meetings\.xml: meeting ES2002a: a speaker w"):
        prepare(ami, corpus)


@pytest.mark.parametrize("layer", ["words", "segments"])
def test_broken_xml(ami: ModuleType, corpus: SimpleNamespace, layer: str) -> None:
    path = corpus.annotations / layer / f"ES2002a.A.{layer}.xml"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"ES2002a\.A\.{layer}\.xml: broken XML"):
        prepare(ami, corpus)


def test_set_without_meetings(ami: ModuleType, corpus: SimpleNamespace) -> None:
    (corpus.audio / "ES2011a").rename(corpus.top / "elsewhere")
    with pytest.raises(UserError, match="amicorpus: no meetings left of 18; 18 have"):
        prepare(ami, corpus)


def test_meeting_in_two_lists(
    ami: ModuleType, corpus: SimpleNamespace, tmp_path: Path
) -> None:
    for name in MEETINGS:
        (tmp_path / f"{name}.txt").write_text("ES2002a\n")
    source = ami.Source(corpus.audio, corpus.annotations, "ihm")
    with pytest.raises(UserError, match="ES2002a is listed 3 times"):
        ami.prepare(source, tmp_path, tmp_path / "data")
