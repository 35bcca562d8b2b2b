"""One LlamaMTLA in several threads generates what it generates in one."""

from __future__ import annotations

import pytest
import torch

from test.support.threads import in_threads
from test.support.tiny_llama import left_padded, tiny, tokens


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 4}, {"cache_implementation": "static"}],
    ids=["greedy", "beam", "static"],
)
def test_generate_is_that_of_one_thread(options: dict[str, object]) -> None:
    model = tiny(stride=2)

    def generate(seed: int) -> tuple[list[list[int]], torch.Tensor]:
        rows = [tokens(1, 3 + seed % 4, seed)[0], tokens(1, 7 + seed, seed + 50)[0]]
        batch, mask = left_padded(rows)
        found = model.generate(
            batch, attention_mask=mask, max_new_tokens=12, do_sample=False, **options
        )
        with torch.no_grad():
            logits = model(batch, attention_mask=mask, use_cache=False).logits
        return found.tolist(), logits[:, -1]

    seeds = list(range(4))
    alone = [generate(seed) for seed in seeds]
    for results in in_threads(generate, seeds):
        assert [found for found, _ in results] == [found for found, _ in alone]
        for (_, logits), (_, expected) in zip(results, alone, strict=True):
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_conversion_leaves_the_callers_random_numbers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from espnet_mtla.hf.convert.build import Target, convert

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    source = LlamaForCausalLM(
        LlamaConfig(**sizes, vocab_size=20, num_attention_heads=2)
    ).eval()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    convert(source, Target())
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
