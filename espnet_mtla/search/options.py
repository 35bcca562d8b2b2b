"""The settings of decoding: the only home of their names, defaults and checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from espnet_mtla.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")
# Named here too, since options are read without torch; a test holds them together.
CACHE_DTYPES = ("int8", "fp8")
PROMPT_CACHES = ("latent", "heads")
BACKENDS = ("auto", "triton", "flash_attn", "torch")
CUDA_GRAPHS = ("auto", "always", "never")


def _option(default: object, help: str) -> object:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DecodeOptions:
    """How an utterance is decoded; the YAML of conf/decode has these keys, and no
    other.

    Raises:
        UserError: A value out of range, named with the field.
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
        0.0, "a in score / length**a, by which the finished are ranked; 0: plain score"
    )
    min_length_ratio: float = _option(
        0.0, "least tokens a prompt frame; negative: that many tokens, e.g. -3 is 3"
    )
    max_length_ratio: float = _option(
        0.0,
        "most tokens a prompt frame; 0: as many as frames; negative: that many tokens",
    )
    intent_first: bool = _option(
        False,
        "the first word, an intent, is settled by itself, token by token the most "
        "probable; the rest is searched for behind it",
    )
    batch_frames: int = _option(
        16000, "audio of a batch in frames of 10 ms, padding included"
    )
    dtype: str = _option(
        "float32",
        f"of the decoder and its cache: {', '.join(DTYPES)}; all else float32",
    )
    cache_dtype: str | None = _option(
        None, "8 bits a number of the cache: int8 or fp8; null: the decoder's dtype"
    )
    prompt_cache: str = _option(
        "latent",
        "latent, or heads: a prompt's keys and values of each head; more memory, and "
        "faster with many hypotheses",
    )
    backend: str = _option(
        "auto", "of attention over the cache: auto, torch, triton, flash_attn"
    )
    share_prompt: bool = _option(
        True, "one prompt cache an utterance; false: one a hypothesis, as in the paper"
    )

    cuda_graphs: str = _option(
        "auto",
        f"whether a step is recorded and replayed: {', '.join(CUDA_GRAPHS)}; auto "
        "records on a GPU",
    )

    def __post_init__(self) -> None:
        self._whole("beam_size", "nbest", "batch_frames")
        self._finite("ctc_weight", "ctc_candidates", "length_bonus", "length_norm")
        self._finite("min_length_ratio", "max_length_ratio")
        self._need("nbest", self.nbest <= self.beam_size, "at most beam_size")
        self._need("ctc_weight", 0 <= self.ctc_weight < 1, "a value in [0, 1)")
        # Fewer than K candidates a row could not fill the beam in the first step.
        self._need("ctc_candidates", self.ctc_candidates >= 1, "a value >= 1")
        self._need("length_norm", self.length_norm >= 0, "a value >= 0")
        self._need(
            "cache_dtype",
            self.cache_dtype in (None, *CACHE_DTYPES),
            f"null or one of {', '.join(CACHE_DTYPES)}",
        )
        self._need(
            "prompt_cache",
            self.prompt_cache in PROMPT_CACHES,
            "one of " + ", ".join(PROMPT_CACHES),
        )
        self._need("backend", self.backend in BACKENDS, f"one of {', '.join(BACKENDS)}")
        self._need("dtype", self.dtype in DTYPES, "one of " + ", ".join(DTYPES))
        for name in ("share_prompt", "intent_first"):
            self._need(name, isinstance(getattr(self, name), bool), "true or false")
        known = self.cuda_graphs in CUDA_GRAPHS
        self._need("cuda_graphs", known, "one of " + ", ".join(CUDA_GRAPHS))

    def _need(self, name: str, fine: bool, what: str) -> None:
        if not fine:
            value = getattr(self, name)
            raise UserError(
                f"decoding option {name}: {value!r} given, {what} is needed"
            )

    def _whole(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            fine = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            self._need(name, fine, "a whole number >= 1")

    def _finite(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            fine = isinstance(value, (int, float)) and not isinstance(value, bool)
            self._need(name, fine and math.isfinite(value), "a finite number")
