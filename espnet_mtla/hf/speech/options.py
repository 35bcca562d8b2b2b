"""Options of ``generate`` as the recipes' decoding options.

There are four layers, each over the one before: ``config.decode``, the model's
``generation_config``, a ``generation_config`` of the call, and keywords of the call. An
option of Transformers that no decoding option can express is refused by name.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from transformers import GenerationConfig, GenerationMixin

from espnet_mtla.errors import UserError
from espnet_mtla.search.options import ALIASES, DecodeOptions
from espnet_mtla.settings.checks import plain

RENAMED = {"num_beams": "beam_size", "num_return_sequences": "nbest"}
"""Keywords of ``generate``, and the fields of :class:`DecodeOptions` that they set."""
LIMITS = {
    "max_length": ("max_length_ratio", 1),
    "min_length": ("min_length_ratio", 1),
    "max_new_tokens": ("max_length_ratio", 0),
    "min_new_tokens": ("min_length_ratio", 0),
}
"""Limits as numbers of tokens: the field that each sets, and 1 if it counts <sos>. Of
two limits for one field the later in this table wins, as in Transformers."""
NO_LIMIT = 4096
"""``max_length`` of a generation config that leaves the recipe's limit as it is. It has
to be set: pipelines would set 256, and trainers 20. It has to be small, since
``Seq2SeqTrainer`` pads to it."""


def recipe_values(decode: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields of a generation config that repeat ``config.decode``."""
    options = DecodeOptions.from_mapping(decode, "config.decode")
    return {
        **{name: getattr(options, field) for name, field in RENAMED.items()},
        "max_length": NO_LIMIT,
    }


def completed(config: GenerationConfig, decode: Mapping[str, Any]) -> GenerationConfig:
    """Return a copy of a generation config, with the recipe's values in empty fields.

    Pipelines and trainers fill empty fields with defaults of their own.
    """
    config = copy.deepcopy(config)
    for name, value in recipe_values(decode).items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
    return config


def of_config(config: GenerationConfig, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the fields of :class:`DecodeOptions` that a generation config changes.

    Args:
        config: the generation config.
        ids: the model's special tokens, by their names in a generation config.
    Raises:
        UserError: no decoding option can express a field.
    """
    unset = {
        **{"max_length": [NO_LIMIT, GenerationConfig().max_length], "min_length": [0]},
        # The default here; as a keyword 1.0 asks for scores divided by lengths.
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
    """Return the fields of :class:`DecodeOptions` that keywords change.

    None changes nothing if this ``generate`` or Transformers' knows the keyword.

    Args:
        values: the keywords.
        ids: the model's special tokens, by their names in a generation config.
    Raises:
        UserError: an unknown keyword, or two for one field.
    """
    valid = (*RENAMED, *LIMITS, *asdict(DecodeOptions()), *ALIASES)
    keywords = {
        name: value
        for name, value in values.items()
        if value is not None or name not in (*valid, *ids, *_of_transformers())
    }
    fields = {name: field for name, (field, _) in LIMITS.items()} | RENAMED
    for name, field in fields.items():
        if name in keywords and field in keywords:
            raise UserError(f"generate: {name}, {field}: give one of them")
    return _changes(keywords, ids, "generate: ", valid)


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
    """Return a limit without <sos>. A maximum of 0 is refused: it means no limit."""
    least = 1 + sos if name.startswith("max") else 0
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(
            f"{prefix}{name}: {value!r} given, a whole number >= {least} needed"
        )
    return max(0, value - sos)


def _of_transformers() -> set[str]:
    """Return the keywords of Transformers' ``generate``; callers pass some as None."""
    parameters = inspect.signature(GenerationMixin.generate).parameters
    return {*vars(GenerationConfig()), *parameters}


def _changes_nothing(name: str, value: object) -> bool:
    """Return True if a value is Transformers' default for this option."""
    generation: dict[str, Any] = getattr(
        GenerationConfig, "_get_default_generation_params", dict
    )()
    defaults = {**vars(GenerationConfig()), **generation, "synced_gpus": False}
    defaults.pop("length_penalty", None)
    default = defaults.get(name)
    return default is not None and type(value) is type(default) and value == default
