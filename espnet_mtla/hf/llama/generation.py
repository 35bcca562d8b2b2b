"""What ``generate`` must know: which cache to make, and which mask a step needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import (
    GenerationConfig,
    GenerationMode,
)
from transformers.generation.utils import GenerateOutput, GenerationMixin

from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.arguments import one_cache
from espnet_mtla.hf.llama.cache import TemporalLatentCache
from espnet_mtla.hf.versions import CACHE_NAME, TRANSFORMERS_4
from espnet_mtla.settings.checks import refuse_unknown

DYNAMIC = (None, "dynamic", "dynamic_full")

MASK_KEYWORDS = (
    *("config", "cache", "past_key_values", "cache_position", "position_ids"),
    "is_first_iteration",
)
"""What Transformers passes to make a mask by, and ``forward`` gets all the same."""


class TemporalGenerationMixin(GenerationMixin):
    """Mixed into a model before Transformers' own generation."""

    if TYPE_CHECKING:
        config: Any  # of the model that this is mixed into, a LlamaMTLAConfig
        model: Any  # its layers, a LlamaMTLAModel

    _longest_static = 0  # so that a shorter text next time compiles nothing anew

    def generate(
        self,
        *args: object,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **options: object,
    ) -> GenerateOutput | Tensor:
        """Generate as Transformers does, with the cache by either keyword.

        Raises:
            UserError: two different caches, one by the name of Mamba's, one that does
                not fit the model, or one that holds as much as the prompt.
        """
        # Transformers 5.24 would take it for the cache, or drop it beside one.
        alias = options.keys() & {"cache_params"}
        refuse_unknown(TemporalGenerationMixin.generate, alias)
        filled = one_cache(cache, past_key_values)
        if filled is not None:
            checked: TemporalLatentCache = self.model.checked_cache(filled)
            options[CACHE_NAME] = checked
            _check_prompt(checked, args, options)
        return super().generate(*args, **options)

    # Transformers' own says bool, and returns nothing.
    def _prepare_cache_for_generation(  # type: ignore[override]
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
        if model_kwargs.get(CACHE_NAME) is not None:
            if kind is not None:
                raise UserError(
                    f"cache_implementation: {kind!r} given beside {CACHE_NAME}; "
                    "leave one out"
                )
            if generation_config.use_cache is False:
                raise UserError(
                    f"use_cache: False given beside {CACHE_NAME}; leave one out"
                )
            model_kwargs[CACHE_NAME]._is_user_defined = True
        elif generation_config.use_cache is False:
            return
        elif kind in DYNAMIC:
            model_kwargs[CACHE_NAME] = TemporalLatentCache(self.config)
        elif kind == "static":
            if assisted:
                raise UserError(
                    "cache_implementation: 'static' given, assisted decoding must go "
                    "back, which only a dynamic cache can; leave it out"
                )
            given = getattr(generation_config, "max_cache_len", None) or 0
            longest = max(max_cache_length, given, self._longest_static)
            self._longest_static = longest
            model_kwargs[CACHE_NAME] = TemporalLatentCache(
                self.config, longest, static=True
            )
        else:
            raise UserError(
                f"cache_implementation: {kind!r} given, dynamic or static is needed: "
                "entries are compressed already, and are not moved or quantised"
            )
        if assisted or generation_config.is_assistant:
            model_kwargs[CACHE_NAME].activate_past_recording()

    @staticmethod
    def create_masks_for_generate(
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        input_embeds: Tensor | None = None,
        **others: object,
    ) -> Tensor | None:
        """The mask of the new tokens alone: of one form at every step.

        Contiguous, since the strides of a part of a growing mask are another form, and
        each would be compiled anew. ``input_embeds`` is its name in Transformers 4.

        Raises:
            UserError: something else that a mask would depend on.
        """
        given = [name for name, value in others.items() if value is not None]
        make = TemporalGenerationMixin.create_masks_for_generate
        refuse_unknown(make, given, MASK_KEYWORDS)
        like = inputs_embeds if inputs_embeds is not None else input_embeds
        if attention_mask is None or like is None:
            return attention_mask
        return attention_mask[:, -like.size(1) :].contiguous()


def _check_prompt(
    cache: TemporalLatentCache, args: Sequence[object], options: Mapping[str, object]
) -> None:
    """Check that the prompt of ``generate`` goes on behind what the cache holds.

    Transformers takes what follows the cache's tokens from the prompt; where nothing
    does, it would read the prompt once more. A prompt of new tokens alone is known by
    a mask that is wider (from Transformers 5 on).

    Raises:
        UserError: it does not.
    """
    names = ("inputs_embeds", "input_ids", "inputs")
    prompts = [options.get(name) for name in names] + [*args[:1]]
    prompt = next((one for one in prompts if isinstance(one, Tensor)), None)
    mask, past = options.get("attention_mask"), cache.get_seq_length()
    if prompt is None or prompt.dim() < 2 or prompt.size(1) > past:
        return
    alone = isinstance(mask, Tensor) and mask.size(-1) != prompt.size(1)
    if TRANSFORMERS_4 or not alone or options.get("inputs_embeds") is not None:
        raise UserError(
            f"{CACHE_NAME}: holds {past} tokens, the prompt has {prompt.size(1)}; give "
            "the whole text, of which at least the last token is not in the cache"
        )
