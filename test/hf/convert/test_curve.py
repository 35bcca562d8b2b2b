"""The table of perplexity against bytes of cache: its numbers, and its resumption."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from espnet_mtla.benchmark.report import BenchmarkReport
from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.build import Target, convert
from espnet_mtla.hf.convert.curve import parse_targets, read_texts
from espnet_mtla.hf.convert.text import TextBlocks, perplexity
from test.hf.convert.conftest import TEXT
from test.support.tiny_llama import run_convert as run

SMALL = ["--kv_lora_rank", 16, 8, "--qk_rope_head_dim", 8, "--length", 32]
SMALL += ["--heal_steps", 2, "--batch", 2]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[str]:
    """Two texts, one of them another part of the licence."""
    folder = tmp_path_factory.mktemp("texts")
    whole = TEXT.read_text(encoding="utf-8")
    (folder / "start.txt").write_text(whole[:6000])
    (folder / "rest.txt").write_text(whole[6000:9000])
    return [f"start={folder / 'start.txt'}", f"rest={folder / 'rest.txt'}"]


@pytest.fixture(scope="module")
def measured(trained, texts, tmp_path_factory) -> Path:
    """The folder of a finished curve."""
    output = tmp_path_factory.mktemp("curve") / "out"
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "curve", trained[0], output, "--text", *texts, *SMALL)
    return output


def rows(folder: Path) -> list[dict]:
    return BenchmarkReport.read(folder / "curve.json").rows


def test_rows_have_the_bytes_of_their_caches(measured) -> None:
    table = rows(measured)
    settings = [(row["attention"], row["rank"], row["bytes/token"]) for row in table]
    # 2 layers of float32; GQA: 2 key-value heads of width 8, keys and values.
    assert settings == [
        ("gqa", None, 2 * 4 * (16 + 16)),
        *(("mla", rank, 2 * 4 * (rank + 8)) for rank in (16, 8)),
        *(("mtla_s2", rank, 2 * 4 * (rank + 8) / 2) for rank in (16, 8)),
        *(("mtla_s4", rank, 2 * 4 * (rank + 8) / 4) for rank in (16, 8)),
    ]
    assert [row["smaller"] for row in table] == [256 / row[2] for row in settings]
    document = (measured / "curve.md").read_text(encoding="utf-8")
    assert "2 steps of 2 blocks of 32 tokens" in document
    assert "transformers: " in document and "espnet-mtla convert curve" in document
    assert (measured / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_perplexities_are_of_held_out_blocks(trained, texts, measured) -> None:
    from transformers import AutoTokenizer

    folder, model, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = {(row["attention"], row["rank"]): row for row in rows(measured)}
    for text in texts:
        name, _, file = text.partition("=")
        held_out = TextBlocks.read([file], tokenizer, 32).held_out
        before = table["gqa", None][f"{name} converted"]
        assert before == pytest.approx(perplexity(model, held_out), rel=1e-4)
        # Distilled from itself, the original stays as it is.
        assert table["gqa", None][f"{name} healed"] == before
        assert table["mtla_s2", 8][f"{name} healed"] > 1
    # Rank 24 of 32 - 8 components loses nothing but rotation: rank 8 loses more.
    assert table["mla", 8]["start converted"] > table["mla", 16]["start converted"]


def test_measured_rows_are_read_and_other_options_measure_again(
    trained, texts, measured, tmp_path, monkeypatch, caplog
) -> None:
    caplog.set_level(logging.INFO)
    output = tmp_path / "out"
    shutil.copytree(measured, output)
    (output / "rows" / "mtla_s2_r8.json").unlink()
    path = output / "rows" / "mla_r8.json"
    stored = json.loads(path.read_text())
    stored["row"]["start healed"] = 7.0  # would be 7 only if it is read
    path.write_text(json.dumps(stored))
    before = rows(measured)
    run(monkeypatch, "curve", trained[0], output, "--text", *texts, *SMALL)
    assert caplog.text.count("measured by an earlier run") == 6
    after = {(row["attention"], row["rank"]): row for row in rows(output)}
    assert after["mla", 8]["start healed"] == 7.0
    again = next(x for x in before if (x["attention"], x["rank"]) == ("mtla_s2", 8))
    for name in ("start converted", "start healed", "rest healed"):
        assert after["mtla_s2", 8][name] == pytest.approx(again[name], rel=1e-4)
    caplog.clear()
    name, _, file = texts[1].partition("=")
    longer = tmp_path / "longer.txt"
    longer.write_text(Path(file).read_text() + "More. " * 100)
    shutil.copy(file, aside := tmp_path / "aside.txt")
    try:
        shutil.copy(longer, file)  # the same name, another text
        one = [*SMALL, "--attention", "mla", "--kv_lora_rank", 8]
        run(monkeypatch, "curve", trained[0], output, "--text", *texts, *one)
    finally:
        shutil.copy(aside, file)
    assert caplog.text.count("measured with other options; measured again") == 2
    caplog.clear()
    fewer = [*SMALL, "--heal_steps", 1, "--attention", "mla"]
    run(monkeypatch, "curve", trained[0], output, "--text", *texts, *fewer)
    assert caplog.text.count("measured with other options; measured again") == 3
    assert {(row["attention"], row["rank"]) for row in rows(output)} == {
        *(("gqa", None), ("mla", 16), ("mla", 8))
    }


def test_with_the_texts_own_loss_the_original_is_trained_too(
    trained, texts, tmp_path, monkeypatch
) -> None:
    options = [*SMALL, "--attention", "mla", "--kv_lora_rank", 16, "--distil", 0]
    options += ["--heal_steps", 20, "--learning_rate", 3e-3]
    run(monkeypatch, "curve", trained[0], tmp_path / "o", "--text", *texts, *options)
    original, converted = rows(tmp_path / "o")
    assert original["start healed"] != original["start converted"]
    assert converted["start healed"] != converted["start converted"]


def test_without_healing_there_are_no_columns_of_it(
    trained, texts, tmp_path, monkeypatch
) -> None:
    options = [*SMALL, "--attention", "mtla_s2", "--heal_steps", 0]
    run(monkeypatch, "curve", trained[0], tmp_path / "o", "--text", *texts, *options)
    assert not any("healed" in column for row in rows(tmp_path / "o") for column in row)
    assert "- no healing" in (tmp_path / "o" / "curve.md").read_text(encoding="utf-8")


def test_calibration_uses_all_texts_and_no_held_out_block(trained, texts) -> None:
    from transformers import AutoTokenizer

    from espnet_mtla.hf.convert.curve import Curve
    from espnet_mtla.hf.convert.heal import Healing

    folder, model, _ = trained
    read = read_texts(texts, AutoTokenizer.from_pretrained(folder), 32, 64)
    curve = Curve(model, read, Healing(), 6, Path("unused"), {})
    rows = [row.tolist() for row in curve.calibration]
    for text in read.values():
        training = text.training.tolist()
        assert sum(row in training for row in rows) == 3
    assert len(rows) == 6
    target = Target("mla", 1, 8, 8, 32)
    weights = convert(model, target, curve.calibration)[0].state_dict()
    from espnet_mtla.hf.convert.moments import second_moments

    moments = second_moments(model, curve.calibration)
    shared = convert(model, target, moments=moments)[0].state_dict()
    assert all((weights[name] == shared[name]).all() for name in weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "a.txt"], "text: 'a.txt' given, NAME=FILE"),
        (["--text", "=a.txt"], "text: '=a.txt' given, NAME=FILE"),
        (["--text", f"a={TEXT}", f"a={TEXT}"], "with a different NAME for each"),
        (["--text", f"a={TEXT}", "--attention", "mtla"], "attention: 'mtla' given, ml"),
        (
            ["--text", f"a={TEXT}", "--attention", "mtla_s0"],
            "'mtla_s0' given, mla, mtla_sN",
        ),
        (["--text", f"a={TEXT}", "--kv_lora_rank", 3], "kv_lora_rank: 3 given, an e"),
        (
            ["--text", f"a={TEXT}", "--qk_rope_head_dim", 34],
            "head_dim: 34 given, an ev",
        ),
        (["--text", f"a={TEXT}", "--held_out", 0], "held_out: 0 given, 1 or more"),
    ],
)
def test_bad_options_are_named(
    trained, tmp_path, monkeypatch, arguments: list, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        options = ["--length", 32, "--qk_rope_head_dim", 8, *arguments]
        run(monkeypatch, "curve", trained[0], tmp_path / "out", *options)
    assert "\n" not in str(raised.value)


def test_targets_are_all_pairs() -> None:
    targets = parse_targets(["mla", "mtla_s3"], [8, 6], 4, 9)
    sizes = [(t.attention, t.down_rate, t.kv_lora_rank) for t in targets]
    assert sizes == [("mla", 1, 8), ("mla", 1, 6), ("mtla", 3, 8), ("mtla", 3, 6)]
    assert {t.context for t in targets} == {9}
