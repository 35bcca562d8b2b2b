"""Train a converted model, on text or to reproduce the original (healing)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.original import Original, divergence
from espnet_mtla.settings.checks import check_count, require

TRAIN = ("all", "attention")
"""Weights that healing can train."""


@dataclass(frozen=True)
class Healing:
    """Settings of training after conversion: AdamW, warm-up, then cosine decay.

    Attributes:
        steps: training steps.
        batch: blocks per step.
        learning_rate: the peak.
        distil: weight w of the divergence from the original; the cross-entropy of the
            text has weight 1 - w. At 1 only the original's distributions are learnt,
            at 0 only the text.
        train: ``all`` weights, or those of the ``attention`` alone, which takes less
            time and memory.
        warmup: share of the steps, but 10 steps or a third of all at least.
        clip: largest gradient norm.
        seed: of the order of blocks.
    """

    steps: int = 0
    batch: int = 8
    learning_rate: float = 3e-4
    distil: float = 0.0
    train: str = "all"
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self, "steps", least=0)
        check_count(self, "batch")
        rate = self.learning_rate
        require(rate > 0, "learning_rate", rate, "a value > 0 is")
        require(0 <= self.distil <= 1, "distil", self.distil, "a value from 0 to 1 is")
        require(self.train in TRAIN, "train", self.train, f"{' or '.join(TRAIN)} is")

    def run(
        self,
        model: PreTrainedModel,
        blocks: Tensor,
        original: Original | None = None,
        on_step: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        """Train ``model`` in place.

        Args:
            model: the converted model.
            blocks: token ids ``(N, L)``.
            original: runs the original on the same blocks; needed for ``distil``.
            on_step: called with the number of steps done, and the loss.

        Raises:
            UserError: the loss is not finite.
        """
        with self._only_trained(model) as weights:
            self._train(model, blocks, original, on_step, weights)
        model.eval()

    def _train(
        self,
        model: PreTrainedModel,
        blocks: Tensor,
        original: Original | None,
        on_step: Callable[[int, float], None],
        weights: list[nn.Parameter],
    ) -> None:
        """Train ``weights`` of the model; see :meth:`run` for the other arguments."""
        order = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(
            weights, self.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        model.train()
        for step in range(self.steps):
            pick = torch.randint(len(blocks), (self.batch,), generator=order)
            loss = self._loss(model, blocks, pick, original)
            if not loss.isfinite():
                raise UserError(
                    f"healing: the loss is {loss.item()} at step {step + 1}; lower the "
                    "learning rate"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, self.clip)
            optimizer.step()
            schedule.step()
            on_step(step + 1, loss.item())

    @contextmanager
    def _only_trained(self, model: PreTrainedModel) -> Iterator[list[nn.Parameter]]:
        """Yield the weights to train; the others need no gradients in the block."""
        weights = [w for w in model.parameters() if w.requires_grad]
        if self.train == "all":
            yield weights
            return
        layers = model.model.layers
        trained = {id(w) for layer in layers for w in layer.self_attn.parameters()}
        frozen = [weight for weight in weights if id(weight) not in trained]
        for weight in frozen:
            weight.requires_grad_(False)
        try:
            yield [weight for weight in weights if id(weight) in trained]
        finally:
            for weight in frozen:
                weight.requires_grad_(True)

    def _loss(
        self,
        model: PreTrainedModel,
        blocks: Tensor,
        pick: Tensor,
        original: Original | None,
    ) -> Tensor:
        """Return the loss of the blocks with indices ``pick``."""
        part = blocks[pick].to(model.device)
        labels = part if self.distil < 1 else None
        outputs = model(part, labels=labels, use_cache=False)
        if not self.distil:
            return outputs.loss
        assert original is not None, "distillation runs the original"
        loss = self.distil * divergence(outputs.logits, original.logits(pick))
        if labels is not None:
            loss = loss + (1 - self.distil) * outputs.loss
        return loss

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step, relative to the peak."""
        # Adam's first updates have the size of the rate in every weight, whatever the
        # gradient: a single step at the peak undid a good conversion.
        warm = max(1, min(self.steps // 3, 10), round(self.steps * self.warmup))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return 0.5 * (1 + math.cos(math.pi * done))
