"""Reading a request: its form within limits, and whether its client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from espnet_mtla.serve.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import Message, Receive

MOST_FIELDS = 50
LONGEST_NAME = 100
T = TypeVar("T")


class ClientGone(Exception):
    """The client has closed the connection: there is nobody to answer."""


class TooLate(Exception):
    """The time for a request has passed."""


async def read_upload(
    request: Request, most: int
) -> tuple[bytes, str, list[tuple[str, str]]]:
    """Return the file of a form, its name, and the other fields.

    Args:
        request: whose body has not been read.
        most: bytes of the body.

    Raises:
        ApiError: the body is too large, or no form with one file.
        ClientGone: the client has closed the connection.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "a form is needed: content-type multipart/form-data")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    limited = Request(request.scope, _limited(request.receive, most))
    try:
        form = await limited.form(max_files=2, max_fields=MOST_FIELDS)
    except ClientDisconnect:
        raise ClientGone from None
    except (HTTPException, MultiPartException) as error:
        reason = getattr(error, "detail", None) or str(error)
        raise ApiError(400, f"malformed form: {reason}") from None
    try:
        files = [v for _, v in form.multi_items() if isinstance(v, UploadFile)]
        fields = [(k, v) for k, v in form.multi_items() if isinstance(v, str)]
        named = [k for k, v in form.multi_items() if isinstance(v, UploadFile)]
        if named != ["file"]:
            raise ApiError(400, "file: one upload of this name is needed", "file")
        return await files[0].read(), _shown(files[0].filename), fields
    finally:
        await form.close()


def _shown(name: str | None) -> str:
    """Return the name of an upload as messages show it."""
    printable = "".join(c for c in name or "" if c.isprintable())
    return printable[-LONGEST_NAME:] or "file"


def _limited(receive: Receive, most: int) -> Receive:
    """Return ``receive`` with an error once the body is larger than ``most`` bytes."""
    total = 0

    async def limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > most:
            raise _too_large(most)
        return message

    return limited


def _too_large(most: int) -> ApiError:
    size = f"{most / 2**20:g} MiB" if most >= 2**20 else f"{most} bytes"
    return ApiError(413, f"the upload is larger than {size}", "file")


async def unless_gone(
    receive: Receive, work: Coroutine[Any, Any, T], seconds: float
) -> T:
    """Return the result of ``work``; cancel it if the client or the time has gone.

    Args:
        receive: of the request, whose body has been read.
        work: what the client waits for.
        seconds: that it may take.

    Raises:
        ClientGone: the client has closed the connection.
        TooLate: it took longer.
    """
    task: asyncio.Future[T] = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    waited: set[asyncio.Future[Any]] = {task, gone}
    try:
        done, _ = await asyncio.wait(
            waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if task in done:
            return task.result()
        raise ClientGone if gone in done else TooLate
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
