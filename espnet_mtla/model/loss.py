"""Targets, cross-entropy and CTC of one batch. No result depends on padding."""

from __future__ import annotations

import math

import torch
from espnet2.asr.ctc import CTC
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.model.config import ModelConfig

IGNORE = -1


def shifted(text: Tensor, lengths: Tensor, sos: int, eos: int) -> tuple[Tensor, Tensor]:
    """Return the decoder's input and target of each row.

    Args:
        text: (B, U) token ids, valid up to ``lengths`` (B,).
        sos: id of the token before the text.
        eos: id of the token after it.
    Returns:
        input (B, U + 1): sos, then the text, then eos as padding;
        target (B, U + 1): the text, then eos, then :data:`IGNORE`.
    """
    text = text.masked_fill(~valid_frames(lengths, text.size(1)), eos)
    inputs = nn.functional.pad(text, (1, 0), value=sos)
    targets = nn.functional.pad(text, (0, 1), value=eos)
    beyond = ~valid_frames(lengths + 1, targets.size(1))
    return inputs, targets.masked_fill(beyond, IGNORE)


class TokenLoss(nn.Module):
    """Label-smoothed cross-entropy and accuracy.

    Value and gradient are those of ESPnet's LabelSmoothingLoss: the target distribution
    gives ``lsm_weight`` to the wrong tokens alone, and its entropy is subtracted.
    PyTorch's smoothing gives the right token a share too; ``smoothing`` corrects this.
    """

    def __init__(self, vocab_size: int, config: ModelConfig) -> None:
        super().__init__()
        wrong = config.lsm_weight
        self.smoothing = wrong * vocab_size / (vocab_size - 1)
        if self.smoothing > 1:
            raise UserError(
                f"model_conf.lsm_weight: {wrong} given, at most 1 - 1 / {vocab_size} "
                f"is of use with {vocab_size} tokens"
            )
        self.least = -(1 - wrong) * math.log(1 - wrong)
        if wrong:
            self.least -= wrong * math.log(wrong / (vocab_size - 1))
        self.by_tokens = config.length_normalized_loss

    def forward(self, logits: Tensor, target: Tensor) -> tuple[Tensor, float]:
        """Return loss () and accuracy of ``logits`` (B, U, V) for ``target`` (B, U)."""
        inside = target != IGNORE
        # In half precision the sum over a large vocabulary would lose its small terms.
        valid = logits[inside]
        valid = valid.float() if valid.dtype != torch.float64 else valid
        labels = target[inside]
        loss = nn.functional.cross_entropy(
            valid, labels, reduction="sum", label_smoothing=self.smoothing
        )
        divisor = len(labels) if self.by_tokens else len(target)
        correct = (valid.argmax(-1) == labels).float().mean()
        return (loss - len(labels) * self.least) / divisor, correct.item()


def intent_loss(
    logits: Tensor, target: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy of the intents, the first tokens of each text.

    Args:
        logits: (B, U, V).
        target: (B, U) token ids.
        counts: (B,) number of tokens of the intent.
    Returns:
        -log p of the whole intent, mean over utterances (), and the share of utterances
        whose intent has every token right ().
    """
    most = int(counts.max())
    logits, target = logits[:, :most], target[:, :most]
    inside = valid_frames(counts, most)
    each = nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), target.clamp(min=0), reduction="none"
    )
    right = ((logits.argmax(-1) == target) | ~inside).all(1)
    return each.masked_fill(~inside, 0.0).sum(1).mean(), right.float().mean()


def frames_for_ctc(text: Tensor, lengths: Tensor) -> Tensor:
    """Return the frames that CTC needs: one a token, and a blank between repeats.

    Args:
        text: (B, U) token ids, valid up to ``lengths`` (B,).
    """
    inside = valid_frames(lengths - 1, text.size(1) - 1) if text.size(1) > 1 else None
    if inside is None:
        return lengths
    return lengths + ((text[:, 1:] == text[:, :-1]) & inside).sum(1)


@torch.no_grad()
def greedy_ctc_error_rate(
    ctc: CTC, frames: Tensor, frame_lengths: Tensor, text: Tensor, lengths: Tensor
) -> float:
    """Return the token error rate, as a share, of CTC's best path (blank is id 0).

    Args:
        frames: (B, T, E) encoder output, valid up to ``frame_lengths`` (B,).
        text: (B, U) token ids, valid up to ``lengths`` (B,).
    """
    best = ctc.argmax(frames).cpu()
    errors = tokens = 0
    for path, size, wanted, length in zip(
        best, frame_lengths.tolist(), text.tolist(), lengths.tolist(), strict=True
    ):
        merged = torch.unique_consecutive(path[:size])
        errors += Levenshtein.distance(merged[merged != 0].tolist(), wanted[:length])
        tokens += length
    return errors / max(tokens, 1)
