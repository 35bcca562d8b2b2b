"""Settings of the model's own parts: the only home of their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import check_count, check_flags, check_number


@dataclass(frozen=True)
class ProjectorConfig:
    """From encoder frames to decoder positions.

    ``stack`` neighbouring frames become one position; ``hidden_size=None`` means the
    decoder's width.
    """

    stack: int = 2
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        given = ["stack"] if self.hidden_size is None else ["stack", "hidden_size"]
        check_count(self, *given, prefix="projector_conf.")


@dataclass(frozen=True)
class TextProjectorConfig:
    """From embedded source tokens to decoder positions, of text to text.

    ``kernel`` tokens, an odd number, are seen by a convolution around each; 1 leaves
    the embeddings as they are.
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
    """Losses. ``ctc_weight`` 1.0 trains the encoder alone, 0.0 leaves CTC out.

    ``intent_weight`` is that of the intent's own cross-entropy, which is added to the
    rest where a task has intents.

    ``length_normalized_loss`` divides the cross-entropy by the tokens of the batch
    instead of its utterances. ``encoded_cache_mb`` keeps what a frozen encoder made of
    the utterances in so much memory (MiB, each process), instead of encoding them again
    in every epoch.
    """

    ctc_weight: float = 0.3
    lsm_weight: float = 0.1
    intent_weight: float = 1.0
    length_normalized_loss: bool = False
    encoded_cache_mb: int = 0

    def __post_init__(self) -> None:
        prefix = "model_conf."
        check_number(self, "ctc_weight", inside="[0, 1]", prefix=prefix)
        check_number(self, "lsm_weight", inside="[0, 1)", prefix=prefix)
        check_number(self, "intent_weight", inside="[0, 100]", prefix=prefix)
        check_count(self, "encoded_cache_mb", least=0, prefix=prefix)
        check_flags(self, "length_normalized_loss", prefix=prefix)

    @property
    def uses_ctc(self) -> bool:
        return self.ctc_weight > 0

    @property
    def uses_decoder(self) -> bool:
        return self.ctc_weight < 1
