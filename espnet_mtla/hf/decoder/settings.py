"""Settings of ``decoder: pretrained``, and the decoder that they describe."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.decoder.config import PROMPT_MODES
from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.build import LatentSizes, Target, convert
from espnet_mtla.hf.convert.source import check_source
from espnet_mtla.hf.convert.text import TextBlocks
from espnet_mtla.hf.decoder.source import (
    load_language_model,
    sketch_language_model,
)
from espnet_mtla.hf.decoder.weights import (
    attention_of,
    decoder_settings,
    decoder_weights,
)
from espnet_mtla.settings.checks import check_choice, check_number, require
from espnet_mtla.settings.yaml_files import check_keys

CONVERTED = {
    "mla": ("kv_lora_rank", "qk_rope_head_dim"),
    "mtla": ("down_rate", "kv_lora_rank", "qk_rope_head_dim", "raw_window"),
}
"""Attention types to convert to, and the keys that ``attention_conf`` may have."""
ATTENTIONS = (None, "mha", "gqa", "mqa", *CONVERTED)
BLOCKS, BLOCK = 64, 256
"""Blocks of the calibration text that are read at most, and their tokens."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainedDecoder:
    """A decoder that begins from a language model of Transformers.

    Its sizes are the checkpoint's.

    Attributes:
        model: folder of the checkpoint, or its name on the hub.
        attention: None: as the checkpoint has it. ``mla`` or ``mtla``: converted to
            it. ``mha``, ``gqa`` and ``mqa`` are accepted if the checkpoint has it.
        attention_conf: of ``mla`` and ``mtla`` the sizes to convert to:
            ``down_rate`` (default 2), ``kv_lora_rank`` (default: the width of all
            values of a token), ``qk_rope_head_dim`` (default: the width of a head) and
            ``raw_window`` (default 0).
        prompt_mode: see :class:`espnet_mtla.decoder.DecoderConfig`.
        dropout: probability in training; language models are trained without.
        calibration: UTF-8 text on which conversion measures activations; None: they
            are assumed to be independent, which is less accurate.
    """

    model: str = ""
    attention: str | None = None
    attention_conf: Mapping[str, Any] = field(default_factory=dict)
    prompt_mode: str = "recompute"
    dropout: float = 0.0
    calibration: str | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.model, str) and bool(self.model)
        needed = "a folder or a name on the hub is"
        require(named, "decoder_conf.model", self.model, needed)
        prefix = "decoder_conf."
        check_choice(self, "attention", ATTENTIONS, prefix=prefix)
        check_choice(self, "prompt_mode", PROMPT_MODES, prefix=prefix)
        check_number(self, "dropout", inside="[0, 1)", prefix=prefix)
        valid = CONVERTED.get(self.attention or "", ())
        check_keys("decoder_conf.attention_conf", self.attention_conf, valid)
        if self.calibration is not None and self.attention not in CONVERTED:
            raise UserError(
                "decoder_conf.calibration: only conversion (attention mla or mtla) "
                "reads it; leave it out"
            )

    def complete(self) -> dict[str, Any]:
        """Return all settings, defaults included."""
        return {**vars(self), "attention_conf": dict(self.attention_conf)}

    def sizes(self) -> dict[str, Any]:
        """Return the settings of the decoder, without loading weights.

        They are fields of :class:`espnet_mtla.decoder.DecoderConfig`.

        Raises:
            UserError: see :meth:`load`.
        """
        model = sketch_language_model(self.model)
        settings = decoder_settings(model)
        if self._converts(model):
            target, sizes = self._target(model)
            widths = {"kv_lora_rank": sizes.rank, "v_head_dim": sizes.head}
            widths |= {"qk_rope_head_dim": sizes.rope, "qk_nope_head_dim": sizes.nope}
            if target.attention == "mtla":
                widths["down_rate"] = target.down_rate
                widths["raw_window"] = target.raw_window
            settings |= {"attention": self.attention, "attention_conf": widths}
        own = {"prompt_mode": self.prompt_mode, "dropout": self.dropout}
        return {**settings, **own}

    def load(self, vocab_size: int) -> DecoderOnlyTransformer:
        """Return the decoder with the checkpoint's weights, converted if asked for.

        Args:
            vocab_size: tokens of the token list.

        Raises:
            UserError: there is no checkpoint, it is of another kind or for another
                vocabulary, or it cannot be converted.
        """
        model = load_language_model(self.model)
        rows = model.get_input_embeddings().num_embeddings
        if rows != vocab_size:
            raise UserError(
                f"{self.model}: has a vocabulary of {rows} tokens, and the token list "
                f"has {vocab_size}; make it with --token_type hf --hf_tokenizer "
                f"{self.model}"
            )
        if self._converts(model):
            model = self._convert(model)
        own: dict[str, Any] = {"prompt_mode": self.prompt_mode, "dropout": self.dropout}
        config = DecoderConfig(**decoder_settings(model), **own)
        with torch.device("meta"):
            decoder = DecoderOnlyTransformer(config)
        decoder.load_state_dict(decoder_weights(model), assign=True)
        return decoder

    def _converts(self, model: PreTrainedModel) -> bool:
        """Return True if the attention of ``model`` has to be converted.

        Raises:
            UserError: the model has an attention that cannot become the one asked for.
        """
        name, settings = attention_of(model)
        if self.attention in (None, name):
            for key, value in self.attention_conf.items():
                needed = f"{settings[key]} (of {self.model}) is"
                field = f"decoder_conf.attention_conf.{key}"
                require(value == settings[key], field, value, needed)
            return False
        if self.attention not in CONVERTED or name in CONVERTED:
            raise UserError(
                f"decoder_conf.attention: {self.attention} given, {self.model} has "
                f"{name}; leave it out"
                + ("" if name in CONVERTED else ", or convert it to mla or mtla")
            )
        return True

    def _target(self, model: PreTrainedModel) -> tuple[Target, LatentSizes]:
        """Return what ``model`` is converted to, with all widths."""
        assert self.attention is not None, "_converts() says that there is one"
        attention = model.model.layers[0].self_attn
        values, head = attention.v_proj.out_features, attention.head_dim
        stride = 2 if self.attention == "mtla" else 1
        sizes = {"down_rate": stride, "kv_lora_rank": values, "qk_rope_head_dim": head}
        target = Target(self.attention, **{**sizes, **self.attention_conf})
        return target, LatentSizes.of(target, values // head, head)

    def _convert(self, model: PreTrainedModel) -> PreTrainedModel:
        check_source(self.model, model.config)
        target, sizes = self._target(model)
        log.info(
            "%s: converting to %s: stride %d, latents of %d, rotary key of %d",
            *(self.model, target.attention, target.down_rate, sizes.rank, sizes.rope),
        )
        converted, shares = convert(model, target, self._calibration_blocks())
        log.info(
            "%s: the latents have %.3f of the energy, %.3f in the worst layer",
            *(self.model, sum(shares) / len(shares), min(shares)),
        )
        return converted

    def _calibration_blocks(self) -> Tensor | None:
        """Return tokens ``(N, BLOCK)`` of the calibration text."""
        if self.calibration is None:
            return None
        try:
            tokeniser = AutoTokenizer.from_pretrained(
                self.model, trust_remote_code=False
            )
            text = TextBlocks.read([self.calibration], tokeniser, BLOCK)
        except (OSError, ValueError, ImportError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"decoder_conf.calibration: {reason}") from error
        return text.training[:BLOCKS]
