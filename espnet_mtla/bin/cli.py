"""How every command starts and how it fails: one clear line, a non-zero exit."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable

from espnet_mtla.errors import UserError
from espnet_mtla.logs import LOG_FORMAT, TIME_FORMAT


def run(main: Callable[[], None]) -> None:
    """Run ``main`` as the body of a command.

    :class:`UserError` and the errors of files and disks end in one line on standard
    error and exit code 1; ctrl-C ends in 130, as a shell expects. Everything else is a
    bug and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, datefmt=TIME_FORMAT)
    try:
        main()
    except UserError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "espnet_mtla"):
            raise
        fail(f"{package}: not installed; utils/install.sh brings what recipes need")
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(describe(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def fail(message: str) -> None:
    """Print ``error: message`` and leave with 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def describe(error: OSError) -> str:
    """One line for an operating-system error, with the way out where there is one."""
    name = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return f"{name}: no space left on the device; free some and run again"
    if error.errno == errno.ENOENT:
        return f"{name}: no such file or folder"
    return f"{name}: {os.strerror(error.errno) if error.errno else error}"
