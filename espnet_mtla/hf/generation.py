"""What ``generate`` must know: which cache to make, and which mask a step needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.generation.configuration_utils import (
    GenerationConfig,
    GenerationMode,
)

from espnet_mtla.errors import UserError
from espnet_mtla.hf.cache import TemporalLatentCache

DYNAMIC = (None, "dynamic", "dynamic_full")

if TYPE_CHECKING:
    from transformers.generation.utils import GenerationMixin

    from espnet_mtla.hf.configuration import LlamaMTLAConfig
else:  # a mixin: the models that use it bring Transformers' own
    GenerationMixin = object


class TemporalGenerationMixin(GenerationMixin):
    """Mixed into a model before Transformers' own generation."""

    if TYPE_CHECKING:
        config: LlamaMTLAConfig

    _longest_static = 0  # so that a shorter text next time compiles nothing anew

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,  # noqa: ARG002 - memory is made for the rows that come
        max_cache_length: int,
    ) -> None:
        """Put the cache that was asked for into ``model_kwargs``."""
        kind = generation_config.cache_implementation
        assisted = generation_mode == GenerationMode.ASSISTED_GENERATION
        if model_kwargs.get("past_key_values") is not None:
            if kind is not None:
                raise UserError(
                    f"cache_implementation: {kind!r} given beside past_key_values; "
                    "leave one out"
                )
            model_kwargs["past_key_values"]._is_user_defined = True
        elif generation_config.use_cache is False:
            return
        elif kind in DYNAMIC:
            model_kwargs["past_key_values"] = TemporalLatentCache(self.config)
        elif kind == "static":
            if assisted:
                raise UserError(
                    "cache_implementation: 'static' given, assisted decoding must go "
                    "back, which only a dynamic cache can; leave it out"
                )
            given = getattr(generation_config, "max_cache_len", None) or 0
            longest = max(max_cache_length, given, self._longest_static)
            self._longest_static = longest
            model_kwargs["past_key_values"] = TemporalLatentCache(
                self.config, longest, static=True
            )
        else:
            raise UserError(
                f"cache_implementation: {kind!r} given, dynamic or static is needed: "
                "entries are compressed already, and are not moved or quantised"
            )
        if assisted or generation_config.is_assistant:
            model_kwargs["past_key_values"].activate_past_recording()

    @staticmethod
    def create_masks_for_generate(
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        input_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor | None:
        """The mask of the new tokens alone: of one form at every step.

        Contiguous, since the strides of a part of a growing mask are another form, and
        each would be compiled anew. ``input_embeds`` is its name in Transformers 4.
        """
        del kwargs
        like = inputs_embeds if inputs_embeds is not None else input_embeds
        if attention_mask is None or like is None:
            return attention_mask
        return attention_mask[:, -like.size(1) :].contiguous()
