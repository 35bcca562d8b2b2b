"""A CUDA graph's stand-in on the CPU: a tape of the operations that a step ran.

Playing it runs the same operations on the same memory, without a line of the step's
Python: a shape, a slot or a count that was decided on the host stays what it was while
recording, as in a CUDA graph. What would make the host wait ends the recording with an
error, as there.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}


class Tape(TorchDispatchMode):
    """Notes every operation that runs while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        if func.name().split(".")[0] in WAITING:
            raise RuntimeError(f"{func.name()}: not permitted while recording")
        out = func(*args, **(kwargs or {}))
        self.notes.append((func, args, kwargs or {}, out))
        return out

    def play(self) -> None:
        """All operations again, each result to where it was."""
        for func, args, kwargs, out in self.notes:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and not _same_memory(old, new):
                    old.copy_(new)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def record(
    step: Callable[[], Tensor], undo: Callable[[], None]
) -> Callable[[], Tensor]:
    """A recorder for :class:`espnet_mtla.decoder.graphs.RecordedSteps`."""
    step()
    undo()
    with Tape() as tape:
        result = step()
    undo()  # a graph's recording runs nothing

    def replay() -> Tensor:
        tape.play()
        return result

    return replay
