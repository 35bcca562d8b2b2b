"""What an entry holds, how a cache of them is kept, and the bytes that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from espnet_mtla.attention.decoding.quantise import CACHE_DTYPES, SCALE_BYTES
from espnet_mtla.settings.checks import check_count, require

PROMPT_FORMS = ("latent", "heads")


@dataclass(frozen=True)
class EntryLayout:
    """What one entry holds: ``heads`` times ``width`` numbers.

    Keys are the first ``key_width`` of them; values are ``value_width`` numbers from
    ``value_start`` on. A latent entry is its own value, so there the two overlap.
    """

    heads: int
    width: int
    key_width: int
    value_start: int
    value_width: int
    stride: int = 1

    def keys(self, entries: Tensor) -> Tensor:
        """``(..., w) -> (..., key_width)``, a view."""
        return entries[..., : self.key_width]

    def values(self, entries: Tensor) -> Tensor:
        """``(..., w) -> (..., value_width)``, a view."""
        return entries[..., self.value_start : self.value_start + self.value_width]

    def slots(self, tokens: int) -> int:
        """Entries that ``tokens`` tokens take: one a begun chunk."""
        return -(-tokens // self.stride)

    def nbytes(self, entries: int, itemsize: int, dtype: str | None = None) -> int:
        """Bytes of ``entries`` entries of ``itemsize`` bytes a number, or in 8 bits."""
        each = self.width * itemsize if dtype is None else self.width + SCALE_BYTES
        return entries * self.heads * each

    def suffix_bytes(
        self, entries: int, rows: int, itemsize: int, dtype: str | None = None
    ) -> int:
        """:meth:`nbytes`, and in 8 bits the exact entry of each row's open chunk."""
        exact = rows if dtype is not None and self.stride > 1 else 0
        return self.nbytes(entries, itemsize, dtype) + self.nbytes(exact, itemsize)

    def cache_bytes(
        self,
        prompt: int,
        tokens: int,
        beam: int,
        share_prompt: bool,
        itemsize: int,
        dtype: str | None = None,
        prompt_layout: EntryLayout | None = None,
    ) -> int:
        """Bytes filled by one utterance of ``prompt`` and ``tokens`` tokens a row.

        A prompt's open chunk is a row's own, since its hypotheses go on to fill it.

        Args:
            itemsize: bytes of a number where they are not kept in 8 bits.
            dtype, prompt_layout: where :class:`CacheOptions` asks for other ones.
        """
        # Products of NumPy's small integers would overflow.
        prompt, tokens, beam = int(prompt), int(tokens), int(beam)
        itemsize, whole = int(itemsize), prompt // self.stride
        suffix = self.slots(prompt + tokens) - whole
        copies = 1 if share_prompt else beam
        kept = prompt_layout or self
        return kept.nbytes(copies * whole, itemsize, dtype) + self.suffix_bytes(
            beam * suffix, beam, itemsize, dtype
        )

    def room_bytes(
        self, tokens: int, beam: int, itemsize: int, dtype: str | None = None
    ) -> int:
        """Bytes that the suffixes of one utterance take with room for ``tokens``."""
        slots = self.slots(self.stride - 1 + tokens)
        return self.suffix_bytes(beam * slots, beam, itemsize, dtype)


@dataclass(frozen=True)
class CacheOptions:
    """How a cache is kept, whatever it holds.

    Attributes:
        backend: who computes attention over it, see :mod:`.backend`.
        dtype: None keeps numbers in the model's type; ``int8`` and ``fp8`` keep them
            in 8 bits, see :mod:`.quantise`.
        prompt: ``latent`` keeps a prompt's entries as they are; ``heads`` projects
            them up to keys and values of each head once: faster where many queries
            read them, and several times larger. The same for MHA, GQA and MQA.
        expand_from: queries an utterance from which a call over latent entries projects
            them up for itself; None: where it is faster.
    """

    backend: str = "auto"
    dtype: str | None = None
    prompt: str = "latent"
    expand_from: int | None = None

    def __post_init__(self) -> None:
        one_of = f"one of {', '.join(CACHE_DTYPES)}, or null is"
        fine = self.dtype is None or self.dtype in CACHE_DTYPES
        require(fine, "cache_dtype", self.dtype, one_of)
        forms = f"one of {', '.join(PROMPT_FORMS)} is"
        require(self.prompt in PROMPT_FORMS, "prompt_cache", self.prompt, forms)
        if self.expand_from is not None:
            check_count(self, "expand_from", least=0)


DEFAULT_CACHE = CacheOptions()
