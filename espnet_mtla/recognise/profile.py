"""Time of each part of decoding, measured by wrapping methods of the model and search.

The time of a part excludes the wrapped methods that it calls, so that the parts add up.
On a GPU each measurement synchronises the device, which adds a little time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from espnet_mtla.turns import Turns

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel

P = ParamSpec("P")
T = TypeVar("T")
PARTS = (
    *("features", "encoder", "prefill", "attention", "feed-forward"),
    *("rest of decoder", "reordering", "CTC", "search", "waiting", "all else"),
)
SEARCH_METHODS = {"search": ("advance", "results"), "waiting": ("_count_active",)}


_TURNS = Turns()


class Profile:
    """Seconds and calls of each part, on the thread that measures."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls = dict.fromkeys(PARTS, 0)
        self._open: list[str] = []
        self._since = 0.0
        self._thread = threading.get_ident()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the ``with`` block as part ``name``, without parts opened inside it."""
        self._add_elapsed()
        self._open.append(name)
        self.calls[name] += 1
        try:
            yield
        finally:
            self._add_elapsed()
            self._open.pop()

    def _add_elapsed(self) -> None:
        """Add the time since the last call to the innermost open part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return ``function`` so wrapped that its time is added to a part."""

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            with self.part(name):
                return function(*args, **kwargs)

        return call

    @contextmanager
    def watching(self, trained: TrainedModel) -> Iterator[None]:
        """Measure a model and the search, called by this thread inside the block."""
        from espnet_mtla.attention import CausalAttention
        from espnet_mtla.decoder import DecoderOnlyTransformer
        from espnet_mtla.decoder.layer import DecoderLayer
        from espnet_mtla.decoder.state import DecoderState
        from espnet_mtla.search.beam import Search
        from espnet_mtla.search.ctc import CTCPrefixScorer

        model = trained.model
        watched = [
            (model, "extract_feats", "features"),
            (model, "encode", "encoder"),
            (CTCPrefixScorer, "score", "CTC"),
            (CTCPrefixScorer, "reorder", "CTC"),
            (DecoderState, "reorder", "reordering"),
            (DecoderOnlyTransformer, "prefill", "prefill"),
            (DecoderOnlyTransformer, "step", "rest of decoder"),
            (CausalAttention, "step", "attention"),
            (DecoderLayer, "feed_forward", "feed-forward"),
            *((Search, m, part) for part, ms in SEARCH_METHODS.items() for m in ms),
        ]
        self._thread = threading.get_ident()
        # Classes are shared by all threads: two of them at once could restore each
        # other's wrappers instead of the original methods.
        with _TURNS:
            before = [
                (owner, name, vars(owner).get(name)) for owner, name, _ in watched
            ]
            for owner, name, part in watched:
                setattr(owner, name, self.timed(part, getattr(owner, name)))
            try:
                yield
            finally:
                for owner, name, old in before:
                    delattr(owner, name) if old is None else setattr(owner, name, old)

    def table(self) -> str:
        """Return a table of seconds, share and calls of the parts that were called."""
        total = sum(self.seconds.values()) or 1.0
        lines = [f"{'part':18s} {'seconds':>9s} {'share':>6s} {'calls':>8s}"]
        for name, seconds in self.seconds.items():
            if self.calls[name]:
                share = f"{100 * seconds / total:.1f}%"
                lines.append(
                    f"{name:18s} {seconds:9.3f} {share:>6s} {self.calls[name]:8d}"
                )
        return "\n".join(lines)
