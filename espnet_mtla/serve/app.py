"""The HTTP side: addresses and answers like those of OpenAI's API."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from espnet_mtla.serve.answers import TYPES, body, event
from espnet_mtla.serve.errors import ApiError
from espnet_mtla.serve.form import Form, read_form
from espnet_mtla.serve.service import Deltas, Recording, Service, too_late
from espnet_mtla.serve.upload import ClientGone, TooLate, read_upload, unless_gone

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from espnet_mtla.speech2text.result import Transcript

logger = logging.getLogger(__name__)

GONE = 499
"""Status under which a request is counted whose client has gone."""

INTERNAL = "internal error; see the server's log"


def build_app(service: Service, keys: Sequence[str] = ()) -> FastAPI:
    """Return the application.

    Args:
        service: the model.
        keys: API keys, of which a client needs one; empty: none is needed.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.stop)

    # The pages of documentation that FastAPI offers load scripts from other servers.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for task in ("transcriptions", "translations"):
        endpoint = Endpoint(service, keys, task)
        app.router.routes.append(Route(f"/v1/audio/{task}", endpoint, methods=["POST"]))
    app.add_exception_handler(ApiError, _error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    _add_pages(app, service, keys)
    return app


def _add_pages(app: FastAPI, service: Service, keys: Sequence[str]) -> None:
    """Add the addresses that tell about the server."""
    model = {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "espnet_mtla",
    }

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        authorise(request, keys)
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{name:path}")
    async def one_model(request: Request, name: str) -> JSONResponse:
        authorise(request, keys)
        if name != service.name:
            message = f"model {name!r}: not found; this server has {service.name}"
            raise ApiError(404, message, "model", "model_not_found")
        return JSONResponse(model)

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = service.engine.is_alive
        return JSONResponse(
            {"status": "ok" if alive else "stopped"}, 200 if alive else 503
        )

    @app.get("/metrics")
    async def metrics(request: Request) -> PlainTextResponse:
        authorise(request, keys)
        text = service.metrics.text(service.gauges())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def authorise(request: Request, keys: Sequence[str]) -> None:
    """Require a key in the header ``Authorization``.

    Raises:
        ApiError: there is none, or another one.
    """
    if not keys:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    given = key.strip().encode()
    fits = [hmac.compare_digest(given, known.encode()) for known in keys]
    if scheme.lower() != "bearer" or not any(fits):
        raise ApiError(
            401,
            "an API key is needed: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


class Endpoint:
    """Answer the requests of one address, as an ASGI application.

    Args:
        service: the model.
        keys: API keys.
        task: ``transcriptions`` or ``translations``.
    """

    def __init__(self, service: Service, keys: Sequence[str], task: str) -> None:
        self.service, self.keys, self.task = service, keys, task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, seconds = time.monotonic(), 500, 0.0
        try:
            transcript = await self._answer(Request(scope, receive), send, began)
            status, seconds = 200, transcript.seconds
        except ClientGone:
            status = GONE  # no answer: there is nobody to read it
        except _EndedByError as error:
            status = error.status
        except asyncio.CancelledError:
            status = GONE
            raise
        except ApiError as error:
            status = error.status
            raise
        finally:
            self.service.metrics.note(status, time.monotonic() - began, seconds)

    async def _answer(self, request: Request, send: Send, began: float) -> Transcript:
        """Answer a request, and return what was said in it."""
        service = self.service
        authorise(request, self.keys)
        self._check_task()
        limits = service.limits
        deadline = began + limits.deadline
        with service.slot():
            try:
                upload = read_upload(request, limits.upload)
                data, name, fields = await asyncio.wait_for(upload, limits.deadline)
                form = read_form(fields, service.name, service.language)
                recording = await service.open(data, name, form, deadline)
                del data
                answer = self._stream if form.stream else self._send
                return await answer(request, send, recording, form)
            except (TooLate, asyncio.TimeoutError):
                raise too_late(limits) from None

    def _check_task(self) -> None:
        """Refuse translations by a model that transcribes, and the reverse."""
        right = "translations" if self.service.translates else "transcriptions"
        if self.task != right:
            message = f"{self.service.name} answers at /v1/audio/{right} alone"
            raise ApiError(400, message, "model")

    async def _send(
        self, request: Request, send: Send, recording: Recording, form: Form
    ) -> Transcript:
        """Answer by the whole text at once."""
        transcript = await unless_gone(
            request.receive,
            self.service.transcribe(recording, form.timed),
            recording.seconds_left,
        )
        task = "translate" if self.service.translates else "transcribe"
        text = body(transcript, form, task, self.service.language)
        response = Response(text, headers={"content-type": TYPES[form.response_format]})
        await response(request.scope, request.receive, send)
        return transcript

    async def _stream(
        self, request: Request, send: Send, recording: Recording, form: Form
    ) -> Transcript:
        """Answer by server-sent events: text as it is known, then all of it."""
        del form
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            return await unless_gone(
                request.receive, self._events(send, recording), recording.seconds_left
            )
        except ClientGone:
            raise
        except Exception as error:
            known = self._as_api_error(error)
            await _send_text(send, event(known.as_dict()), last=True)
            raise _EndedByError(known.status) from None

    def _as_api_error(self, error: Exception) -> ApiError:
        """Return the error that a client sees; an unexpected one is logged."""
        if isinstance(error, TooLate):
            return too_late(self.service.limits)
        if isinstance(error, ApiError):
            return error
        logger.error("a stream failed", exc_info=error)
        return ApiError(500, INTERNAL)

    async def _events(self, send: Send, recording: Recording) -> Transcript:
        """Transcribe, and send events."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        deltas = Deltas(self.service, queue.put_nowait)
        task = asyncio.ensure_future(
            self.service.transcribe(recording, False, deltas.tell, deltas.tell_piece)
        )
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (delta := await queue.get()) is not None:
                fields: dict[str, object] = {"type": "transcript.text.delta"}
                await _send_text(send, event({**fields, "delta": delta}))
            transcript = task.result()
        finally:
            task.cancel()
        fields = {"type": "transcript.text.done", "text": transcript.text}
        await _send_text(send, event(fields))
        await _send_text(send, "data: [DONE]\n\n", last=True)
        return transcript


class _EndedByError(Exception):
    """A stream has ended with an event that is an error."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _send_text(send: Send, text: str, last: bool = False) -> None:
    message = {"type": "http.response.body", "body": text.encode()}
    await send({**message, "more_body": not last})


async def _error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError), "it is registered for this class"
    return JSONResponse(error.as_dict(), error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown address or method in the form of all errors."""
    assert isinstance(error, HTTPException), "it is registered for this class"
    message = f"{request.method} {request.url.path}: {error.detail}"
    known = ApiError(error.status_code, message, headers=dict(error.headers or {}))
    return await _error(request, known)


async def _bug(request: Request, error: Exception) -> Response:
    """Answer after an error that no client can correct; it is logged by the server."""
    del error
    return await _error(request, ApiError(500, INTERNAL))
