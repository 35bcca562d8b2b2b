"""What the model is built from, as the recipe's configuration says it."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from espnet_mtla.errors import UserError


class MTLASpeechConfig(PretrainedConfig):
    """Settings of a speech model.

    Args:
        recipe: the ``config.yaml`` of a packed model.
        tokens: the token list, <blank> first and <sos/eos> last.
        decode: the fields of :class:`~espnet_mtla.search.DecodeOptions` that
            ``generate`` uses unless told otherwise.
        sampling_rate: that the front-end takes, in Hz.
    """

    model_type = "mtla_speech"

    def __init__(
        self,
        recipe: dict[str, Any] | None = None,
        tokens: list[str] | None = None,
        decode: dict[str, Any] | None = None,
        sampling_rate: int = 16000,
        **others: Any,
    ) -> None:
        self.recipe, self.tokens = recipe or {}, tokens or []
        self.decode, self.sampling_rate = decode or {}, sampling_rate
        self.vocab_size = len(self.tokens)
        last = max(0, self.vocab_size - 1)
        ids = {"bos_token_id": last, "eos_token_id": last, "pad_token_id": 0}
        others = {**ids, "is_encoder_decoder": True, **others}
        super().__init__(**others)

    def check(self) -> None:
        """Raises :class:`UserError` unless there is a model to build."""
        if not self.recipe or not self.tokens:
            raise UserError(
                "this configuration describes no model; make it from a packed one: "
                "MTLAForSpeechSeq2Seq.from_packed(FOLDER)"
            )
