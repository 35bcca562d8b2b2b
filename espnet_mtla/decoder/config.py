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


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of the decoder. Defaults are the sizes of the paper's section 5.

    ``attention_conf`` has the settings of the attention type, which checks them.

    ``prompt_mode``: with ``fixed`` each layer's keys are [prompt; text], and only the
    text is queried and updated; every layer reads the same prompt. With ``recompute``
    layers update the prompt as they update tokens.
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
