"""A running server: the openai package as its client, and wrong requests."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from espnet_mtla import Speech2Text
from test.support.running_server import (
    BOUNDARY,
    LENGTHS,
    PATH,
    SAMPLES,
    WAVS,
    Running,
    error_of,
    form,
    serving,
    skip_without_packages,
)
from test.support.tiny_experiment import FS, make_model

skip_without_packages()

# The official client ------------------------------------------------------------------


def client(server: Running, **settings: object):
    import openai

    settings = {"api_key": "none", "max_retries": 0, **settings}
    return openai.OpenAI(base_url=f"{server.url}/v1", **settings)


def test_openais_client_gets_every_format(
    server: Running, cutting: Speech2Text, texts: list[str]
) -> None:
    create = client(server).audio.transcriptions.create
    number = 2  # cut into two parts
    expected = cutting(SAMPLES[number], FS, timestamps=True)
    assert expected.parts == 2 and expected.text == texts[number]
    upload = ("a.wav", WAVS[number])
    assert create(model="tiny", file=upload).text == expected.text
    text = create(model="tiny", file=upload, response_format="text", language="en")
    assert text == expected.text + "\n"
    verbose = create(
        model="tiny",
        file=upload,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert verbose.text == expected.text
    assert float(verbose.duration) == pytest.approx(LENGTHS[number], abs=1e-3)
    assert [(w.word, w.start, w.end) for w in verbose.words] == [
        (w.text, w.start, w.end) for w in expected.words
    ]
    said = " ".join(segment.text for segment in verbose.segments)
    assert said.split() == expected.text.split()
    srt = create(model="tiny", file=upload, response_format="srt")
    vtt = create(model="tiny", file=upload, response_format="vtt")
    assert srt.startswith("1\n00:00:0") and " --> " in srt
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    times = [line for line in vtt.splitlines() if "-->" in line]
    assert [line.replace(".", ",") for line in times] == [
        line for line in srt.splitlines() if "-->" in line
    ]


def test_a_stream_adds_up_to_the_text(server: Running, texts: list[str]) -> None:
    early = 0
    for wav, text in zip(WAVS, texts, strict=True):
        events = client(server).audio.transcriptions.create(
            model="tiny", file=("a.wav", wav), stream=True
        )
        *deltas, done = list(events)
        assert {event.type for event in deltas} <= {"transcript.text.delta"}
        assert done.type == "transcript.text.done" and done.text == text
        assert "".join(event.delta for event in deltas) == text
        early += len(deltas) > 1
    assert early > len(texts) // 2, "nothing is sent before the end"


def test_a_prompt_is_hotwords(server: Running, model: Path) -> None:
    options = {"beam_size": 3, "min_length_ratio": 0.15, "longest_seconds": 1.0}
    biased = Speech2Text.from_pretrained(
        model, device="cpu", hotwords=["ag", "d"], **options
    )
    create = client(server).audio.transcriptions.create
    for samples, wav in zip(SAMPLES, WAVS, strict=True):
        answer = create(model="tiny", file=("a.wav", wav), prompt="ag, d")
        assert answer.text == biased(samples, FS).text


def test_models_health_and_metrics(server: Running) -> None:
    assert [one.id for one in client(server).models.list()] == ["tiny"]
    assert client(server).models.retrieve("tiny").owned_by == "espnet_mtla"
    status, _, health = server.request("GET", "/health")
    assert status == 200 and json.loads(health)["status"] == "ok"
    before = counters(server)
    assert server.transcribe(WAVS[0])[0] == 200
    assert server.transcribe(b"no sound")[0] == 400
    after = counters(server)
    total, seconds = "requests_total", "audio_seconds_total"
    assert after[f'{total}{{status="200"}}'] - before.get(
        f'{total}{{status="200"}}', 0
    ) == pytest.approx(1)
    assert after[seconds] - before[seconds] == pytest.approx(LENGTHS[0], abs=2e-3)
    assert after["request_seconds_count"] == after[f'{total}{{status="200"}}']


def counters(server: Running) -> dict[str, float]:
    status, headers, body = server.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    pairs = (line.rsplit(" ", 1) for line in lines)
    return {name.removeprefix("espnet_mtla_"): float(value) for name, value in pairs}


# Wrong requests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ([("temperature", "0.7")], 400, "temperature: '0.7' given"),
        ([("temperature", "warm")], 400, "temperature: 'warm' given"),
        ([("response_format", "xml")], 400, "response_format: 'xml' given, one of"),
        ([("language", "de")], 400, "language: 'de' given, the model's is en"),
        ([("model", "whisper-1")], 400, "model: given twice"),
        ([("top_p", "1")], 400, "'top_p': no such field; known: file, model"),
        ([("stream", "yes")], 400, "stream: 'yes' given"),
        ([("stream", "true"), ("response_format", "srt")], 400, "cannot be streamed"),
        ([("timestamp_granularities[]", "word")], 400, "need response_format"),
        ([("prompt", "x" * 5000)], 400, "prompt: 5000 characters given"),
        ([("prompt", "xyz")], 400, "prompt: hotwords: 'xyz': the token list lacks"),
        ([("prompt", ",".join(f"p{n}" for n in range(101)))], 400, "101 phrases"),
    ],
)
def test_wrong_fields_are_refused_by_name(
    server: Running, fields: list[tuple[str, str]], status: int, message: str
) -> None:
    found, _, body = server.transcribe(WAVS[1], fields)
    error = error_of(body)
    assert (found, error["type"]) == (status, "invalid_request_error")
    assert message in error["message"]


def test_openais_client_raises_its_own_errors(server: Running) -> None:
    import openai

    create = client(server).audio.transcriptions.create
    with pytest.raises(openai.NotFoundError, match="this server has tiny"):
        create(model="whisper-1", file=("a.wav", WAVS[0]))
    with pytest.raises(openai.BadRequestError, match="unreadable audio"):
        create(model="tiny", file=("a.wav", b"RIFF but no more"))
    with pytest.raises(openai.BadRequestError, match="transcriptions alone"):
        client(server).audio.translations.create(model="tiny", file=("a.wav", WAVS[0]))


def test_a_model_of_translation_answers_at_its_own_address(
    cutting: Speech2Text, texts: list[str]
) -> None:
    import openai

    trained = replace(cutting.trained, task="st")
    translating = Speech2Text(trained, cutting.options, cutting.longest_seconds)
    with serving(translating) as running:
        audio = client(running).audio
        answer = audio.translations.create(model="tiny", file=("a.wav", WAVS[0]))
        assert answer.text == texts[0]
        with pytest.raises(openai.BadRequestError, match="translations alone"):
            audio.transcriptions.create(model="tiny", file=("a.wav", WAVS[0]))


def test_times_are_refused_by_a_model_without_ctc(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", ctc_weight=0.0)
    speech2text = Speech2Text.from_pretrained(folder, device="cpu", beam_size=2)
    with serving(speech2text) as running:
        assert running.transcribe(WAVS[1])[0] == 200
        for name in ("srt", "vtt", "verbose_json"):
            status, _, body = running.transcribe(WAVS[1], [("response_format", name)])
            assert status == 400 and "the model has no CTC" in str(error_of(body))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/docs", 404),
        ("POST", PATH, 400),
    ],
)
def test_unknown_addresses_and_methods(
    server: Running, method: str, path: str, status: int
) -> None:
    found, _, body = server.request(method, path)
    assert found == status
    error_of(body)


def test_damaged_forms_never_break_the_server(
    server: Running, texts: list[str]
) -> None:
    """Each of 200 damaged requests gets an answer, none a server error."""
    generator = random.Random(1)
    whole = form(WAVS[1], [("model", "tiny"), ("response_format", "json")])
    kinds = [
        f"multipart/form-data; boundary={BOUNDARY}",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\xff",
        "application/json",
        "application/x-www-form-urlencoded",
    ]
    seen = set()
    for _ in range(200):
        body = bytearray(whole)
        for _ in range(generator.randint(0, 8)):
            place = generator.randrange(len(body))
            change = generator.randrange(3)
            if change == 0:
                body[place] = generator.randrange(256)
            elif change == 1:
                del body[place : place + generator.randint(1, 400)]
            else:
                body[place:place] = generator.randbytes(generator.randint(1, 40))
        kind = kinds[0] if generator.random() < 0.8 else generator.choice(kinds)
        status, _, answer = server.request(
            "POST", PATH, bytes(body), {"content-type": kind}
        )
        seen.add(status)
        assert status in (200, 400, 404), (status, answer)
        if status != 200:
            error_of(answer)
    assert {200, 400} <= seen
    server.wait_until_idle()
    status, _, answer = server.transcribe(WAVS[0])
    assert status == 200 and json.loads(answer)["text"] == texts[0]
