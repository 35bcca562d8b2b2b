"""The cache of a whole model, as Transformers' ``generate`` uses it.

``get_seq_length`` counts tokens (columns of the batch, padding included), as generation
needs. Mask sizes count entries, ``stride`` times fewer. All layers share one timeline,
so only a whole cache can be reordered or cropped, not a single layer.

Letters: ``N`` rows, ``T`` new tokens, ``S`` entries of a row, ``D`` model width, ``r``
latent width, ``d_R`` rotary width.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig
from espnet_mtla.hf.llama.rollback import RowsCache, RowsTimeline, StaticTimeline
from espnet_mtla.hf.versions import CACHE_NAME, TRANSFORMERS_4
from espnet_mtla.settings.checks import whole_number

SLACK = 64
"""Smallest room for further tokens when a growing cache is enlarged."""


class TemporalLatentLayer(CacheLayerMixin):
    """The entries of one layer, ``stride`` tokens in each.

    Attributes:
        rows: the cache that the attention writes; None before the first token.
    """

    is_compileable = False
    is_croppable = True
    is_sliding = False
    supports_early_init = False

    def __init__(self, layout: EntryLayout, max_tokens: int | None = None) -> None:
        # The base's would set ``keys`` and ``values``, which are views here.
        self.layout, self.max_tokens = layout, max_tokens
        self.rows: RowsCache | None = None

    # The base stores these two; here they are views of one tensor.
    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        """Return the keys of all entries, ``(N, 1, S, r + d_R)``."""
        return None if self.rows is None else self.layout.keys(self._entries)

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        """Return the values of all entries, ``(N, 1, S, r)``, a part of the keys."""
        return None if self.rows is None else self.layout.values(self._entries)

    @property
    def allocated_rows(self) -> RowsCache:
        """Return ``rows``, which must have been allocated."""
        if self.rows is None:
            raise RuntimeError("the cache has no tokens yet")
        return self.rows

    @property
    def _entries(self) -> Tensor:
        return self.allocated_rows.suffix[
            :, :, : self.layout.slots(self.get_seq_length())
        ]

    @property
    def is_initialized(self) -> bool:  # type: ignore[override]
        """Return True if memory has been allocated."""
        return self.rows is not None

    @property
    def batch_size(self) -> int:
        """Return the number of rows, -1 before the first token."""
        return -1 if self.rows is None else len(self.rows.num_tokens)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise an error: keys and values are not stored, but merged entries."""
        del args, kwargs
        raise UserError(
            f"{CACHE_NAME}: entries are written by the model's own attention; a "
            "TemporalLatentCache works with LlamaMTLA models alone"
        )

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise an error, see :meth:`lazy_initialization`."""
        self.lazy_initialization(*args, **kwargs)

    def get_seq_length(self) -> int:
        """Return the tokens so far, padding of the batch included."""
        return 0 if self.rows is None else self.rows.timeline.columns

    def get_mask_sizes(self, query: int | Tensor) -> tuple[int, int]:
        """Return the number of entries after ``query`` more tokens, and the offset 0.

        Transformers 4 passes the positions of the tokens in place of their number.
        """
        more = query if isinstance(query, int) else query.size(0)
        return self.layout.slots(self.get_seq_length() + more), 0

    def get_max_length(self) -> int:
        """Return the capacity in tokens; -1 if the cache grows."""
        return self.max_tokens if self.is_compileable and self.max_tokens else -1

    get_max_cache_shape = get_max_length  # its name in Transformers 4


class StaticTemporalLatentLayer(TemporalLatentLayer):
    """A layer of fixed shape, allocated once for ``max_tokens``."""

    is_compileable = True
    is_croppable = False


class TemporalLatentCache(Cache):
    """The caches of all layers of a model.

    Args:
        config: of the model.
        max_cache_len: expected number of tokens of a row.
        static: allocate exactly ``max_cache_len`` at the first token and never move it,
            as recorded and compiled steps need; False: the cache grows, and a large
            ``max_cache_len`` saves reallocations.

    Attributes:
        newest: last hidden state of each row's newest token, ``(N, D)``: the output at
            padding that follows in a later call. Zeros without such a token, and after
            :meth:`crop`; None before the first token.
        real: False at columns of padding, ``(N, columns)``; None: no padding so far.
    """

    layers: list[TemporalLatentLayer]  # type: ignore[assignment]  # of this class alone

    def __init__(
        self,
        config: LlamaMTLAConfig,
        max_cache_len: int | None = None,
        static: bool = False,
    ) -> None:
        if max_cache_len is not None or static:
            max_cache_len = whole_number(max_cache_len, "max_cache_len")
        layer_class = StaticTemporalLatentLayer if static else TemporalLatentLayer
        layout = entry_layout(config)
        count = config.num_hidden_layers
        super().__init__(
            layers=[layer_class(layout, max_cache_len) for _ in range(count)]
        )
        self.layout, self.static, self.max_tokens = layout, static, max_cache_len
        self.timeline: RowsTimeline | None = None
        self.newest: Tensor | None = None
        self.record_past = False
        self.real: Tensor | None = None

    # Used by the model ---------------------------------------------------------------

    @property
    def allocated_state(self) -> tuple[RowsTimeline, Tensor]:
        """Return ``timeline`` and ``newest``, which must have been allocated."""
        if self.timeline is None or self.newest is None:
            raise RuntimeError("the cache has no tokens yet")
        return self.timeline, self.newest

    def make_room(self, x: Tensor, real: Tensor | None = None) -> RowsTimeline:
        """Allocate memory for the next tokens, and return the timeline.

        Args:
            x: hidden states of the tokens, ``(N, T, D)``.
            real: False at columns of padding, ``(N, T)``; None: no padding.

        Raises:
            UserError: other rows, width, dtype or device than those of the cache.
        """
        rows, new = x.shape[:2]
        if self.timeline is None:
            self._allocate(x)
        timeline, hidden = self.allocated_state
        if len(timeline.num_tokens) != rows:
            raise UserError(
                f"{CACHE_NAME}: holds {len(timeline.num_tokens)} rows, {rows} given"
            )
        if (hidden.size(1), hidden.dtype, hidden.device) != (
            x.size(2),
            x.dtype,
            x.device,
        ):
            raise UserError(
                f"{CACHE_NAME}: a cache of vectors of {hidden.size(1)} {hidden.dtype} "
                f"on {hidden.device}; {x.size(2)} {x.dtype} on {x.device} needed"
            )
        self._record_padding(real, new)
        need = 0 if self.static else timeline.appended + new
        if need > timeline.capacity:
            return self._select_rows(timeline.rows, need + max(SLACK, need // 2))
        return timeline

    def _record_padding(self, real: Tensor | None, new: int) -> None:
        """Append which of ``new`` columns are padding; None: none of them."""
        if isinstance(self.timeline, StaticTimeline):
            if real is not None and self.real is not None:
                self.real.index_copy_(1, self.timeline.next_columns(new), real)
            return
        if real is None:
            if self.real is None:
                return
            real = self.real.new_ones(len(self.real), new)
        if self.real is None:
            self.real = real.new_ones(len(real), self.get_seq_length())
        self.real = torch.cat((self.real, real), dim=1)

    def _allocate(self, x: Tensor) -> None:
        """Allocate all layers for the first tokens ``x (N, T, D)``."""
        rows, new = x.shape[:2]
        room = self.max_tokens or new + SLACK
        self.newest = x.new_zeros(rows, x.size(-1))
        timeline_class = StaticTimeline if self.static else RowsTimeline
        self.timeline = timeline_class(
            rows, self.layout.stride, room if self.static else max(room, new), x.device
        )
        if self.static:
            self.real = torch.ones(rows, room, dtype=torch.bool, device=x.device)
        for layer in self.layers:
            layer.rows = RowsCache(self.layout, self.timeline, x)
            if self.record_past:
                layer.rows.start_recording()

    def _select_rows(self, rows: Tensor, capacity: int | None = None) -> RowsTimeline:
        """Continue with ``rows (N',)`` and a new capacity; return the new timeline."""
        timeline, newest = self.allocated_state
        timeline = timeline.copy_rows(rows, capacity)
        for layer in self.layers:
            layer.allocated_rows.select_and_resize(rows, timeline)
        self.timeline = timeline
        self.newest = newest.index_select(0, rows)
        if self.real is not None:
            self.real = self.real.index_select(0, rows)
        return timeline

    # Used by generation --------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated by all layers."""
        return sum(layer.rows.nbytes for layer in self.layers if layer.rows)

    @property
    def used_nbytes(self) -> int:
        """Return the bytes of the filled entries, as the formula counts them."""
        return sum(layer.rows.used_nbytes for layer in self.layers if layer.rows)

    def activate_past_recording(self) -> None:
        """Record further tokens, so that :meth:`crop` can remove them one by one."""
        self._refuse_if_static()
        self.record_past = True
        for layer in self.layers:
            if layer.rows is not None:
                layer.rows.start_recording()

    def crop(self, tokens: int) -> None:
        """Remove the newest ``-tokens`` columns exactly.

        A positive number is how many columns remain, as in Transformers 4, where 0
        removes all of them.

        Raises:
            UserError: the cache is static, has fewer columns, or did not record them.
        """
        columns = self.get_seq_length()
        keeps = tokens > 0 or (tokens == 0 and TRANSFORMERS_4)
        remove = max(columns - tokens, 0) if keeps else -tokens
        if remove == 0:
            return
        self._refuse_if_static()
        if remove > columns:
            raise UserError(f"crop: {remove} tokens back, the cache holds {columns}")
        timeline, newest = self.allocated_state
        of_rows = torch.full_like(timeline.num_tokens, remove)
        if self.real is not None:
            of_rows = self.real[:, columns - remove :].sum(1)
        for layer in self.layers:
            layer.allocated_rows.restore_open(of_rows)
        timeline.remove_newest(remove, of_rows)
        newest.zero_()
        if self.real is not None:
            self.real = self.real[:, : columns - remove]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue row ``beam_idx[i]`` in row i."""
        if self.timeline is None:
            return
        timeline, newest = self.allocated_state
        rows = beam_idx.to(timeline.num_tokens.device)
        for layer in self.layers:
            layer.allocated_rows.reorder_in_place(rows)
        timeline.reorder(rows)
        newest.copy_(newest.index_select(0, rows))
        if self.real is not None:
            self.real.copy_(self.real.index_select(0, rows))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times, copies next to each other."""
        if self.timeline is not None:
            self._select_rows(self.timeline.rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, ``(N',)``, or those where a mask ``(N,)`` is true."""
        if self.timeline is not None:
            self._select_rows(self.timeline.rows[indices])

    def reset(self) -> None:
        """Remove all tokens; a static cache keeps its memory."""
        if isinstance(self.timeline, StaticTimeline):
            self.timeline.clear()
            for tensor, empty in ((self.newest, 0), (self.real, True)):
                if tensor is not None:
                    tensor.fill_(empty)
            return
        self.timeline = self.real = None
        for layer in self.layers:
            layer.rows = None

    def _refuse_if_static(self) -> None:
        if self.static:
            raise UserError(
                f"{CACHE_NAME}: a static cache cannot be cropped; use a dynamic one"
            )


def entry_layout(config: LlamaMTLAConfig) -> EntryLayout:
    """Return the layout of an entry: a latent and a rotary key."""
    latent, rope = config.kv_lora_rank, config.qk_rope_head_dim
    return EntryLayout(
        heads=1,
        width=latent + rope,
        key_width=latent + rope,
        value_start=0,
        value_width=latent,
        stride=config.down_rate,
        window=config.raw_window,
    )


def layout_summary(layout: EntryLayout) -> str:
    """Return a layout in words, for messages."""
    latent, rope = layout.value_width, layout.width - layout.value_width
    window = f", raw_window {layout.window}" if layout.window else ""
    return f"entries of {latent} + {rope} numbers at stride {layout.stride}{window}"
