"""Settings of the decoder-only Transformer. Defaults are written here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from espnet_mtla.attention.registry import complete_settings
from espnet_mtla.settings.checks import (
    check_choice,
    check_count,
    check_flags,
    check_number,
)

PROMPT_MODES = ("fixed", "recompute")
NORMS = ("layernorm", "rmsnorm")
FEED_FORWARDS = ("relu", "swiglu")


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of the decoder. Defaults are the sizes of the paper's section 5.

    A Llama's layers have ``norm: rmsnorm``, ``feed_forward: swiglu``,
    ``ffn_bias: false`` and ``scale_embedding: false``.

    Attributes:
        vocab_size: tokens of the vocabulary.
        embed_dim: width D of the model.
        num_layers: layers.
        num_heads: query heads.
        ffn_dim: hidden width of the feed-forward part.
        dropout: probability, for attention weights, hidden units and sublayers.
        attention: a name of :data:`espnet_mtla.attention.ATTENTIONS`.
        attention_conf: settings of the attention type, which checks them.
        prompt_mode: with ``fixed`` each layer's keys are [prompt; text], and only the
            text is queried and updated; every layer reads the same prompt. With
            ``recompute`` layers update the prompt as they update tokens.
        tie_embeddings: embedding and output share their weight.
        norm: ``layernorm`` or ``rmsnorm``.
        norm_eps: added to the variance, or to the mean square.
        feed_forward: ``relu`` (two projections) or ``swiglu`` (three).
        ffn_bias: biases of the feed-forward part.
        scale_embedding: multiply embeddings by the square root of D.
    """

    vocab_size: int
    embed_dim: int = 512
    num_layers: int = 9
    num_heads: int = 8
    ffn_dim: int = 2048
    dropout: float = 0.1
    attention: str = "mtla"
    attention_conf: Mapping[str, object] = field(default_factory=dict)
    prompt_mode: str = "fixed"
    tie_embeddings: bool = False
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    feed_forward: str = "relu"
    ffn_bias: bool = True
    scale_embedding: bool = True

    def __post_init__(self) -> None:
        check_count(self, "vocab_size", "embed_dim", "num_layers", "num_heads")
        check_count(self, "ffn_dim")
        check_number(self, "dropout", inside="[0, 1)")
        check_choice(self, "prompt_mode", PROMPT_MODES)
        check_choice(self, "norm", NORMS)
        check_choice(self, "feed_forward", FEED_FORWARDS)
        check_number(self, "norm_eps", inside="(0, inf)")
        check_flags(self, "tie_embeddings", "ffn_bias", "scale_embedding")
        self.complete_attention()

    def complete(self) -> dict[str, object]:
        """Return all settings but ``vocab_size``, defaults included.

        The configuration of a trained model stores them, so that it can be rebuilt even
        if defaults change.
        """
        settings = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        settings["attention_conf"] = self.complete_attention()
        return settings

    def complete_attention(self) -> dict[str, object]:
        """Return all settings of ``attention_conf``, or raise a UserError."""
        return complete_settings(
            self.attention, self.embed_dim, self.num_heads, self.attention_conf
        )
