"""Attention types by the names that YAML uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from espnet_mtla.attention.base import CausalAttention
from espnet_mtla.attention.config import (
    LatentConfig,
    MultiheadConfig,
    TemporalLatentConfig,
)
from espnet_mtla.attention.latent import MultiheadLatentAttention
from espnet_mtla.attention.multihead import MultiheadAttention
from espnet_mtla.attention.temporal import MultiheadTemporalLatentAttention
from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import require, whole_number

# name: module, its settings' dataclass, and what the name itself settles
ATTENTIONS: dict[str, tuple[type[CausalAttention], type, dict[str, int]]] = {
    "mha": (MultiheadAttention, MultiheadConfig, {}),
    "gqa": (MultiheadAttention, MultiheadConfig, {"num_kv_heads": 2}),
    "mqa": (MultiheadAttention, MultiheadConfig, {"num_kv_heads": 1}),
    "mla": (MultiheadLatentAttention, LatentConfig, {}),
    "mtla": (MultiheadTemporalLatentAttention, TemporalLatentConfig, {}),
}
# The decoder gives these to every layer.
_SHARED = {"embed_dim", "num_heads", "dropout"}


def parse_attention(name: str) -> tuple[str, dict[str, int]]:
    """Type and settings of a name that may tell MTLA's stride: ``mtla_s2``.

    Raises:
        UserError: a stride of another type, or none behind ``_s``.
    """
    needed = "one like mtla_s2 or mha is"
    require(isinstance(name, str), "attention", name, needed)
    kind, separator, stride = name.partition("_s")
    if not separator:
        return kind, {}
    if kind != "mtla" or not stride.isdecimal():
        raise UserError(f"attention: {name!r} given, {needed} needed")
    return kind, {"down_rate": int(stride)}


def attention_settings(name: str) -> list[str]:
    """Names that ``attention_conf`` may hold for an attention type."""
    known = isinstance(name, str) and name in ATTENTIONS
    require(known, "attention", name, f"one of {', '.join(ATTENTIONS)} is")
    return [f.name for f in fields(ATTENTIONS[name][1]) if f.name not in _SHARED]


def paper_sizes(embed_dim: int, num_heads: int) -> dict[str, int]:
    """Latent widths for a model of any size, in the paper's proportions.

    A head of width d gets r = 4 d, d_R = d / 2, d_N = d_V = d: at the paper's 512 and 8
    heads that is 256, 32, 64, 64, and a cache 3.6 times smaller than MHA's at stride 1.
    """
    head = max(embed_dim // num_heads, 1)
    return {
        "kv_lora_rank": 4 * head,
        "qk_nope_head_dim": head,
        "qk_rope_head_dim": 2 * (head // 4),
        "v_head_dim": head,
    }


def complete_settings(
    name: str, embed_dim: int, num_heads: int, conf: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Every setting of ``attention_conf``, those that ``conf`` leaves out too.

    Latent types scale with the model (:func:`paper_sizes`), so that one YAML fragment
    serves models of all sizes.

    Raises:
        UserError: an unknown name, an unknown key of ``conf``, or a bad value.
    """
    valid = attention_settings(name)
    is_mapping = conf is None or isinstance(conf, Mapping)
    require(is_mapping, "attention_conf", conf, "names and their values are")
    given = dict(conf or {})
    embed_dim = whole_number(embed_dim, "embed_dim")
    num_heads = whole_number(num_heads, "num_heads")
    for key in given:
        if key not in valid:
            raise UserError(
                f"attention_conf.{key}: unknown key for {name}; "
                f"valid: {', '.join(valid)}"
            )
    _, config, settled = ATTENTIONS[name]
    latent = issubclass(config, LatentConfig)
    scaled = paper_sizes(embed_dim, num_heads) if latent else {}
    complete = config(embed_dim, num_heads, **{**scaled, **settled, **given})
    return {key: getattr(complete, key) for key in valid}


def build_attention(
    name: str,
    embed_dim: int,
    num_heads: int,
    dropout: float = 0.0,
    conf: Mapping[str, object] | None = None,
) -> CausalAttention:
    """An attention module by name; see :func:`complete_settings` for ``conf``."""
    settings = complete_settings(name, embed_dim, num_heads, conf)
    return ATTENTIONS[name][0](embed_dim, num_heads, dropout=dropout, **settings)
