"""Transformers configuration of a Llama whose attention is MTLA or MLA."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, PretrainedConfig
from transformers.activations import ACT2FN

from espnet_mtla.attention.config import TemporalLatentConfig, is_finite
from espnet_mtla.errors import UserError
from espnet_mtla.hf.versions import CACHE_NAMES, check_transformers
from espnet_mtla.settings.checks import check_count, plain, require

ROPE_LAYOUTS = ("halves", "pairs")
# The other types (dynamic, longrope) change all angles with the length of the text. The
# entries in a cache are rotated already and could not be changed.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""Supported rotary types, and the settings that each requires."""


class LlamaMTLAConfig(LlamaConfig):
    """Settings of Llama, and of its latent attention under the reference's names.

    Numbers of NumPy and torch become Python's own, so that the file can be written.

    Args:
        kv_lora_rank: width r of a latent.
        q_lora_rank: width of the low-rank bottleneck of queries; 0: one full
            projection.
        qk_rope_head_dim: width d_R of the rotary key that all heads share.
        qk_nope_head_dim: width of the part of a head's key that is projected up from
            the latent.
        v_head_dim: width of a head's value.
        down_rate: temporal stride s, tokens per cache entry.
        raw_window: newest tokens that are seen unmerged beside the chunks; 0: none.
        recompute_prompt_attn: must be True: a prompt runs through all layers as text.
        hyper_network: False removes the merge weights, which is MLA; needs stride 1.
        kv_norm: ``layer`` (LayerNorm on latents, as in the reference) or ``none``, as
            in converted models.
        rope_layout: components of a rotary key that form a pair: i and i + d_R / 2
            (``halves``, as in Llama and the reference's models), or 2i and 2i + 1
            (``pairs``, as in the paper's recipes).
        rope_frequencies: radians per token of each of the ``qk_rope_head_dim / 2``
            pairs; None: computed from ``rope_theta`` and ``rope_scaling``.
        trained_down_rate: stride that the weights were trained with, written by
            ``save_pretrained``; another ``down_rate`` is then refused. None: any
            stride is accepted.

    Raises:
        UserError: a setting is out of range or contradicts another; names it.
    """

    model_type = "llama-mtla"
    # Llama's tensor-parallel plan names projections that latent attention lacks.
    base_model_tp_plan = None  # type: ignore[assignment]
    # The Trainer's evaluation gathers all outputs but these.
    keys_to_ignore_at_inference = list(CACHE_NAMES)  # noqa: RUF012 - Transformers' own

    def __init__(
        self,
        kv_lora_rank: int = 256,
        q_lora_rank: int = 0,
        qk_rope_head_dim: int = 32,
        qk_nope_head_dim: int = 64,
        v_head_dim: int = 64,
        down_rate: int = 2,
        recompute_prompt_attn: bool = True,
        hyper_network: bool = True,
        kv_norm: str = "layer",
        rope_layout: str = "halves",
        rope_frequencies: list[float] | None = None,
        trained_down_rate: int | None = None,
        raw_window: int = 0,
        **kwargs: Any,
    ) -> None:
        check_transformers()  # every model begins with its configuration
        self.kv_lora_rank = plain(kv_lora_rank)
        self.q_lora_rank = plain(q_lora_rank)
        self.qk_rope_head_dim = plain(qk_rope_head_dim)
        self.qk_nope_head_dim = plain(qk_nope_head_dim)
        self.v_head_dim = plain(v_head_dim)
        self.down_rate = plain(down_rate)
        self.recompute_prompt_attn = plain(recompute_prompt_attn)
        self.hyper_network = plain(hyper_network)
        self.kv_norm = kv_norm
        self.rope_layout = rope_layout
        self.rope_frequencies = plain_values(rope_frequencies)
        self.trained_down_rate = plain(trained_down_rate)
        self.raw_window = plain(raw_window)
        if "phase" in kwargs:
            raise UserError(
                "phase: the layers of a LlamaMTLA share one cache timeline and cannot "
                "shift their chunks; leave it out (decoders of recipes have it)"
            )
        kwargs = plain_values(kwargs)
        heads = kwargs.get("num_attention_heads")  # LlamaConfig divides by it
        require(heads != 0, "num_attention_heads", heads, "a whole number >= 1 is")
        try:
            super().__init__(**kwargs)
        except (StrictDataclassError, KeyError) as error:  # of Transformers 5
            raise UserError(" ".join(error.args[0].split())) from error
        self.check()

    def attention_settings(self) -> dict[str, Any]:
        """Return the keyword arguments of the attention module."""
        return {
            "embed_dim": self.hidden_size,
            "num_heads": self.num_attention_heads,
            "dropout": self.attention_dropout,
            "bias": self.attention_bias,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_nope_head_dim": self.qk_nope_head_dim,
            "qk_rope_head_dim": self.qk_rope_head_dim,
            "v_head_dim": self.v_head_dim,
            "rope_base": rope_settings(self)["rope_theta"],
            "rope_frequencies": self.rope_frequencies,
            "kv_norm": self.kv_norm,
            "down_rate": self.down_rate,
            "raw_window": self.raw_window,
        }

    def check(self) -> None:
        """Validate all settings; raise :class:`UserError` naming the wrong one."""
        check_count(self, "vocab_size", "hidden_size", "intermediate_size")
        check_count(self, "num_hidden_layers", "num_attention_heads")
        self._check_rope()
        TemporalLatentConfig(**self.attention_settings())  # validates the attention
        require(
            self.recompute_prompt_attn is True,
            "recompute_prompt_attn",
            self.recompute_prompt_attn,
            "True (a language model's prompt runs through its layers) is",
        )
        choices_of = {
            "rope_layout": ROPE_LAYOUTS,
            "hyper_network": (True, False),
            "hidden_act": tuple(ACT2FN),
        }
        for name, choices in choices_of.items():
            value = getattr(self, name)
            shown = " or ".join(str(choice) for choice in choices)
            require(value in choices, name, value, f"{shown} is")
        require(
            self.hyper_network or self.down_rate == 1,
            "down_rate",
            self.down_rate,
            "1 without a hyper_network (MLA merges nothing) is",
        )
        require(
            self.hyper_network or self.raw_window == 0,
            "raw_window",
            self.raw_window,
            "0 without a hyper_network (MLA merges nothing) is",
        )
        pad = self.pad_token_id
        inside = f"a token, below vocab_size={self.vocab_size}, is"
        require(pad is None or pad < self.vocab_size, "pad_token_id", pad, inside)
        trained = self.trained_down_rate
        if trained not in (None, self.down_rate):
            raise UserError(
                f"down_rate: {self.down_rate} given, the weights were trained with "
                f"{trained}; to train on at another stride set trained_down_rate=None"
            )

    def _check_rope(self) -> None:
        settings = rope_settings(self)
        name = settings["rope_type"]
        require(name in ROPE_TYPES, "rope_type", name, f"{' or '.join(ROPE_TYPES)} is")
        needed = f"a number > 0 (rope_type {name}) is"
        for field in ("rope_theta", *ROPE_TYPES[name]):
            value: Any = settings.get(field)
            require(is_finite(value) and value > 0, field, value, needed)


def plain_values(values: Any) -> Any:
    """Replace NumPy's and torch's numbers in nested settings by Python's own.

    Arrays become lists. Dictionaries, lists and tuples are copied.

    >>> import numpy as np
    >>> plain_values({"rope_theta": np.float32(500), "dims": np.arange(3)})
    {'rope_theta': 500.0, 'dims': [0, 1, 2]}
    """
    if isinstance(values, dict):
        return {name: plain_values(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(map(plain_values, values))
    if getattr(values, "ndim", 0) and hasattr(values, "tolist"):
        return values.tolist()
    return plain(values)


def rope_settings(config: PretrainedConfig) -> dict[str, Any]:
    """Return the rotary settings, always with ``rope_type`` and ``rope_theta``.

    Transformers 4 stores the base ``rope_theta`` beside ``rope_scaling``, Transformers
    5 both in ``rope_parameters``.
    """
    settings: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if not settings:  # Mistral of Transformers 4 has neither
        settings = getattr(config, "rope_scaling", None) or {}
    rope_type = settings.get("rope_type", settings.get("type", "default"))
    theta = settings.get("rope_theta", getattr(config, "rope_theta", 10000.0))
    return {**settings, "rope_type": rope_type, "rope_theta": theta}
