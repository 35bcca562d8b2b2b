"""Differences between the versions of ESPnet that this package works with.

Code outside this module imports only what has the same name in all of them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError
from espnet_mtla.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

OLDEST, NEWEST = 202511, 202611
"""Tested versions: the first on Python 3.10 and 3.11, the second on 3.12 and 3.13."""
BATCHED = 202609
"""The first version whose ``Speech2Text`` decodes several utterances in one search."""
logger = logging.getLogger(__name__)


@functools.cache
def espnet_version() -> int | None:
    """Return the installed version as a number (202611), or None if there is none."""
    try:
        name = version("espnet")
    except PackageNotFoundError:
        return None
    number = re.match(r"\d{6}", name)
    if number is None:
        raise UserError(
            f"espnet {name}: not a release; {OLDEST} to {NEWEST} are tested: "
            "utils/install.sh installs one"
        )
    return int(number[0])


@functools.cache
def check_version() -> None:
    """Refuse an ESPnet that is too old; log one line for one newer than tested.

    A missing ESPnet is left to the import that follows.

    Raises:
        UserError: The version is below :data:`OLDEST`, or is no release.
    """
    installed = espnet_version()
    if installed is None:
        return
    if installed < OLDEST:
        raise UserError(
            f"espnet {installed}: too old, {OLDEST} or newer is needed: "
            "utils/install.sh installs it"
        )
    if installed > NEWEST:
        logger.warning(
            "espnet %d is newer than %d, the newest version tested here",
            *(installed, NEWEST),
        )


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Check ESPnet's version, then discard what ESPnet prints while it is imported.

    ESPnet reports missing optional packages, such as flash-attn, on stdout (202511) or
    stderr (202611). Put only imports into the block: other output is lost, too.

    Raises:
        UserError: The installed ESPnet is too old.
    """
    check_version()
    with quiet(stderr=True):
        yield


def initialisations() -> tuple[str, ...]:
    """Return the names of initialisations that espnet2's ``initialize`` accepts."""
    names = (
        *("xavier_uniform", "xavier_normal"),
        *("kaiming_uniform", "kaiming_normal", "normal"),
    )
    installed = espnet_version()
    if installed is not None and installed < BATCHED:
        return ("chainer", *names)
    return names


def unify_parameter_names(encoder: nn.Module) -> None:
    """Rename an encoder's parameters to their names in ESPnet 202511.

    The linear layer after subsampling is ``embed.out.0`` in 202511 and ``embed.out`` in
    202611. With one name, a model trained with either version loads with the other.
    ``load_state_dict`` also accepts the name of 202611, as in ESPnet's checkpoints.
    """
    from torch import nn

    embed: Any = getattr(encoder, "embed", None)
    out = getattr(embed, "out", None)
    if isinstance(out, nn.Linear):
        embed.out = out = nn.Sequential(out)
    if isinstance(out, nn.Sequential):
        out.register_load_state_dict_pre_hook(_accept_other_names)


def _accept_other_names(
    _module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Rename ``embed.out.*`` to ``embed.out.0.*`` before a state dict is loaded."""
    for name in ("weight", "bias"):
        if prefix + name in state_dict:
            state_dict[f"{prefix}0.{name}"] = state_dict.pop(prefix + name)
