"""The four recipes through every stage, as a user runs them, on their fixtures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from test.support.ami_corpus import write_ami
from test.support.must_c_corpus import write_must_c
from test.support.recipe_runner import Recipe
from test.support.slurp_corpus import write_slurp
from test.support.xsum_corpus import write_xsum

pytestmark = pytest.mark.recipe

# One epoch of the small configuration, the likeliest tokens, one set to validate and to
# test on: to see the road, not to learn.
SMALL = (
    *("--train_config", "conf/train_small.yaml", "--attention", "mtla_s2"),
    *("--train_opts", "--max_epoch 1", "--nbest", "1", "--nj", "1", "--threads", "1"),
    *("--decode_configs", "../../../conf/decode/greedy.yaml", "--readme", ""),
)


def score_of(recipe: Recipe, metric: str, test_set: str) -> dict:
    """What was counted on a test set."""
    pattern = f"exp/*_mtla_s2/decode_greedy/{test_set}/score_{metric}/score.json"
    (path,) = recipe.folder.glob(pattern)
    return json.loads(path.read_text())


def run_all(recipe: Recipe, corpus: Path, *options: str) -> str:
    """All stages, with a table at the end."""
    more = (*SMALL, "--local_data_opts", f"--corpus {corpus}", *options)
    output = recipe.run(*more, timeout=900)
    table = output.split("== stage 12 pack ==")[1]
    assert re.search(r"^\| mtla_s2 ", table, re.MULTILINE), output
    return output


def test_must_c(make_run: Callable[[str], Recipe], tmp_path: Path) -> None:
    """Another language by one option; Fbank from a zip; the encoder first."""
    write_must_c(tmp_path / "corpus", "fr", talks=1, entries=5)
    recipe = make_run("must_c/st1")
    output = run_all(
        recipe,
        tmp_path / "corpus",
        *("--lang", "fr", "--nbpe", "60", "--test_sets", "dev.en-fr"),
        *("--encoder_config", "conf/encoder_small.yaml", "--feats_type", "fbank_zip"),
    )
    assert "tst-HE: 5 entries in, 5 kept, 0 dropped" in output
    assert score_of(recipe, "bleu", "dev.en-fr")["utterances"] == 5
    assert list(recipe.folder.glob("dump/raw/*/train.en-fr/**/*.zip"))
    assert (recipe.folder / "data/token_list/fr_unigram_60/tokens.txt").is_file()


def test_ami(make_run: Callable[[str], Recipe], tmp_path: Path) -> None:
    """Eight microphones made one, at three speeds."""
    write_ami(tmp_path / "corpus", segments=2, seconds=6.0)
    recipe = make_run("ami/asr1")
    output = run_all(
        recipe,
        tmp_path / "corpus",
        *("--mic", "mdm8", "--nbpe", "30", "--test_sets", "dev_mdm8"),
    )
    assert "eval: 4 segments in, 4 kept, 0 dropped" in output
    assert score_of(recipe, "wer", "dev_mdm8")["utterances"] == 4
    train = recipe.folder / "dump/raw/train_mdm8_sp"
    assert len((train / "text").read_text().splitlines()) == 12
    assert ".ark:" in (train / "wav.scp").read_text()


def test_slurp(make_run: Callable[[str], Recipe], tmp_path: Path) -> None:
    """Real and synthetic speech, word tokens, the intent before the words."""
    write_slurp(tmp_path / "corpus", sentences=4)
    recipe = make_run("slurp/slu1")
    output = run_all(recipe, tmp_path / "corpus", "--test_sets", "devel")
    assert "train_synthetic: 4 recordings in, 4 kept, 0 dropped" in output
    assert score_of(recipe, "intent", "devel")["utterances"] == 8
    assert re.search(r"^\| majority ", output, re.MULTILINE)
    tokens = (recipe.folder / "data/token_list/word/tokens.txt").read_text().split()
    assert "takeaway_order" in tokens


def test_xsum(make_run: Callable[[str], Recipe], tmp_path: Path) -> None:
    """Text to text, one vocabulary for both."""
    write_xsum(tmp_path / "corpus", "arrow", train=8)
    recipe = make_run("xsum/sum1")
    output = run_all(
        recipe, tmp_path / "corpus", "--nbpe", "80", "--test_sets", "validation"
    )
    assert "train: 8 articles in, 8 kept, 0 dropped" in output
    assert score_of(recipe, "rouge", "validation")["utterances"] == 4
    assert re.search(r"^\| first_sentence ", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("must_c/st1", "en-de/data/train/txt/train.de: no such file"),
        ("ami/asr1", "meetings.xml: no such file"),
        ("slurp/slu1", "dataset/slurp/train.jsonl: no such file"),
        ("xsum/sum1", "no files of test, validation, train; all sets are needed"),
    ],
)
def test_no_corpus(
    make_run: Callable[[str], Recipe], tmp_path: Path, name: str, missing: str
) -> None:
    """One line names the missing file and the option to set."""
    (tmp_path / "empty").mkdir()
    options = ("--local_data_opts", f"--corpus {tmp_path}/empty", "--stop_stage", "1")
    output = make_run(name).run(*options, code=1)
    (line,) = re.findall(r"^ +error: (.*)$", output, re.MULTILINE)
    assert missing in line
    assert "Traceback" not in output
