"""The comparison from made-up experiments: tables, and what may be missing."""

from __future__ import annotations

import json

import pytest

from espnet_mtla.attention import registry
from espnet_mtla.errors import UserError
from espnet_mtla.plot.comparison import draw_comparison
from espnet_mtla.score import render, results
from espnet_mtla.score.provenance import Provenance
from espnet_mtla.score.results import collect
from test.support.scored_experiments import SYSTEMS, TERMINAL, make_experiment

MADE = Provenance("2026-01-02", {"espnet_mtla": "0.1.0", "torch": "2.11.0"}, "abc1234")


def test_terminal_is_as_expected(experiments):
    text = render.terminal(collect(experiments))
    assert text == TERMINAL
    assert max(map(len, text.splitlines())) <= 120


def test_document_is_as_expected(experiments):
    lines = render.document(collect(experiments), MADE, "RESULTS.png").splitlines()
    assert lines[0] == "# Results"
    assert lines[2].endswith("(RESULTS.png)")
    assert lines[4] == (
        "Made on 2026-01-02 with espnet_mtla 0.1.0, torch 2.11.0, commit abc1234."
    )
    assert "## test, decoded with beam10" in lines
    rows = [line for line in lines if line.startswith("|")]
    assert [cell.strip() for cell in rows[3].strip("|").split("|")] == [
        "mtla_s2",
        "12.3 M",
        "5.00 [3.50, 6.50]",
        "17/2/1",
        "+0.00 same",
        "10.0",
        "2.00x",
        "32 kB",
        "14.40x",
        "512 MB",
        "0.100",
    ]
    assert len(rows) == 5


def test_each_set_and_decode_has_its_table(tmp_path):
    names, sets = ("beam1", "beam10"), ("clean", "noisy")
    made = [make_experiment(tmp_path, f"asr_{a}", a, names, sets) for a in SYSTEMS]
    (made[0] / "decode_beam1/log").mkdir()  # not a test set
    found = [(table.test_set, table.decode) for table in collect(made)]
    assert found == [(s, d) for s in sets for d in names]
    found = [(table.test_set, table.decode) for table in collect(made, ["beam10"])]
    assert found == [("clean", "beam10"), ("noisy", "beam10")]
    (only,) = collect(made, ["beam1"], ["noisy"])
    assert (only.test_set, only.decode) == ("noisy", "beam1")


def test_base_is_mha_wherever_it_stands(experiments):
    (table,) = collect(experiments[::-1])
    assert table.base == "mha"
    assert [row.speedup for row in table.rows] == [2.5, 2.0, 1.0]
    assert [row.difference is None for row in table.rows] == [False, False, True]


def test_without_mha_the_first_is_base_and_the_table_says_so(experiments):
    (table,) = collect(experiments[1:])
    assert [row.speedup for row in table.rows] == [1.0, 1.25]
    text = render.terminal([table])
    assert "vs first" in text
    assert "There is no mha among the experiments: compared with mtla_s2." in text


def test_labels(tmp_path):
    names = ["asr_mtla_try_mha", "asr_mtla_try_mtla_s2", "other"]
    made = [
        make_experiment(tmp_path, name, system)
        for name, system in zip(names, SYSTEMS, strict=True)
    ]
    (table,) = collect(made)
    assert [row.attention for row in table.rows] == ["mha", "mtla_s2", "other"]
    again = make_experiment(tmp_path, "asr_b_mha", "mha")
    (table,) = collect([made[0], again])  # twice mha: the whole names tell them apart
    assert [row.attention for row in table.rows] == ["asr_mtla_try_mha", "asr_b_mha"]
    with pytest.raises(UserError, match="given twice"):
        collect([made[0], made[0]])


def test_rows_are_labelled_with_every_registered_type():
    assert set(results.ATTENTIONS) == set(registry.ATTENTIONS)


@pytest.mark.parametrize(
    ("gone", "stage"),
    [
        ("efficiency.json", r"stage decode"),
        ("score_wer/score.json", r"stage score"),
        ("score_wer/utterances.jsonl", r"stage score"),
    ],
)
def test_missing_files(experiments, gone, stage):
    path = experiments[1] / "decode_beam10/test" / gone
    path.unlink()
    with pytest.raises(UserError, match=rf"{path}: missing; {stage} makes it"):
        collect(experiments)
    (table,) = collect(experiments, partial=True)
    text = render.terminal([table])
    assert f"mtla_s2: {path}: missing" in text
    row = next(line for line in text.splitlines() if line.startswith("mtla_s2 "))
    assert " -  " in row
    assert "16 kB" in text  # the others stay
    figure = draw_comparison([table])
    places = {text.get_text() for text in figure.axes[0].texts}
    assert places == {"mha", "mtla_s4"} | ({"mtla_s2"} if "utt" in gone else set())


def test_missing_experiments_and_decodes(experiments, tmp_path):
    nowhere = tmp_path / "asr_x_mla"
    with pytest.raises(UserError, match=r"asr_x_mla: no such.*stage train"):
        collect([*experiments, nowhere])
    (table,) = collect([nowhere, *experiments], partial=True)
    assert table.rows[0].missing and table.base == "mha"
    with pytest.raises(UserError, match=r"no decode_NAME folder.*stage decode"):
        collect([nowhere])
    (nowhere / "decode_beam10").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no decoded test set; stage decode"):
        collect([nowhere])
    with pytest.raises(UserError, match=r"decode_beam3/test/efficiency.json: missing"):
        collect(experiments, ["beam3"], ["test"])


def test_missing_base_leaves_gaps(experiments):
    (experiments[0] / "decode_beam10/test/efficiency.json").unlink()
    (table,) = collect(experiments, partial=True)
    assert [row.speedup for row in table.rows] == [None] * 3
    assert [row.difference for row in table.rows] == [None] * 3


def test_bad_files_are_named(experiments):
    folder = experiments[2] / "decode_beam10/test"
    score = folder / "score_wer/score.json"
    good = score.read_text()
    for bad, message in [("{", "not JSON"), ("[]", "not a JSON object")]:
        score.write_text(bad)
        with pytest.raises(UserError, match=rf"{score}: {message}"):
            collect(experiments)
    whole = json.loads(good)
    score.write_text(json.dumps({k: v for k, v in whole.items() if k != "sub"}))
    with pytest.raises(UserError, match=r"lacks sub; delete it and run stage"):
        collect(experiments)
    score.write_text(good)
    counts = folder / "score_wer/utterances.jsonl"
    lines = counts.read_text().splitlines()
    counts.write_text("\n".join([*lines[:3], '{"key": "u03"}']))
    with pytest.raises(UserError, match=rf"{counts}: line 4 is not as"):
        collect(experiments)
    counts.write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match=r"not scored on the same references.*u39"):
        collect(experiments)


def test_differing_conditions_are_pointed_at(tmp_path):
    made = [
        make_experiment(tmp_path, "asr_mha", "mha"),
        make_experiment(tmp_path, "asr_mtla_s2", "mtla_s2", device="cuda"),
    ]
    text = render.terminal(collect(made))
    assert "device differs: mha: cpu, mtla_s2: cuda." in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (1234, "1.23 kB"),
        (57600, "57.6 kB"),
        (99960, "100 kB"),
        (460800, "461 kB"),
        (2e9, "2 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_quantity(value, text):
    assert render.quantity(value, "B") == text
