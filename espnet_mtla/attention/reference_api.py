"""The reference's call signature, over the three ways to run of :mod:`.causal`.

It takes what fairseq-style code passes: a dictionary as incremental state, and padding
masks of any form. Rows are packed here (valid tokens first), so that padding on either
side has no influence on a row. The decoder does not come through here.
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

# By module: a cache, or a cross-attention's merged memory and its length. Other modules
# keep what they need in the same dictionary.
IncrementalState = dict[str, Any]


class ReferenceInterface(CausalAttention):
    """Adds ``forward`` and ``reorder_incremental_state`` as the reference has them."""

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
        """Causal self-attention of the last tokens of ``key``, which are ``query``.

        Args:
            query: ``(B, U, D)``, the last U tokens of the key: those that ask.
            key: ``(B, T, D)``. In training prompt and text; with ``incremental_state``
                the tokens that it has not seen yet, one or several.
            value: not read: keys and values come from the same latents.
            key_padding_mask: true at padding, ``(B, T)`` or, in a later incremental
                call, ``(B, all tokens so far)``.
            self_attn_mask: only a causal mask ``(U, T)`` may be given, since the
                attention is causal by itself.
            position: rotary positions of the key, ``(1 or B, T)``, in tokens; None
                counts each row's valid tokens.
            incremental_state: one dictionary for all modules and steps. What is put
                there is replaced, never changed: a copied dictionary is a fork.
            need_weights: must be False: weights over merged chunks are not kept.
            use_flashattn_infer: decode by FlashAttention, which has to be installed
                and to fit (:mod:`.backend.flash_attn`); False takes the fastest
                back-end here. Not read without ``incremental_state``.

        Returns:
            ``(B, U, D)``; what stands at a padded query is finite and means nothing.

        Raises:
            UserError: an argument that cannot be honoured, by name.
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
        """Row i goes on as row ``new_order[i]`` was; rows may repeat or be left out."""
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
        """A cache of our own with room for the new tokens, doubling as it grows."""
        if cache is None:
            capacity = 2 * new.size(1) + 30
            return KVCache.empty(self.layout, new.size(0), capacity, new, options)
        if cache.options != options:
            raise UserError(
                "use_flashattn_infer: not what this incremental state was begun with"
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
        rows, asked, tokens = key.size(0), query.size(1), key.size(1)
        if asked > tokens:
            raise UserError(f"query has {asked} tokens, more than the key's {tokens}")
        check_padding(pad, rows, tokens, seen)
        check_position(position, rows, tokens)
        check_causal(mask, asked, tokens)


@dataclass(frozen=True)
class _Row:
    """One call's tokens ``x (B, T, D)``, each row's valid ones first."""

    x: Tensor
    query_tokens: QueryTokens
    lengths: Tensor | None
    position: Tensor | None

    @classmethod
    def packed(
        cls, query: Tensor, key: Tensor, pad: Tensor | None, position: Tensor | None
    ) -> _Row:
        tokens, asked = key.size(1), query.size(1)
        if pad is None:
            if asked == tokens:
                return cls(key, QueryTokens(query), None, position)
            query_index = torch.arange(tokens - asked, tokens, device=key.device)
            return cls(
                key, QueryTokens(query, query_index.unsqueeze(0)), None, position
            )
        pad = pad[:, -tokens:]
        order = pad.to(torch.uint8).argsort(dim=1, stable=True)
        # Zeros, since a weight of 0 does not undo a NaN that stands in the padding.
        x = gather_tokens(key, order).masked_fill(
            gather_tokens(pad, order).unsqueeze(-1), 0.0
        )
        query_index = ((~pad).cumsum(1) - 1).clamp(min=0)[:, -asked:]
        packed_position = None if position is None else gather_tokens(position, order)
        return cls(x, QueryTokens(query, query_index), (~pad).sum(1), packed_position)


def check_tokens(module: ReferenceInterface, query: Tensor, key: Tensor) -> None:
    """Query ``(B, U, D)`` and key ``(B, T, D)`` fit together and fit the module.

    Raises:
        UserError: another shape, another number of rows, or another type of numbers.
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
    # Quantised weights, which some modules give as a method, take floats; under
    # autocast any of these are brought together.
    needed = weight.dtype if isinstance(weight, Tensor) else torch.uint8
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    mixed = autocast or not needed.is_floating_point
    for name, x in (("query", query), ("key", key)):
        if not x.is_floating_point() or (x.dtype != needed and not mixed):
            wanted = f"the module's {needed}" if not mixed else "a floating type"
            raise UserError(f"{name}: {x.dtype} given, {wanted} needed")


def check_padding(pad: Tensor | None, rows: int, tokens: int, seen: int = 0) -> None:
    """A mask true at padding, of the key or, after ``seen`` tokens, of all so far.

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
    """Rotary positions of the key.

    Raises:
        UserError: another shape.
    """
    if position is not None and position.shape not in ((1, tokens), (rows, tokens)):
        raise UserError(
            f"position {tuple(position.shape)}: (1, {tokens}) or ({rows}, {tokens}), "
            "one for each token of the key, is needed"
        )


def check_causal(mask: Tensor | None, asked: int, tokens: int) -> None:
    """A mask hides nothing that lies before a query, the last ``asked`` tokens.

    Raises:
        UserError: it does, or has another shape.
    """
    if mask is None:
        return
    if mask.shape != (asked, tokens):
        raise UserError(
            f"self_attn_mask {tuple(mask.shape)}: ({asked}, {tokens}) is needed"
        )
    past = torch.ones(asked, tokens, dtype=torch.bool, device=mask.device)
    if (mask.bool() & past.tril(tokens - asked)).any():
        raise UserError(
            "self_attn_mask: only a causal mask can be given, since each query "
            "sees merged chunks; use key_padding_mask to hide tokens"
        )
