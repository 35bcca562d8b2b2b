"""The comparison from made-up experiments: tables, plot, files, what may be missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.colors import to_hex

from espnet_mtla.bin import cli, results
from espnet_mtla.errors import UserError
from espnet_mtla.score import plot, render
from espnet_mtla.score.provenance import Provenance, provenance
from espnet_mtla.score.results import collect

MADE = Provenance("2026-01-02", {"espnet_mtla": "0.1.0", "torch": "2.11.0"}, "abc1234")
# Errors of 40 utterances with 10 words each, and (wall seconds, cache bytes a second).
SYSTEMS = {
    "mha": ([1, 0, 0, 1] * 10, 20.0, 460800.0),
    "mtla_s2": ([0, 1, 0, 1] * 10, 10.0, 32000.0),
    "mtla_s4": ([2, 1, 1, 2] * 10, 8.0, 16000.0),
}


def make_experiment(
    root: Path,
    name: str,
    system: str,
    decodes: tuple[str, ...] = ("beam10",),
    sets: tuple[str, ...] = ("test",),
    **changed,
) -> Path:
    """An experiment folder as decoding and scoring leave it."""
    errors, wall, cache = SYSTEMS[system]
    efficiency = {
        "utterances": 40,
        "audio_seconds": 100.0,
        "wall_seconds": wall,
        "encoder_seconds": 4.0,
        "search_seconds": wall - 4.0,
        "rtf": wall / 100,
        "tokens": 500,
        "tokens_per_second": 500 / wall,
        "cache_bytes_formula": 1000,
        "cache_bytes_measured": 1000,
        "cache_bytes_per_audio_second": cache,
        "peak_memory_bytes": 512_000_000,
        "parameters": 12_345_678,
        "attention": system.split("_")[0],
        "beam_size": 10,
        "ctc_weight": 0.0,
        "device": "cpu",
        "versions": {},
        **changed,
    }
    score = {
        "metric": "wer",
        "utterances": 40,
        "ref_words": 400,
        "sub": sum(errors) - 3,
        "del": 2,
        "ins": 1,
        "errors": sum(errors),
        "wer": sum(errors) / 4,
        "ci95": [sum(errors) / 4 - 1.5, sum(errors) / 4 + 1.5],
        "sentence_errors": sum(map(bool, errors)),
    }
    for folder in (root / name / f"decode_{d}" / s for d in decodes for s in sets):
        (folder / "score_wer").mkdir(parents=True)
        (folder / "efficiency.json").write_text(json.dumps(efficiency))
        (folder / "score_wer/score.json").write_text(json.dumps(score))
        lines = [
            json.dumps({"key": f"u{i:02d}", "errors": count, "ref_words": 10})
            for i, count in enumerate(errors)
        ]
        (folder / "score_wer/utterances.jsonl").write_text("\n".join(lines) + "\n")
    return root / name


@pytest.fixture
def experiments(tmp_path) -> list[Path]:
    return [make_experiment(tmp_path, f"asr_x_{name}", name) for name in SYSTEMS]


@pytest.fixture
def command(monkeypatch, capsys):
    """Run ``results``; gives (exit code, output, error output)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["results", *map(str, arguments)])
        code = 0
        try:
            cli.run(results.main)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


TERMINAL = """\
test, decoded with beam10

attention  params          WER % [95 %]  sub/del/ins        vs mha  time s  speed-up\
  cache/s  smaller    peak    RTF
---------  ------  --------------------  -----------  ------------  ------  --------\
  -------  -------  ------  -----
mha        12.3 M     5.00 [3.50, 6.50]       17/2/1             -    20.0     1.00x\
   461 kB    1.00x  512 MB  0.200
mtla_s2    12.3 M     5.00 [3.50, 6.50]       17/2/1    +0.00 same    10.0     2.00x\
    32 kB   14.40x  512 MB  0.100
mtla_s4    12.3 M  15.00 [13.50, 16.50]       57/2/1  +10.00 worse     8.0     2.50x\
    16 kB   28.80x  512 MB  0.080

40 utterances, 400 words of reference, 100 s of audio; device cpu; beam size 10;\
 ctc weight 0.0.
"""


def test_terminal_is_as_expected(experiments):
    text = render.terminal(collect(experiments))
    assert text == TERMINAL
    assert max(map(len, text.splitlines())) <= 120


def test_document_is_as_expected(experiments):
    lines = render.document(collect(experiments), MADE, "RESULTS.png").splitlines()
    assert lines[0] == "# Results"
    assert lines[2] == (
        "Made on 2026-01-02 with espnet_mtla 0.1.0, torch 2.11.0, commit abc1234."
    )
    assert lines[4].endswith("(RESULTS.png)")
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


@pytest.mark.parametrize(
    ("gone", "stage"),
    [
        ("efficiency.json", r"stage 10 \(decode\)"),
        ("score_wer/score.json", r"stage 11 \(score\)"),
        ("score_wer/utterances.jsonl", r"stage 11 \(score\)"),
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
    figure = plot.draw([table])
    places = {text.get_text() for text in figure.axes[0].texts}
    assert places == {"mha", "mtla_s4"} | ({"mtla_s2"} if "utt" in gone else set())


def test_missing_experiments_and_decodes(experiments, tmp_path):
    nowhere = tmp_path / "asr_x_mla"
    with pytest.raises(UserError, match=r"asr_x_mla: no such.*stage 8 \(train\)"):
        collect([*experiments, nowhere])
    (table,) = collect([nowhere, *experiments], partial=True)
    assert table.rows[0].missing and table.base == "mha"
    with pytest.raises(UserError, match=r"no decode_NAME folder.*stage 10"):
        collect([nowhere])
    (nowhere / "decode_beam10").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no decoded test set; stage 10"):
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
    score.write_text(json.dumps({**json.loads(good), "sub": None}))
    with pytest.raises(
        UserError, match=r"lacks substitutions; delete it and run stage"
    ):
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


def test_command_writes_everything(command, experiments, tmp_path):
    readme = tmp_path / "recipe/README.md"
    readme.parent.mkdir()
    readme.write_text(f"# Top\n{render.BEGIN}\nOUTDATED\n{render.END}\nbottom\n")
    output = tmp_path / "out/RESULTS.md"
    arguments = ("--exp", *experiments, "--output", output, "--readme", readme)
    code, out, err = command(*arguments)
    assert code == 0, err
    assert TERMINAL in out
    assert "# Results" in output.read_text()
    content = json.loads(output.with_suffix(".json").read_text())
    row = content["tables"][0]["rows"][2]
    assert row["attention"] == "mtla_s4"
    assert row["difference"]["difference"] == 10
    assert row["difference"]["verdict"] == "worse"
    assert row["speed"]["wall_seconds"] == 8
    assert content["versions"]["espnet_mtla"]
    text = readme.read_text()
    assert text.startswith(f"# Top\n{render.BEGIN}\n### Results\n")
    assert text.endswith(f"{render.END}\nbottom\n")
    assert "(../out/RESULTS.png)" in text
    assert "OUTDATED" not in text
    assert command(*arguments)[0] == 0
    assert readme.read_text() == text  # a second run changes nothing


@pytest.mark.parametrize(
    "text", ["none", render.BEGIN, f"{render.END}{render.BEGIN}", render.BEGIN * 2]
)
def test_readme_without_its_markers_stops_before_writing(
    command, experiments, tmp_path, text
):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    output = tmp_path / "out/RESULTS.md"
    code, out, err = command(
        "--exp", *experiments, "--output", output, "--readme", readme
    )
    assert code == 1
    assert f"error: {readme}: needs the line" in err and err.count("\n") == 1
    assert not out and not output.parent.exists()
    assert readme.read_text() == text


def test_command_errors_are_one_line(command, experiments, tmp_path):
    code, _, err = command("--exp", *experiments, "--output", tmp_path / "RESULTS.txt")
    assert (code, err.count("\n")) == (1, 1)
    assert "must end in .md" in err
    (experiments[0] / "decode_beam10/test/efficiency.json").unlink()
    output = tmp_path / "RESULTS.md"
    code, _, err = command("--exp", *experiments, "--output", output)
    assert (code, err.count("\n")) == (1, 1)
    assert "--partial" in err
    assert not output.exists()
    assert command("--exp", *experiments, "--output", output, "--partial")[0] == 0
    assert "stage 10 (decode) makes it" in output.read_text()


def test_plot_shows_every_attention_without_overlap(experiments):
    figure = plot.draw(collect(experiments))
    quality, time = figure.axes
    assert quality.get_xscale() == "log"
    assert [text.get_text() for text in quality.texts] == list(SYSTEMS)
    boxes = [text.get_window_extent() for text in quality.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert [text.get_text() for text in time.get_yticklabels()] == list(SYSTEMS)
    assert len(time.patches) == 2 * len(SYSTEMS)
    assert "10.0 s  (2.00x)" in {text.get_text() for text in time.texts}
    colours = [container.lines[0].get_color() for container in quality.containers]
    assert colours == [plot.COLOURS[name] for name in SYSTEMS]
    assert [to_hex(bar.get_facecolor()) for bar in time.patches[1::2]] == colours


def test_plot_of_crowded_points_keeps_labels_apart(tmp_path):
    made = [make_experiment(tmp_path, f"asr_mtla_s{i}", "mtla_s2") for i in range(2, 6)]
    quality = plot.draw(collect(made)).axes[0]
    boxes = [text.get_window_extent() for text in quality.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_plot_file_holds_a_picture(experiments, tmp_path):
    from matplotlib.image import imread

    plot.save(collect(experiments), tmp_path / "plot.png")
    picture = imread(tmp_path / "plot.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 1500
    assert len({tuple(pixel) for pixel in picture[::4, ::4, :3].reshape(-1, 3)}) > 10


def test_plot_without_any_complete_row(experiments):
    for path in experiments:
        (path / "decode_beam10/test/efficiency.json").unlink()
    figure = plot.draw(collect(experiments, partial=True))
    assert not figure.axes[0].texts


def test_provenance_names_date_and_versions():
    made = provenance()
    assert made.date.count("-") == 2
    assert set(made.versions) == {"espnet_mtla", "torch", "espnet"}
    assert re.match(r"\d+\.\d+", made.versions["torch"])


def test_commit_only_of_a_checkout_that_holds_the_package(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True)

    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr("espnet_mtla.__file__", str(tmp_path / "__init__.py"))
    assert provenance().commit is None  # no checkout at all
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "other things")
    assert provenance().commit is None  # installed inside somebody else's
    git("add", "__init__.py")
    git("commit", "-q", "-m", "ours")
    assert re.fullmatch("[0-9a-f]+", provenance().commit)
    (tmp_path / "__init__.py").write_text("edited = True\n")
    assert re.fullmatch("[0-9a-f]+[+]", provenance().commit)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance().commit is None  # no git
