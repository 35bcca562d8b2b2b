"""The layout of a cache entry, options of a cache, and the formula of its bytes.

An entry is what attention stores of a chunk of ``stride`` tokens. It has ``heads``
times ``width`` numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from espnet_mtla.attention.decoding.quantise import CACHE_DTYPES, SCALE_BYTES
from espnet_mtla.settings.checks import check_count, require

PROMPT_FORMS = ("latent", "heads")


@dataclass(frozen=True)
class EntryLayout:
    """Where keys and values are among the ``width`` numbers of each head of an entry.

    The key is the first ``key_width`` numbers; the value is the ``value_width`` numbers
    from ``value_start`` on. In a latent entry ``[m, k_rope]`` they overlap: the key is
    all of it and the value is m.

    The first chunk of a row lacks ``offset`` tokens: token i belongs to chunk
    ``(i + offset) // stride``. With a ``window``, that many newest tokens are seen
    unmerged (:class:`.TemporalLatentConfig`); an unmerged entry has the same layout.

    >>> mtla = EntryLayout(1, 288, 288, value_start=0, value_width=256, stride=2)
    >>> mtla.slots(5), mtla.nbytes(3, itemsize=4)
    (3, 3456)
    """

    heads: int
    width: int
    key_width: int
    value_start: int
    value_width: int
    stride: int = 1
    offset: int = 0
    window: int = 0

    @property
    def window_room(self) -> int:
        """Most tokens of a row that a query sees unmerged, itself among them.

        A chunk leaves the window as a whole, so up to ``stride - 1`` tokens beyond the
        window wait for the rest of their chunk.
        """
        return self.window + self.stride - 1 if self.window > 0 else 0

    def ring_size(self, capacity: int, slack: int = 0) -> int:
        """Return the raw entries of a row with ``capacity`` tokens after the prompt.

        ``slack`` tokens more than the window needs remain after being overwritten.
        """
        room = self.window_room + slack
        return max(min(room, capacity), 1) if self.window > 0 else 0

    def tail_size(self, prompt: int) -> int:
        """Return the raw entries of a prompt: a query adds its own token to them."""
        return min(self.window_room - 1, prompt) if self.window > 0 else 0

    def split(self, entries: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split the entries of tokens into running and raw ones; None: no window.

        ``(B, G, T, w)``, with a window ``(B, 2 G, T, w)``.
        """
        if self.window == 0:
            return entries, None
        return entries[:, : self.heads], entries[:, self.heads :]

    def finished(self, entries: Tensor) -> Tensor:
        """Select the entries of finished chunks, ``(B, G, T, w) -> (B, G, S, w)``."""
        return entries[:, :, self.stride - 1 - self.offset :: self.stride]

    def keys(self, entries: Tensor) -> Tensor:
        """Return a view of the keys, ``(..., w) -> (..., key_width)``."""
        return entries[..., : self.key_width]

    def values(self, entries: Tensor) -> Tensor:
        """Return a view of the values, ``(..., w) -> (..., value_width)``."""
        return entries[..., self.value_start : self.value_start + self.value_width]

    def slots(self, tokens: int) -> int:
        """Return the number of entries of ``tokens`` tokens: one a begun chunk."""
        return -(-(tokens + self.offset) // self.stride) if tokens else 0

    def nbytes(self, entries: int, itemsize: int, dtype: str | None = None) -> int:
        """Return the bytes of ``entries`` entries.

        Args:
            entries: their number.
            itemsize: bytes of a number, if ``dtype`` is None.
            dtype: an 8-bit format of :mod:`.quantise`, which adds a scale an entry.
        """
        each = self.width * itemsize if dtype is None else self.width + SCALE_BYTES
        return entries * self.heads * each

    def suffix_bytes(
        self, entries: int, rows: int, itemsize: int, dtype: str | None = None
    ) -> int:
        """Return the bytes of suffix entries in ``rows`` rows.

        In 8 bits each row also stores the entry of its open chunk in full precision.
        See :meth:`nbytes` for the other arguments.
        """
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
        """Return the bytes in use of one utterance.

        Finished chunks of the prompt are stored once if they are shared. Its open chunk
        is in the suffix of every row, since each hypothesis continues it differently.
        A raw window adds at most ``window + stride - 1`` entries to a row, and one less
        to a prompt.

        >>> mtla = EntryLayout(1, 288, 288, value_start=0, value_width=256, stride=2)
        >>> (4 + 10 * 2) * 288 * 4  # 4 chunks shared; chunks {8, 9}, {10, 11} 10 times
        27648
        >>> mtla.cache_bytes(9, 3, beam=10, share_prompt=True, itemsize=4)
        27648
        >>> from dataclasses import replace
        >>> windowed = replace(mtla, window=4)  # 4 raw tokens shared, 3 in each row
        >>> windowed.cache_bytes(9, 3, beam=10, share_prompt=True, itemsize=4) - 27648
        39168
        >>> (4 + 10 * 3) * 288 * 4
        39168

        Args:
            prompt: tokens of the prompt.
            tokens: tokens of each row after it.
            beam: rows.
            share_prompt: store one copy of the prompt's finished chunks, not ``beam``.
            itemsize: bytes of a number, if ``dtype`` is None.
            dtype: an 8-bit format of :mod:`.quantise`, or None.
            prompt_layout: layout of the prompt's entries; None: this one.
        """
        # Products of NumPy's small integers would overflow.
        prompt, tokens, beam = int(prompt), int(tokens), int(beam)
        itemsize, finished = int(itemsize), (prompt + self.offset) // self.stride
        suffix = self.slots(prompt + tokens) - finished
        copies = 1 if share_prompt else beam
        in_prompt = (prompt_layout or self).nbytes(copies * finished, itemsize, dtype)
        raw = copies * self.tail_size(prompt) + beam * min(self.window_room, tokens)
        in_window = self.nbytes(raw, itemsize, dtype)
        in_suffix = self.suffix_bytes(beam * suffix, beam, itemsize, dtype)
        return in_prompt + in_suffix + in_window

    def room_bytes(
        self, tokens: int, beam: int, itemsize: int, dtype: str | None = None
    ) -> int:
        """Return the bytes allocated for the suffixes of one utterance.

        Args:
            tokens: capacity of each row after the prompt.
            beam: rows.
            itemsize: bytes of a number, if ``dtype`` is None.
            dtype: an 8-bit format of :mod:`.quantise`, or None.
        """
        slots = -(-(self.stride - 1 + tokens) // self.stride)
        raw = self.nbytes(beam * self.ring_size(tokens), itemsize, dtype)
        return self.suffix_bytes(beam * slots, beam, itemsize, dtype) + raw


@dataclass(frozen=True)
class CacheOptions:
    """How a cache is stored and read, for any attention type.

    Attributes:
        backend: implementation of attention over the cache, see :mod:`.backend`.
        dtype: ``int8`` or ``fp8`` store numbers in 8 bits (:mod:`.quantise`); None: in
            the model's dtype.
        prompt: ``latent`` stores a prompt's entries; ``heads`` stores keys and values
            of each head, projected up once: several times larger, and faster if many
            queries read them. No difference for MHA, GQA and MQA.
        expand_from: queries of an utterance from which a step over latent entries
            projects the prompt up; None: the number from which that is faster.
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
