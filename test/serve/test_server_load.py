"""A running server: load, clients that go away, limits, and signals."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from espnet_mtla import Speech2Text
from espnet_mtla.serve.service import Limits
from test.support.running_server import (
    BOUNDARY,
    PATH,
    WAVS,
    Running,
    as_wav,
    error_of,
    form,
    noise,
    serving,
    skip_without_packages,
)

skip_without_packages()

# Load, and clients that go away -------------------------------------------------------


def test_under_load_every_text_is_the_one_alone(
    server: Running, texts: list[str]
) -> None:
    """16 threads, some of whose clients leave in the middle."""
    wrong: list[tuple[int, bytes]] = []
    answered: list[int] = []

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for number in generator.sample(range(len(WAVS)), 5):
            if generator.random() < 0.25:
                leave_early(server, WAVS[number], generator.random() * 0.3)
            status, _, body = server.transcribe(WAVS[number])
            answered.append(number)
            if status != 200 or json.loads(body)["text"] != texts[number]:
                wrong.append((status, body))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(answered) == 80
    assert server.service.engine.largest > 2, "the batch never had several sounds"
    server.wait_until_idle()


def leave_early(server: Running, wav: bytes, seconds: float) -> None:
    """Send a request and close the connection without reading the answer."""
    body = form(wav, [("model", "tiny")])
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode())
        connection.sendall(body[: len(body) // 2])
        time.sleep(seconds / 2)
        if seconds > 0.1:  # others leave in the middle of the upload
            connection.sendall(body[len(body) // 2 :])
            time.sleep(seconds / 2)


# Limits -------------------------------------------------------------------------------


def test_limits_of_bytes_seconds_time_and_keys(cutting: Speech2Text) -> None:
    limits = Limits(requests=1, upload=60_000, seconds=1.2, deadline=20)
    with serving(cutting, limits=limits, keys=["secret"]) as running:
        key = {"authorization": "Bearer secret"}
        for headers in ({}, {"authorization": "Bearer wrong"}):
            status, _, body = running.transcribe(WAVS[0], headers=headers)
            assert (status, error_of(body)["code"]) == (401, "invalid_api_key")
        assert running.request("GET", "/v1/models")[0] == 401
        assert running.request("GET", "/health")[0] == 200
        assert running.transcribe(WAVS[0], headers=key)[0] == 200
        status, _, body = running.transcribe(WAVS[5], headers=key)
        assert status == 413 and "larger than 60000 bytes" in error_of(body)["message"]
        long = as_wav(np.zeros(12_000, np.float32))
        status, _, body = running.transcribe(long, headers=key)
        assert status == 413 and "1.5 s long" in error_of(body)["message"]
        status, _, body = running.transcribe(WAVS[0], [("language", "en")], key)
        assert status == 400 and "was not told" in error_of(body)["message"]
        running.service.in_flight = 1
        status, headers, body = running.transcribe(WAVS[0], headers=key)
        running.service.in_flight = 0
        assert (status, error_of(body)["type"]) == (429, "rate_limit_error")
        assert int(headers["retry-after"]) >= 1


def test_a_request_that_takes_too_long_is_given_up(cutting: Speech2Text) -> None:
    with serving(cutting, limits=Limits(deadline=0.02)) as running:
        status, headers, body = running.transcribe(WAVS[5])
        assert (status, error_of(body)["type"]) == (504, "timeout_error")
        assert headers["x-should-retry"] == "false"
        running.wait_until_idle()


def test_a_terminated_server_finishes_what_it_has(model: Path, tmp_path: Path) -> None:
    """The command itself: SIGTERM in the middle of requests; no file is left."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "espnet_mtla", "serve", str(model)]
    command += ["--port", "0", "--name", "tiny", "--device", "cpu"]
    command += ["--beam_size", "5", "--min_length_ratio", "0.9"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving tiny at http://127.0.0.1:")
        running = Running(int(line.rsplit(":", 1)[1]), None)
        while True:  # the address is printed just before the server starts
            try:
                assert running.request("GET", "/health")[0] == 200
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        wav = as_wav(noise(9, 8.0))
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(running.transcribe(wav)[0]))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while b"in_flight 3" not in running.request("GET", "/metrics")[2]:
            time.sleep(0.02)
            assert not found, "answered before it could be terminated"
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert found == [200, 200, 200]
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert not list(scratch.iterdir())
