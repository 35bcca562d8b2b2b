"""Options of decoding: the only home of their names, defaults and checks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import (
    check_choice,
    check_count,
    check_flags,
    check_number,
    plain,
    require,
)

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
# Named here too, since options are read without torch; a test holds them together.
CACHE_DTYPES = ("int8", "fp8")
PROMPT_CACHES = ("latent", "heads")
BACKENDS = ("auto", "triton", "flash_attn", "torch")
CUDA_GRAPHS = ("auto", "always", "never")
MOST_BEAM, MOST_FRAMES = 10_000, 10**9
"""Largest ``beam_size`` and ``batch_frames``."""
RATIOS = "[-1e6, 1e3]"
"""Range of ``min_length_ratio`` and ``max_length_ratio``."""
ALIASES = {
    "penalty": "length_bonus",
    "maxlenratio": "max_length_ratio",
    "minlenratio": "min_length_ratio",
}
"""ESPnet's names of decoding options, and the fields of :class:`DecodeOptions` that
they set. Files, the command line and Python accept both; the meanings are equal."""

_FOLDER = "name the model's folder, which holds configuration, weights and tokens"
_DATA = "name a data folder, or sound files"
_LM, _NGRAM = "lm names the folder of a language model", "ngram names an ARPA file"
_TYPES = "dtype sets the type of the weights, cache_dtype that of the cache"
_NO_PART = "the models here have no such part; leave it out"
ESPNET_REFUSED = {
    **{f"{task}_train_config": _FOLDER for task in ("asr", "st", "slu")},
    **{f"{task}_model_file": _FOLDER for task in ("asr", "st", "slu")},
    **dict.fromkeys(("model_tag", "token_type", "bpemodel"), _FOLDER),
    **dict.fromkeys(("data_path_and_name_and_type", "key_file"), _DATA),
    **dict.fromkeys(("lm_train_config", "lm_file"), _LM),
    **dict.fromkeys(("word_lm_train_config", "word_lm_file"), _LM),
    **dict.fromkeys(("ngram_file", "ngram_scorer"), _NGRAM),
    **dict.fromkeys(("quantize_asr_model", "quantize_lm"), _TYPES),
    **dict.fromkeys(("transducer_conf", "enh_s2t_task", "multi_asr"), _NO_PART),
    **dict.fromkeys(("hugging_face_decoder", "time_sync"), _NO_PART),
    "batch_size": "batch_frames sets the size of a batch, in frames of 10 ms",
    "normalize_length": "length_norm 1.0 divides scores by lengths",
    "num_workers": "one process reads the sounds; leave it out",
    "streaming": "there is no streaming decoding; leave it out",
}
"""What to use instead of options of ESPnet's ``Speech2Text`` and ``asr_inference``."""

FUSION_FILES = ("lm", "ngram", "hotwords")
"""Options that name files: their values in a model folder are relative to it."""

T = TypeVar("T")


def _option(default: T, help: str) -> T:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DecodeOptions:
    """How an utterance is decoded. The keys of decode.yaml are these fields.

    Raises:
        UserError: a value out of range; the message names the field.
    """

    beam_size: int = _option(10, "hypotheses an utterance; 1 is greedy search")
    nbest: int = _option(1, "hypotheses written an utterance, up to beam_size")
    ctc_weight: float = _option(
        0.0, "w in (1 - w) * decoder + w * CTC prefix score, in [0, 1)"
    )
    ctc_candidates: float = _option(
        1.5, "tokens a hypothesis that CTC scores, as a multiple of beam_size"
    )
    length_bonus: float = _option(0.0, "added a generated token, <eos> included")
    length_norm: float = _option(
        0.0, "a in score / length**a, by which finished hypotheses are ranked; 0: score"
    )
    min_length_ratio: float = _option(
        0.0, "fewest tokens per prompt frame; negative: so many tokens, e.g. -3 is 3"
    )
    max_length_ratio: float = _option(
        0.0,
        "most tokens per prompt frame; 0: as many as frames; negative: so many tokens",
    )
    intent_first: bool = _option(
        False,
        "decode the first word, an intent, greedily by itself, and search for the rest "
        "behind it",
    )
    batch_frames: int = _option(
        16000, "audio of a batch in frames of 10 ms, with padding"
    )
    dtype: str = _option(
        "float32",
        f"precision of decoder and cache: {', '.join(DTYPES)}; the rest is float32",
    )
    cache_dtype: str | None = _option(
        None, "store the cache in 8 bits: int8 or fp8; null: the decoder's dtype"
    )
    prompt_cache: str = _option(
        "latent",
        "latent, or heads: store the prompt's keys and values of each head; this takes "
        "more memory and is faster with many hypotheses",
    )
    expand_from: int = _option(
        0,
        "queries per head of an utterance from which a step projects the prompt's "
        "latents up to keys and values; 0: where that is faster",
    )
    backend: str = _option(
        "auto", "attention over the cache: auto, torch, triton, flash_attn"
    )
    share_prompt: bool = _option(
        True, "one prompt cache per utterance; false: per hypothesis, as in the paper"
    )
    cuda_graphs: str = _option(
        "auto",
        f"record a step and replay it: {', '.join(CUDA_GRAPHS)}; auto: on a GPU",
    )
    task_template: str | None = _option(
        None, "task of a model of several, a name of its templates; null: by utt2task"
    )
    lm_weight: float = _option(0.0, "w in score + w * log p(token) of --lm")
    lm: str | None = _option(
        None, "language model: folder of train --task lm, or a file of weights in it"
    )
    ngram_weight: float = _option(
        0.0, "w in score + w * log p(token) of --ngram, natural logarithm"
    )
    ngram: str | None = _option(
        None, "n-grams over the model's tokens: an ARPA file, also .gz"
    )
    hotwords: str | tuple[str, ...] | None = _option(
        None, "phrases that gain a bonus: a file with one a line; in YAML also a list"
    )
    hotword_bonus: float = _option(
        2.0, "added for each whole phrase of --hotwords, in equal shares a token"
    )

    def __post_init__(self) -> None:
        prefix = "decoding option "
        check_count(self, "beam_size", "nbest", "batch_frames", prefix=prefix)
        check_count(self, "expand_from", least=0, prefix=prefix)
        for name, most in (("beam_size", MOST_BEAM), ("batch_frames", MOST_FRAMES)):
            value = getattr(self, name)
            require(value <= most, f"{prefix}{name}", value, f"at most {most} is")
        fewer = f"at most beam_size={self.beam_size} is"
        require(self.nbest <= self.beam_size, f"{prefix}nbest", self.nbest, fewer)
        check_number(self, "ctc_weight", inside="[0, 1)", prefix=prefix)
        # Fewer than K candidates a row could not fill the beam in the first step.
        check_number(self, "ctc_candidates", inside="[1, 1000]", prefix=prefix)
        check_number(self, "length_norm", inside="[0, inf)", prefix=prefix)
        check_number(self, "length_bonus", inside="(-inf, inf)", prefix=prefix)
        for name in ("min_length_ratio", "max_length_ratio"):
            check_number(self, name, inside=RATIOS, prefix=prefix)
        for name, choices in (
            ("dtype", DTYPES),
            ("cache_dtype", (None, *CACHE_DTYPES)),
            ("prompt_cache", PROMPT_CACHES),
            ("backend", BACKENDS),
            ("cuda_graphs", CUDA_GRAPHS),
        ):
            check_choice(self, name, choices, prefix)
        check_flags(self, "share_prompt", "intent_first", prefix=prefix)
        self._check_fusion(prefix)

    def _check_fusion(self, prefix: str) -> None:
        """Check the language models and hotwords; convert paths and lists."""
        for name in ("lm_weight", "ngram_weight", "hotword_bonus"):
            check_number(self, name, inside="[0, inf)", prefix=prefix)
        for name in FUSION_FILES:
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            elif name == "hotwords" and isinstance(value, list | tuple):
                phrases = all(isinstance(one, str) and one.split() for one in value)
                require(phrases, f"{prefix}{name}", value, "a list of phrases is")
                value = tuple(value)
            needed = "a path is" if name != "hotwords" else "a path or a list is"
            fine = value is None or (isinstance(value, str | tuple) and value != "")
            require(fine, f"{prefix}{name}", value, needed)
            object.__setattr__(self, name, value)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "") -> DecodeOptions:
        """Return the default options with ``values`` over them.

        >>> DecodeOptions.from_mapping({"maxlenratio": 0.5}).max_length_ratio
        0.5

        Args:
            values: options by name, or by ESPnet's name (:data:`ALIASES`).
            where: source of the values, such as a file name; messages begin with it.
        Raises:
            UserError: an unknown option, one option by two names, or a value out of
                range.
        """
        try:
            return cls()._changed(values)
        except UserError as error:
            raise UserError(f"{where}: {error}" if where else str(error)) from None

    def replaced(self, **changes: Any) -> DecodeOptions:
        """Return a copy with other values; takes the names of :meth:`from_mapping`.

        ``nbest`` cannot exceed ``beam_size``. If only one of the two is changed, the
        other one is adapted to it.

        >>> DecodeOptions(beam_size=4).replaced(nbest=6).beam_size
        6

        Raises:
            UserError: an unknown option, one option by two names, or a value out of
                range.
        """
        return self._changed(changes)

    def relative_to(self, folder: Path) -> DecodeOptions:
        """Return a copy whose relative paths (:data:`FUSION_FILES`) are in ``folder``.

        >>> DecodeOptions(lm="lm", lm_weight=0.3).relative_to(Path("/packed")).lm
        '/packed/lm'
        """
        values = {name: getattr(self, name) for name in FUSION_FILES}
        paths = {name: path for name, path in values.items() if isinstance(path, str)}
        return self.replaced(**{name: str(folder / p) for name, p in paths.items()})

    def _changed(self, values: Mapping[str, Any]) -> DecodeOptions:
        changes = _resolve_aliases(values)
        beam, nbest = (
            plain(changes.get(name, getattr(self, name)))
            for name in ("beam_size", "nbest")
        )
        if isinstance(beam, int) and isinstance(nbest, int) and nbest > beam > 0:
            if "beam_size" not in changes:
                changes["beam_size"] = nbest
            elif "nbest" not in changes:
                changes["nbest"] = beam
        return replace(self, **changes)


def _resolve_aliases(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` by the names of the fields of :class:`DecodeOptions`.

    Raises:
        UserError: an unknown name, or a field by its name and by its alias.
    """
    known = [option.name for option in fields(DecodeOptions)]
    resolved: dict[str, Any] = {}
    for name, value in values.items():
        option = ALIASES.get(name, name)
        if name in ESPNET_REFUSED:
            raise UserError(f"{name} (ESPnet): {ESPNET_REFUSED[name]}")
        if option not in known:
            raise UserError(f"unknown option {name!r}; valid: {', '.join(known)}")
        if option != name:
            if option in values:
                raise UserError(f"{name}, {option}: two names of one option; use one")
            _log_alias(name, option)
        resolved[option] = value
    return resolved


@cache
def _log_alias(alias: str, option: str) -> None:
    """Log the meaning of ESPnet's name once in a process."""
    logger.info("%s: ESPnet's name of the option %s", alias, option)
