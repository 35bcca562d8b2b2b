"""Build the converted model: new attention in every layer, all other weights equal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.merge import HyperNetwork
from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.factor import LatentWeights, factor_layer
from espnet_mtla.hf.convert.moments import second_moments
from espnet_mtla.hf.convert.rotary import choose_components, rotate_keys
from espnet_mtla.hf.convert.source import Projections
from espnet_mtla.hf.llama.attention import LlamaMTLAAttention
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig
from espnet_mtla.hf.llama.modeling import LlamaMTLAForCausalLM
from espnet_mtla.settings.checks import check_count, require

COPIED_SETTINGS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps"),
    *("initializer_range", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("tie_word_embeddings", "mlp_bias", "attention_dropout"),
)


@dataclass(frozen=True)
class Target:
    """Attention type and sizes to convert to.

    Attributes:
        attention: ``mla`` or ``mtla``.
        down_rate: temporal stride; 1 for MLA.
        kv_lora_rank: width r of a latent; 0: the smallest lossless one.
        qk_rope_head_dim: width d_R of the rotary key; 0: all components stay rotary.
        context: largest distance in tokens that counts when components are chosen.
        raw_window: newest tokens that are seen unmerged beside the chunks; 0: none.
    """

    attention: str = "mtla"
    down_rate: int = 2
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    context: int = 512
    raw_window: int = 0

    def __post_init__(self) -> None:
        needed = "mla or mtla is"
        require(self.attention in ("mla", "mtla"), "attention", self.attention, needed)
        check_count(self, "down_rate", "context")
        check_count(self, "kv_lora_rank", "qk_rope_head_dim", "raw_window", least=0)
        rank = self.kv_lora_rank
        fits = rank == 0 or (rank % 2 == 0 and rank >= 4)  # as MTLA's own settings
        require(fits, "kv_lora_rank", rank, "an even number >= 4 is")
        require(
            self.attention == "mtla" or self.down_rate == 1,
            "down_rate",
            self.down_rate,
            "1 for mla, which merges nothing, is",
        )
        require(
            self.down_rate > 1 or self.raw_window == 0,
            "raw_window",
            self.raw_window,
            "0 at stride 1, where nothing is merged, is",
        )


@dataclass(frozen=True)
class LatentSizes:
    """Widths of a converted model's attention.

    Attributes:
        rank: of a latent.
        rope: of the shared rotary key.
        nope: of the part of a head's key that comes from the latent, at least 1.
        head: of a head's value.
    """

    rank: int
    rope: int
    nope: int
    head: int

    @classmethod
    def of(cls, target: Target, groups: int, head: int) -> LatentSizes:
        """Return the sizes for ``groups`` key-value heads of width ``head``."""
        most = groups * head
        rope = target.qk_rope_head_dim or most
        if rope % 2 or rope > most:
            raise UserError(
                f"qk_rope_head_dim: {rope} given, an even number up to {most} "
                "(key-value heads times their width) needed"
            )
        lossless = (most - rope) + most  # keys that do not rotate, and values
        lossless += lossless % 2
        rank = target.kv_lora_rank or max(lossless, 4)
        return cls(rank, rope, head if rope < most else 1, head)


@torch.no_grad()
def convert(
    source: PreTrainedModel,
    target: Target,
    blocks: Tensor | None = None,
    seed: int = 0,
    moments: list[Tensor] | None = None,
) -> tuple[LlamaMTLAForCausalLM, list[float]]:
    """Convert a Llama to MLA or MTLA; see :mod:`.factor` for the mathematics.

    Args:
        source: from :func:`~espnet_mtla.hf.convert.source.load_source`.
        target: attention type and sizes.
        blocks: tokens ``(N, L)`` to measure activations on; None: activations are
            assumed to be independent.
        seed: of the hyper-network's first layer, which starts at random.
        moments: from :func:`~.moments.second_moments`, for several conversions of one
            model; None: they are computed from ``blocks``.

    Returns:
        The model, and for each layer the share of energy that its latents preserve.
    """
    old = source.config
    layers = source.model.layers
    head = layers[0].self_attn.head_dim
    groups = layers[0].self_attn.k_proj.out_features // head
    sizes = LatentSizes.of(target, groups, head)
    rotary = source.model.rotary_emb
    theta, factor = rotary.inv_freq.double(), rotary.attention_scaling
    parts = [Projections.of(layer.self_attn, head, factor) for layer in layers]
    if moments is None:
        moments = second_moments(source, blocks)
    rotated = [
        rotate_keys(part, moment, theta, target.context)
        for part, moment in zip(parts, moments, strict=True)
    ]
    chosen = choose_components([keys.importance for keys in rotated], sizes.rope // 2)
    biased = layers[0].self_attn.q_proj.bias is not None
    frequencies = theta[chosen.nonzero()[:, 0]].tolist()
    config = _config(old, target, sizes, frequencies, biased)
    # The caller's random state is restored afterwards.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model = LlamaMTLAForCausalLM(config).to(source.dtype)
        state = source.state_dict()
        copied = {k: v for k, v in state.items() if ".self_attn." not in k}
        unknown = model.load_state_dict(copied, strict=False).unexpected_keys
        if unknown:
            raise UserError(
                f"{unknown[0]}: not a weight of a Llama; merge adapters first"
            )
        model.generation_config = source.generation_config
        shares = []
        for index, (part, keys, moment) in enumerate(
            zip(parts, rotated, moments, strict=True)
        ):
            weights = factor_layer(part, keys, moment, chosen, sizes.rank)
            _fill(model.model.layers[index].self_attn, weights, part)
            shares.append(weights.energy)
    return model.to(source.device).eval(), shares


def converted_cache_bytes(model: LlamaMTLAForCausalLM) -> float:
    """Return the bytes of latents and rotary keys per token in all layers."""
    config = model.config
    width = config.kv_lora_rank + config.qk_rope_head_dim
    stride = config.down_rate
    return width * config.num_hidden_layers * model.dtype.itemsize / stride


def cache_summary(before: float, model: LlamaMTLAForCausalLM) -> str:
    """Return a line with the bytes of the cache ``before`` and after conversion."""
    layout, each = model.model.layers[0].self_attn.layout, converted_cache_bytes(model)
    line = f"cache: {before:.0f} bytes per token before, {each:.0f} after"
    if layout.window == 0:
        return line
    window = layout.window_room * layout.stride * each
    return f"{line}, and {window:.0f} for the raw window at any length"


def _config(
    old: PretrainedConfig,
    target: Target,
    sizes: LatentSizes,
    frequencies: list[float],
    biased: bool,
) -> LlamaMTLAConfig:
    """Return the configuration of the converted model.

    Args:
        old: of the Llama.
        target: attention type and stride.
        sizes: widths of the attention.
        frequencies: radians per token of each rotary pair.
        biased: whether the projections have biases.
    """
    copied = {n: getattr(old, n) for n in COPIED_SETTINGS if hasattr(old, n)}
    return LlamaMTLAConfig(
        **copied,
        attention_bias=biased,
        kv_lora_rank=sizes.rank,
        q_lora_rank=0,
        qk_rope_head_dim=sizes.rope,
        qk_nope_head_dim=sizes.nope,
        v_head_dim=sizes.head,
        down_rate=target.down_rate,
        raw_window=target.raw_window,
        hyper_network=target.attention == "mtla",
        kv_norm="none",
        rope_frequencies=frequencies,
    )


def _begin_with_means(network: HyperNetwork, layout: EntryLayout) -> float:
    """Set the merge weights so that a full chunk is the mean of its tokens.

    Returns:
        The factor of entries that this takes.
    """
    torch.nn.init.zeros_(network.fc_p.weight)
    torch.nn.init.zeros_(network.fc_p.bias)
    torch.nn.init.normal_(network.fc_c.weight, std=network.rank**-0.5)
    if layout.window == 0:
        return 2 / layout.stride  # F_p = 0: all merge weights are 1/2
    # Raw tokens are seen beside chunks, so the factor must be 1 and the weights 1/s:
    # sigmoid(-log(s - 1)). They are the product of two biases; the rows of F_c add up
    # to zero, so that the encoding of the chunk has no influence yet.
    weight, features = network.fc_c.weight, network.fc_c.out_features
    weight.sub_(weight.mean(0))
    torch.nn.init.ones_(network.fc_c.bias)
    network.fc_p.bias.fill_(-math.log(layout.stride - 1) / features)
    return 1.0


def _fill(
    attention: LlamaMTLAAttention, weights: LatentWeights, part: Projections
) -> None:
    """Copy the new weights of a layer into its module."""
    up = weights.kv_b
    if attention.hypernet_down is not None:
        up = up * _begin_with_means(attention.hypernet_down, attention.layout)
    attention.wkv_b.weight.copy_(up)
    attention.wo.weight.copy_(part.o.transpose(0, 1).flatten(1))
    for linear, both in ((attention.wq, weights.q), (attention.wkv_a, weights.kv_a)):
        linear.weight.copy_(both[:, :-1])
        if linear.bias is not None:
            linear.bias.copy_(both[:, -1])
    if attention.wo.bias is not None:
        attention.wo.bias.copy_(part.o_bias)
        attention.wkv_b.bias.zero_()
