"""Read text in blocks, measure perplexity, and train a converted model (healing)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import check_count, require


@dataclass(frozen=True)
class TextBlocks:
    """Tokens of a text in blocks of one length L, for training and held out."""

    training: Tensor  # (N, L)
    held_out: Tensor  # (N', L)

    @classmethod
    def read(
        cls,
        files: Sequence[str | Path],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        held_out: float = 0.1,
    ) -> TextBlocks:
        """Read and tokenise text files; the last blocks are held out.

        Args:
            files: UTF-8 text.
            tokenizer: of the model.
            length: tokens of a block.
            held_out: share of the blocks that is held out, at least one.

        Raises:
            UserError: a file is not UTF-8, or there are fewer than two blocks.
        """
        ids: list[int] = []
        for file in files:
            try:
                text = Path(file).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{file}: not UTF-8 text ({error.reason})") from error
            # verbose=False: no warning that the text is longer than the model's limit.
            ids += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        count = len(ids) // length
        if count < 2:
            raise UserError(
                f"{', '.join(map(str, files))}: {len(ids)} tokens, two blocks of "
                f"{length} are needed; give more text, or smaller blocks"
            )
        blocks = torch.tensor(ids[: count * length]).view(count, length)
        border = count - max(1, round(count * held_out))
        return cls(blocks[:border], blocks[border:])


@torch.no_grad()
def perplexity(model: PreTrainedModel, blocks: Tensor, batch: int = 8) -> float:
    """Return the perplexity of all but the first tokens of ``blocks (N, L)``."""
    total = 0.0
    for part in blocks.split(batch):
        part = part.to(model.device)
        logits = model(part, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        total += float(F.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / (blocks.size(0) * (blocks.size(1) - 1)))


@dataclass(frozen=True)
class Healing:
    """Settings of training after conversion: AdamW, warm-up, then cosine decay.

    Attributes:
        steps: training steps.
        batch: blocks per step.
        learning_rate: the peak.
        warmup: share of the steps.
        clip: largest gradient norm.
        seed: of the order of blocks.
    """

    steps: int = 0
    batch: int = 8
    learning_rate: float = 3e-4
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self, "steps", least=0)
        check_count(self, "batch")
        rate = self.learning_rate
        require(rate > 0, "learning_rate", rate, "a value > 0 is")

    def run(
        self,
        model: PreTrainedModel,
        blocks: Tensor,
        on_step: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        """Train ``model`` in place on ``blocks (N, L)``; call on_step(step, loss)."""
        order = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(
            model.parameters(), self.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        model.train()
        for step in range(self.steps):
            pick = torch.randint(len(blocks), (self.batch,), generator=order)
            part = blocks[pick].to(model.device)
            loss = model(part, labels=part, use_cache=False).loss
            if not loss.isfinite():
                raise UserError(
                    f"healing: the loss is {loss.item()} at step {step + 1}; lower the "
                    "learning rate"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()
            schedule.step()
            on_step(step + 1, loss.item())
        model.eval()

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step, relative to the peak."""
        warm = max(1, round(self.steps * self.warmup))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return 0.5 * (1 + math.cos(math.pi * done))
