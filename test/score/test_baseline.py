"""Trivial systems, and their row in the table beside the models'."""

from __future__ import annotations

import json
import sys

import pytest

from espnet_mtla.bin import score
from espnet_mtla.data.table import write_table
from espnet_mtla.errors import UserError
from espnet_mtla.plot.comparison import draw_comparison
from espnet_mtla.score import render
from espnet_mtla.score.baseline import BASELINES, Question
from espnet_mtla.score.results import collect
from test.support.scored_experiments import make_experiment

TRAIN = {"a": "play jazz", "b": "stop it", "c": "play pop", "d": "stop it"}


@pytest.fixture
def question(tmp_path):
    write_table(tmp_path / "train" / "text", {**TRAIN, "e": "play on"})
    write_table(tmp_path / "test" / "text", {"x": "play rock", "y": "stop"})
    write_table(
        tmp_path / "test" / "text.source",
        {"x": "It is v. 2.0 of it. More.", "y": "Parts: a, b."},
    )
    return Question(tmp_path / "train", tmp_path / "test", "text", "text.source")


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("most_frequent", ["stop it", "stop it"]),
        ("majority", ["play", "play"]),
        ("first_sentence", ["It is v. 2.0 of it.", "Parts:"]),
    ],
)
def test_answers(question, name, answers):
    assert BASELINES[name](question) == dict(zip("xy", answers, strict=True))


def test_first_sentence_needs_sources(question):
    with pytest.raises(UserError, match="needs --source_text"):
        BASELINES["first_sentence"](Question(question.train, question.data, "text", ""))


@pytest.fixture
def scored(tmp_path, monkeypatch, capsys):
    """Two models and a baseline whose texts were scored by BLEU."""
    ref = {f"u{i}": f"the {word} sat on the mat" for i, word in enumerate("abcdefgh")}
    write_table(tmp_path / "ref", ref)
    texts = {
        "asr_x_mha": dict.fromkeys(ref, "the dog stood in the rain"),
        "asr_x_mtla_s2": ref,
        "baseline_most_frequent": dict.fromkeys(ref, "the a sat on the mat"),
    }
    for name, hypotheses in texts.items():
        model = not name.startswith("baseline")
        if model:
            make_experiment(tmp_path, name, name.removeprefix("asr_x_"))
        folder = tmp_path / name / ("decode_beam10/test" if model else "test")
        write_table(folder / "text", hypotheses)
        arguments = ("--ref", tmp_path / "ref", "--hyp", folder / "text")
        words = ["score", "bleu", *arguments, "--output_dir", folder / "score_bleu"]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        score.main()
    capsys.readouterr()
    return [tmp_path / name for name in texts]


def test_the_table_has_the_metric_and_the_baseline(scored):
    *models, baseline = scored
    (table,) = collect(models, metric="bleu", baselines=[baseline])
    lines = render.terminal([table]).splitlines()
    assert "BLEU [95 %]" in lines[2] and "chrF" in lines[2]
    assert [line.split()[0] for line in lines[4:7]] == [
        *("most_frequent", "mha", "mtla_s2"),
    ]
    assert "100.00 [100.00, 100.00]" in lines[6] and "better" in lines[6]
    assert lines[4].split()[1] == render.GAP  # a baseline has no parameters
    places = {text.get_text() for text in draw_comparison([table]).axes[0].texts}
    assert places == {"mha", "mtla_s2"}
    json.dumps(render.as_json([table], render.Provenance("", {}, None)))
    (baseline / "test/score_bleu/score.json").unlink()
    with pytest.raises(UserError, match=r"score\.json: missing; stage score"):
        collect(models, metric="bleu", baselines=[baseline])
