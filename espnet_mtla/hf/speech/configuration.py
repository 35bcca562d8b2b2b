"""Configuration of a speech model: the recipe that it was trained with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from espnet_mtla.errors import UserError
from espnet_mtla.settings.names import CHECKPOINT_KEYS


class MTLASpeechConfig(PretrainedConfig):
    """Settings of a speech model.

    Args:
        recipe: the ``config.yaml`` of a packed model.
        tokens: the token list, <blank> first and <sos/eos> last.
        decode: fields of :class:`~espnet_mtla.search.DecodeOptions`, the defaults of
            ``generate``.
        sampling_rate: sampling rate of the front-end in Hz.
        trained_down_rate: temporal stride that the weights were trained with; another
            one in ``recipe`` is an error. None: not checked.
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

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Save, with the checkpoint that the front-end is built from, if it has one."""
        from espnet_mtla.model.files import export_upstream

        recipe, settings = self.recipe, self.recipe.get("frontend_conf", {})
        folder = Path(save_directory)
        names = export_upstream(recipe.get("frontend"), settings, folder)
        if names != settings:
            self.recipe = {**recipe, "frontend_conf": names}
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.recipe = recipe

    def locate_upstream(self) -> None:
        """Make the path of the front-end's checkpoint absolute; it is saved beside.

        Raises:
            UserError: there is no such file.
        """
        from espnet_mtla.share.hub import find_model

        settings = self.recipe.get("frontend_conf", {})
        key = CHECKPOINT_KEYS.get(self.recipe.get("frontend") or "")
        path = settings.get(key)
        if key is None or not path or Path(path).is_absolute():
            return
        revision = getattr(self, "_commit_hash", None)
        if self.name_or_path:
            file = find_model(self.name_or_path, revision).resolve() / path
            if not file.exists():
                raise UserError(f"{file}: no such file, the front-end is built from it")
            settings = {**settings, key: str(file)}
            self.recipe = {**self.recipe, "frontend_conf": settings}

    @property
    def down_rate(self) -> int | None:
        """Temporal stride in the recipe; None if its attention has none."""
        decoder = self.recipe.get("decoder_conf", {})
        return decoder.get("attention_conf", {}).get("down_rate")

    def check(self) -> None:
        """Require a recipe, tokens and the stride of the weights.

        Raises:
            UserError: one of them is missing or another.
        """
        if not self.recipe or not self.tokens:
            raise UserError(
                "this configuration describes no model; make it from a packed one: "
                "MTLAForSpeechSeq2Seq.from_packed(FOLDER)"
            )
        losses = self.recipe.get("model_conf", {})
        for name, present in (
            ("token_type hf", self.recipe.get("token_type") == "hf"),
            ("model_conf.template", losses.get("template") or losses.get("templates")),
        ):
            if present:
                raise UserError(
                    f"{name}: the classes of Transformers do not know it; use "
                    "espnet_mtla.Speech2Text"
                )
        if self.trained_down_rate not in (None, self.down_rate):
            raise UserError(
                f"down_rate: {self.down_rate} given, the weights were trained with "
                f"{self.trained_down_rate}; put it back"
            )
