"""The decoder-only speech model: front-end, encoder, projector, decoder, two losses.

    speech -> front-end -> SpecAug -> normalisation -> encoder -+-> CTC
                                                                +-> projector -> decoder

Letters of shapes: ``B`` utterances, ``L`` samples (or given feature frames), ``F``
feature frames, ``T`` encoder frames, ``E`` encoder width, ``P`` prompt positions, ``D``
decoder width, ``U`` tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from espnet2.asr.ctc import CTC
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.lengths import reflect_tail
from espnet_mtla.frontend.stored import StoringFrontend
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.encoded import EncodedUtterances, is_frozen
from espnet_mtla.model.loss import (
    TokenLoss,
    frames_for_ctc,
    greedy_ctc_error_rate,
    intent_loss,
    shifted,
)
from espnet_mtla.model.padding import (
    count_frames_alone,
    mask_convolutions,
    subsampled_lengths,
)
from espnet_mtla.model.projector import FrameStackProjector, TokenConvolution
from espnet_mtla.settings.checks import refuse_unknown
from espnet_mtla.tensor_modes import no_inference_tensors
from espnet_mtla.turns import Turns

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer

logger = logging.getLogger(__name__)

MOST_WARNINGS = 10
REST_OF_BATCH = (
    *("text", "text_lengths", "source", "source_lengths"),
    *("intent", "intent_lengths", "utt_id"),
)
"""What a batch has beside speech; see :func:`espnet_mtla.model.batch.collate`."""
Stats = dict[str, Tensor | float]


class DecoderOnlySpeechModel(AbsESPnetModel):
    """Speech in, tokens out; trained by cross-entropy and CTC, weighed by ``config``.

    In evaluation mode any number of threads may use one model. The encoder and the
    front-end then run in one thread at a time, since espnet2's attention, positions and
    normalisation and S3PRL's upstreams keep the tensors of a call on their modules. The
    decoder keeps none. Training is for one thread.

    Args:
        token_list: <blank> first, <sos/eos> last.
        frontend: espnet2's front-end, or None where features are given.
        decoder, projector: None where ``config.ctc_weight`` is 1 (encoder training).
        ctc: None where ``config.ctc_weight`` is 0; it reads the encoder's output.
    """

    def __init__(
        self,
        token_list: Sequence[str],
        config: ModelConfig,
        *,
        frontend: nn.Module | None,
        specaug: nn.Module | None,
        normalize: nn.Module | None,
        encoder: nn.Module | None,
        projector: FrameStackProjector | TokenConvolution | None,
        decoder: DecoderOnlyTransformer | None,
        ctc: CTC | None,
        input_size: int,
    ) -> None:
        super().__init__()
        self.token_list = list(token_list)
        self.sos = self.eos = len(self.token_list) - 1
        self.config = config
        self.input_size = input_size
        self.frontend = frontend
        self.specaug = specaug
        self.normalize = normalize
        self.encoder = encoder
        self.projector = projector
        self.decoder = decoder
        self.ctc = ctc
        self.token_loss = TokenLoss(len(self.token_list), config) if decoder else None
        self.turns = Turns()
        self._warned: set[str] = set()
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
        **others: Tensor,
    ) -> tuple[Tensor, Stats, Tensor]:
        """Loss of one batch.

        Args:
            speech: (B, L) samples or (B, L, F) features; ``text``: (B, U) token ids.
            source: (B, W) token ids of what was said, where the text is something else
                (a translation): CTC's target then.
            intent: (B, 1) tokens of the intent, which each text begins with.
            utt_id: names, for messages and for what ``encoded_cache_mb`` keeps.
            others: ``intent_lengths`` alone, which a batch has and which are all 1.
        Returns:
            loss (1,), statistics for the log, each (1,), and as their weight the batch
            size (1,): what espnet2 averages over the processes of a distributed run.
        Raises:
            UserError: the loss is not finite, an utterance is too short, or a keyword
                is unknown.
        """
        refuse_unknown(DecoderOnlySpeechModel.forward, others, ("intent_lengths",))
        loss, stats = self.losses(
            speech,
            speech_lengths,
            text,
            text_lengths,
            source,
            source_lengths,
            intent,
            utt_id,
        )[:2]
        return force_gatherable((loss, stats, len(speech)), loss.device)

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
    ) -> tuple[Tensor, Stats, Tensor | None]:
        """Run the model once: its loss, statistics, and the logits behind both.

        Args: as for :meth:`forward`.
        Returns:
            loss (), statistics, and the decoder's logits (B, U + 1, V), None without a
            decoder. Position u predicts token u, and <eos> behind the last.
        Raises:
            UserError: see :meth:`forward`.
        """
        text = text[:, : int(text_lengths.max())]
        encoded, lengths = self._encode_once(speech, speech_lengths, utt_id)
        weight = self.config.ctc_weight
        loss, logits = encoded.new_zeros(()), None
        stats: Stats = {}
        if self.ctc is not None:
            said, said_lengths = text, text_lengths
            if source is not None and source_lengths is not None:
                said, said_lengths = (
                    source[:, : int(source_lengths.max())],
                    source_lengths,
                )
            loss_ctc, found = self._ctc_loss(
                self.ctc, encoded, lengths, said, said_lengths, utt_id
            )
            loss, stats = loss + weight * loss_ctc, found
        if self.decoder is not None and self.token_loss is not None:
            loss_att, found, logits = self._token_loss(
                self.decoder,
                self.token_loss,
                encoded,
                lengths,
                text,
                text_lengths,
                intent,
            )
            loss, stats = loss + loss_att, stats | found
        if not torch.isfinite(loss):
            raise UserError(_not_finite(loss, utt_id))
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
        self._warn_of_short(lengths, text, text_lengths, utt_id)
        loss = ctc(encoded, lengths, text, text_lengths)
        stats: Stats = {"loss_ctc": loss.detach()}
        if not self.training:
            stats["cer_ctc"] = greedy_ctc_error_rate(
                ctc, encoded, lengths, text, text_lengths
            )
        return loss, stats

    def _token_loss(
        self,
        decoder: DecoderOnlyTransformer,
        token_loss: TokenLoss,
        encoded: Tensor,
        lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        intent: Tensor | None,
    ) -> tuple[Tensor, Stats, Tensor]:
        given, wanted = shifted(text, text_lengths, self.eos)
        prompt, prompt_lens = self.project(encoded, lengths)
        logits = decoder(prompt, prompt_lens, given)
        loss, accuracy = token_loss(logits, wanted)
        stats: Stats = {"loss_att": loss.detach(), "acc": accuracy}
        loss = (1 - self.config.ctc_weight) * loss
        if intent is not None:
            loss_intent, right = intent_loss(logits, wanted, intent[:, 0])
            loss = loss + self.config.intent_weight * loss_intent
            stats |= {"loss_intent": loss_intent.detach(), "acc_intent": right}
        return loss, stats, logits

    def _warn_of_short(
        self,
        lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str],
    ) -> None:
        # espnet2's CTC gives such utterances a loss of zero (zero_infinity).
        needed = frames_for_ctc(text, text_lengths)
        for row in (needed > lengths).nonzero().flatten().tolist():
            name = utt_id[row] if len(utt_id) else f"utterance {row} of a batch"
            if name in self._warned or len(self._warned) == MOST_WARNINGS:
                continue
            self._warned.add(name)
            logger.warning(
                "%s: CTC needs %d frames and the encoder gives %d: its CTC loss counts "
                "as zero%s",
                *(name, int(needed[row]), int(lengths[row])),
                "; more such are not told"
                if len(self._warned) == MOST_WARNINGS
                else "",
            )

    def train(self, mode: bool = True) -> DecoderOnlySpeechModel:
        """As torch's, but a frozen front-end or encoder stays in evaluation mode.

        Otherwise its dropout would go on and its batch normalisation go on learning.
        """
        super().train(mode)
        for part in (self.frontend, self.encoder):
            if part is not None and any(True for _ in part.parameters()):
                part.train(mode and not is_frozen(part))
        return self

    def _apply(
        self, change: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> DecoderOnlySpeechModel:
        """Move or convert as torch does; half precision is for the decoder alone.

        What stands before it stays in single precision at least: spectra have no half
        precision everywhere, and statistics and batch normalisation lose in it.
        """

        def careful(value: Tensor) -> Tensor:
            new = change(value)
            halved = new.is_floating_point() and new.dtype.itemsize < 4
            return value.to(new.device) if halved else new

        for name, part in self.named_children() if recurse else ():
            part._apply(change if name == "decoder" else careful)
        return super()._apply(change, recurse=False)

    def _encode_once(
        self, speech: Tensor, speech_lengths: Tensor, utt_id: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """:meth:`encode`, from memory where that was asked for."""
        if self.config.encoded_cache_mb == 0:
            return self.encode(speech, speech_lengths, utt_id)
        if self.specaug is not None or not is_frozen(
            self.frontend, self.normalize, self.encoder
        ):
            raise UserError(
                "model_conf.encoded_cache_mb: the encoder's output changes as training "
                "goes on; freeze it (freeze_param: [frontend, encoder]) and leave "
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
        """Encoder output (B, T, E) and its valid frames (B,), the same in any batch.

        Args: as for :meth:`forward`.
        """
        with self._turn():
            return self._encode(speech, speech_lengths, utt_id)

    def _turn(self) -> AbstractContextManager[None]:
        """Replicas of data-parallel training share the lock and must not wait."""
        return nullcontext() if self.training else self.turns

    def _encode(
        self, speech: Tensor, speech_lengths: Tensor, utt_id: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(speech.device.type, enabled=False):
            x, lengths = self.extract_feats(speech, speech_lengths)
            frames = lengths
            if self.encoder is not None:
                frames = subsampled_lengths(self.encoder, lengths)
            _refuse_short(frames, lengths, utt_id)
            if self.specaug is not None and self.training:
                x, lengths = self.specaug(x, lengths)
            if self.normalize is not None:
                x, lengths = self.normalize(x, lengths)
        if self.encoder is None:
            return x, lengths
        x, encoded_lengths, *_ = self.encoder(x, lengths)
        return x, encoded_lengths

    def project(self, encoded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's prompt (B, P, D) and its valid positions (B,)."""
        if self.projector is None or self.decoder is None:
            raise UserError(
                "model_conf.ctc_weight is 1: this is an encoder without a decoder"
            )
        prompt, lengths = self.projector(encoded, lengths)
        dtype = self.decoder.output.weight.dtype
        return prompt.to(dtype) if dtype.itemsize < 4 else prompt, lengths

    def extract_feats(
        self, speech: Tensor, speech_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features (B, F, input_size) before normalisation and their frames (B,).

        What the front-end would make may be given in place of samples: it was made
        beforehand and stored.
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
        """What the statistics of normalisation are collected from.

        ``others`` is the rest of the batch: espnet2 passes all of it.

        Raises:
            UserError: a keyword is unknown.
        """
        collect_feats = DecoderOnlySpeechModel.collect_feats
        refuse_unknown(collect_feats, others, REST_OF_BATCH)
        feats, lengths = self.extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}


def _refuse_short(frames: Tensor, lengths: Tensor, utt_id: Sequence[str]) -> None:
    """Name an utterance of which subsampling leaves no frame; all are (B,)."""
    if int(frames.min()) < 1:
        row = int(frames.argmin())
        name = utt_id[row] if len(utt_id) else f"utterance {row} of the batch"
        raise UserError(
            f"{name}: {int(lengths[row])} feature frames are too few for the "
            "encoder's subsampling; drop such ones (filter_data --min_seconds)"
        )


def _not_finite(loss: Tensor, utt_id: Sequence[str]) -> str:
    names = ", ".join(utt_id[:5]) + (", ..." if len(utt_id) > 5 else "")
    return (
        f"the loss became {loss.item()} on the batch [{names}]; lower optim_conf.lr or "
        "scheduler's peak, or look at these recordings"
    )
