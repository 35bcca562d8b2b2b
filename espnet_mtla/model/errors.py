"""One-line errors from the constructors of other packages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from espnet_mtla.errors import UserError


@contextlib.contextmanager
def config_errors(section: str) -> Iterator[None]:
    """Turn a constructor's exception about its settings into a one-line UserError."""
    from typeguard import TypeCheckError

    try:
        yield
    except UserError as error:
        if str(error).startswith((f"{section}.", f"{section}:")):
            raise
        raise UserError(f"{section}: {error}") from error
    except (TypeError, ValueError, AssertionError, TypeCheckError) as error:
        reason = str(error).strip().split("\n")[0] or "these values do not go together"
        raise UserError(f"{section}: {reason}") from error
