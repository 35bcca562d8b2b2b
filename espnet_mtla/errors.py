"""The one exception for anything a user can put right."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec


class UserError(ValueError):
    """Bad input: a file, key or value that the user can change.

    The message is one line that names the file or key and says what to do. Commands
    print it after ``error:`` and exit with 1 (:mod:`espnet_mtla.bin.cli`); a traceback
    is for our own mistakes alone.
    """


def transport_errors() -> tuple[type[Exception], ...]:
    """What HTTP libraries raise; which one the hub's client uses is its version's."""
    bases = {
        "httpx2": "HTTPError",
        "httpx": "HTTPError",
        "requests": "RequestException",
    }
    return tuple(
        getattr(import_module(module), base)
        for module, base in bases.items()
        if find_spec(module)
    )
