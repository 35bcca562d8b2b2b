"""A language model: the decoder-only Transformer with an empty prompt.

It is trained here as ESPnet trains its own: cross-entropy of each token and of
<sos/eos> after the text, averaged over the tokens of a batch. Since it is the decoder
that also recognises, its search has the same cache, and any attention type will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from espnet_mtla.model.base import DecoderOnlyModel, Stats, check_loss, gather
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.settings.checks import refuse_unknown

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer

LOSSES = {"ctc_weight": 0.0, "lsm_weight": 0.0, "length_normalized_loss": True}
"""Defaults of ``model_conf``: the loss is the logarithm of the perplexity."""


class DecoderOnlyLanguageModel(DecoderOnlyModel):
    """Predict each token from those before it."""

    unit = "token"
    decoder: DecoderOnlyTransformer

    def __init__(
        self,
        token_list: Sequence[str],
        config: ModelConfig,
        decoder: DecoderOnlyTransformer,
    ) -> None:
        super().__init__(token_list, config, None, decoder)

    def forward(
        self, text: Tensor, text_lengths: Tensor, utt_id: Sequence[str] = ()
    ) -> tuple[Tensor, Stats, Tensor]:
        """Return the loss of one batch.

        Args:
            text: (B, U) token ids; text_lengths: (B,) valid tokens of each row.
            utt_id: B names, for messages.
        Returns:
            loss (1,), statistics for the log, and the number of predicted tokens (1,),
            the weight of both.
        Raises:
            UserError: the loss is not finite.
        """
        text = text[:, : int(text_lengths.max())]
        prompt, lengths = self.encode(text, text_lengths)
        loss, stats, _ = self.decoder_losses(prompt, lengths, text, text_lengths)
        check_loss(loss, utt_id)
        tokens = int(text_lengths.sum()) + len(text)  # <eos> of each row, too
        return gather(loss, {**stats, "loss": loss.detach()}, tokens)

    def encode(
        self, inputs: Tensor, lengths: Tensor, utt_id: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the empty prompt (B, 0, D) and its lengths (B,), all 0."""
        del utt_id
        weight = self.decoder.embedding.weight
        empty = weight.new_zeros(len(inputs), 0, weight.size(1))
        return empty, lengths.new_zeros(len(inputs))

    def collect_feats(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return nothing: text has no features whose statistics could be collected.

        Raises:
            UserError: a keyword of ``batch`` is not one of :meth:`forward`'s.
        """
        known = ("text", "text_lengths", "utt_id")
        refuse_unknown(DecoderOnlyLanguageModel.collect_feats, batch, known)
        return {}
