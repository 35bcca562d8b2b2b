"""Llama with Multi-head Temporal Latent Attention, for Transformers.

Everything but the attention is Transformers' Llama. The batch is packed once
(:mod:`.packing`), runs through the layers as packed rows, and is unpacked at the end.

Letters: ``B`` rows of the batch, ``L`` their new columns, ``D`` model width, ``H``
heads, ``V`` symbols; ``N`` packed rows of ``T`` tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)
from transformers.models.llama.modeling_llama import (
    LlamaForCausalLM,
    LlamaRMSNorm,
)
from transformers.utils.generic import can_return_tuple

from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.arguments import (
    check_columns,
    check_mask_and_positions,
    check_segments,
    check_tokens,
    one_cache,
    select_columns,
)
from espnet_mtla.hf.llama.attention import PassInputs
from espnet_mtla.hf.llama.cache import TemporalLatentCache, layout_summary
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig
from espnet_mtla.hf.llama.generation import TemporalGenerationMixin
from espnet_mtla.hf.llama.layer import LlamaMTLADecoderLayer
from espnet_mtla.hf.llama.packing import Packing, find_packing, unpack_attention
from espnet_mtla.hf.llama.pretrained import LlamaMTLAPreTrainedModel
from espnet_mtla.hf.versions import CACHE_NAME
from espnet_mtla.module_list import ModuleListOf
from espnet_mtla.settings.checks import refuse_unknown

OTHERS = ("cache_position", "token_type_ids")
"""Keywords that ``forward`` accepts without parameters of these names. ``generate`` and
the Trainer read the signature, and would pass them always if they were parameters."""


class LlamaMTLAModel(LlamaMTLAPreTrainedModel):
    """Embedding and layers: from tokens to hidden states."""

    accepts_loss_kwargs = False  # for the Trainer: this model computes no loss

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
        """Compute the hidden states of new tokens, which attend to those in the cache.

        Args:
            input_ids: ``(B, L)``.
            attention_mask: 1 at tokens and 0 at padding, ``(B, tokens)``, of the new
                tokens or of all so far.
            position_ids: rotary positions ``(B or 1, L)``; None: the index of a token
                in its row, padding excluded. Without mask and cache, positions that
                start again mark a new document of a row; documents do not attend to
                each other.
            cache: earlier tokens; the new ones are added.
            inputs_embeds: ``(B, L, D)`` in place of ``input_ids``.
            use_cache: make a cache if none is passed; None: as in the configuration.
            output_attentions: also return the weights of each layer, ``(B, H, L,
                columns so far)``; those of a merged chunk are at its last token. This
                is slower: flash kernels are not used.
            output_hidden_states: also return the states before each layer.
            past_key_values: name of ``cache`` before Transformers 5.24.
            others: ``cache_position`` and ``token_type_ids``, which are only checked
                (:func:`.arguments.check_columns`, :func:`.arguments.check_segments`).

        Raises:
            UserError: an argument is unknown, invalid or not supported; names it.
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
        check_mask_and_positions(attention_mask, position_ids, shape, cache)
        packing = find_packing(attention_mask, position_ids, shape, cache is not None)
        if packing is not None:
            x = packing.pack(x)
            if position_ids is not None:
                position_ids = packing.pack(position_ids.expand(shape))
        maps: list[Tensor] = []
        inputs = self._pass_inputs(x, position_ids, packing, cache)
        inputs = replace(inputs, attention_maps=maps if output_attentions else None)
        states = self._run_layers(x, inputs, packing, bool(output_hidden_states))
        attentions = None
        if output_attentions:
            padded = cache if cache is not None else packing
            real = None if padded is None else padded.real
            attentions = tuple(unpack_attention(one, packing, real) for one in maps)
        return BaseModelOutputWithPast(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=attentions,
            **{CACHE_NAME: cache},
        )

    def _run_layers(
        self,
        x: Tensor,
        inputs: PassInputs,
        packing: Packing | None,
        output_hidden_states: bool,
    ) -> list[Tensor]:
        """Run all layers and advance the cache's timeline.

        Args:
            x: embeddings of packed rows, ``(N, T, D)``.
            inputs: of all layers.
            packing: of the batch; None: it is packed as it is.
            output_hidden_states: whether to return the states before each layer.

        Returns:
            Hidden states ``(B, L, D)``, those after the last norm at the end.
        """
        states: list[Tensor] = []
        cache = inputs.cache
        # Assisted decoding with an early exit lowers num_hidden_layers, as in Llama.
        for layer in self.layers[: self.config.num_hidden_layers]:
            if output_hidden_states and packing is not None:
                # Packed again from the returned states, so that these get gradients.
                states.append(packing.unpack(x))
                x = packing.pack(states[-1])
            elif output_hidden_states:
                states.append(x)
            x = layer(x, inputs=inputs)  # checkpointing tracks positional arguments
        x = self.norm(x)
        if cache is None:
            return [*states, x if packing is None else packing.unpack(x)]
        timeline, newest = cache.allocated_state
        timeline.advance(x.size(1) if packing is None else packing.lengths)
        x = x if packing is None else packing.unpack(x, newest)
        newest.copy_(x[:, -1].detach())
        return [*states, x]

    def _pass_inputs(
        self,
        x: Tensor,
        position: Tensor | None,
        packing: Packing | None,
        cache: TemporalLatentCache | None,
    ) -> PassInputs:
        """Return the inputs that all layers share, for packed rows ``x (N, T, D)``."""
        attention = self.layers[0].self_attn
        if cache is None:
            if position is None:
                position = torch.arange(x.size(1), device=x.device).unsqueeze(0)
            return PassInputs(attention.angles(position, x.dtype))
        # Read before tokens are placed. A compiled step (one token) reads no value.
        is_first = x.size(1) > 1 and cache.get_seq_length() == 0
        if packing is None:
            timeline, lengths = cache.make_room(x), None
        else:
            timeline, lengths = cache.make_room(x, packing.real), packing.lengths
        placement = attention.locate(timeline, x, position)
        return PassInputs(placement.angles, placement, lengths, is_first, cache)

    def _cache(
        self, cache: Cache | None, use_cache: bool | None
    ) -> TemporalLatentCache | None:
        """Return the cache of a call: the one passed, a new one, or none."""
        if use_cache is None:
            use_cache = self.config.use_cache
        # Checkpointing runs layers a second time only if gradients are computed.
        checkpointing = self.gradient_checkpointing and self.training
        checkpointing = checkpointing and torch.is_grad_enabled()
        if cache is None:
            needed = use_cache and not checkpointing
            return TemporalLatentCache(self.config) if needed else None
        if checkpointing:
            raise UserError(
                f"{CACHE_NAME}: given with gradient checkpointing, which runs layers "
                "twice; leave one out"
            )
        return self.checked_cache(cache)

    def checked_cache(self, cache: Cache) -> TemporalLatentCache:
        """Return the cache if this model can use it.

        Raises:
            UserError: it is of another class or of another model.
        """
        layers, count = getattr(cache, "layers", []), self.config.num_hidden_layers
        if not isinstance(cache, TemporalLatentCache) or len(layers) != count:
            raise UserError(
                f"{CACHE_NAME}: {type(cache).__name__} of {len(layers)} layers "
                f"given, a TemporalLatentCache of {count} is needed; leave "
                "it out, or make one by TemporalLatentCache(model.config)"
            )
        needed = self.layers[0].self_attn.layout
        if cache.layout != needed:
            raise UserError(
                f"{CACHE_NAME}: a cache of another model, "
                f"{layout_summary(cache.layout)}; {layout_summary(needed)} needed"
            )
        return cache


class LlamaMTLAForCausalLM(
    TemporalGenerationMixin, LlamaMTLAPreTrainedModel, LlamaForCausalLM
):
    """The model with an output layer: a loss of ``labels``, and ``generate``."""

    accepts_loss_kwargs = True  # for the Trainer: num_items_in_batch

    def __init__(self, config: LlamaMTLAConfig) -> None:
        super(LlamaForCausalLM, self).__init__(config)  # without Llama's own layers
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
        """Compute logits of new tokens ``(B, L, V)``, and the loss of ``labels``.

        The parameters are written out again: ``generate`` and the Trainer read the
        signature. Those not listed here are as in :meth:`LlamaMTLAModel.forward`.

        Args:
            labels: the tokens ``(B, L)``, not shifted; -100 is excluded from the loss.
            logits_to_keep: columns to compute logits of, see
                :func:`.arguments.select_columns`.
            num_items_in_batch: divisor of the summed loss; None: the number of labels.
                Unused without ``labels``: the Trainer also passes it when it computes
                the loss itself.

        Raises:
            UserError: an argument is unknown, invalid or not supported; names it.
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
        states = select_columns(outputs.last_hidden_state, logits_to_keep)
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
