"""A server of a tiny model that really runs, in a thread of the test's process."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile

from test.support.tiny_experiment import FS

BOUNDARY = "----boundary"


def noise(number: int, seconds: float) -> np.ndarray:
    """Return noise that changes its colour, different for each number."""
    generator = np.random.default_rng(number)
    samples = generator.normal(0, 0.1, int(seconds * FS)).astype(np.float32)
    samples[: len(samples) // 2].cumsum(out=samples[: len(samples) // 2])
    return np.clip(samples, -1, 1)


def as_wav(samples: np.ndarray, fs: int = FS) -> bytes:
    """Return a WAV file of floats."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, fs, format="WAV", subtype="FLOAT")
    return stream.getvalue()


LENGTHS = [0.9, 0.31, 1.4, 0.55, 0.72, 2.6, 0.4, 1.1]
SAMPLES = [noise(number, seconds) for number, seconds in enumerate(LENGTHS)]
WAVS = [as_wav(samples) for samples in SAMPLES]
PATH = "/v1/audio/transcriptions"


def skip_without_packages() -> None:
    """Skip a module of tests where the server's packages are not installed."""
    for package in ("fastapi", "uvicorn", "python_multipart", "openai"):
        reason = 'the server needs pip install "espnet-mtla[serve]", its tests openai'
        pytest.importorskip(package, reason=reason)


@dataclass
class Running:
    """A running server: its address, and the service behind it."""

    port: int
    service: object

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request and return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def transcribe(
        self,
        sound: bytes,
        fields: Sequence[tuple[str, str]] = (),
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a form with a sound."""
        body = form(sound, [("model", "tiny"), *fields])
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.request(
            "POST",
            PATH,
            body,
            {"content-type": kind, **(headers or {})},
        )

    def wait_until_idle(self) -> None:
        """Wait until nothing is decoded, queued or answered."""
        service, end = self.service, time.monotonic() + 60
        engine = service.engine
        while service.in_flight or engine.running or engine.waiting:
            assert time.monotonic() < end, "the server stays busy"
            time.sleep(0.01)


def form(sound: bytes, fields: Sequence[tuple[str, str]]) -> bytes:
    """Return the body of a form."""
    parts = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n'
        f"{value}\r\n".encode()
        for name, value in fields
    ]
    head = (
        f"--{BOUNDARY}\r\ncontent-disposition: form-data; "
        'name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
    )
    return b"".join([*parts, head.encode(), sound, f"\r\n--{BOUNDARY}--\r\n".encode()])


@contextmanager
def serving(speech2text: object, **settings: object) -> Iterator[Running]:
    """Run a server; ``settings`` are those of :class:`Service`, and ``keys``."""
    import uvicorn

    from espnet_mtla.bin.serve import listen
    from espnet_mtla.serve.app import build_app
    from espnet_mtla.serve.service import Service

    keys = settings.pop("keys", ())
    service = Service(speech2text, "tiny", **settings)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(build_app(service, keys), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Running(listener.getsockname()[1], service)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    assert not service.engine.is_alive, "the engine outlives its server"


def error_of(body: bytes) -> dict[str, object]:
    """Return the error of an answer, which has the form of OpenAI's."""
    error = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} == set(error)
    assert error["message"] and "\n" not in error["message"]
    return error
