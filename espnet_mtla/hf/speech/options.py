"""What callers of ``generate`` ask for, as the recipes' decoding options.

Four layers, each over the one before: ``config.decode``, the model's
``generation_config``, a ``generation_config`` of the call, and the call's own keywords.
What no decoding option can do is refused by name.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from transformers import GenerationConfig, GenerationMixin

from espnet_mtla.errors import UserError
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.settings.checks import plain

RENAMED = {"num_beams": "beam_size", "num_return_sequences": "nbest"}
"""Keywords of ``generate``, and the fields of :class:`DecodeOptions` they stand for."""
LIMITS = {
    "max_length": ("max_length_ratio", 1),
    "min_length": ("min_length_ratio", 1),
    "max_new_tokens": ("max_length_ratio", 0),
    "min_new_tokens": ("min_length_ratio", 0),
}
"""Counts of tokens: the field that takes each, and how many of them are <sos>. Of two
for one field the later wins, as in Transformers."""
NO_LIMIT = 4096
"""``max_length`` of a generation config that keeps the recipe's own limit. It cannot be
left out: pipelines would put 256 there, and trainers 20. ``Seq2SeqTrainer`` pads to it,
so that it must not be large."""


def recipe_values(decode: Mapping[str, Any]) -> dict[str, int]:
    """Fields of a generation config that say what ``config.decode`` says."""
    settings = {**asdict(DecodeOptions()), **decode}
    return {
        **{name: settings[field] for name, field in RENAMED.items()},
        "max_length": NO_LIMIT,
    }


def completed(config: GenerationConfig, decode: Mapping[str, Any]) -> GenerationConfig:
    """Copy a generation config; what it leaves open is what the recipe does.

    Pipelines and trainers fill open fields with defaults of their own.
    """
    config = copy.deepcopy(config)
    for name, value in recipe_values(decode).items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
    return config


def of_config(config: GenerationConfig, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the changes of :class:`DecodeOptions` that a generation config asks for.

    Args:
        ids: the model's special tokens, by their names in a generation config.
    Raises:
        UserError: a field asks for what no decoding option can do.
    """
    unset = {
        **{"max_length": [NO_LIMIT, GenerationConfig().max_length], "min_length": [0]},
        # Not neutral as a keyword: there it asks for scores divided by lengths.
        **{"length_penalty": [1.0]},
    }
    values = {
        name: value
        for name, value in vars(config).items()
        if not name.startswith("_")
        and name != "transformers_version"
        and value not in (None, *unset.get(name, ()))
    }
    return _changes(values, ids, "generation_config: ", (*RENAMED, *LIMITS))


def of_keywords(values: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the changes of :class:`DecodeOptions` that keywords ask for.

    None asks for nothing, by a name that this ``generate`` or Transformers' knows.

    Args:
        ids: the model's special tokens, by their names in a generation config.
    Raises:
        UserError: an unknown keyword, or two for one field.
    """
    valid = (*RENAMED, *LIMITS, *asdict(DecodeOptions()))
    given = {
        name: value
        for name, value in values.items()
        if value is not None or name not in (*valid, *ids, *_of_transformers())
    }
    fields = {name: field for name, (field, _) in LIMITS.items()} | RENAMED
    for name, field in fields.items():
        if name in given and field in given:
            raise UserError(f"generate: {name}, {field}: give one of them")
    return _changes(given, ids, "generate: ", valid)


def merged(decode: Mapping[str, Any], changes: Mapping[str, Any]) -> DecodeOptions:
    """``config.decode`` with ``changes`` over it; the beam has room for all of nbest.

    Raises:
        UserError: a value out of range.
    """
    defaults, changes = asdict(DecodeOptions()), dict(changes)
    known = {name: value for name, value in decode.items() if name in defaults}
    options = DecodeOptions(**{**defaults, **known})
    beam = changes.get("beam_size", options.beam_size)
    nbest = changes.get("nbest", 1)
    if isinstance(beam, int) and isinstance(nbest, int) and beam > 0:
        changes["beam_size"] = max(beam, nbest)
        if beam < options.nbest and "nbest" not in changes:
            changes["nbest"] = beam
    return replace(options, **changes)


def _changes(
    values: Mapping[str, Any], ids: Mapping[str, int], prefix: str, valid: Iterable[str]
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    order = list(LIMITS)
    for name in sorted(values, key=lambda n: order.index(n) if n in LIMITS else -1):
        value = plain(values[name])
        if name in LIMITS:
            field, sos = LIMITS[name]
            changes[field] = -float(_count(value, name, prefix, sos))
        elif name in valid:
            changes[RENAMED.get(name, name)] = value
        elif name in ids:
            if value not in (ids[name], [ids[name]]):
                raise UserError(
                    f"{prefix}{name}: {value!r} given, {ids[name]} needed: the model's"
                )
        elif not _changes_nothing(name, value):
            raise UserError(
                f"{prefix}unknown option {name!r}; valid: {', '.join(valid)}"
            )
    return changes


def _count(value: object, name: str, prefix: str, sos: int) -> int:
    """Tokens without <sos>; as a largest count 0 would mean that there is no limit."""
    least = 1 + sos if name.startswith("max") else 0
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(
            f"{prefix}{name}: {value!r} given, a whole number >= {least} needed"
        )
    return max(0, value - sos)


def _of_transformers() -> set[str]:
    """Keywords of Transformers' own ``generate``; callers pass some as None."""
    parameters = inspect.signature(GenerationMixin.generate).parameters
    return {*vars(GenerationConfig()), *parameters}


def _changes_nothing(name: str, value: object) -> bool:
    """Whether a value is the one by which Transformers says: as always."""
    said: dict[str, Any] = getattr(
        GenerationConfig, "_get_default_generation_params", dict
    )()
    plain = {**vars(GenerationConfig()), **said, "synced_gpus": False}
    plain.pop("length_penalty", None)
    default = plain.get(name)
    return default is not None and type(value) is type(default) and value == default
