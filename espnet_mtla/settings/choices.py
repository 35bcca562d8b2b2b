"""A component by name, imported only when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError
from espnet_mtla.espnet import quiet_import

if TYPE_CHECKING:
    from argparse import _ActionsContainer  # what parsers and their groups are


class LazyChoices:
    """``--NAME`` and ``--NAME_conf``, with classes given as ``"module:Class"``.

    It answers to what AbsTask calls on espnet2's ClassChoices, which needs every class
    imported beforehand.
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
        """The class, or None for none.

        Raises:
            UserError: an unknown name.
        """
        if name is None or name == "none":
            return None
        if name not in self.paths:
            raise UserError(
                f"{self.name}: {name!r} given, one of "
                f"{', '.join([*self.paths, 'none'])} is needed"
            )
        module, attribute = self.paths[name].split(":")
        with quiet_import():
            return getattr(importlib.import_module(module), attribute)


def setting_names(
    component: Callable[..., object], settled: tuple[str, ...] = ()
) -> list[str]:
    """Keys of a component's ``_conf``: its constructor's arguments but ``settled``."""
    parameters = inspect.signature(component).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in settled
    ]
