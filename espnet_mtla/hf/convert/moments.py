"""Second moments of the inputs ``[x; 1]`` of each attention.

Factorisations weighted by them minimise the error of activations, not of weights (as
ASVD, arXiv 2312.05821, and similar methods do).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from espnet_mtla.attention.precision import accumulation_dtype
from espnet_mtla.hf.convert.progress import track
from espnet_mtla.hf.convert.text import batches


@torch.no_grad()
def second_moments(model: PreTrainedModel, blocks: Tensor | None) -> list[Tensor]:
    """Compute ``E[[x; 1] [x; 1]^T]`` of each layer, ``(D + 1, D + 1)`` in float64.

    Args:
        model: a Llama.
        blocks: token ids ``(N, L)`` of a text. None: no text is run; the components of
            x are assumed uncorrelated, with mean 0 and the weight of the RMSNorm
            before the attention as standard deviation, so the matrix is diagonal.
    """
    if blocks is None:
        scales = [layer.input_layernorm.weight for layer in model.model.layers]
        deviations = [torch.cat((scale, scale.new_ones(1))) for scale in scales]
        return [torch.diag(each.detach().double() ** 2) for each in deviations]
    width = model.config.hidden_size + 1
    device = model.device
    sums = [
        torch.zeros(width, width, dtype=torch.float64, device=device)
        for _ in model.model.layers
    ]

    def accumulate(index: int) -> Callable[..., None]:
        def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            x = x.flatten(0, -2).to(accumulation_dtype(x.dtype))
            x = torch.cat((x, x.new_ones(len(x), 1)), dim=1)
            sums[index].add_(x.T @ x)  # a batch in float32 is as exact as its input

        return add

    hooks = [
        layer.self_attn.register_forward_pre_hook(accumulate(index), with_kwargs=True)
        for index, layer in enumerate(model.model.layers)
    ]
    try:
        parts = batches(blocks)
        for part in track(parts, "second moments", len(parts)):
            model.model(part.to(device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [total / blocks.numel() for total in sums]
