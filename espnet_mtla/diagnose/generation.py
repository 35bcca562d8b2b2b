"""Check that text generation uses its cache, with the installed Transformers.

A model that loses its cache still generates text, but another one. Therefore text
generated with a cache is compared with text generated without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from espnet_mtla.diagnose.check_result import CheckResult, worst
from espnet_mtla.diagnose.machine import installed

if TYPE_CHECKING:
    from torch import Tensor

    from espnet_mtla.hf import LlamaMTLAForCausalLM

STRIDES = (1, 2, 3)
NEW_TOKENS = 12
WAYS = {"greedy": 1, "beam 3": 3}
"""Ways to decode, and the number of hypotheses of each."""


def cached_is_uncached() -> Iterator[CheckResult]:
    """Compare for each way of decoding and stride, on the CPU in float64.

    Any exception of Transformers is a result, too: the check is made for versions that
    have not been tested.
    """
    if find_spec("transformers") is None:
        yield CheckResult("Transformers", "transformers is not installed")
        return
    name = f"transformers {installed('transformers')}: cached = uncached"
    for way, beams in WAYS.items():
        problems = {stride: _problem(stride, beams) for stride in STRIDES}
        differences = [
            (f"at stride {stride}: {problem}", math.inf if problem else 0.0)
            for stride, problem in problems.items()
        ]
        compared = f"{way}, strides {', '.join(map(str, STRIDES))}"
        yield worst(name, compared, differences)


def _problem(stride: int, beams: int) -> str | None:
    """Return how the texts of a model of this stride differ; None: they are equal."""
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
    """Return a random model, and two prompts of different lengths with their mask."""
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
        initializer_range=0.3,  # large, so that the text depends on the cache
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
