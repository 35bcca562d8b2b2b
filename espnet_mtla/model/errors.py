"""One-line errors from the constructors of other packages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from espnet_mtla.errors import UserError

# What constructors raise for values that they do not expect: also torch for sizes, and
# arithmetic with them.
_OF_SETTINGS = (
    *(TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError),
    *(AttributeError, LookupError, MemoryError),
)


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
    except (*_OF_SETTINGS, TypeCheckError) as error:
        reason = str(error).strip().split("\n")[0] or "these values do not go together"
        raise UserError(f"{section}: {reason}") from error
