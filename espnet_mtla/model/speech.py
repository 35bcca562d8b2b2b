"""The decoder-only speech model: front-end, encoder, projector, decoder, two losses.

    speech -> front-end -> SpecAug -> normalisation -> encoder -+-> CTC
                                                                +-> projector -> decoder

Letters of shapes, beside those of :mod:`espnet_mtla.model.base`: ``L`` samples (or
frames of stored features), ``F`` features, ``W`` tokens of the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from espnet2.asr.ctc import CTC
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.lengths import reflect_tail
from espnet_mtla.frontend.stored import StoringFrontend
from espnet_mtla.model.base import DecoderOnlyModel, Stats, check_loss, gather
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.encoded import EncodedUtterances, is_frozen
from espnet_mtla.model.loss import greedy_ctc_error_rate
from espnet_mtla.model.padding import (
    count_frames_alone,
    mask_convolutions,
    subsampled_lengths,
)
from espnet_mtla.model.projector import FrameStackProjector
from espnet_mtla.model.too_short import CTCLengthWarnings, refuse_short
from espnet_mtla.settings.checks import refuse_unknown
from espnet_mtla.tensor_modes import no_inference_tensors
from espnet_mtla.turns import Turns

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer

REST_OF_BATCH = (
    *("text", "text_lengths", "source", "source_lengths"),
    *("intent", "intent_lengths", "task", "task_lengths", "utt_id"),
)
"""Keys of a batch beside speech; see :func:`espnet_mtla.model.batch.collate`."""
ONES = ("intent_lengths", "task_lengths")
"""Lengths in a batch that are always 1."""


class DecoderOnlySpeechModel(DecoderOnlyModel):
    """Speech in, tokens out; trained by cross-entropy and CTC, weighed by ``config``.

    In evaluation mode any number of threads may use one model. Front-end and encoder
    then run in one thread at a time: espnet2's modules and S3PRL's upstreams store the
    tensors of a call on themselves. The decoder does not. Training is for one thread.

    Args:
        token_list: <blank> first, <sos/eos> last.
        frontend: espnet2's front-end; None if the input is features.
        decoder, projector: None if ``config.ctc_weight`` is 1 (encoder training).
        ctc: None if ``config.ctc_weight`` is 0; it reads the encoder's output.
        input_size: width F of the features.
    """

    unit = "second"

    def __init__(
        self,
        token_list: Sequence[str],
        config: ModelConfig,
        *,
        frontend: nn.Module | None,
        specaug: nn.Module | None,
        normalize: nn.Module | None,
        encoder: nn.Module | None,
        projector: FrameStackProjector | None,
        decoder: DecoderOnlyTransformer | None,
        ctc: CTC | None,
        input_size: int,
    ) -> None:
        super().__init__(token_list, config, projector, decoder)
        self.input_size = input_size
        self.frontend = frontend
        self.specaug = specaug
        self.normalize = normalize
        self.encoder = encoder
        self.ctc = ctc
        self.turns = Turns()
        self._ctc_warnings = CTCLengthWarnings()
        self._encoded = EncodedUtterances(config.encoded_cache_mb * 2**20)
        if encoder is not None:
            mask_convolutions(encoder)
            count_frames_alone(encoder)

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
        intent: Tensor | None = None,
        utt_id: Sequence[str] = (),
        task: Tensor | None = None,
        **others: Tensor,
    ) -> tuple[Tensor, Stats, Tensor]:
        """Return the loss of one batch.

        Args:
            speech: (B, L) samples or (B, L, F) features; ``text``: (B, U) token ids.
            source: (B, W) token ids of the words spoken, CTC's target, if the text is
                another one (a translation).
            intent: (B, 1) number of tokens of the intent that begins each text.
            utt_id: B names, for messages and the cache of ``encoded_cache_mb``.
            task: (B, 1) index of each row's template, if there are several.
            others: ``intent_lengths`` and ``task_lengths`` alone: a batch has them, and
                all are 1.
        Returns:
            loss (1,), statistics for the log, each (1,), and the batch size (1,), their
            weight when espnet2 averages over processes.
        Raises:
            UserError: the loss is not finite, an utterance is too short, or a keyword
                is unknown.
        """
        refuse_unknown(DecoderOnlySpeechModel.forward, others, ONES)
        loss, stats = self.losses(
            speech,
            speech_lengths,
            text,
            text_lengths,
            source,
            source_lengths,
            intent,
            utt_id,
            task,
        )[:2]
        return gather(loss, stats, len(speech))

    def losses(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
        intent: Tensor | None = None,
        utt_id: Sequence[str] = (),
        task: Tensor | None = None,
    ) -> tuple[Tensor, Stats, Tensor | None]:
        """Compute the training loss of a batch: CTC and decoder, weighted and summed.

        Args: see :meth:`forward`.
        Returns:
            loss (), statistics, and the decoder's logits (B, U + 1, V), None without a
            decoder. Logits at position u predict token u of the text; those after its
            last token predict <eos>.
        Raises:
            UserError: see :meth:`forward`.
        """
        text = text[:, : int(text_lengths.max())]
        encoded, lengths = self._encode_once(speech, speech_lengths, utt_id)
        weight = self.config.ctc_weight
        loss, logits = encoded.new_zeros(()), None
        stats: Stats = {}
        if self.ctc is not None:
            spoken, spoken_lengths = text, text_lengths
            if source is not None and source_lengths is not None:
                spoken, spoken_lengths = source, source_lengths
                spoken = spoken[:, : int(spoken_lengths.max())]
            loss_ctc, stats = self._ctc_loss(
                self.ctc, encoded, lengths, spoken, spoken_lengths, utt_id
            )
            loss = loss + weight * loss_ctc
        if self.decoder is not None:  # decoder_losses applies 1 - ctc_weight
            loss_decoder, decoder_stats, logits = self.decoder_losses(
                encoded,
                lengths,
                text,
                text_lengths,
                intent,
                None if task is None else task[:, 0],
            )
            loss, stats = loss + loss_decoder, stats | decoder_stats
        check_loss(loss, utt_id)
        stats["loss"] = loss.detach()
        return loss, stats, logits

    def _ctc_loss(
        self,
        ctc: CTC,
        encoded: Tensor,
        lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str],
    ) -> tuple[Tensor, Stats]:
        self._ctc_warnings.check(lengths, text, text_lengths, utt_id)
        loss = ctc(encoded, lengths, text, text_lengths)
        stats: Stats = {"loss_ctc": loss.detach()}
        if not self.training:
            stats["cer_ctc"] = greedy_ctc_error_rate(
                ctc, encoded, lengths, text, text_lengths
            )
        return loss, stats

    def train(self, mode: bool = True) -> DecoderOnlySpeechModel:
        """Set the mode as torch does, but keep frozen modules in evaluation mode.

        A frozen encoder must neither use dropout nor update its batch statistics.
        """
        super().train(mode)
        for part in (self.frontend, self.encoder):
            if part is not None and any(True for _ in part.parameters()):
                part.train(mode and not is_frozen(part))
        return self

    def _encode_once(
        self, speech: Tensor, speech_lengths: Tensor, utt_id: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Encode, or read the cache that ``encoded_cache_mb`` sizes."""
        if self.config.encoded_cache_mb == 0:
            return self.encode(speech, speech_lengths, utt_id)
        if self.specaug is not None or not is_frozen(
            self.frontend, self.normalize, self.encoder
        ):
            raise UserError(
                "model_conf.encoded_cache_mb: the encoder's output changes during "
                "training; freeze it (freeze_param: [frontend, encoder]) and leave "
                "specaug out, or set 0"
            )
        if len(utt_id) != len(speech):
            raise UserError(
                f"model_conf.encoded_cache_mb: {len(utt_id)} names in utt_id for "
                f"{len(speech)} utterances; name each, or set 0"
            )
        return self._encoded.encode(
            self.encode, speech, speech_lengths, utt_id, self.training
        )

    @no_inference_tensors()
    def encode(
        self, speech: Tensor, speech_lengths: Tensor, utt_id: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return encoder output (B, T, E) and its valid frames (B,).

        An utterance's output does not depend on the batch. Args: see :meth:`forward`.
        """
        with self._turn():
            return self._encode(speech, speech_lengths, utt_id)

    def _turn(self) -> AbstractContextManager[None]:
        """Lock in evaluation mode; data-parallel replicas share a lock and must not."""
        return nullcontext() if self.training else self.turns

    def _encode(
        self, speech: Tensor, speech_lengths: Tensor, utt_id: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        device = speech.device.type
        mixed = torch.is_autocast_enabled(device)
        # Features are computed in full precision, and so is an encoder in the
        # front-end that does not train: its states are those that stage dump stores.
        trains = getattr(self.frontend, "mixed_precision", False)
        with torch.autocast(device, enabled=mixed and trains):
            x, lengths = self.extract_feats(speech, speech_lengths)
        with torch.autocast(device, enabled=False):
            x, frames = x.to(speech.dtype), lengths
            if self.encoder is not None:
                frames = subsampled_lengths(self.encoder, lengths)
            refuse_short(frames, lengths, utt_id)
            if self.specaug is not None and self.training:
                x, lengths = self.specaug(x, lengths)
            if self.normalize is not None:
                x, lengths = self.normalize(x, lengths)
        if self.encoder is None:
            return x, lengths
        x, encoded_lengths, *_ = self.encoder(x, lengths)
        return x, encoded_lengths

    def extract_feats(
        self, speech: Tensor, speech_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return features (B, frames, F) before normalisation and valid frames (B,).

        ``speech`` of three dimensions is the stored output of the front-end.
        """
        speech = speech[:, : int(speech_lengths.max())]
        if speech.dim() == 3:
            return self._stored_feats(speech), speech_lengths
        if speech.dim() != 2 or self.frontend is None:
            raise UserError(
                f"speech of shape {tuple(speech.shape)} given; needed: "
                + ("" if self.frontend is None else "(utterances, samples) or ")
                + f"features (utterances, frames, {self.input_size})"
            )
        stft = getattr(self.frontend, "stft", None)
        if stft is not None and stft.center:
            speech = reflect_tail(speech, speech_lengths, stft.n_fft // 2)
        if not speech.is_floating_point():
            raise UserError(
                f"speech of {speech.dtype} given, floats in [-1, 1] needed: divide "
                "16-bit integers by 32768"
            )
        with self._turn():
            feats, lengths = self.frontend(speech, speech_lengths)
        return feats[:, : int(lengths.max())], lengths

    def _stored_feats(self, stored: Tensor) -> Tensor:
        if isinstance(self.frontend, StoringFrontend):
            stored = self.frontend.from_stored(stored)
        if stored.size(2) != self.input_size:
            raise UserError(
                f"features of width {stored.size(2)} given, {self.input_size} needed: "
                "see input_size, or dump them again"
            )
        return stored.clone()  # normalisation works in place

    def collect_feats(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        **others: Tensor,
    ) -> dict[str, Tensor]:
        """Return the features from which espnet2 collects statistics.

        Args:
            others: the rest of the batch, all of which espnet2 passes.
        Raises:
            UserError: a keyword is unknown.
        """
        collect_feats = DecoderOnlySpeechModel.collect_feats
        refuse_unknown(collect_feats, others, REST_OF_BATCH)
        feats, lengths = self.extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}
