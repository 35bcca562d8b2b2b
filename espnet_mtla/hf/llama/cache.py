"""The cache that ``generate`` passes around: a layer of entries for each attention.

``get_seq_length`` counts tokens (columns of the batch, padding included), as generation
needs; the width of a mask over the cache counts entries, ``stride`` times fewer. All
layers share one timeline, so whole caches are reordered and cropped, not single layers.
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
"""Tokens that a growing cache gets room for at least, beyond those it must hold."""


class TemporalLatentLayer(CacheLayerMixin):
    """One layer's entries, ``stride`` tokens in each.

    Attributes:
        rows: the attention's own cache; None before the first token.
    """

    is_compileable = False
    is_croppable = True
    is_sliding = False
    supports_early_init = False

    def __init__(self, layout: EntryLayout, max_tokens: int | None = None) -> None:
        # Not the base's: ``keys`` and ``values`` are views of one tensor here.
        self.layout, self.max_tokens = layout, max_tokens
        self.rows: RowsCache | None = None

    # The base sets these; here they are read off the one tensor that there is.
    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        """Keys of all entries, ``(N, 1, S, r + d_R)``."""
        return None if self.rows is None else self.layout.keys(self._entries)

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        """Values of all entries, ``(N, 1, S, r)``: a part of the keys' memory."""
        return None if self.rows is None else self.layout.values(self._entries)

    @property
    def held(self) -> RowsCache:
        """The attention's own cache, which is there from the first token on."""
        if self.rows is None:
            raise RuntimeError("no token has been seen yet")
        return self.rows

    @property
    def _entries(self) -> Tensor:
        return self.held.suffix[:, :, : self.layout.slots(self.get_seq_length())]

    @property
    def is_initialized(self) -> bool:  # type: ignore[override]
        """Whether memory has been allocated."""
        return self.rows is not None

    @property
    def batch_size(self) -> int:
        """Rows, -1 before the first token."""
        return -1 if self.rows is None else len(self.rows.num_tokens)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: there are no keys and values to begin with, but entries."""
        del args, kwargs
        raise UserError(
            f"{CACHE_NAME}: entries are written by the model's own attention; a "
            "TemporalLatentCache fits LlamaMTLA models alone"
        )

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, see :meth:`lazy_initialization`."""
        self.lazy_initialization(*args, **kwargs)

    def get_seq_length(self) -> int:
        """Tokens seen, padding of the batch included."""
        return 0 if self.rows is None else self.rows.timeline.columns

    def get_mask_sizes(self, query: int | Tensor) -> tuple[int, int]:
        """Entries there will be with ``query`` more tokens, and the offset 0.

        Transformers 4 gives the positions of the tokens in place of their number.
        """
        more = query if isinstance(query, int) else query.size(0)
        return self.layout.slots(self.get_seq_length() + more), 0

    def get_max_length(self) -> int:
        """Tokens there is room for; -1 where the cache grows."""
        return self.max_tokens if self.is_compileable and self.max_tokens else -1

    get_max_cache_shape = get_max_length  # its name in Transformers 4


class StaticTemporalLatentLayer(TemporalLatentLayer):
    """A layer whose shapes never change: allocated once, for ``max_tokens``."""

    is_compileable = True
    is_croppable = False


class TemporalLatentCache(Cache):
    """Caches of all layers of a model.

    Args:
        config: of the model.
        max_cache_len: tokens a row at most. With ``static`` memory of exactly that size
            is allocated at the first token and never moves; else the cache grows, and
            the number spares it that.

    Attributes:
        newest: last hidden state of each row's newest token, ``(N, D)``, for padding
            that follows it in another call; zeros where there is none, and after
            :meth:`crop`. None before the first token.
        real: which columns are no padding, ``(N, columns)``; None while all are.
    """

    layers: list[TemporalLatentLayer]  # type: ignore[assignment]  # no other kinds

    def __init__(
        self,
        config: LlamaMTLAConfig,
        max_cache_len: int | None = None,
        static: bool = False,
    ) -> None:
        if max_cache_len is not None or static:
            max_cache_len = whole_number(max_cache_len, "max_cache_len")
        kind = StaticTemporalLatentLayer if static else TemporalLatentLayer
        layout = entry_layout(config)
        count = config.num_hidden_layers
        super().__init__(layers=[kind(layout, max_cache_len) for _ in range(count)])
        self.layout, self.static, self.max_tokens = layout, static, max_cache_len
        self.timeline: RowsTimeline | None = None
        self.newest: Tensor | None = None
        self.record_past = False
        self.real: Tensor | None = None

    # What the model uses -------------------------------------------------------------

    @property
    def held(self) -> tuple[RowsTimeline, Tensor]:
        """``timeline`` and ``newest``, which are there from the first token on."""
        if self.timeline is None or self.newest is None:
            raise RuntimeError("no token has been seen yet")
        return self.timeline, self.newest

    def ready(self, x: Tensor, real: Tensor | None = None) -> RowsTimeline:
        """Make room for the tokens ``x (N, T, D)`` that come next.

        ``real (N, T)`` says which columns of the batch are not padding; None: all.

        Raises:
            UserError: another number of rows than the cache holds, or other numbers.
        """
        rows, new = x.shape[:2]
        if self.timeline is None:
            self._allocate(x)
        timeline, held = self.held
        if len(timeline.num_tokens) != rows:
            raise UserError(
                f"{CACHE_NAME}: holds {len(timeline.num_tokens)} rows, {rows} given"
            )
        if (held.size(1), held.dtype, held.device) != (x.size(2), x.dtype, x.device):
            raise UserError(
                f"{CACHE_NAME}: a cache of vectors of {held.size(1)} {held.dtype} "
                f"on {held.device}; {x.size(2)} {x.dtype} on {x.device} needed"
            )
        self._note_padding(real, new)
        need = 0 if self.static else timeline.appended + new
        if need > timeline.capacity:
            return self._take(timeline.rows, need + max(SLACK, need // 2))
        return timeline

    def _note_padding(self, real: Tensor | None, new: int) -> None:
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
        rows, new = x.shape[:2]
        room = self.max_tokens or new + SLACK
        self.newest = x.new_zeros(rows, x.size(-1))
        kind = StaticTimeline if self.static else RowsTimeline
        self.timeline = kind(
            rows, self.layout.stride, room if self.static else max(room, new), x.device
        )
        if self.static:
            self.real = torch.ones(rows, room, dtype=torch.bool, device=x.device)
        for layer in self.layers:
            layer.rows = RowsCache(self.layout, self.timeline, x)
            if self.record_past:
                layer.rows.start_recording()

    def _take(self, rows: Tensor, capacity: int | None = None) -> RowsTimeline:
        timeline, newest = self.held
        timeline = timeline.of_rows(rows, capacity)
        for layer in self.layers:
            layer.held.take_rows(rows, timeline)
        self.timeline = timeline
        self.newest = newest.index_select(0, rows)
        if self.real is not None:
            self.real = self.real.index_select(0, rows)
        return timeline

    # What generation uses ------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes allocated by all layers."""
        return sum(layer.rows.nbytes for layer in self.layers if layer.rows)

    @property
    def used_nbytes(self) -> int:
        """Bytes of the entries that hold something: what the formula says."""
        return sum(layer.rows.used_nbytes for layer in self.layers if layer.rows)

    def activate_past_recording(self) -> None:
        """Make every further token one that :meth:`crop` can take back."""
        self._refuse_if_static()
        self.record_past = True
        for layer in self.layers:
            if layer.rows is not None:
                layer.rows.start_recording()

    def crop(self, tokens: int) -> None:
        """Take the newest ``-tokens`` columns back, exactly, or say why that cannot be.

        A positive number is what to keep, as in Transformers 4; there 0 keeps nothing.
        """
        columns = self.get_seq_length()
        keeps = tokens > 0 or (tokens == 0 and TRANSFORMERS_4)
        remove = max(columns - tokens, 0) if keeps else -tokens
        if remove == 0:
            return
        self._refuse_if_static()
        if remove > columns:
            raise UserError(f"crop: {remove} tokens back, the cache holds {columns}")
        timeline, newest = self.held
        of_rows = torch.full_like(timeline.num_tokens, remove)
        if self.real is not None:
            of_rows = self.real[:, columns - remove :].sum(1)
        for layer in self.layers:
            layer.held.restore_open(of_rows)
        timeline.go_back(remove, of_rows)
        newest.zero_()
        if self.real is not None:
            self.real = self.real[:, : columns - remove]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i goes on as row ``beam_idx[i]`` was."""
        if self.timeline is None:
            return
        timeline, newest = self.held
        rows = beam_idx.to(timeline.num_tokens.device)
        for layer in self.layers:
            layer.held.reorder_in_place(rows)
        timeline.reorder(rows)
        newest.copy_(newest.index_select(0, rows))
        if self.real is not None:
            self.real.copy_(self.real.index_select(0, rows))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row ``repeats`` times, beside itself."""
        if self.timeline is not None:
            self._take(self.timeline.rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, ``(N',)``, or those where a mask ``(N,)`` is true."""
        if self.timeline is not None:
            self._take(self.timeline.rows[indices])

    def reset(self) -> None:
        """Begin again; a static cache stays where it is in memory."""
        if isinstance(self.timeline, StaticTimeline):
            self.timeline.clear()
            for kept, empty in ((self.newest, 0), (self.real, True)):
                if kept is not None:
                    kept.fill_(empty)
            return
        self.timeline = self.real = None
        for layer in self.layers:
            layer.rows = None

    def _refuse_if_static(self) -> None:
        if self.static:
            raise UserError(
                f"{CACHE_NAME}: a static cache cannot go back; use a dynamic one"
            )


def entry_layout(config: LlamaMTLAConfig) -> EntryLayout:
    """What an entry of the model's cache holds."""
    latent, rope = config.kv_lora_rank, config.qk_rope_head_dim
    return EntryLayout(
        heads=1,
        width=latent + rope,
        key_width=latent + rope,
        value_start=0,
        value_width=latent,
        stride=config.down_rate,
    )


def describe(layout: EntryLayout) -> str:
    """A layout in words, for messages."""
    latent, rope = layout.value_width, layout.width - layout.value_width
    return f"entries of {latent} + {rope} numbers at stride {layout.stride}"
