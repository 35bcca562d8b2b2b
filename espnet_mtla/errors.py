"""The one exception for anything a user can put right."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: a file, key or value that the user can change.

    The message is one line that names the file or key and says what to do. Commands
    print it after ``error:`` and exit with 1 (:mod:`espnet_mtla.bin.cli`); a traceback
    is for our own mistakes alone.
    """
