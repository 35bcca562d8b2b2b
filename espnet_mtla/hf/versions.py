"""Supported versions of Transformers, and the differences between them."""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import fields

import transformers
from transformers.modeling_outputs import BaseModelOutputWithPast

from espnet_mtla.errors import UserError

OLDEST_TRANSFORMERS = "4.57"
NEWEST_TRANSFORMERS = "5.24"
"""Oldest and newest minor version that the tests pass with."""

logger = logging.getLogger(__name__)


@functools.cache
def check_transformers() -> None:
    """Check the installed Transformers against the versions tried; once per process.

    A version newer than those tried is a warning in the log. The comparison of cached
    with uncached text in ``espnet-mtla doctor`` says whether it works all the same.

    Raises:
        UserError: the version is older than the oldest supported one.
    """
    version = transformers.__version__
    if _minor(version) < _minor(OLDEST_TRANSFORMERS):
        raise UserError(
            f"transformers {version}: {OLDEST_TRANSFORMERS} or newer is needed; "
            f"pip install 'transformers>={OLDEST_TRANSFORMERS}'"
        )
    if _minor(version) > _minor(NEWEST_TRANSFORMERS):
        logger.warning(
            "transformers %s is newer than the newest version tried, %s; "
            "'espnet-mtla doctor' compares cached with uncached text on it",
            version,
            NEWEST_TRANSFORMERS,
        )


def _minor(version: str) -> tuple[int, int]:
    """Major and minor number of a version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise UserError(f"transformers: {version!r} is no version number")
    return int(match[1]), int(match[2])


TRANSFORMERS_4 = transformers.__version__.startswith("4.")

CACHE_NAMES = ("cache", "past_key_values")
"""Keywords for the cache: from Transformers 5.24 on, and before."""

# Asked of the class itself, so that a development version is classified by what it
# does. Outputs, generate() and prepare_inputs_for_generation() changed together.
CACHE_NAME = next(
    name
    for name in CACHE_NAMES
    if name in {field.name for field in fields(BaseModelOutputWithPast)}
)
"""Keyword by which the installed Transformers passes and returns the cache."""
