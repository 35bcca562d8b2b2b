"""Users' own Kaldi folders from stage 2 on, for translation and intents."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from espnet_mtla.data.table import read_table, write_table
from test.support.corpus_sound import write_sound
from test.support.recipe_runner import Recipe

pytestmark = pytest.mark.recipe

SETS = ("--train_set", "mine", "--valid_set", "mine_dev", "--test_sets", "mine_test")
SMALL = (
    *("--attention", "mtla_s2", "--encoder_config", "", "--nbest", "1", "--nj", "1"),
    *("--train_opts", "--max_epoch 1", "--stage", "2"),
)


def write_own(recipe: Recipe, tables: dict[str, str]) -> None:
    """One recording per set, read by a pipe and cut in two, without speakers."""
    for seed, name in enumerate(SETS[1::2]):
        folder = recipe.folder / "data" / name
        sound = folder / "my talk.wav"
        write_sound(sound, 4.0, seed)
        write_table(folder / "wav.scp", {"talk": f"cat '{sound}' |"})
        cuts = {"talk-1": "talk 0.5 2.0", "talk-2": "talk 2.0 -1"}
        write_table(folder / "segments", cuts)
        for table, text in tables.items():
            write_table(folder / table, dict.fromkeys(cuts, text))


def test_intents(make_run: Callable[[str], Recipe]) -> None:
    """Run until there is a model; later stages need no more of the folder."""
    recipe = make_run("mini/asr1")
    write_own(recipe, {"text": "door_open the door", "text.words": "the door"})
    options = (*SETS, *SMALL, "--task", "slu", "--token_type", "word")
    options += ("--source_text", "text.words", "--stop_stage", "train")
    recipe.run(*options, timeout=900)
    (log,) = recipe.folder.glob("exp/logs/8_train.*.log")
    assert "1 intents in training, the rarest, door_open, 2 times" in log.read_text()
    assert list(recipe.folder.glob("exp/slu_train_mine_word*_mtla_s2/1epoch.pth"))


def test_translation(make_run: Callable[[str], Recipe]) -> None:
    """Tables of any name; a missing utterance is named before anything is written."""
    recipe = make_run("mini/asr1")
    write_own(recipe, {"text.tc.fr": "La porte s'ouvre.", "text.lc.en": "it opens"})
    options = (*SETS, *SMALL, "--task", "st", "--token_type", "char")
    options += ("--stop_stage", "tokens", "--source_text", "text.lc.en")
    output = recipe.run(*options, code=1)
    found = "data/mine has text.lc.en text.tc.fr"
    assert f"error: --target_text text: no such table; {found}" in output
    options += ("--target_text", "text.tc.fr")
    recipe.run(*options)
    assert set(read_table(recipe.folder / "dump/raw/mine/utt2dur").values()) == {
        "1.5000",
        "2.0000",
    }
    tokens = recipe.folder / "data/token_list/mine_char/tokens.txt"
    assert {"L", "'", "n", "."} <= set(tokens.read_text().split())
    table = recipe.folder / "data/mine_dev/text.lc.en"
    table.write_text("talk-1 it opens\n")
    output = recipe.run(*options, code=1)
    assert "talk-2: not in text.lc.en" in output


def test_recordings_that_cannot_be_read(make_run: Callable[[str], Recipe]) -> None:
    """With --drop_bad they are left out of every set, and the screen says so."""
    recipe = make_run("mini/asr1")
    for seed, name in enumerate(SETS[1::2]):
        folder = recipe.folder / "data" / name
        write_sound(folder / "good.wav", 2.0, seed)
        (folder / "bad.wav").write_bytes(b"RIFF and nothing more")
        keys = ("bad", "good")
        write_table(folder / "wav.scp", {key: f"{folder}/{key}.wav" for key in keys})
        write_table(folder / "text", dict.fromkeys(keys, "words"))
    options = (*SETS, "--nj", "1", "--stage", "2", "--stop_stage", "filter")
    output = recipe.run(*options, code=1)
    assert "error: data/mine: 1 problem" in output
    output = recipe.run(*options, "--drop_bad", "true")
    reasons = "dump/raw/org/mine_test/dropped has the reasons"
    assert f"mine_test: 1 of 2 utterances are left out: {reasons}" in output
    assert output.count("1 of 2 utterances are left out") == 3
    for name in SETS[1::2]:
        assert list(read_table(recipe.folder / "dump/raw" / name / "text")) == ["good"]
