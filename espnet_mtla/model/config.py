"""Settings of the model's own parts: the only home of their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from espnet_mtla.errors import UserError


@dataclass(frozen=True)
class ProjectorConfig:
    """From encoder frames to decoder positions.

    ``stack`` neighbouring frames become one position; ``hidden_size=None`` means the
    decoder's width.
    """

    stack: int = 2
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        for field in ("stack", "hidden_size"):
            value = getattr(self, field)
            if value is None and field == "hidden_size":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(
                    f"projector_conf.{field}: {value!r} given, "
                    "a whole number >= 1 is needed"
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
        for field, least, most, shown in (
            ("ctc_weight", 0.0, 1.0, "[0, 1]"),
            ("lsm_weight", 0.0, 0.99, "[0, 1)"),
            ("intent_weight", 0.0, 100.0, "[0, 100]"),
        ):
            value = getattr(self, field)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                raise UserError(
                    f"model_conf.{field}: {value!r} given, a number in {shown} needed"
                )
        megabytes = self.encoded_cache_mb
        if (
            not isinstance(megabytes, int)
            or isinstance(megabytes, bool)
            or megabytes < 0
        ):
            raise UserError(
                f"model_conf.encoded_cache_mb: {megabytes!r} given, a whole number "
                ">= 0 is needed"
            )
        if not isinstance(self.length_normalized_loss, bool):
            raise UserError(
                f"model_conf.length_normalized_loss: {self.length_normalized_loss!r} "
                "given, true or false is needed"
            )

    @property
    def uses_ctc(self) -> bool:
        return self.ctc_weight > 0

    @property
    def uses_decoder(self) -> bool:
        return self.ctc_weight < 1
