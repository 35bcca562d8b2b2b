"""``nn.ModuleList`` whose elements have a type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Generic, TypeVar, overload

    from typing_extensions import Self

    Element = TypeVar("Element", bound=nn.Module)

    class ModuleListOf(nn.ModuleList, Generic[Element]):
        """For type checkers: iteration and indexing return an ``Element``."""

        def __init__(self, modules: Iterable[Element] = ()) -> None: ...

        def __iter__(self) -> Iterator[Element]: ...

        @overload
        def __getitem__(self, idx: slice) -> Self: ...

        @overload
        def __getitem__(self, idx: int) -> Element: ...

        def __getitem__(self, idx: int | slice) -> Element | Self: ...

else:  # torch.compile and FSDP treat nn.ModuleList specially, not a subclass
    ModuleListOf = nn.ModuleList
