"""Numbers of the training options: their form on the command line, and their ranges."""

from __future__ import annotations

import copy
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_mtla.errors import UserError
from espnet_mtla.settings.yaml_files import parse_yaml

_LEAST_ONE = (
    *("accum_grad", "max_epoch", "batch_size", "batch_bins", "valid_batch_size"),
    *("valid_batch_bins", "num_iters_per_epoch", "keep_nbest_models", "patience"),
)


class _KeysAndValues(NestedDictAction):
    """espnet2's ``--NAME_conf KEY=VALUE`` or ``{KEY: VALUE}``, read as the YAML files.

    espnet2's own leaves ``1e-3`` a text, and evaluates what it is given.
    """

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_strings: str | None = None,
    ) -> None:
        del parser
        place = f"{option_strings} {values}"
        settings = copy.deepcopy(getattr(namespace, self.dest, None) or {})
        key, equals, text = values.partition("=")
        if equals and not values.lstrip().startswith("{"):
            _set(settings, key.split("."), parse_yaml(text, place) if text else "")
        else:
            changes = parse_yaml(values, place)
            if not isinstance(changes, dict):
                raise UserError(f"{place}: KEY=VALUE or {{KEY: VALUE}} is needed")
            settings |= changes
        setattr(namespace, self.dest, settings)


def _set(settings: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set ``settings[k0][k1]...``; a value in the way is replaced by a section."""
    for key in keys[:-1]:
        if not isinstance(settings.get(key), dict):
            settings[key] = {}
        settings = settings[key]
    settings[keys[-1]] = value


def read_as_yaml(actions: Iterable[Action]) -> None:
    """Let espnet2's options of keys and values be read as the YAML files are."""
    for action in actions:
        if type(action) is NestedDictAction:
            action.__class__ = _KeysAndValues


def check_ranges(args: Namespace) -> None:
    """Refuse numbers with which espnet2 trains nothing, or stops much later.

    Raises:
        UserError: names the option and its range.
    """
    for name in _LEAST_ONE:
        value = getattr(args, name, None)
        if isinstance(value, int) and value < 1:
            raise UserError(f"{name}: {value} given, a number >= 1 is needed")
    if not args.grad_clip > 0:
        raise UserError(
            f"grad_clip: {args.grad_clip} given, a number > 0 is needed: gradients "
            "longer than it are shortened to it (inf never shortens)"
        )
