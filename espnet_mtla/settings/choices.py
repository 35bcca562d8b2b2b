"""Components chosen by name, imported on use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from espnet_mtla.errors import UserError
from espnet_mtla.espnet import quiet_import

if TYPE_CHECKING:
    from argparse import _ActionsContainer  # what parsers and their groups are


class LazyChoices:
    """The options ``--NAME`` and ``--NAME_conf``; classes are ``"module:Class"``.

    It has the interface of espnet2's ClassChoices, which would import every class.
    """

    def __init__(
        self, name: str, paths: Mapping[str, str], default: str | None
    ) -> None:
        self.name = name
        self.paths = dict(paths)
        self.default = default

    def choices(self) -> tuple[str | None, ...]:
        return (*self.paths, None)

    def add_arguments(self, parser: _ActionsContainer) -> None:
        from espnet2.utils.nested_dict_action import NestedDictAction
        from espnet2.utils.types import str_or_none

        parser.add_argument(
            f"--{self.name}",
            type=str_or_none,
            default=self.default,
            choices=self.choices(),
            help=f"The {self.name}: {', '.join(self.paths)} or none",
        )
        parser.add_argument(
            f"--{self.name}_conf",
            action=NestedDictAction,
            default={},
            help=f"Settings of the {self.name}",
        )

    def get_class(self, name: str | None) -> type[Any] | None:
        """Import and return the class called ``name``; None for None and "none".

        Raises:
            UserError: the name is unknown.
        """
        if name is None or name == "none":
            return None
        if name not in self.paths:
            raise UserError(
                f"{self.name}: {name!r} given, one of "
                f"{', '.join([*self.paths, 'none'])} is needed"
            )
        with quiet_import():
            return cast(type[Any], resolve_name(self.paths[name]))


def setting_names(
    component: Callable[..., object], settled: tuple[str, ...] = ()
) -> list[str]:
    """Return the valid keys of a component's ``_conf``.

    They are its constructor's arguments, except those in ``settled``.
    """
    parameters = inspect.signature(component).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in settled
    ]
