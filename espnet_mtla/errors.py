"""Exceptions: errors that the user can correct, and errors of the hub's clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec


class UserError(ValueError):
    """Bad input: a file, key or value that the user can change.

    The message is one line that names the file or key and says what to do. Commands
    print it after ``error:`` and exit with 1 (:mod:`espnet_mtla.bin.cli`). A traceback
    therefore always means a bug in this package.
    """


def no_file(path: str | os.PathLike[str]) -> str:
    """Say why ``path`` is not a regular file, for a message that names it.

    >>> no_file("."), no_file("/none")
    ('a folder; a file is needed', 'no such file')
    >>> no_file("/dev/null")
    'a pipe, a socket or a device; a file is needed'
    """
    if os.path.isdir(path):
        return "a folder; a file is needed"
    if os.path.exists(path):
        return "a pipe, a socket or a device; a file is needed"
    return "a link to no file" if os.path.islink(path) else "no such file"


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


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Raise errors of the hub's client as a :class:`UserError` with a remedy."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the hub has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: no such folder, and no such model on the hub; a private model "
            "needs a token in HF_TOKEN"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise UserError(
            f"{name}: no such folder, not downloaded before, and the hub cannot be "
            "reached; give a folder"
        ) from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        hint = "; is the token right?" if code in (401, 403) else ""
        raise UserError(f"{name}: the hub answers {code}{hint}") from None
    except transport_errors() as error:
        raise UserError(f"{name}: the hub cannot be reached: {error}") from None
