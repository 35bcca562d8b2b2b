"""The decode benchmark: equal outputs of peers, its correctness check, a small run."""

from __future__ import annotations

import argparse

import pytest
import torch

from espnet_mtla.benchmark import decode
from espnet_mtla.benchmark.decoders import OwnDecoder
from espnet_mtla.errors import UserError

SMALL = (
    *("--attention", "mtla_s2", "mha", "--prompt", "9", "--steps", "3"),
    *("--utterances", "2", "--beam", "2", "--num_layers", "1", "--embed_dim", "32"),
    *("--num_heads", "4", "--vocab_size", "11"),
)


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    decode.add_arguments(parser)
    common = {"device": "cpu", "rounds": 1, "max_seconds": 1.0}
    return argparse.Namespace(**vars(parser.parse_args(given)), **common)


def test_ours_and_the_reference_stand_in_one_table() -> None:
    report = decode.run(arguments(*SMALL))
    rows = {(row["attention"], row["who"]): row for row in report.rows}
    assert set(rows) == {
        *((name, who) for name in ("mtla_s2", "mha") for who in ("ours", "reference")),
        ("mtla_s2", "products"),
        ("none", "ours"),
    }
    floor = rows["none", "ours"]
    assert floor["cache MB"] == 0 and "cache x, ref mha" not in floor
    assert floor["time x, ref mha"] > 0
    # 2 utterances, 2 beams, 9 + 3 tokens, keys and values of 32 numbers.
    assert rows["mha", "reference"]["cache MB"] == 4 * 12 * 2 * 32 * 4 / 1e6
    # A prompt copy an utterance; the suffix a row, and once more as the spare one.
    assert rows["mha", "ours"]["cache MB"] == (2 * 9 + 2 * 4 * 3) * 2 * 32 * 4 / 1e6
    ours = rows["mtla_s2", "ours"]
    smaller = rows["mtla_s2", "reference"]["cache MB"] / ours["cache MB"]
    assert ours["cache x, own ref"] == pytest.approx(smaller)
    assert sum("gate: " in note for note in report.notes) == 2


def test_the_limit_counts_the_products_of_a_step_and_no_more() -> None:
    """By torch's count of operations; a few tokens of a long prompt."""
    from torch.utils.flop_counter import FlopCounterMode

    args = arguments(*SMALL, "--num_layers", "2")
    cases = decode._cases(args, "mtla_s2", torch.randn(2, 64, 32), beam=2)
    counts = {}
    for (_, who), make in cases.items():
        case = make()
        case.step(torch.zeros(4, dtype=torch.long))
        with FlopCounterMode(display=False) as counted:
            case.step(torch.zeros(4, dtype=torch.long))
        counts.setdefault(who, counted.get_total_flops())
    assert 0.95 * counts["ours"] < counts["products"] < counts["ours"]


def test_the_gate_shuts_on_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    step = OwnDecoder.step
    monkeypatch.setattr(
        OwnDecoder, "step", lambda self, tokens: step(self, tokens) + 0.1
    )
    with pytest.raises(UserError, match="mtla_s2, ours: differs by"):
        decode.run(arguments(*SMALL, "--no_reference"))


def test_a_bad_attention_is_named() -> None:
    with pytest.raises(UserError, match="'mla_s3' given"):
        decode.run(arguments(*SMALL, "--attention", "mla_s3"))
    with pytest.raises(UserError, match="--steps: 2 given, 3 or more"):
        decode.run(arguments(*SMALL, "--steps", "2"))


def test_the_reference_reorders_its_own_cache() -> None:
    """A plain check of the peer: rows that swap places swap results."""
    from espnet_mtla.benchmark.decoders import ReferenceDecoder

    args = arguments(*SMALL)
    for name in args.attention:
        decoder = decode._decoder(args, name)
        results = []
        for order in ([0, 1], [1, 0]):
            peer = ReferenceDecoder(decoder, torch.ones(1, 5, 32), beam=2)
            peer.step(torch.tensor([3, 4]))
            peer.reorder(torch.tensor(order))
            results.append(peer.step(torch.tensor([5, 5])))
        torch.testing.assert_close(results[0], results[1][[1, 0]])
        assert not torch.allclose(results[0], results[1])
