"""The decoder-only model of text to text: the source's embeddings are the prompt.

    source -> embedding -> (convolution) -> decoder

One embedding serves source and target, so they share a vocabulary. With the decoder's
``prompt_mode: recompute`` the source runs through the layers, as in a language model;
with ``fixed`` each layer sees the embeddings themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.projector import TokenConvolution
from espnet_mtla.model.speech import DecoderOnlySpeechModel, Stats

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer


class DecoderOnlyTextModel(DecoderOnlySpeechModel):
    """Token ids in, tokens out; everything behind the prompt is the speech model's."""

    decoder: DecoderOnlyTransformer

    def __init__(
        self,
        token_list: Sequence[str],
        config: ModelConfig,
        decoder: DecoderOnlyTransformer,
        projector: TokenConvolution | None = None,
    ) -> None:
        parts = ("frontend", "specaug", "normalize", "encoder", "ctc")
        super().__init__(
            token_list,
            config,
            decoder=decoder,
            projector=projector,
            input_size=decoder.config.embed_dim,
            **dict.fromkeys(parts),
        )

    # espnet2 calls it by keywords, and a text's input is called ``source``.
    def forward(  # type: ignore[override]
        self,
        source: Tensor,
        source_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] = (),
    ) -> tuple[Tensor, Stats, Tensor]:
        """Loss of one batch, as the speech model's; ``source``: (B, L) token ids."""
        return super().forward(
            source, source_lengths, text, text_lengths, utt_id=utt_id
        )

    def encode(
        self, speech: Tensor, speech_lengths: Tensor, utt_id: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, D) of token ids (B, L), and their lengths (B,)."""
        del utt_id
        size = int(speech_lengths.max())
        inside = valid_frames(speech_lengths, size)
        return self.decoder.embed(speech[:, :size] * inside), speech_lengths

    def project(self, encoded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt (B, L, D): the embeddings, convolved if there is a projector."""
        if self.projector is None:
            return encoded, lengths
        return self.projector(encoded, lengths)
