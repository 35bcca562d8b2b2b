"""Read text in blocks of tokens, and measure the perplexity of a model on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.progress import track

BATCH_TOKENS = 2048
"""Tokens of one forward pass without gradients. More are not faster on a CPU, and the
logits take 4 bytes per token and symbol."""


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
        most: int | None = None,
    ) -> TextBlocks:
        """Read and tokenise text files; the last blocks are held out.

        Args:
            files: UTF-8 text.
            tokenizer: of the model.
            length: tokens of a block.
            held_out: share of the blocks that is held out, at least one.
            most: largest number of blocks held out; None: no limit.

        Raises:
            UserError: a file is not UTF-8 or is empty, or there are fewer than two
                blocks.
        """
        ids: list[int] = []
        for file in files:
            try:
                text = Path(file).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{file}: not UTF-8 text ({error.reason})") from error
            if not text.strip():
                raise UserError(f"{file}: the file is empty; text is needed")
            # verbose=False: no warning that the text is longer than the model's limit.
            ids += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        count = len(ids) // length
        if count < 2:
            raise UserError(
                f"{', '.join(map(str, files))}: {len(ids)} tokens, two blocks of "
                f"{length} are needed; give more text, or smaller blocks"
            )
        blocks = torch.tensor(ids[: count * length]).view(count, length)
        apart = max(1, round(count * held_out))
        apart = apart if most is None else min(apart, most)
        return cls(blocks[: count - apart], blocks[count - apart :])


@torch.no_grad()
def perplexity(
    model: PreTrainedModel, blocks: Tensor, name: str = "perplexity"
) -> float:
    """Return the perplexity of all but the first tokens of each block.

    Args:
        model: a causal language model.
        blocks: token ids ``(N, L)``.
        name: of the measurement, for lines of progress.
    """
    total = 0.0
    parts = batches(blocks)
    for part in track(parts, name, len(parts)):
        part = part.to(model.device)
        # The last column predicts no token of the block: its logits are not needed.
        logits = model(part[:, :-1], use_cache=False).logits
        for row, tokens in zip(logits, part[:, 1:], strict=True):
            total += float(F.cross_entropy(row.float(), tokens, reduction="sum"))
    return math.exp(total / (blocks.size(0) * (blocks.size(1) - 1)))


def batches(blocks: Tensor) -> tuple[Tensor, ...]:
    """Split ``blocks (N, L)`` into batches for forward passes without gradients.

    >>> [len(part) for part in batches(torch.zeros(5, 1000))]
    [2, 2, 1]
    """
    return blocks.split(max(1, BATCH_TOKENS // blocks.size(1)))


def spread(blocks: Tensor, count: int) -> Tensor:
    """Return ``count`` blocks at equal distances, or all if there are fewer.

    >>> spread(torch.arange(10), 4).tolist(), spread(torch.arange(3), 4).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(count, len(blocks))
    return blocks[[index * len(blocks) // count for index in range(count)]]
