"""The asterisk recipe's data, from a made-up corpus in the published layout."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError
from test.support.asterisk_corpus import (
    FS,
    SENTENCES,
    corpus_texts,
    run_data,
    sizes,
    small_options,
    sound_file,
    write_corpus,
)

# ---------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Call-Forward on No Answer.", "call forward on no answer"),
        ("press * to pause, press # now", "press star to pause press pound now"),
        ("Use the 7 key for Q, and 9.", "use the seven key for q and nine"),
        ("A.M.", "a m"),
        ("at [@]", "at"),
        ("... for ...", "for"),
        ("don\u2019t 'call' me", "don't call me"),
        ("o'clock", "o'clock"),
        ("exclaimation-point [!]", "exclamation point"),
        ("Quarante-deuxième", "quarante deuxième"),
    ],
)
def test_readable(local: SimpleNamespace, raw: str, text: str) -> None:
    readings = {"7": "seven", "9": "nine", "*": "star", "#": "pound"}
    assert local.corpus.readable(raw, readings) == (text, "")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("[tone]", "NOT_SPEECH"),
        ("(1 second of silence)", "NOT_SPEECH"),
        ("...", "NOT_SPEECH"),
        ("", "NOT_SPEECH"),
        ("IAX (note: does not say 2)", "REMARK"),
        ("dial 500", "AMBIGUOUS"),
        ("3D audio", "AMBIGUOUS"),
        ("a 28.8 kilobit modem", "AMBIGUOUS"),
        ("visit www.example.org.", "AMBIGUOUS"),
        ("me@home", "AMBIGUOUS"),
    ],
)
def test_unreadable(local: SimpleNamespace, raw: str, reason: str) -> None:
    readings = {c: c for c in "0123456789#*"}
    expected = ("", getattr(local.corpus, reason))
    assert local.corpus.readable(raw, readings) == expected


@given(raw=st.text(max_size=40))
def test_readable_gives_clean_words_or_a_reason(
    local: SimpleNamespace, raw: str
) -> None:
    readings = dict(zip("0123456789#*", "abcdefghijkl", strict=True))
    text, reason = local.corpus.readable(raw, readings)
    assert bool(text) != bool(reason)
    assert text == " ".join(text.split()) == text.lower()
    assert not re.search(r"[^\w' ]|\d|_", text, re.ASCII if text.isascii() else 0)


def test_corpus_counts_add_up(local: SimpleNamespace, corpus: Path) -> None:
    recordings, dropped, listed = local.corpus.read_corpus(corpus, "en")
    assert listed == len(corpus_texts()) == len(recordings) + dropped.total()
    assert dropped == {"not speech": 3, "not readable in one way": 2} | {
        "remark beside the text": 1
    }
    texts = {r.name: r.text for r in recordings}
    assert texts["demo-two"] == "please press one now or pound to exit"
    assert texts["demo-seven"] == "it's half past three a m in here"


def test_plain_list_and_flat_folder(local: SimpleNamespace, tmp_path: Path) -> None:
    """The sounds as the exchange's own archives have them: no packages around."""
    write_corpus(tmp_path / "deb", {"digits/1": "one", "hello": "Hello."})
    flat = tmp_path / "flat"
    sound_file(tmp_path / "deb", "hello").parent.rename(flat)
    (flat / "core-sounds-en.txt").write_text("digits/1: one\nhello: Hello.\n")
    recordings, _, _ = local.corpus.read_corpus(flat, "en")
    assert [r.text for r in recordings] == ["one", "hello"]


def test_languages_side_by_side(local: SimpleNamespace, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, {"digits/1": "one"})
    other = tmp_path / "usr/share/asterisk/sounds/es_MX_f_Someone/digits"
    other.mkdir(parents=True)
    (other / "1.wav").touch()
    (recording,), _, _ = local.corpus.read_corpus(corpus, "en")
    assert "en_US_f_Someone" in str(recording.path)


# ---------------------------------------------------------------- combinations


@given(n=st.integers(0, 10**9 - 1))
def test_cardinals_say_their_number(local: SimpleNamespace, n: int) -> None:
    """Reading the names back as arithmetic gives the number."""
    units = {"hundred": 100, "thousand": 1000, "million": 10**6}
    total = group = 0
    for name in local.combine.cardinal(n):
        stem = name.removeprefix("digits/")
        if stem == "hundred":
            group *= 100
        elif stem in units:
            total, group = total + group * units[stem], 0
        else:
            group += int(stem)
    assert total + group == n


@given(n=st.integers(1, 99))
def test_ordinals_end_in_one_rank(local: SimpleNamespace, n: int) -> None:
    *tens, last = local.combine.ordinal(n)
    rank = int(last.removeprefix("digits/h-"))
    assert rank + sum(int(t.removeprefix("digits/")) for t in tens) == n


def every_name(local: SimpleNamespace) -> dict[str, str]:
    """All names that the templates may use, each its own word."""
    drawn = {
        name
        for template, _, _ in local.combine.TEMPLATES.values()
        for seed in range(3000)
        for name in template(Random(seed), ["spelled"])
    }
    return {name: name for name in drawn}


def test_held_out_combinations_are_nowhere_in_training(local: SimpleNamespace) -> None:
    combiner = local.combine.Combiner(every_name(local), english=True, seed=3)
    test = combiner.draw("test", 150, held_out=True)
    train = [" ".join(names) for names in combiner.draw("train", 1500, held_out=False)]
    assert len(set(train)) == len(train) == 1500
    assert len(test) == 150
    for names in test:
        sequence = f" {' '.join(names)} "
        assert len(names) >= local.combine.MIN_TEST_WORDS
        assert not any(sequence in f" {text} " for text in train)


def test_every_word_is_trained_on(local: SimpleNamespace) -> None:
    names = every_name(local)
    combiner = local.combine.Combiner(names, english=True, seed=1)
    drawn = combiner.draw("train", 2500, held_out=False)
    uses = [sum(name in combination for combination in drawn) for name in names]
    assert min(uses) >= 4
    sizes = [len(combination) for combination in drawn]
    assert min(sizes) >= 2
    assert max(sizes) <= 8


def test_grammar_used_up(local: SimpleNamespace) -> None:
    names = {f"digits/{n}": str(n) for n in range(2)}
    combiner = local.combine.Combiner(names, english=False, seed=1)
    with pytest.raises(UserError, match=r"test: after .* of 9000 combinations"):
        combiner.draw("test", 9000, held_out=True)


# ---------------------------------------------------------------- sentences


def recordings(local: SimpleNamespace, *texts: str) -> list:
    return [
        local.corpus.Recording(f"p{n}", text, Path(f"p{n}.wav"))
        for n, text in enumerate(texts)
    ]


def test_variants_stay_on_one_side(local: SimpleNamespace) -> None:
    prompts = recordings(
        local,
        "press one to hear your new messages",
        "press two to hear your new messages",
        "nobody is here to take a call",
        "weasels have eaten our phone system",
        "weasels have eaten our phone system",
        "the number is not in service",
        "thank you",
    )
    for seed in range(20):
        parts = local.sentences.split_sentences(prompts, [], [2, 2], seed)
        assert sorted(r.name for part in parts for r in part) == [
            r.name for r in prompts
        ]
        side = {r.name: n for n, part in enumerate(parts) for r in part}
        assert side["p0"] == side["p1"]
        assert side["p3"] == side["p4"]
        assert side["p6"] == 2  # too short to be a sentence
        assert all(len(part) <= 2 for part in parts[:2])
        assert parts[0]


def test_sentences_like_joined_prompts_are_trained_on(local: SimpleNamespace) -> None:
    (piece, *prompts) = recordings(
        local, "there are currently", "currently there are currently", "no one is here"
    )
    test, train = local.sentences.split_sentences(prompts, [piece], [5], 1)
    assert [r.text for r in test] == ["no one is here"]
    assert [r.text for r in train] == ["currently there are currently"]


# ---------------------------------------------------------------- sound


def test_trim_leaves_the_sound(local: SimpleNamespace) -> None:
    samples = np.zeros(FS, dtype=np.float32)
    samples[3000:5000] = 0.2
    trimmed = local.sound.trim(samples, FS)
    margin = round(local.sound.TRIM_MARGIN_SECONDS * FS)
    assert np.count_nonzero(trimmed) == 2000
    assert len(trimmed) == 2000 + 2 * margin
    assert not len(local.sound.trim(np.zeros(FS, dtype=np.float32), FS))
    assert not len(local.sound.trim(samples[:10], FS))


@given(
    seed=st.integers(0, 2**32 - 1), gain=st.floats(0.01, 1.0), pieces=st.integers(1, 8)
)
def test_joined_sound_is_in_range(
    local: SimpleNamespace, seed: int, gain: float, pieces: int
) -> None:
    tone = np.sin(np.arange(4000) * 0.3).astype(np.float32) * np.float32(gain)
    joined = local.sound.join([tone] * pieces, FS, Random(seed))
    again = local.sound.join([tone] * pieces, FS, Random(seed))
    np.testing.assert_array_equal(joined, again)
    assert joined.dtype == np.float32
    assert np.abs(joined).max() <= 1.0
    slowest = pieces * 0.5 / 0.9 + (pieces - 1) * 0.1 + 0.31
    assert pieces * 0.5 / 1.1 < len(joined) / FS < slowest
    loudness = 20 * np.log10(np.sqrt(np.mean(joined**2)))
    assert -28.5 < loudness < -17.5


# ---------------------------------------------------------------- the whole


def test_data_folders(local: SimpleNamespace, corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    local.prepare.prepare({"en": corpus}, data, sizes(local), seed=1)
    texts = {name: read_table(data / name / "text") for name in local.prepare.SETS}
    for name, text in texts.items():
        paths = read_table(data / name / "wav.scp")
        speakers = read_table(data / name / "utt2spk")
        assert list(text) == list(paths) == list(speakers) == sorted(text)
        spoken = read_table(data / name / "spk2utt")
        assert spoken == {"en": " ".join(text)}
        for path in paths.values():
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype) == (FS, 1, "PCM_16")
            assert 0.1 < info.duration < 15
    assert len(texts["test_combinations"]) == 12
    assert len(texts["test_sentences"]) == 3
    assert sum("-comb-" in key for key in texts["train"]) == 60
    assert sum("-comb-" in key for key in texts["valid"]) == 6
    trained = {f" {text} " for text in texts["train"].values()}
    for held_out in texts["test_combinations"].values():
        assert not any(f" {held_out} " in text for text in trained)
    for held_out in (*texts["test_sentences"].values(), *texts["valid"].values()):
        assert f" {held_out} " not in trained
    weasels = {
        n for n, t in texts.items() if SENTENCES["demo-five"].lower() in t.values()
    }
    assert len(weasels) == 1


def test_same_seed_same_files(
    local: SimpleNamespace, corpus: Path, tmp_path: Path
) -> None:
    def made(name: str, seed: int) -> dict[str, bytes]:
        out = tmp_path / name
        local.prepare.prepare({"en": corpus}, out, sizes(local), seed)
        files = (p for p in out.rglob("*") if p.is_file() and p.name != "wav.scp")
        return {str(p.relative_to(out)): p.read_bytes() for p in files}

    first = made("a", 1)
    assert made("b", 1) == first
    assert made("c", 2) != first


def test_leaks_are_noticed(local: SimpleNamespace) -> None:
    utterance = local.prepare.Utterance
    one, two = recordings(local, "a b c", "x y z")
    sets = {name: [] for name in local.prepare.SETS}
    sets["test_combinations"] = [utterance("en-comb-test-0", "a b c", (one,))]
    sets["train"] = [utterance("en-comb-train-0", "q a b c", (one, two))]
    with pytest.raises(AssertionError, match="en-comb-train-0"):
        local.prepare.check_apart(sets)
    sets["train"] = [utterance("en-sent-p1-0", "x y z", (two,))]
    local.prepare.check_apart(sets)
    sets["test_sentences"] = [utterance("en-sent-p1-1", "other words", (two,))]
    with pytest.raises(AssertionError, match=r"p1\.wav"):
        local.prepare.check_apart(sets)
    sets["train"] = [utterance("en-comb-train-0", "x y z", (two,))]
    with pytest.raises(AssertionError, match="en-comb-train-0 contains p1, held out"):
        local.prepare.check_apart(sets)


def test_command(corpus: Path, tmp_path: Path) -> None:
    done = run_data(tmp_path, "--corpus", str(corpus), *small_options())
    assert done.returncode == 0, done.stderr
    assert f"en: {len(corpus_texts())} prompts listed" in done.stdout
    assert "do not occur in training" in done.stdout
    assert (
        read_table(tmp_path / "data/train/wav.scp")
        .popitem()[1]
        .startswith("data/train")
    )


def test_two_texts_for_one_name(local: SimpleNamespace, tmp_path: Path) -> None:
    """Ambiguous texts, as in the Spanish list, are rejected."""
    texts = {"digits/1": "one", "hello": "Hello.", "bye": "Bye."}
    corpus = write_corpus(tmp_path, texts)
    listing = next(corpus.rglob("*.gz"))
    more = b"hello: Good day.\nbye: Bye.\n"
    listing.write_bytes(gzip.compress(gzip.decompress(listing.read_bytes()) + more))
    recordings, dropped, listed = local.corpus.read_corpus(corpus, "en")
    assert [r.name for r in recordings] == ["bye", "digits/1"]
    assert dropped == {local.corpus.CONTRADICTION: 1}
    assert listed == 3
