"""Llama with Multi-head Temporal Latent Attention, for Transformers.

Everything but the attention is Llama's, as Transformers has it. The batch is packed
once (:mod:`.packing`), runs through the layers as rows, and is unpacked at the end.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)
from transformers.models.llama.modeling_llama import (
    LlamaForCausalLM,
    LlamaMLP,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
)
from transformers.utils.generic import can_return_tuple

from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.arguments import (
    check_columns,
    check_places,
    check_segments,
    check_tokens,
    kept_columns,
    one_cache,
)
from espnet_mtla.hf.llama.attention import LlamaMTLAAttention, Step
from espnet_mtla.hf.llama.cache import TemporalLatentCache, describe
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig
from espnet_mtla.hf.llama.generation import TemporalGenerationMixin
from espnet_mtla.hf.llama.packing import Packing, find_packing, over_columns
from espnet_mtla.hf.loading import CheckedLoading, check_saving
from espnet_mtla.hf.versions import CACHE_NAME, CACHE_NAMES
from espnet_mtla.module_list import ModuleListOf
from espnet_mtla.settings.checks import refuse_unknown

OTHERS = ("cache_position", "token_type_ids")
"""Keywords of ``forward`` that are no parameters, so that ``generate`` and the Trainer
do not take the model for one that needs them."""


class LlamaMTLADecoderLayer(GradientCheckpointingLayer):
    """Llama's layer, of the same parts by the same names, around another attention."""

    if TYPE_CHECKING:
        self_attn: LlamaMTLAAttention

    def __init__(self, config: LlamaMTLAConfig, layer_idx: int) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.self_attn = LlamaMTLAAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(
            config.hidden_size, config.rms_norm_eps
        )

    def forward(self, hidden_states: Tensor, step: Step) -> Tensor:
        """Run one layer on packed rows ``(N, T, D)``."""
        x = hidden_states
        x = x + self.self_attn(self.input_layernorm(x), step)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaMTLAPreTrainedModel(CheckedLoading, LlamaPreTrainedModel):
    """What both models share."""

    if TYPE_CHECKING:
        config: LlamaMTLAConfig

    config_class = LlamaMTLAConfig
    _no_split_modules = ["LlamaMTLADecoderLayer"]  # noqa: RUF012 - Transformers' own
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_record_outputs = None  # type: ignore[assignment]  # they are returned
    _skip_keys_device_placement = list(CACHE_NAMES)  # noqa: RUF012 - the same

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Save, and note the stride that the weights belong to.

        Raises:
            UserError: a keyword that no supported Transformers version knows.
        """
        check_saving(LlamaPreTrainedModel.save_pretrained, kwargs)
        self.config.trained_down_rate = self.config.down_rate
        super().save_pretrained(save_directory, *args, **kwargs)


class LlamaMTLAModel(LlamaMTLAPreTrainedModel):
    """The layers, from tokens to hidden states."""

    accepts_loss_kwargs = False  # for the Trainer: there is no loss here

    def __init__(self, config: LlamaMTLAConfig) -> None:
        super().__init__(config)
        config.check()
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.hidden_size, self.padding_idx
        )
        self.layers = ModuleListOf(
            LlamaMTLADecoderLayer(config, index)
            for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: Cache | None = None,
        **others: object,
    ) -> BaseModelOutputWithPast:
        """Hidden states of new tokens, which see those in the cache.

        Args:
            input_ids: ``(B, L)``; or inputs_embeds: ``(B, L, D)``.
            attention_mask: 1 at tokens and 0 at padding, of the new tokens or of all so
                far, ``(B, tokens)``.
            position_ids: rotary positions ``(B or 1, L)``; None: a row's own tokens
                count. Without a mask and a cache, rows whose positions begin anew hold
                several documents, which do not see each other.
            cache: gets the new tokens; or past_key_values, its name before
                Transformers 5.24.
            use_cache: make a cache if there is none; None: as the configuration says.
            output_attentions: of each layer ``(B, H, L, columns so far)``: a merged
                chunk's weight stands at its last token. Slower; no flash kernels.
            others: ``cache_position`` and ``token_type_ids``, which are only checked
                (:func:`.arguments.check_columns`, :func:`.arguments.check_segments`).

        Raises:
            UserError: what cannot be done or is not known, by name.
        """
        refuse_unknown(LlamaMTLAModel.forward, others, OTHERS)
        check_tokens(input_ids, inputs_embeds, self.config.hidden_size)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        cache = self._cache(one_cache(cache, past_key_values), use_cache)
        shape = x.shape[:2]
        check_columns(others.get("cache_position"), shape[1], cache)
        check_segments(others.get("token_type_ids"))
        check_places(attention_mask, position_ids, shape, cache)
        packing = find_packing(attention_mask, position_ids, shape, cache is not None)
        if packing is not None:
            x = packing.pack(x)
            if position_ids is not None:
                position_ids = packing.pack(position_ids.expand(shape))
        step = self._step(x, position_ids, packing, cache)
        noted: list[Tensor] = []
        step = replace(step, noted=noted if output_attentions else None)
        states = self._through(x, step, packing, bool(output_hidden_states))
        attentions = None
        if output_attentions:
            padded = cache if cache is not None else packing
            real = None if padded is None else padded.real
            attentions = tuple(over_columns(one, packing, real) for one in noted)
        return BaseModelOutputWithPast(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=attentions,
            **{CACHE_NAME: cache},
        )

    def _through(
        self,
        x: Tensor,
        step: Step,
        packing: Packing | None,
        output_hidden_states: bool,
    ) -> list[Tensor]:
        """Run the layers on packed tokens ``x (N, T, D)``; move the cache's timeline.

        Returns:
            The last hidden states ``(B, L, D)``, with all before them if asked for.
        """
        states: list[Tensor] = []
        cache = step.cache
        # As in Llama: assisted decoding with an early exit lowers the number.
        for layer in self.layers[: self.config.num_hidden_layers]:
            if output_hidden_states and packing is not None:
                # Through the batch's own form, so that gradients reach what is shown.
                states.append(packing.unpack(x))
                x = packing.pack(states[-1])
            elif output_hidden_states:
                states.append(x)
            x = layer(x, step=step)  # x by place: checkpointing follows it by that
        x = self.norm(x)
        if cache is None:
            return [*states, x if packing is None else packing.unpack(x)]
        timeline, newest = cache.held
        timeline.advance(x.size(1) if packing is None else packing.lengths)
        x = x if packing is None else packing.unpack(x, newest)
        newest.copy_(x[:, -1].detach())
        return [*states, x]

    def _step(
        self,
        x: Tensor,
        position: Tensor | None,
        packing: Packing | None,
        cache: TemporalLatentCache | None,
    ) -> Step:
        """What all layers need to know of the packed tokens ``x (N, T, D)``."""
        attention = self.layers[0].self_attn
        if cache is None:
            if position is None:
                position = torch.arange(x.size(1), device=x.device).unsqueeze(0)
            return Step(attention.angles(position, x.dtype))
        # Asked before tokens are placed. A compiled step must not look at values.
        fresh = x.size(1) > 1 and cache.get_seq_length() == 0
        if packing is None:
            timeline, lengths = cache.ready(x), None
        else:
            timeline, lengths = cache.ready(x, packing.real), packing.lengths
        placement = attention.locate(timeline, x, position)
        return Step(placement.angles, placement, lengths, fresh, cache)

    def _cache(
        self, given: Cache | None, use_cache: bool | None
    ) -> TemporalLatentCache | None:
        if use_cache is None:
            use_cache = self.config.use_cache
        # Without gradients layers run once, in training mode too.
        checkpointing = self.gradient_checkpointing and self.training
        checkpointing = checkpointing and torch.is_grad_enabled()
        if given is None:
            wanted = use_cache and not checkpointing
            return TemporalLatentCache(self.config) if wanted else None
        if checkpointing:
            raise UserError(
                f"{CACHE_NAME}: given with gradient checkpointing, which runs layers "
                "twice; leave one out"
            )
        return self.checked_cache(given)

    def checked_cache(self, given: Cache) -> TemporalLatentCache:
        """Return a cache that this model can use.

        Raises:
            UserError: it is of another class or of another model.
        """
        layers, count = getattr(given, "layers", []), self.config.num_hidden_layers
        if not isinstance(given, TemporalLatentCache) or len(layers) != count:
            raise UserError(
                f"{CACHE_NAME}: {type(given).__name__} of {len(layers)} layers "
                f"given, a TemporalLatentCache of {count} is needed; leave "
                "it out, or make one by TemporalLatentCache(model.config)"
            )
        needed = self.layers[0].self_attn.layout
        if given.layout != needed:
            raise UserError(
                f"{CACHE_NAME}: a cache of another model, {describe(given.layout)}; "
                f"{describe(needed)} needed"
            )
        return given


class LlamaMTLAForCausalLM(
    TemporalGenerationMixin, LlamaMTLAPreTrainedModel, LlamaForCausalLM
):
    """The model with its output layer: training by ``labels``, and ``generate``."""

    accepts_loss_kwargs = True  # for the Trainer: num_items_in_batch

    def __init__(self, config: LlamaMTLAConfig) -> None:
        super(LlamaForCausalLM, self).__init__(config)  # not Llama's own layers
        self.model = LlamaMTLAModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: Cache | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **others: object,
    ) -> CausalLMOutputWithPast:
        """Logits of new tokens ``(B, L, V)``, and the loss of ``labels``.

        Args: see :meth:`LlamaMTLAModel.forward`, and
            labels: ``(B, L)``, as the tokens themselves; -100 does not count.
            logits_to_keep: which columns' logits, see :func:`.arguments.kept_columns`.
            num_items_in_batch: what the sum of the losses is divided by; None: the
                number of labels that count. Not read without ``labels``: the Trainer
                passes it, too, where it computes the loss itself.

        Raises:
            UserError: what cannot be done or is not known, by name.
        """
        refuse_unknown(LlamaMTLAForCausalLM.forward, others, OTHERS)
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            one_cache(cache, past_key_values),
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
            **others,
        )
        states = kept_columns(outputs.last_hidden_state, logits_to_keep)
        logits = self.lm_head(states)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )


__all__ = [
    "LlamaMTLAForCausalLM",
    "LlamaMTLAModel",
    "LlamaMTLAPreTrainedModel",
]
