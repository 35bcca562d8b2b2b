"""Settings of the model's own parts: the only home of their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import check_count, check_flags, check_number

AUDIO = "<audio>"
"""The place of the sound in a template."""


@dataclass(frozen=True)
class ProjectorConfig:
    """Settings of :class:`FrameStackProjector`, from encoder frames to the prompt.

    ``stack`` neighbouring frames become one position. ``hidden_size`` None: the
    decoder's width.
    """

    stack: int = 2
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        counts = ["stack"] if self.hidden_size is None else ["stack", "hidden_size"]
        check_count(self, *counts, prefix="projector_conf.")


@dataclass(frozen=True)
class TextProjectorConfig:
    """Settings of the text model's projector.

    ``kernel``, an odd number, is the width in tokens of a convolution over the source's
    embeddings; 1 uses the embeddings unchanged.
    """

    kernel: int = 1

    def __post_init__(self) -> None:
        check_count(self, "kernel", prefix="projector_conf.")
        if self.kernel % 2 == 0:
            raise UserError(
                f"projector_conf.kernel: {self.kernel} given, an odd number needed: a "
                "token and as many on either side"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Weights and options of the losses.

    ``ctc_weight``: share of the CTC loss; 1.0 trains the encoder alone, 0.0 leaves CTC
    out. ``lsm_weight``: label smoothing. ``intent_weight``: weight of the intents'
    cross-entropy, added in tasks with intents. ``length_normalized_loss``: divide the
    cross-entropy by the batch's tokens, not its utterances. ``encoded_cache_mb``: MiB
    of memory per process for the output of a frozen encoder, which is then computed
    once per utterance instead of in every epoch.

    ``sym_sos`` and ``sym_eos`` name the tokens before and after each text. None:
    <sos/eos>, or with ``token_type: hf`` those of the tokenizer.

    ``template``: text around the sound, such as ``<audio> Transcribe the speech:``.
    ``templates``: the same for several tasks, by their names. ``chat``: a template is
    a user's message in the chat template of the tokenizer.
    """

    ctc_weight: float = 0.3
    lsm_weight: float = 0.1
    intent_weight: float = 1.0
    length_normalized_loss: bool = False
    encoded_cache_mb: int = 0
    sym_sos: str | None = None
    sym_eos: str | None = None
    template: str | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    chat: bool = False

    def __post_init__(self) -> None:
        prefix = "model_conf."
        check_number(self, "ctc_weight", inside="[0, 1]", prefix=prefix)
        check_number(self, "lsm_weight", inside="[0, 1)", prefix=prefix)
        check_number(self, "intent_weight", inside="[0, 100]", prefix=prefix)
        check_count(self, "encoded_cache_mb", least=0, prefix=prefix)
        check_flags(self, "length_normalized_loss", "chat", prefix=prefix)
        self._check_templates()

    def _check_templates(self) -> None:
        if self.template is not None and self.templates:
            raise UserError("model_conf: template and templates: choose one of them")
        if self.chat and not self.all_templates:
            raise UserError("model_conf.chat: needs template or templates")
        for name, text in self.all_templates.items():
            where = f"templates.{name}" if self.templates else "template"
            count = text.count(AUDIO) if isinstance(text, str) else 0
            if count != 1:
                raise UserError(
                    f"model_conf.{where}: {text!r} has {AUDIO}, the place of the "
                    f"sound, {count} times; once is needed"
                )

    @property
    def all_templates(self) -> Mapping[str, str]:
        """Templates by task; a single one has the name ""."""
        return self.templates if self.template is None else {"": self.template}

    @property
    def uses_ctc(self) -> bool:
        return self.ctc_weight > 0

    @property
    def uses_decoder(self) -> bool:
        return self.ctc_weight < 1
