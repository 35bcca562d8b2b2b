"""The contract of an attention type: what a new one declares and implements.

:class:`AttentionContract` holds the facts and hooks of a type. :mod:`.base` runs
training, prefill and decoding with them, so that a type implements none of the three.

Letters: ``B`` rows in training and prefill, ``N`` rows in decoding, ``T`` tokens,
``L`` new tokens of a row, ``U`` queries, ``D`` model width, ``H`` query heads, ``d``
width of a head's query, ``e`` width of a head's value, ``G`` heads of an entry, ``S``
entries, ``w`` width of an entry, ``r`` width of a latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from espnet_mtla.attention.config import Frequencies, MultiheadConfig
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.decoding.timeline import TokenPlacement
from espnet_mtla.attention.rope import angles_at, rotary_angles


class AttentionSettings(Protocol):
    """Settings that every attention type has; see :mod:`.config` for those of each."""

    @property
    def embed_dim(self) -> int:
        """Model width D."""

    @property
    def num_heads(self) -> int:
        """Query heads H."""

    @property
    def dropout(self) -> float:
        """Probability of dropping an attention weight in training."""


class AttentionContract(nn.Module, ABC):
    """Facts and hooks of an attention type.

    A type calls the constructor with the facts below and implements the abstract
    methods :meth:`queries`, :meth:`entries`, :meth:`attend` and :meth:`project_out`.
    The other hooks have defaults that fit a type whose entries are keys and values of
    single tokens; it overrides those that it needs:

    - chunks of several tokens: ``layout.stride``; :meth:`chunk_encodings` if merging
      depends on the index of the chunk;
    - a first chunk that lacks tokens: ``layout.offset``; the newest tokens unmerged:
      ``layout.window``, with which :meth:`entries` returns raw entries too;
    - low-rank entries, projected up to heads: :meth:`absorb`, :meth:`up_project`,
      :meth:`expand`, :attr:`heads_layout`, :meth:`up_matrix`, ``expand_from``;
    - a kernel that writes a token in one launch: :meth:`has_fused_write`,
      :meth:`fused_write`.

    Args:
        settings: the type's frozen dataclass of settings.
        layout: what a cache entry holds, and tokens of a chunk.
        scale: factor of all scores.
        rope_dim: numbers of a query that are rotated; 0: no rotary positions.
        rope_base: base of the rotary frequencies.
        rope_frequencies: radians per token of each pair; None: from ``rope_base``.
        expand_from: queries of an utterance from which it is faster to project its
            prompt up to heads than to absorb the projection into the queries; None:
            never.
    """

    settings: AttentionSettings
    layout: EntryLayout
    scale: float
    dropout: float
    rope_dim: int
    rope_base: float
    rope_frequencies: Frequencies
    expand_from: int | None

    def __init__(
        self,
        settings: AttentionSettings,
        layout: EntryLayout,
        *,
        scale: float,
        rope_dim: int = 0,
        rope_base: float = MultiheadConfig.rope_base,
        rope_frequencies: Frequencies = None,
        expand_from: int | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.layout, self.scale = settings, layout, scale
        self.dropout, self.expand_from = settings.dropout, expand_from
        self.rope_dim, self.rope_base = rope_dim, rope_base
        self.rope_frequencies = rope_frequencies

    # What a type must implement ------------------------------------------------------

    @abstractmethod
    def queries(self, x: Tensor, angles: Tensor) -> Tensor:
        """Compute queries ``(B, H, U, d)`` of tokens ``x (B, U, D)``.

        ``angles`` are their rotary angles, ``(B or 1, U, rope_dim / 2)``.
        """

    @abstractmethod
    def entries(
        self,
        x: Tensor,
        angles: Tensor,
        placement: TokenPlacement | None = None,
        open_entry: Tensor | None = None,
    ) -> Tensor:
        """Compute running entries: what the cache holds of a chunk after each token.

        Args:
            x: tokens, ``(B, T, D)``.
            angles: their rotary angles, ``(B or 1, T, rope_dim / 2)``.
            placement: where the tokens stand in their rows; None: at the beginning.
            open_entry: entry of the chunk that a row's first token continues,
                ``(B, G, w)``; valid in rows where ``placement.is_open``.

        Returns:
            ``(B, G, T, w)``; with ``layout.window``, the entries of the single tokens,
            unmerged, come after them: ``(B, 2 G, T, w)``.
        """

    @abstractmethod
    def attend(
        self, q: Tensor, entries: Tensor, query_index: Tensor | None, dropout: float
    ) -> Tensor:
        """Compute attention over whole rows, with gradients, for training.

        A query at index i of its row sees the last entry of each chunk that is
        finished before the chunk of i begins, and the running entry of token i.

        Args:
            q: queries, ``(B, H, U, d)``.
            entries: of all tokens, as :meth:`entries` returns them.
            query_index: index of each query in its row, ``(B or 1, U)``; None: query i
                is token i.
            dropout: probability of dropping an attention weight.

        Returns:
            Heads, ``(B, H, U, e)``.
        """

    @abstractmethod
    def project_out(self, out: Tensor) -> Tensor:
        """Project heads ``(B, H, U, e)`` to the model's width, ``(B, U, D)``."""

    # What a type may override --------------------------------------------------------

    def chunk_encodings(self, index: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Encode the chunks of tokens ``index (N, L)``, for merging: ``(N, L, r)``.

        The decoder computes this once a step for all layers. None: merging needs none.
        """
        del index, dtype
        return None

    def up_matrix(self, like: Tensor) -> Tensor | None:
        """Return the matrix that projects entries up to heads; None: there is none.

        Reading it can cost as much as a matrix product (:mod:`.linear`). It is
        therefore read once a call and passed to :meth:`absorb`, :meth:`up_project` and
        :meth:`expand`, which read it themselves if they get None. ``like`` gives the
        dtype and device of activations.
        """
        del like
        return None

    def absorb(self, q: Tensor, up: Tensor | None = None) -> Tensor:
        """Map queries ``(N, H, U, d)`` into the space of the entries' keys.

        Returns:
            ``(N, H, U, layout.key_width)``.
        """
        del up
        return q

    def up_project(self, out: Tensor, up: Tensor | None = None) -> Tensor:
        """Map weighted sums of the entries' values to heads ``(N, H, U, e)``.

        ``out`` is ``(N, H, U, layout.value_width)``.
        """
        del up
        return out

    @property
    def heads_layout(self) -> EntryLayout:
        """Layout of expanded entries; ``layout`` itself if they are not expanded."""
        return self.layout

    def expand(
        self, entries: Tensor, up: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Split entries ``(B, G, S, w)`` into keys and values, see `heads_layout`."""
        del up
        return self.layout.keys(entries), self.layout.values(entries)

    def has_fused_write(self, cache: KVCache) -> bool:
        """Return True if :meth:`fused_write` can replace entries and cache.write."""
        del cache
        return False

    def fused_write(self, x: Tensor, cache: KVCache, placement: TokenPlacement) -> None:
        """Write one new token a row ``x (N, 1, D)`` into the cache by one kernel."""
        raise NotImplementedError(f"{type(self).__name__} has no fused write")

    def angles(self, position: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rotary angles ``(..., T, rope_dim / 2)`` of ``position (..., T)``."""
        if self.rope_frequencies is not None:
            return angles_at(position, self.rope_frequencies, dtype)
        return rotary_angles(position, self.rope_dim, self.rope_base, dtype)
