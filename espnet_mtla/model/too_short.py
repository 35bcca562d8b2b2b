"""Utterances too short for the encoder (an error) or for CTC (a warning)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from espnet_mtla.errors import UserError
from espnet_mtla.model.loss import frames_for_ctc

logger = logging.getLogger(__name__)

MOST_WARNINGS = 10


class CTCLengthWarnings:
    """Warn once about each utterance whose text is too long for CTC.

    Such an utterance has no alignment and an infinite loss; espnet2's CTC sets the loss
    to zero (``zero_infinity``). No more than :data:`MOST_WARNINGS` are logged.
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def check(
        self,
        lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str],
    ) -> None:
        """Log the utterances of a batch that have fewer frames than CTC needs.

        Args:
            lengths: (B,) encoder frames.
            text: (B, U) token ids, valid up to ``text_lengths`` (B,).
            utt_id: B names, or none.
        """
        needed = frames_for_ctc(text, text_lengths)
        for row in (needed > lengths).nonzero().flatten().tolist():
            name = utt_id[row] if len(utt_id) else f"utterance {row} of a batch"
            if name in self._warned or len(self._warned) == MOST_WARNINGS:
                continue
            self._warned.add(name)
            logger.warning(
                "%s: CTC needs %d frames, the encoder gives %d: its CTC loss is zero%s",
                name,
                int(needed[row]),
                int(lengths[row]),
                "; no more warnings" if len(self._warned) == MOST_WARNINGS else "",
            )


def refuse_short(frames: Tensor, lengths: Tensor, utt_id: Sequence[str]) -> None:
    """Raise :class:`UserError` if an utterance has no frame after subsampling.

    Args:
        frames: (B,) encoder frames.
        lengths: (B,) feature frames, before subsampling.
        utt_id: B names for the message, or none.
    """
    if int(frames.min()) < 1:
        row = int(frames.argmin())
        name = utt_id[row] if len(utt_id) else f"utterance {row} of the batch"
        raise UserError(
            f"{name}: {int(lengths[row])} feature frames are too few for the "
            "encoder's subsampling; drop it (espnet-mtla filter_data --min_seconds)"
        )
