"""``espnet-mtla COMMAND ...``: the commands of :mod:`espnet_mtla.bin` by name."""

from __future__ import annotations

import ast
import difflib
import sys
from importlib import import_module
from pathlib import Path

BIN = Path(__file__).parent / "bin"
NO_COMMANDS = ("__init__", "cli")


def commands() -> dict[str, str]:
    """Return the first docstring line of each command, by command name.

    The files are parsed: importing them would take seconds.
    """
    summaries = {}
    for path in sorted(BIN.glob("*.py")):
        if path.stem not in NO_COMMANDS:
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            summaries[path.stem] = text.split("\n")[0]
    return summaries


def usage() -> str:
    """Return the text of ``espnet-mtla --help``."""
    lines = [f"  {name:15s} {text}" for name, text in commands().items()]
    return "\n".join(
        ["usage: espnet-mtla COMMAND [--help | options of the command]", "", *lines]
    )


def main() -> None:
    """Run the command named by the first argument."""
    from espnet_mtla import __version__
    from espnet_mtla.bin.cli import fail, run

    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        run(lambda: print(usage(), flush=True))
        return
    if name == "--version":
        print(f"espnet-mtla {__version__}")
        return
    if name not in commands():
        close = difflib.get_close_matches(name, commands(), n=1)
        hint = f"did you mean {close[0]}?" if close else "espnet-mtla --help lists them"
        fail(f"{name}: no such command; {hint}")
    del sys.argv[1]
    run(import_module(f"espnet_mtla.bin.{name}").main)


if __name__ == "__main__":
    main()
