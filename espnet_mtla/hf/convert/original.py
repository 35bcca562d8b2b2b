"""Outputs of the original model on blocks of text, as targets of training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

CACHE_BYTES = 2**30
"""Largest size of the cached states of all blocks; larger texts are not cached."""


class Original:
    """The original model, run without gradients on blocks of one text.

    Its final hidden states are cached by block if those of all blocks fit: a block that
    is drawn again, for this or another converted model, costs only the output layer.

    Letters: ``B`` blocks of ``L`` tokens, ``D`` model width, ``V`` symbols.
    """

    def __init__(self, model: PreTrainedModel, blocks: Tensor) -> None:
        """Prepare for ``blocks (N, L)`` of token ids."""
        self.model, self.blocks = model, blocks
        self._states: dict[int, Tensor] = {}  # (L, D) by index of the block
        size = blocks.numel() * model.config.hidden_size * model.dtype.itemsize
        self._caches = size <= CACHE_BYTES

    @torch.no_grad()
    def logits(self, pick: Tensor) -> Tensor:
        """Return the logits ``(B, L, V)`` of the blocks with indices ``pick (B,)``."""
        if not self._caches:
            return self.model.lm_head(self._run(pick))
        missing = sorted(set(pick.tolist()) - self._states.keys())
        if missing:
            states = self._run(torch.tensor(missing))
            self._states.update(zip(missing, states, strict=True))
        states = torch.stack([self._states[index] for index in pick.tolist()])
        return self.model.lm_head(states)

    def _run(self, pick: Tensor) -> Tensor:
        """Compute the hidden states after the last norm, ``(B, L, D)``."""
        part = self.blocks[pick].to(self.model.device)
        return self.model.model(part, use_cache=False).last_hidden_state


def divergence(logits: Tensor, original: Tensor) -> Tensor:
    """Return the KL divergence of a model from the original, in nats per token.

    Args:
        logits: of the model, ``(B, L, V)``.
        original: logits of the original, ``(B, L, V)``.

    >>> even = torch.zeros(1, 1, 2)
    >>> skewed = torch.tensor([[[0.75, 0.25]]]).log()
    >>> round(float(divergence(even, skewed)), 4)  # 0.75 ln 1.5 + 0.25 ln 0.5
    0.1308
    >>> float(divergence(skewed, skewed))
    0.0
    """
    new = logits.flatten(0, -2).float().log_softmax(-1)
    old = original.flatten(0, -2).float().log_softmax(-1)
    return F.kl_div(new, old, reduction="batchmean", log_target=True)
