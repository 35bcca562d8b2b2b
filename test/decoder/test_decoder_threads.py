"""One decoder in several threads: each state is its caller's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from espnet_mtla.search import (
    DecodeOptions,
    DecoderScorer,
    Symbols,
    beam_search,
    length_limits,
)
from test.support.attention_types import WIDTH
from test.support.threads import in_threads
from test.support.tiny_decoder import VOCAB, make


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("kind", ["mha", "mla", "mtla_s2"])
@torch.no_grad()
def test_search_and_training_pass_are_those_of_one_thread(kind: str, beam: int) -> None:
    decoder = make(kind, "fixed")
    options = DecodeOptions(beam_size=beam, nbest=beam, max_length_ratio=1.0)

    @torch.no_grad()
    def decode(seed: int) -> tuple[list[object], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        prompt = torch.randn(2, 6 + seed, WIDTH, generator=generator).double()
        lengths = torch.tensor([6 + seed, 4])
        limits = length_limits(lengths, options)
        scorer = DecoderScorer(
            decoder, prompt, lengths, max_tokens=int(limits[1].max()), beam=beam
        )
        symbols = Symbols(sos=VOCAB - 1, eos=VOCAB - 1)
        found = beam_search([(scorer, 1.0)], limits, symbols, options)
        text = torch.randint(0, VOCAB, (2, 5), generator=generator)
        return found, decoder(prompt, lengths, text)

    seeds = list(range(5))
    alone = [decode(seed) for seed in seeds]
    assert len({str(found) for found, _ in alone}) == len(seeds)
    for results in in_threads(decode, seeds):
        for (found, logits), (expected, same) in zip(results, alone, strict=True):
            assert found == expected
            torch.testing.assert_close(logits, same, rtol=0, atol=1e-12)
