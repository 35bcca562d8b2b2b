"""Does text generation use its cache, with the Transformers that is installed?

A model whose cache is dropped still writes text, only another one. So text that is
generated with a cache is compared with text that is generated without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from espnet_mtla.diagnose.finding import Finding
from espnet_mtla.diagnose.machine import installed

if TYPE_CHECKING:
    from torch import Tensor

    from espnet_mtla.hf import LlamaMTLAForCausalLM

STRIDES = (1, 2, 3)
NEW_TOKENS = 12
WAYS = {"greedy": 1, "beam 3": 3}
"""Ways to decode, and the hypotheses that each keeps."""


def cached_is_uncached() -> Iterator[Finding]:
    """Compare for each stride and way of decoding, on the CPU in float64.

    Whatever goes wrong in Transformers is a finding, too: this is to be told on a
    version that nobody has tried.
    """
    if find_spec("transformers") is None:
        yield Finding("Transformers", "transformers is not installed")
        return
    name = f"transformers {installed('transformers')}: cached = uncached"
    for way, beams in WAYS.items():
        compared = f"{way}, strides {', '.join(map(str, STRIDES))}"
        problems = []
        for stride in STRIDES:
            problem = _problem(stride, beams)
            if problem is not None:
                problems.append(f"at stride {stride}: {problem}")
        apart = math.inf if problems else 0.0
        yield Finding(name, compared, apart, where="; ".join(problems[:1]))


def _problem(stride: int, beams: int) -> str | None:
    """What is wrong with the text of a model of this stride; None: nothing."""
    try:
        model, batch, mask = tiny_model(stride)
        texts = [
            model.generate(
                batch,
                attention_mask=mask,
                use_cache=use_cache,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                num_beams=beams,
            )
            for use_cache in (False, True)
        ]
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    uncached, cached = (text[:, batch.size(1) :] for text in texts)
    if uncached.shape != cached.shape:
        return f"{cached.size(1)} tokens with a cache, {uncached.size(1)} without"
    wrong = (uncached != cached).nonzero().tolist()
    if not wrong:
        return None
    row, token = min(wrong, key=lambda place: place[1])
    return f"row {row}, token {token + 1}: {cached[row, token]} with a cache, " + (
        f"{uncached[row, token]} without"
    )


def tiny_model(stride: int) -> tuple[LlamaMTLAForCausalLM, Tensor, Tensor]:
    """A random model, and two prompts of different lengths with their mask."""
    import torch

    from espnet_mtla.hf import LlamaMTLAConfig, LlamaMTLAForCausalLM

    config = LlamaMTLAConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=6,
        down_rate=stride,
        initializer_range=0.3,  # so that what is seen decides what is written
        pad_token_id=0,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaMTLAForCausalLM(config).double().eval()
        batch = torch.randint(1, 50, (2, 7))
    mask = torch.ones_like(batch)
    mask[1, :3] = 0
    return model, batch * mask, mask
