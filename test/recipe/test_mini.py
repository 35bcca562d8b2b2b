"""The mini recipe with the real commands, as a user runs it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time

import pytest

from test.support.recipe_runner import Recipe

pytestmark = pytest.mark.recipe

TINY = (
    *("--attention", "mtla_s2", "--encoder_config", "", "--nbest", "2"),
    *("--local_data_opts", "--num_train 24 --num_valid 4 --num_test 4"),
    *("--train_opts", "--max_epoch 3", "--nj", "1"),
)
TEXTS = re.compile(r"(1best_recog/|tokens\.txt$|score_\w+/score\.json|/text$)")


def texts(recipe: Recipe) -> dict[str, str]:
    """What recognition and scoring wrote, without times and paths of logs."""
    found = {}
    for path in sorted(recipe.folder.rglob("*")):
        name = str(path.relative_to(recipe.folder))
        if path.is_file() and TEXTS.search(name) and not path.name.startswith("."):
            found[name] = path.read_text(encoding="utf-8")
    return found


def test_the_whole_road_learns_and_ends_in_a_table(make_mini) -> None:
    recipe = make_mini("mini")
    output = recipe.run(timeout=900)
    table = output.split("== stage 12 pack ==")[1]
    assert re.search(r"^\| mha ", table, re.MULTILINE)
    assert re.search(r"^\| mtla_s2 ", table, re.MULTILINE)
    for attention in ("mha", "mtla_s2"):
        folder = recipe.folder / f"exp/asr_train_bpe_30_{attention}/decode_decode/test"
        score = json.loads((folder / "score_wer" / "score.json").read_text())
        assert score["utterances"] == 24
        # Without the sound nothing below 80 % can be had.
        assert score["wer"] < 40, table
    again = recipe.run()
    assert ": done in" not in again
    assert again.split("== stage 12 pack ==")[1].count("| mha ") == 1


def wait_for(process, recipe: Recipe, pattern: str, more: float) -> None:
    """Wait for a file and some time more, or for the end of the run."""
    end = time.monotonic() + 120
    while not list(recipe.folder.glob(pattern)) and process.poll() is None:
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.01)
    time.sleep(more)


def test_killed_again_and_again_gives_the_same_texts(make_mini) -> None:
    straight = make_mini("straight")
    straight.run(*TINY, timeout=900)
    expected = texts(straight)
    assert any("1best_recog/text" in name for name in expected)
    killed = make_mini("killed")
    random.seed(0)
    model = "exp/asr_train_bpe_30_mtla_s2"
    for pattern in (
        "data/test/wav.scp",
        "dump/raw/org/*train*",  # half made; whole when it is seen late
        f"{model}/1epoch.pth",
        f"{model}/decode_decode/.lock.test",
    ):
        process = killed.start(*TINY)
        wait_for(process, killed, pattern, random.uniform(0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    killed.run(*TINY, timeout=900)
    assert texts(killed) == expected


def test_a_language_model_is_trained_joins_and_is_packed(make_mini) -> None:
    recipe = make_mini("lm")
    options = ("--use_lm", "--decode_configs", "conf/decode_lm.yaml")
    recipe.run(*TINY, *options, "--lm_args", "--max_epoch 2", timeout=900)
    (packed,) = recipe.folder.glob("exp/packed_train_bpe_30*/asr_train_bpe_30*_mtla_s2")
    assert (packed / "lm" / "model.safetensors").is_file()
    decode = (packed / "decode.yaml").read_text()
    assert "lm: lm\n" in decode and "lm_weight: 0.3\n" in decode
    again = recipe.run(*TINY, *options, "--lm_args", "--max_epoch 2")
    assert ": done in" not in again


def test_own_data_start_at_stage_two_and_are_checked_first(make_mini) -> None:
    recipe = make_mini("own")
    recipe.run(*TINY, "--stop_stage", "1")
    for old, new in (("train", "mine"), ("valid", "mine_dev"), ("test", "mine_test")):
        folder = recipe.folder / "data" / new
        folder.mkdir()
        for table in ("wav.scp", "text"):  # speakers are nobody's duty
            shutil.copy(recipe.folder / "data" / old / table, folder)
    own = ("--train_set", "mine", "--valid_set", "mine_dev", "--test_sets", "mine_test")
    recipe.run(*TINY, *own, "--stage", "2", "--stop_stage", "tokens")
    assert len((recipe.folder / "dump/raw/mine/text").read_text().splitlines()) == 24
    text = recipe.folder / "data" / "mine" / "text"
    text.write_text("".join(text.read_text().splitlines(keepends=True)[:-1]))
    output = recipe.run(*TINY, *own, "--stage", "2", "--stop_stage", "tokens", code=1)
    assert "error: stage 2 (speed_perturb) failed" in output
    assert re.search(r"data/mine.*", output.split("which ends:")[1])
