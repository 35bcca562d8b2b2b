"""Upload a packed model to a hub with Hugging Face's API.

The token with write access is read from a file, or from the environment variable
HF_TOKEN. The hub is huggingface.co, or the address in HF_ENDPOINT.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("upload", __doc__)
    add = parser.add_argument
    add("folder", type=Path, help="packed model, as written by pack")
    add("name", help="OWNER/NAME on the hub; created if it does not exist")
    add("--private", action="store_true", help="create it as private")
    add("--token_file", type=Path, help="file with the token; default: read HF_TOKEN")
    return parser


def read_token(file: Path | None) -> str:
    """Return the token of a file or of HF_TOKEN, without surrounding white space.

    Raises:
        UserError: the file is empty, or HF_TOKEN is not set.
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
