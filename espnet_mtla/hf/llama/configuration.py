"""Settings of a Llama whose attention is MTLA (or MLA), as Transformers keeps them."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, PretrainedConfig
from transformers.activations import ACT2FN

from espnet_mtla.attention.config import TemporalLatentConfig
from espnet_mtla.errors import UserError
from espnet_mtla.hf.versions import CACHE_NAMES, check_transformers
from espnet_mtla.settings.checks import check_count, require

KV_NORMS = ("layer", "none")
ROPE_LAYOUTS = ("halves", "pairs")
# Others (dynamic, longrope) turn by angles that depend on how long the text is, which
# entries in a cache could not follow.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""Rotary types, and what each needs to be told."""


class LlamaMTLAConfig(LlamaConfig):
    """Llama's settings, those of the attention as the reference names them, and ours.

    Args:
        kv_lora_rank: width r of a latent.
        q_lora_rank: width of the queries' own bottleneck; 0: one full projection.
        qk_rope_head_dim: width of the rotary key that all heads share.
        qk_nope_head_dim: width of a head's key that comes from the latent.
        v_head_dim: width of a head's value.
        down_rate: temporal stride s, tokens that share an entry of the cache.
        recompute_prompt_attn: must be True: a prompt runs through the layers as text.
        hyper_network: False takes the merge weights away, which leaves MLA; stride 1.
        kv_norm: ``layer`` (the reference's) or ``none``, which a converted model has.
        rope_layout: which numbers of a rotary key turn together: i and i + d_R / 2
            (``halves``, as in Llama and the reference's models), or 2i and 2i + 1
            (``pairs``, as in the paper's recipes).
        rope_frequencies: radians a token of each rotary pair, ``qk_rope_head_dim / 2``
            of them; None: as ``rope_theta`` (and ``rope_scaling``) say.
        trained_down_rate: the stride of the weights, written when a model is saved, so
            that another ``down_rate`` is noticed; None: any will do.

    Raises:
        UserError: a size that cannot be, by name.
    """

    model_type = "llama-mtla"
    # Llama's rules are for projections that are not here.
    base_model_tp_plan = None  # type: ignore[assignment]
    # Evaluation collects the rest.
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
        **kwargs: Any,
    ) -> None:
        check_transformers()  # all use begins with a configuration
        self.kv_lora_rank = kv_lora_rank
        self.q_lora_rank = q_lora_rank
        self.qk_rope_head_dim = qk_rope_head_dim
        self.qk_nope_head_dim = qk_nope_head_dim
        self.v_head_dim = v_head_dim
        self.down_rate = down_rate
        self.recompute_prompt_attn = recompute_prompt_attn
        self.hyper_network = hyper_network
        self.kv_norm = kv_norm
        self.rope_layout = rope_layout
        self.rope_frequencies = rope_frequencies
        self.trained_down_rate = trained_down_rate
        heads = kwargs.get("num_attention_heads")  # by which Llama's own divides
        require(heads != 0, "num_attention_heads", heads, "a whole number >= 1 is")
        try:
            super().__init__(**kwargs)
        except (StrictDataclassError, KeyError) as error:  # how Transformers 5 checks
            raise UserError(" ".join(error.args[0].split())) from error
        self.check()

    def attention_settings(self) -> dict[str, Any]:
        """Arguments of the attention module, as the attention itself names them."""
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
            "down_rate": self.down_rate,
        }

    def check(self) -> None:
        """Raise :class:`UserError` naming what does not fit together."""
        check_count(self, "vocab_size", "hidden_size", "intermediate_size")
        check_count(self, "num_hidden_layers", "num_attention_heads")
        self._check_rope()
        TemporalLatentConfig(**self.attention_settings())  # names what is wrong
        require(
            self.recompute_prompt_attn is True,
            "recompute_prompt_attn",
            self.recompute_prompt_attn,
            "True (a language model's prompt runs through its layers) is",
        )
        kinds = {
            "kv_norm": KV_NORMS,
            "rope_layout": ROPE_LAYOUTS,
            "hyper_network": (True, False),
            "hidden_act": tuple(ACT2FN),
        }
        for name, choices in kinds.items():
            value = getattr(self, name)
            shown = " or ".join(str(choice) for choice in choices)
            require(value in choices, name, value, f"{shown} is")
        require(
            self.hyper_network or self.down_rate == 1,
            "down_rate",
            self.down_rate,
            "1 without a hyper_network (MLA merges nothing) is",
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
        kind = settings["rope_type"]
        require(kind in ROPE_TYPES, "rope_type", kind, f"{' or '.join(ROPE_TYPES)} is")
        for name in ("rope_theta", *ROPE_TYPES[kind]):
            value = settings.get(name)
            positive = (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and value > 0
            )
            needed = f"a number > 0 of Python's own (rope_type {kind})"
            require(positive, name, value, f"{needed} is")
        given = self.rope_frequencies
        if given is not None:
            pairs = self.qk_rope_head_dim // 2
            numbers = isinstance(given, list | tuple) and len(given) == pairs
            numbers = numbers and all(isinstance(f, int | float) for f in given)
            needed = f"{pairs} numbers, qk_rope_head_dim / 2 of them, are"
            require(numbers, "rope_frequencies", given, needed)


def rope_settings(config: PretrainedConfig) -> dict[str, Any]:
    """What is said of the rotation, ``rope_type`` and ``rope_theta`` at least.

    Transformers 4 keeps the base beside the scaling, 5 in one with it.
    """
    given = getattr(config, "rope_parameters", None) or config.rope_scaling or {}
    kind = given.get("rope_type", given.get("type", "default"))
    theta = given.get("rope_theta", getattr(config, "rope_theta", 10000.0))
    return {**given, "rope_type": kind, "rope_theta": theta}
