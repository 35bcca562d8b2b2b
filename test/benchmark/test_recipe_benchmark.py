"""The recipe benchmark: batches against singles, ESPnet's beside ours, a gate."""

from __future__ import annotations

import argparse

import pytest
import torch

from espnet_mtla import espnet
from espnet_mtla.benchmark import recipe
from espnet_mtla.benchmark.espnet_decoding import EspnetDecoder
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.load import TrainedModel
from espnet_mtla.search.options import DecodeOptions
from test.support.tiny_experiment import make_data, make_model

batched = pytest.mark.skipif(
    (espnet.espnet_version() or 0) < espnet.BATCHED,
    reason=f"ESPnet decodes in batches from {espnet.BATCHED} on",
)
LENGTHS = {"u0": 12, "u1": 3, "u2": 8, "u3": 1}


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("recipe")
    model, data = make_model(folder / "exp"), make_data(folder / "data")
    parser = argparse.ArgumentParser()
    recipe.add_arguments(parser)
    given = ["--model_dir", str(model), "--data", str(data), "--batch", "4"]
    parsed = parser.parse_args([*given, "--beam_size", "2", "--no_espnet"])
    return argparse.Namespace(**vars(parsed), device="cpu", rounds=1)


def changed(args: argparse.Namespace, **changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})


def loaded(args: argparse.Namespace):
    device = torch.device("cpu")
    return TrainedModel.from_folder(args.model_dir, device, DecodeOptions())


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_batches_and_singles_give_the_same_text(args, ctc_weight) -> None:
    report = recipe.run(changed(args, ctc_weight=ctc_weight))
    batches, singles = report.rows
    assert (batches["who"], singles["who"]) == ("batches", "singles")
    assert batches["audio s"] == pytest.approx(4.28)
    assert batches["our batches are x faster"] == 1
    ratio = singles["decoding s"] / batches["decoding s"]
    assert singles["our batches are x faster"] == pytest.approx(ratio)
    assert batches["same text as alone"] == "6 of 6"


def test_other_text_in_a_batch_is_not_reported() -> None:
    with pytest.raises(UserError, match="u1: another text in a batch"):
        recipe._check_same({"u1": [4]}, {"u1": [3]})


def test_texts_that_a_batch_changes_are_counted_for_each_side() -> None:
    texts = {
        "batches": {"u1": [3], "u2": [4]},
        "singles": {"u1": [3], "u2": [4]},
        "espnet, batches": {"u1": [5], "u2": [7, 7]},
        "espnet, singles": {"u1": [5], "u2": [7]},
    }
    seconds = {who: (2.0 + place, 1.0) for place, who in enumerate(texts)}
    rows = recipe._rows(texts, seconds, audio=10.0)
    same = [row["same text as alone"] for row in rows]
    assert same == ["2 of 2", "2 of 2", "1 of 2", "2 of 2"]
    assert [row["our batches are x faster"] for row in rows] == [1, 1.5, 2, 2.5]


@batched
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_espnet_takes_turns_with_ours(args, ctc_weight) -> None:
    report = recipe.run(changed(args, no_espnet=False, ctc_weight=ctc_weight, rounds=2))
    rows = {row["who"]: row for row in report.rows}
    assert [*rows] == [*recipe.OURS, *recipe.ESPNET]
    assert rows["espnet, batches"]["same text as alone"].endswith(" of 6")
    assert all(row["decoding s"] > 0 for row in report.rows)


@batched
def test_espnet_decodes_the_output_of_the_same_encoder(args) -> None:
    """Weights and settings were carried over: equal frames for equal sound."""
    trained = loaded(args)
    peer = EspnetDecoder(args, trained)
    for sound in recipe._sounds(args, trained.fs):
        speech, lengths = torch.from_numpy(sound.samples)[None], [len(sound.samples)]
        with torch.inference_mode():
            ours, _ = trained.model.encode(speech, torch.tensor(lengths))
            theirs, _ = peer._decode.asr_model.encode(speech, torch.tensor(lengths))
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@batched
def test_espnet_gives_each_utterance_as_many_tokens_as_asked(args) -> None:
    """In a batch, which it sorts, and alone; <blank> is not in what it returns."""
    trained = loaded(args)
    peer = EspnetDecoder(args, trained)
    sounds = [s for s in recipe._sounds(args, trained.fs) if s.key in LENGTHS]
    peer.set_lengths({key: [1] * length for key, length in LENGTHS.items()})
    for batches in ([sounds], [[sound] for sound in sounds]):
        texts = {
            key: tokens for batch in batches for key, tokens in peer(batch).items()
        }
        for key, length in LENGTHS.items():
            assert length - 2 <= len(texts[key]) <= length + 1, (key, texts[key])


def test_an_espnet_that_takes_singles_is_refused_by_name(args, monkeypatch) -> None:
    monkeypatch.setattr(espnet, "espnet_version", lambda: 202511)
    with pytest.raises(UserError, match="espnet 202511: decodes utterances one by one"):
        EspnetDecoder(args, loaded(args))


@batched
def test_a_front_end_that_espnet_lacks_is_named(args, tmp_path) -> None:
    folder = make_model(tmp_path / "exp")
    trained = loaded(args)
    config = folder / "config.yaml"
    text = config.read_text().replace("frontend: default", "frontend: fbank")
    config.write_text(text)
    with pytest.raises(UserError, match="frontend 'fbank': ESPnet has none"):
        EspnetDecoder(changed(args, model_dir=folder), trained)
