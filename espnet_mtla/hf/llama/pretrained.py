"""Loading and saving of the models, and what Transformers may do with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig
from espnet_mtla.hf.loading import CheckedLoading, check_saving
from espnet_mtla.hf.versions import CACHE_NAMES


class LlamaMTLAPreTrainedModel(CheckedLoading, LlamaPreTrainedModel):
    """Base of both models: loading, saving, and what Transformers may do with them."""

    if TYPE_CHECKING:
        config: LlamaMTLAConfig

    config_class = LlamaMTLAConfig
    _no_split_modules = ["LlamaMTLADecoderLayer"]  # noqa: RUF012 - Transformers' own
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_record_outputs = None  # type: ignore[assignment]  # forward returns them
    _skip_keys_device_placement = list(CACHE_NAMES)  # noqa: RUF012 - the same

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Save the model, with the stride that its weights were trained with.

        Raises:
            UserError: a keyword that no supported Transformers version knows.
        """
        check_saving(LlamaPreTrainedModel.save_pretrained, kwargs)
        self.config.trained_down_rate = self.config.down_rate
        super().save_pretrained(save_directory, *args, **kwargs)
