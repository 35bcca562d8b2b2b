"""Serve a model by HTTP, like OpenAI's transcription API.

Many clients share one model: their sounds are decoded in one batch, which they join
and leave between steps, and each gets the text that it would get alone. The addresses
are /v1/audio/transcriptions (of a model of translation: /v1/audio/translations),
/v1/models, /health, and /metrics for Prometheus. SIGTERM stops the server after it has
answered the requests that it has.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.bin.plan import memory
from espnet_mtla.bin.transcribe import seconds_or_trained
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_decoding_options, explicit_options
from espnet_mtla.settings.checks import count
from espnet_mtla.text_files import read_text

if TYPE_CHECKING:
    from espnet_mtla.serve.service import Service

logger = logging.getLogger(__name__)

API_KEY = "ESPNET_MTLA_API_KEY"
"""Environment variable with an API key."""


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("serve", __doc__)
    add = parser.add_argument
    add("model", help="experiment folder, packed folder, or owner/name on the hub")
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all")
    add("--port", type=int, default=8000, help="0: any free one")
    add("--name", help="by which clients name the model; default: the folder's name")
    add("--language", help="of the text, such as en: requests for others are refused")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add(
        "--api_key_file",
        type=Path,
        help=f"file with an API key a line, of which clients need one; or one key in "
        f"the environment variable {API_KEY}",
    )
    group = parser.add_argument_group("limits")
    add = group.add_argument
    add("--max_requests", type=count, default=64, help="at a time; others get 429")
    add("--max_upload", type=memory, default="100M", help="bytes of a request")
    add("--max_seconds", type=float, default=7200.0, help="length of a recording")
    add("--deadline", type=float, default=600.0, help="seconds from request to answer")
    add("--max_batch", type=count, default=32, help="utterances decoded at once")
    add("--memory", type=memory, help="for the decoder; default: 0.6 of what is free")
    add(
        "--longest_seconds",
        type=seconds_or_trained,
        default="trained",
        help="longer recordings are cut at quiet places; trained: those longer than "
        "usual in the model's training",
    )
    add_decoding_options(parser)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    keys = read_keys(args.api_key_file)
    for package in ("fastapi", "python_multipart", "uvicorn"):
        if find_spec(package) is None:
            raise UserError(
                f'{package}: not installed: pip install "espnet-mtla[serve]"'
            )
    import uvicorn

    listener = listen(args.host, args.port)
    service = build_service(args)
    from espnet_mtla.serve.app import build_app

    if not keys and not is_loopback(listener):
        logger.warning(
            "%s is reached from other machines, and no API key is needed: "
            "--api_key_file",
            args.host,
        )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        build_app(service, keys), log_config=None, access_log=False, server_header=False
    )
    print(f"serving {service.name} at http://{shown}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def build_service(args: argparse.Namespace) -> Service:
    """Load the model and start its engine."""
    from espnet_mtla.serve.service import Limits, Service
    from espnet_mtla.speech2text import Speech2Text

    limits = Limits(args.max_requests, args.max_upload, args.max_seconds, args.deadline)
    speech2text = Speech2Text.from_pretrained(
        args.model,
        device=args.device,
        longest_seconds=args.longest_seconds,
        **explicit_options(args),
    )
    folder = Path(args.model)
    name = args.name or (folder.resolve().name if folder.exists() else args.model)
    return Service(
        speech2text, name, args.language, limits, args.memory, args.max_batch
    )


def read_keys(file: Path | None) -> list[str]:
    """Return the API keys of a file and of the environment.

    Raises:
        UserError: the file cannot be read, or holds no key.
    """
    keys = [os.environ[API_KEY]] if os.environ.get(API_KEY) else []
    if file is None:
        return keys
    lines = read_text(file, "--api_key_file ").splitlines()
    of_file = [line.strip() for line in lines if line.strip()]
    if not of_file:
        raise UserError(f"--api_key_file {file}: no key in it")
    return [*keys, *of_file]


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, so that errors come before loading.

    Raises:
        UserError: the address is unknown or in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host} --port {port}: {reason}") from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return True if only this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


if __name__ == "__main__":
    run(main)
