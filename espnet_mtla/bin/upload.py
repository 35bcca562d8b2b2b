"""Put a packed model on a hub that speaks Hugging Face's API.

Needs a token and nothing else: from the environment's HF_TOKEN or from a file. The hub
is huggingface.co unless HF_ENDPOINT has another address.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.upload",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="packed model, as written by pack")
    add("name", help="owner/name on the hub; made if it does not exist")
    add("--private", action="store_true", help="if it is made, for its owner alone")
    add("--token_file", type=Path, help="file with the token; else HF_TOKEN holds it")
    return parser


def read_token(file: Path | None) -> str:
    """The token, without what editors put around it.

    Raises:
        UserError: there is none.
    """
    token = file.read_text().strip() if file else os.environ.get("HF_TOKEN", "").strip()
    if not token:
        where = f"{file} is empty" if file else "HF_TOKEN is not set"
        raise UserError(f"{where}: a token with write access is needed")
    return token


def main() -> None:
    args = get_parser().parse_args()
    token = read_token(args.token_file)

    from espnet_mtla.share.hub import upload

    address = upload(args.folder, args.name, token, args.private)
    print(f"{args.folder} is now {address}")


if __name__ == "__main__":
    run(main)
