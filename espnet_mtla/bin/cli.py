"""Shared by all commands: the form of ``--help``, and how errors are printed."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable

from espnet_mtla.errors import UserError
from espnet_mtla.logs import LOG_FORMAT, TIME_FORMAT


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults where there are any, and keep the paragraphs of a description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_switch = action.nargs == 0
        if is_switch or action.default is None or action.default in ("", []):
            return action.help  # such a default is explained by the text, or obvious
        return super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        fill = super()._fill_text
        return "\n\n".join(fill(part, width, indent) for part in paragraphs)


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the command ``espnet-mtla NAME``."""
    return argparse.ArgumentParser(
        prog=f"espnet-mtla {name}",
        description=description,
        formatter_class=HelpFormatter,
    )


def run(main: Callable[[], None]) -> None:
    """Run ``main`` as the body of a command.

    :class:`UserError` and errors of files and disks are printed as one line on standard
    error, with exit code 1; ctrl-C exits with 130, as a shell expects. Any other
    exception is a bug and is raised with its traceback.
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
        fail(f"{package}: not installed; utils/install.sh installs what recipes need")
    except BrokenPipeError:  # the reader of our output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(os_error_message(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def fail(message: str) -> None:
    """Print ``error: message`` to standard error and exit with code 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def os_error_message(error: OSError) -> str:
    """Return one line for an operating-system error, with a remedy if there is one.

    >>> os_error_message(FileNotFoundError(errno.ENOENT, "", "wav.scp"))
    'wav.scp: no such file or folder'
    """
    name = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return f"{name}: no space left on the device; free some and run again"
    if error.errno == errno.ENOENT:
        return f"{name}: no such file or folder"
    return f"{name}: {os.strerror(error.errno) if error.errno else error}"
