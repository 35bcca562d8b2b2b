"""The decoder-only model of text to text: the source's embeddings are the prompt.

    source -> embedding -> (convolution) -> decoder

One embedding serves source and target, so they share a vocabulary. With the decoder's
``prompt_mode: recompute`` the source passes through the layers, as in a language model;
with ``fixed`` each layer reads the embeddings themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.model.base import DecoderOnlyModel, Stats, check_loss, gather
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.projector import TokenConvolution
from espnet_mtla.settings.checks import refuse_unknown

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer


class DecoderOnlyTextModel(DecoderOnlyModel):
    """Token ids in, tokens out; trained by cross-entropy."""

    unit = "token"
    decoder: DecoderOnlyTransformer

    def __init__(
        self,
        token_list: Sequence[str],
        config: ModelConfig,
        decoder: DecoderOnlyTransformer,
        projector: TokenConvolution | None = None,
    ) -> None:
        super().__init__(token_list, config, projector, decoder)

    def forward(
        self,
        source: Tensor,
        source_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] = (),
    ) -> tuple[Tensor, Stats, Tensor]:
        """Return the loss of one batch.

        Args:
            source: (B, L) token ids; ``text``: (B, U) token ids; lengths: (B,).
            utt_id: B names, for messages.
        Returns:
            loss (1,), statistics for the log, and the batch size (1,), their weight.
        Raises:
            UserError: the loss is not finite.
        """
        text = text[:, : int(text_lengths.max())]
        encoded, lengths = self.encode(source, source_lengths, utt_id)
        loss, stats, _ = self.decoder_losses(encoded, lengths, text, text_lengths)
        check_loss(loss, utt_id)
        return gather(loss, {**stats, "loss": loss.detach()}, len(source))

    def encode(
        self, inputs: Tensor, lengths: Tensor, utt_id: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, L, D) of token ids (B, L), and their lengths (B,)."""
        del utt_id
        size = int(lengths.max())
        inside = valid_frames(lengths, size)
        return self.decoder.embed(inputs[:, :size] * inside), lengths

    def collect_feats(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return nothing: text has no features whose statistics could be collected.

        Raises:
            UserError: a keyword of ``batch`` is not one of :meth:`forward`'s.
        """
        known = ("source", "source_lengths", "text", "text_lengths", "utt_id")
        refuse_unknown(DecoderOnlyTextModel.collect_feats, batch, known)
        return {}
