"""Exceptions: errors that the user can correct, and errors of HTTP libraries."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec


class UserError(ValueError):
    """Bad input: a file, key or value that the user can change.

    The message is one line that names the file or key and says what to do. Commands
    print it after ``error:`` and exit with 1 (:mod:`espnet_mtla.bin.cli`). A traceback
    therefore always means a bug in this package.
    """


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the base exceptions of the installed HTTP libraries.

    Which library ``huggingface_hub`` uses depends on its version.
    """
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
