"""The call signature of the authors' module (the reference), on top of :mod:`.base`.

Code in fairseq's style passes a dictionary as incremental state, and padding masks with
padding on either side. The call moves the valid tokens of each row to its beginning, so
that padding has no influence on them. The decoder calls :mod:`.base` directly.

Letters: ``B`` rows, ``U`` queries, ``T`` tokens of the key, ``D`` model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from espnet_mtla.attention.base import CausalAttention, QueryTokens
from espnet_mtla.attention.decoding.backend import choose_backend
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import DEFAULT_CACHE, CacheOptions
from espnet_mtla.attention.training.attend import gather_tokens
from espnet_mtla.errors import UserError

IncrementalState = dict[str, Any]
"""State of all modules, by a key of each: its cache, or a cross-attention's memory."""


class ReferenceInterface(CausalAttention):
    """Add the reference's ``forward`` and ``reorder_incremental_state``."""

    wo: nn.Linear

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,  # noqa: ARG002 - the reference's signature
        key_padding_mask: Tensor | None = None,
        self_attn_mask: Tensor | None = None,
        position: Tensor | None = None,
        incremental_state: IncrementalState | None = None,
        need_weights: bool = False,
        use_flashattn_infer: bool = False,
    ) -> Tensor:
        """Compute causal self-attention of the last U tokens of ``key``.

        Args:
            query: the last U tokens of the key, ``(B, U, D)``.
            key: ``(B, T, D)``. Without ``incremental_state`` all tokens of the rows;
                with it those that no earlier call has passed.
            value: not read: keys and values are computed from the same tokens.
            key_padding_mask: true at padding; ``(B, T)`` or, in a later incremental
                call, ``(B, all tokens so far)``.
            self_attn_mask: None or a causal mask, ``(U, T)``.
            position: rotary positions of the key, ``(1 or B, T)``, in tokens; None: the
                index among the valid tokens of the row.
            incremental_state: one dictionary for all modules and steps. A call replaces
                values and never changes them: a copy of the dictionary is a fork.
            need_weights: must be False: attention weights are not computed.
            use_flashattn_infer: decode with FlashAttention, which must be installed and
                support the sizes (:mod:`.backend.flash_attn`); False: choose the
                fastest back-end. Not read without ``incremental_state``.

        Returns:
            ``(B, U, D)``; finite and meaningless at padded queries.

        Raises:
            UserError: an argument is not supported or has a wrong shape.
        """
        old: KVCache | None = (incremental_state or {}).get(self._state_key)
        seen = 0 if old is None else old.timeline.appended
        self._check(query, key, key_padding_mask, self_attn_mask, position, seen)
        if need_weights:
            raise UserError("need_weights=True: weights are not kept; leave it False")
        options = self._options(use_flashattn_infer, key)
        pad = None if key_padding_mask is None else key_padding_mask.bool()
        row = _Row.packed(query, key, pad, position)
        if incremental_state is None:
            angles = None
            if row.position is not None:
                angles = self.angles(row.position, key.dtype)
            return self.attend_all(row.x, row.query_tokens, angles)
        cache = self._room_for(old, row.x, options)
        out = self.extend(row.x, cache, row.lengths, row.query_tokens, row.position)
        incremental_state[self._state_key] = cache
        return out

    def reorder_incremental_state(
        self, incremental_state: IncrementalState, new_order: Tensor
    ) -> IncrementalState:
        """Let row i continue row ``new_order[i]``; rows may repeat or be left out."""
        cache: KVCache | None = incremental_state.get(self._state_key)
        if cache is not None:
            incremental_state[self._state_key] = cache.copy(new_order)
        return incremental_state

    @property
    def _state_key(self) -> str:
        return f"{type(self).__name__}.{id(self)}"

    def _options(self, flash: bool, key: Tensor) -> CacheOptions:
        if not flash:
            return DEFAULT_CACHE
        try:
            choose_backend("flash_attn", self.layout, key.dtype, key.device)
        except UserError as error:
            raise UserError(f"use_flashattn_infer=True: {error}") from error
        return CacheOptions(backend="flash_attn")

    def _room_for(
        self, cache: KVCache | None, new: Tensor, options: CacheOptions
    ) -> KVCache:
        """Return a copy of the cache with room for the tokens ``new (B, T, D)``.

        The capacity doubles when it is too small. ``cache`` is None at the first call.
        """
        if cache is None:
            capacity = 2 * new.size(1) + 30
            return KVCache.empty(self.layout, new.size(0), capacity, new, options)
        if cache.options != options:
            raise UserError(
                "use_flashattn_infer: differs from the call that began this "
                "incremental state; pass the same value in every call"
            )
        if cache.suffix.size(0) != new.size(0):
            raise UserError(
                f"key: {new.size(0)} rows given, the incremental state has "
                f"{cache.suffix.size(0)}; reorder it first"
            )
        need, room = cache.timeline.appended + new.size(1), cache.timeline.capacity
        return cache.copy(capacity=room if need <= room else 2 * need)

    def _check(
        self,
        query: Tensor,
        key: Tensor,
        pad: Tensor | None,
        mask: Tensor | None,
        position: Tensor | None,
        seen: int,
    ) -> None:
        check_tokens(self, query, key)
        rows, num_queries, tokens = key.size(0), query.size(1), key.size(1)
        if num_queries > tokens:
            raise UserError(
                f"query has {num_queries} tokens, more than the key's {tokens}"
            )
        check_padding(pad, rows, tokens, seen)
        check_position(position, rows, tokens)
        check_causal(mask, num_queries, tokens)


@dataclass(frozen=True)
class _Row:
    """Arguments of one call, with the valid tokens of each row moved to its beginning.

    Attributes:
        x: tokens of the key, ``(B, T, D)``.
        query_tokens: those used as queries.
        lengths: valid tokens of each row, ``(B,)``; None: all.
        position: rotary positions, ``(1 or B, T)``; None: index in the row.
    """

    x: Tensor
    query_tokens: QueryTokens
    lengths: Tensor | None
    position: Tensor | None

    @classmethod
    def packed(
        cls, query: Tensor, key: Tensor, pad: Tensor | None, position: Tensor | None
    ) -> _Row:
        tokens, num_queries = key.size(1), query.size(1)
        if pad is None:
            if num_queries == tokens:
                return cls(key, QueryTokens(query), None, position)
            query_index = torch.arange(tokens - num_queries, tokens, device=key.device)
            return cls(
                key, QueryTokens(query, query_index.unsqueeze(0)), None, position
            )
        pad = pad[:, -tokens:]
        order = pad.to(torch.uint8).argsort(dim=1, stable=True)
        # Set to 0, since padding may hold NaN, and 0 times NaN is NaN.
        x = gather_tokens(key, order).masked_fill(
            gather_tokens(pad, order).unsqueeze(-1), 0.0
        )
        query_index = ((~pad).cumsum(1) - 1).clamp(min=0)[:, -num_queries:]
        packed_position = None if position is None else gather_tokens(position, order)
        return cls(x, QueryTokens(query, query_index), (~pad).sum(1), packed_position)


def check_tokens(module: ReferenceInterface, query: Tensor, key: Tensor) -> None:
    """Check that query ``(B, U, D)`` and key ``(B, T, D)`` fit together and the module.

    Raises:
        UserError: a wrong shape, number of rows, or dtype.
    """
    width = module.settings.embed_dim
    fits = all(x.dim() == 3 and x.size(2) == width for x in (query, key))
    if not fits or query.size(0) != key.size(0):
        raise UserError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}: (batch, tokens, "
            f"{width}) is needed for both, with one batch size"
        )
    if key.size(1) == 0 or query.size(1) == 0:
        raise UserError("query, key: no token given, 1 or more needed")
    weight, device = getattr(module.wo, "weight", None), query.device.type
    # Modules with quantised weights (a method in some libraries) accept any float type,
    # and autocast converts inputs. Only otherwise must the types be equal.
    needed = weight.dtype if isinstance(weight, Tensor) else torch.uint8
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    mixed = autocast or not needed.is_floating_point
    for name, x in (("query", query), ("key", key)):
        if not x.is_floating_point() or (x.dtype != needed and not mixed):
            wanted = f"the module's {needed}" if not mixed else "a floating type"
            raise UserError(f"{name}: {x.dtype} given, {wanted} needed")


def check_padding(pad: Tensor | None, rows: int, tokens: int, seen: int = 0) -> None:
    """Check the shape of a padding mask, ``(rows, tokens)``.

    After ``seen`` earlier tokens it may cover these too: ``(rows, seen + tokens)``.

    Raises:
        UserError: another shape.
    """
    widths = {tokens, seen + tokens}
    if pad is not None and (
        pad.dim() != 2 or pad.size(0) != rows or pad.size(1) not in widths
    ):
        shapes = " or ".join(f"({rows}, {width})" for width in sorted(widths))
        raise UserError(f"key_padding_mask {tuple(pad.shape)}: {shapes} is needed")


def check_position(position: Tensor | None, rows: int, tokens: int) -> None:
    """Check the shape of rotary positions, ``(1 or rows, tokens)``.

    Raises:
        UserError: another shape.
    """
    if position is not None and position.shape not in ((1, tokens), (rows, tokens)):
        raise UserError(
            f"position {tuple(position.shape)}: (1, {tokens}) or ({rows}, {tokens}), "
            "one for each token of the key, is needed"
        )


def check_causal(mask: Tensor | None, num_queries: int, tokens: int) -> None:
    """Check that a mask ``(num_queries, tokens)`` hides no token before a query.

    The queries are the last ``num_queries`` tokens. The mask is true at hidden tokens.

    Raises:
        UserError: it hides one, or has another shape.
    """
    if mask is None:
        return
    if mask.shape != (num_queries, tokens):
        raise UserError(
            f"self_attn_mask {tuple(mask.shape)}: ({num_queries}, {tokens}) is needed"
        )
    past = torch.ones(num_queries, tokens, dtype=torch.bool, device=mask.device)
    if (mask.bool() & past.tril(tokens - num_queries)).any():
        raise UserError(
            "self_attn_mask: only a causal mask is supported, since each query "
            "sees merged chunks; use key_padding_mask to hide tokens"
        )
