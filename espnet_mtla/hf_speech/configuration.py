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
        trained_down_rate: temporal stride of the weights, so that another one in
            ``recipe`` is noticed; None: any will do.
    """

    model_type = "mtla_speech"

    def __init__(
        self,
        recipe: dict[str, Any] | None = None,
        tokens: list[str] | None = None,
        decode: dict[str, Any] | None = None,
        sampling_rate: int = 16000,
        trained_down_rate: int | None = None,
        **others: Any,
    ) -> None:
        self.recipe, self.tokens = recipe or {}, tokens or []
        self.decode, self.sampling_rate = decode or {}, sampling_rate
        self.trained_down_rate = trained_down_rate
        self.vocab_size = len(self.tokens)
        last = max(0, self.vocab_size - 1)
        ids = {"bos_token_id": last, "eos_token_id": last, "pad_token_id": 0}
        others = {**ids, "is_encoder_decoder": True, **others}
        super().__init__(**others)

    @property
    def down_rate(self) -> int | None:
        """Temporal stride that the recipe asks for; None of other attention."""
        decoder = self.recipe.get("decoder_conf", {})
        return decoder.get("attention_conf", {}).get("down_rate")

    def check(self) -> None:
        """Raises :class:`UserError` unless there is a model to build, as trained."""
        if not self.recipe or not self.tokens:
            raise UserError(
                "this configuration describes no model; make it from a packed one: "
                "MTLAForSpeechSeq2Seq.from_packed(FOLDER)"
            )
        if self.trained_down_rate not in (None, self.down_rate):
            raise UserError(
                f"down_rate: {self.down_rate} given, the weights were trained with "
                f"{self.trained_down_rate}; put it back"
            )
