"""The recipe benchmark: batches against singles, and a gate on their text."""

from __future__ import annotations

import argparse

import pytest

from espnet_mtla.benchmark import recipe
from espnet_mtla.errors import UserError
from test.tiny_experiment import make_data, make_model


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("recipe")
    model, data = make_model(folder / "exp"), make_data(folder / "data")
    parser = argparse.ArgumentParser()
    recipe.add_arguments(parser)
    given = ["--model_dir", str(model), "--data", str(data), "--batch", "4"]
    parsed = parser.parse_args([*given, "--beam_size", "2", "--no_espnet"])
    return argparse.Namespace(**vars(parsed), device="cpu", rounds=1)


def test_batches_and_singles_give_the_same_text(args: argparse.Namespace) -> None:
    report = recipe.run(args)
    batches, singles = report.rows
    assert (batches["who"], singles["who"]) == ("batches", "singles")
    assert batches["utterances"] == 6 and batches["audio s"] == pytest.approx(4.28)
    assert batches["batches are x faster"] == 1
    ratio = singles["decoding s"] / batches["decoding s"]
    assert singles["batches are x faster"] == pytest.approx(ratio)
    assert "6 utterances, the same text" in report.notes[0]


def test_other_text_in_a_batch_is_not_reported() -> None:
    with pytest.raises(UserError, match="u1: another text in a batch"):
        recipe._same({"singles": {"u1": [3]}, "batches": {"u1": [4]}})
