"""Settings of the decoder-only Transformer: the only home of their defaults."""

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


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes as in the paper's section 5; ``attention_conf`` is checked by its type.

    ``prompt_mode``: with ``fixed`` each layer's keys are [prompt; text] and the text
    alone asks, the prompt staying as it is from layer to layer; with ``recompute`` the
    prompt runs through the layers as tokens do.
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

    def __post_init__(self) -> None:
        check_count(self, "vocab_size", "embed_dim", "num_layers", "num_heads")
        check_count(self, "ffn_dim")
        check_number(self, "dropout", inside="[0, 1)")
        check_choice(self, "prompt_mode", PROMPT_MODES)
        check_flags(self, "tie_embeddings")
        self.complete_attention()

    def complete(self) -> dict[str, object]:
        """All settings but ``vocab_size``, defaults written out.

        A trained model's configuration holds these, so that it can be rebuilt when
        defaults have changed.
        """
        settings = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        settings["attention_conf"] = self.complete_attention()
        return settings

    def complete_attention(self) -> dict[str, object]:
        """All settings of ``attention_conf``; raises UserError for what is wrong."""
        return complete_settings(
            self.attention, self.embed_dim, self.num_heads, self.attention_conf
        )
