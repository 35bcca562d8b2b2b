"""What speech and text models share: projector, decoder and the loss on its tokens.

A child turns its input into vectors (:meth:`DecoderOnlyModel.encode`). Projector,
decoder and cross-entropy follow, the same for all. Letters of shapes: ``B`` utterances,
``T`` encoder frames (or source tokens), ``E`` their width, ``P`` prompt positions,
``D`` decoder width, ``U`` tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.loss import TokenLoss, intent_loss, shifted
from espnet_mtla.model.projector import FrameStackProjector, TokenConvolution

if TYPE_CHECKING:
    from espnet2.asr.ctc import CTC

    from espnet_mtla.decoder import DecoderOnlyTransformer
    from espnet_mtla.model.template import PromptTemplates

Stats = dict[str, Tensor | float]
Unit = Literal["second", "token"]


class DecoderOnlyModel(AbsESPnetModel):
    """Base of the models: an encoded input is the prompt of a decoder-only model.

    ``frontend``, ``encoder`` and ``ctc`` are None where a model has no such module.

    Args:
        token_list: tokens by id; <blank> first and <sos/eos> last, if :attr:`sos`,
            :attr:`eos` and :attr:`blank` are not set to others afterwards.
        projector: brings encoded inputs to the decoder's width; None if they have it.
        decoder: None for an encoder trained by CTC alone.
    """

    unit: ClassVar[Unit]
    """What the length of an input is measured in."""

    decoder: DecoderOnlyTransformer | None

    def __init__(
        self,
        token_list: Sequence[str],
        config: ModelConfig,
        projector: FrameStackProjector | TokenConvolution | None,
        decoder: DecoderOnlyTransformer | None,
    ) -> None:
        super().__init__()
        self.token_list = list(token_list)
        self.sos = self.eos = len(self.token_list) - 1
        self.blank = 0  # of CTC, and never part of a text; eos if there is none
        self.config = config
        self.frontend: nn.Module | None = None
        self.encoder: nn.Module | None = None
        self.ctc: CTC | None = None
        self.projector = projector
        self.decoder = decoder
        self.templates: PromptTemplates | None = None
        self.token_loss = TokenLoss(len(self.token_list), config) if decoder else None

    @abstractmethod
    def encode(
        self, inputs: Tensor, lengths: Tensor, utt_id: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return vectors (B, T, E) and valid lengths (B,), the same in any batch.

        Args:
            inputs: what the model reads, padded; lengths: (B,) of its rows.
            utt_id: B names, for messages.
        """

    def project(
        self, encoded: Tensor, lengths: Tensor, tasks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the decoder's prompt (B, P, D) and its valid positions (B,).

        Args:
            encoded: (B, T, E), valid up to ``lengths`` (B,).
            tasks: index of each row's task, (B,); None: the model has one alone.
        """
        if self.decoder is None:
            raise UserError(
                "model_conf.ctc_weight is 1: this is an encoder without a decoder"
            )
        if self.projector is None:
            return encoded, lengths
        prompt, lengths = self.projector(encoded, lengths)
        dtype = self.decoder.output.weight.dtype
        prompt = prompt.to(dtype) if dtype.itemsize < 4 else prompt
        if self.templates is None:
            return prompt, lengths
        return self.templates(prompt, lengths, tasks, self.decoder.embed)

    def sound_positions(self, prompt_lens: Tensor, tasks: Tensor | None) -> Tensor:
        """Return the positions (B,) of the sound alone in prompts (B,) long."""
        if self.templates is None:
            return prompt_lens
        return prompt_lens - self.templates.positions(tasks, prompt_lens)

    def decoder_losses(
        self,
        encoded: Tensor,
        lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        intent: Tensor | None = None,
        tasks: Tensor | None = None,
    ) -> tuple[Tensor, Stats, Tensor]:
        """Run the decoder over ``text``, and weigh its losses by ``config``.

        Args:
            encoded: (B, T, E), valid up to ``lengths`` (B,).
            text: (B, U) token ids, valid up to ``text_lengths`` (B,).
            intent: (B, 1) number of tokens of the intent that begins each text.
            tasks: (B,) index of each row's task.
        Returns:
            loss (), statistics, and logits (B, U + 1, V): position u predicts token u,
            and <eos> after the last.
        """
        inputs, targets = shifted(text, text_lengths, self.sos, self.eos)
        prompt, prompt_lens = self.project(encoded, lengths, tasks)
        if self.decoder is None or self.token_loss is None:
            raise AssertionError("project refuses a model without a decoder")
        logits = self.decoder(prompt, prompt_lens, inputs)
        loss, accuracy = self.token_loss(logits, targets)
        stats: Stats = {"loss_att": loss.detach(), "acc": accuracy}
        loss = (1 - self.config.ctc_weight) * loss
        if intent is not None:
            loss_intent, correct = intent_loss(logits, targets, intent[:, 0])
            loss = loss + self.config.intent_weight * loss_intent
            stats |= {"loss_intent": loss_intent.detach(), "acc_intent": correct}
        return loss, stats, logits

    def _apply(
        self, change: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> DecoderOnlyModel:
        """Move or convert as torch does; half precision is for the decoder alone.

        The modules before it stay at least in single precision: spectra are not
        available in half precision everywhere, and statistics and batch normalisation
        are inaccurate in it.
        """

        def careful(value: Tensor) -> Tensor:
            new = change(value)
            halved = new.is_floating_point() and new.dtype.itemsize < 4
            return value.to(new.device) if halved else new

        for name, part in self.named_children() if recurse else ():
            part._apply(change if name == "decoder" else careful)
        return super()._apply(change, recurse=False)


def check_loss(loss: Tensor, utt_id: Sequence[str]) -> None:
    """Raise :class:`UserError` naming the batch unless ``loss`` () is finite."""
    if torch.isfinite(loss):
        return
    names = ", ".join(utt_id[:5]) + (", ..." if len(utt_id) > 5 else "")
    raise UserError(
        f"the loss became {loss.item()} on the batch [{names}]; lower optim_conf.lr or "
        "scheduler's peak, or look at these recordings"
    )


def gather(loss: Tensor, stats: Stats, size: int) -> tuple[Tensor, Stats, Tensor]:
    """Return loss, statistics and batch size as tensors (1,), averaged by processes."""
    return force_gatherable((loss, stats, size), loss.device)
