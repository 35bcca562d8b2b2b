"""Find attention types by the names that YAML files use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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

Builder = Callable[..., CausalAttention]
"""A type's class, called with ``embed_dim, num_heads, dropout=..., **settings``."""

ATTENTIONS: dict[str, tuple[Builder, type, dict[str, int]]] = {
    "mha": (MultiheadAttention, MultiheadConfig, {}),
    "gqa": (MultiheadAttention, MultiheadConfig, {"num_kv_heads": 2}),
    "mqa": (MultiheadAttention, MultiheadConfig, {"num_kv_heads": 1}),
    "mla": (MultiheadLatentAttention, LatentConfig, {}),
    "mtla": (MultiheadTemporalLatentAttention, TemporalLatentConfig, {}),
}
"""By name: the class, its settings' dataclass, and settings that the name implies."""

# The decoder passes these to every layer.
_SHARED = {"embed_dim", "num_heads", "dropout", "layer"}


_MTLA_NAME = re.compile(r"mtla(?:_s(?P<s>\d+))?(?:_w(?P<w>\d+))?(?P<phase>_phase)?")


def parse_attention(name: str) -> tuple[str, dict[str, int]]:
    """Split a name such as ``mtla_s2`` into the type and the settings that it implies.

    ``_w32`` is a raw window of 32 tokens, ``_phase`` shifts the chunks of every second
    layer.

    >>> parse_attention("mtla_s2"), parse_attention("mha")
    (('mtla', {'down_rate': 2}), ('mha', {}))
    >>> parse_attention("mtla_s4_w32_phase")
    ('mtla', {'down_rate': 4, 'raw_window': 32, 'phase': True})

    Raises:
        UserError: another type than MTLA has such settings, or they are misspelt.
    """
    needed = "one like mha, mtla_s2 or mtla_s2_w32_phase is"
    require(isinstance(name, str), "attention", name, needed)
    type_name, separator, _ = name.partition("_")
    if not separator:
        return type_name, {}
    parts = _MTLA_NAME.fullmatch(name)
    if parts is None:
        raise UserError(f"attention: {name!r} given, {needed} needed")
    settings = {"down_rate": parts["s"], "raw_window": parts["w"]}
    implied = {key: int(value) for key, value in settings.items() if value is not None}
    return type_name, implied | ({"phase": True} if parts["phase"] else {})


def attention_settings(name: str) -> list[str]:
    """Return the keys that ``attention_conf`` may have for an attention type."""
    known = isinstance(name, str) and name in ATTENTIONS
    require(known, "attention", name, f"one of {', '.join(ATTENTIONS)} is")
    return [f.name for f in fields(ATTENTIONS[name][1]) if f.name not in _SHARED]


def paper_sizes(embed_dim: int, num_heads: int) -> dict[str, int]:
    """Return widths of latents for a model of any size, in the paper's proportions.

    A head of width d gets r = 4 d, d_R = d / 2 and d_N = d_V = d. At stride 1 the cache
    is then 3.6 times smaller than that of MHA with 8 heads. The paper's sizes:

    >>> list(paper_sizes(embed_dim=512, num_heads=8).values())
    [256, 64, 32, 64]
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
    """Return all settings of ``attention_conf``: those of ``conf``, and defaults.

    Defaults of latent types scale with the model (:func:`paper_sizes`), so that one
    YAML file fits models of all sizes.

    Args:
        name: a key of :data:`ATTENTIONS`.
        embed_dim: width D of the model.
        num_heads: query heads.
        conf: ``attention_conf`` as the user wrote it.

    Raises:
        UserError: an unknown name, an unknown key of ``conf``, or a bad value.
    """
    valid = attention_settings(name)
    is_mapping = conf is None or isinstance(conf, Mapping)
    require(is_mapping, "attention_conf", conf, "names and their values are")
    own_conf = dict(conf or {})
    embed_dim = whole_number(embed_dim, "embed_dim")
    num_heads = whole_number(num_heads, "num_heads")
    for key in own_conf:
        if key not in valid:
            raise UserError(
                f"attention_conf.{key}: unknown key for {name}; "
                f"valid: {', '.join(valid)}"
            )
    _, config, implied = ATTENTIONS[name]
    latent = issubclass(config, LatentConfig)
    scaled = paper_sizes(embed_dim, num_heads) if latent else {}
    complete = config(embed_dim, num_heads, **{**scaled, **implied, **own_conf})
    values = {key: getattr(complete, key) for key in valid}
    # Lists as in YAML and JSON, with which settings are compared.
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def build_attention(
    name: str,
    embed_dim: int,
    num_heads: int,
    dropout: float = 0.0,
    conf: Mapping[str, object] | None = None,
    layer: int = 0,
) -> CausalAttention:
    """Build an attention module by name.

    Args and errors: see :func:`complete_settings`; ``dropout`` is a probability, and
    ``layer`` the index of the layer, for types that differ from layer to layer.
    """
    settings = complete_settings(name, embed_dim, num_heads, conf)
    if settings.get("phase"):
        settings["layer"] = layer
    return ATTENTIONS[name][0](embed_dim, num_heads, dropout=dropout, **settings)
