"""Overrides of ``generate``: the cache that it makes, and the mask of a step."""

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
"""Keywords that Transformers passes to mask creation, and that need no mask here."""


class TemporalGenerationMixin(GenerationMixin):
    """Mixed into a model before Transformers' own generation."""

    if TYPE_CHECKING:
        config: Any  # LlamaMTLAConfig of the model
        model: Any  # LlamaMTLAModel, the layers

    _longest_static = 0  # reused for shorter texts, which avoids recompilation

    def generate(
        self,
        *args: object,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **options: object,
    ) -> GenerateOutput | Tensor:
        """Generate as Transformers does; the cache has two keywords.

        Raises:
            UserError: two different caches, ``cache_params``, a cache of another model,
                or a cache that already holds the whole prompt.
        """
        # Transformers 5.24 would use it as the cache, or ignore it beside one.
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
        batch_size: int,  # noqa: ARG002 - memory is allocated at the first token
        max_cache_length: int,
    ) -> None:
        """Create the cache that the configuration names, in ``model_kwargs``.

        Raises:
            UserError: another cache is requested beside one that was passed, or a type
                that cannot be used.
        """
        implementation = generation_config.cache_implementation
        assisted = generation_mode == GenerationMode.ASSISTED_GENERATION
        if model_kwargs.get(CACHE_NAME) is not None:
            if implementation is not None:
                raise UserError(
                    f"cache_implementation: {implementation!r} given beside "
                    f"{CACHE_NAME}; leave one out"
                )
            if generation_config.use_cache is False:
                raise UserError(
                    f"use_cache: False given beside {CACHE_NAME}; leave one out"
                )
            model_kwargs[CACHE_NAME]._is_user_defined = True
        elif generation_config.use_cache is False:
            return
        elif implementation in DYNAMIC:
            model_kwargs[CACHE_NAME] = TemporalLatentCache(self.config)
        elif implementation == "static":
            if assisted:
                raise UserError(
                    "cache_implementation: 'static' given, assisted decoding removes "
                    "tokens, which only a dynamic cache can; leave it out"
                )
            requested = getattr(generation_config, "max_cache_len", None) or 0
            longest = max(max_cache_length, requested, self._longest_static)
            self._longest_static = longest
            model_kwargs[CACHE_NAME] = TemporalLatentCache(
                self.config, longest, static=True
            )
        else:
            raise UserError(
                f"cache_implementation: {implementation!r} given, dynamic or static "
                "is needed: entries are compressed already, and are not moved or "
                "quantised"
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
        """Return the mask of the new tokens alone, which has one shape in all steps.

        It is contiguous: a slice of a growing mask has other strides in each step, and
        each would be compiled again. Transformers 4 calls the embeddings
        ``input_embeds``.

        Raises:
            UserError: a keyword that a mask would depend on.
        """
        unknown = [name for name, value in others.items() if value is not None]
        make = TemporalGenerationMixin.create_masks_for_generate
        refuse_unknown(make, unknown, MASK_KEYWORDS)
        like = inputs_embeds if inputs_embeds is not None else input_embeds
        if attention_mask is None or like is None:
            return attention_mask
        return attention_mask[:, -like.size(1) :].contiguous()


def _check_prompt(
    cache: TemporalLatentCache, args: Sequence[object], options: Mapping[str, object]
) -> None:
    """Check that the prompt of ``generate`` is longer than the cache.

    Transformers reads the part of the prompt behind the cache's tokens. If there is
    none, it would read the whole prompt a second time. From Transformers 5 on the
    prompt may be the new tokens alone, with a wider mask.

    Args:
        cache: passed to ``generate``.
        args: its positional arguments.
        options: its keywords.

    Raises:
        UserError: the prompt has no new token.
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
