"""The engine gives every sound the text that it gives alone, whatever the load."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.fusion import load_hotwords
from espnet_mtla.recognise.recogniser import Recognised
from espnet_mtla.recognise.utterances import Sound
from espnet_mtla.serve.engine import Engine
from espnet_mtla.serve.job import DeadlinePassed
from test.support.tiny_experiment import FS, make_lm, make_model

LENGTHS = [0.9, 0.31, 1.4, 0.55, 0.72, 2.6, 0.4, 1.1]


def noise(number: int, seconds: float) -> np.ndarray:
    """Return noise that changes its colour, different for each number."""
    generator = np.random.default_rng(number)
    samples = generator.normal(0, 0.1, int(seconds * FS)).astype(np.float32)
    samples[: len(samples) // 2].cumsum(out=samples[: len(samples) // 2])
    return np.clip(samples, -1, 1)


SOUNDS = [Sound(f"u{n}", noise(n, seconds)) for n, seconds in enumerate(LENGTHS)]


def load(model: Path, **options: object) -> Speech2Text:
    return Speech2Text.from_pretrained(
        model, device="cpu", **{"min_length_ratio": 0.15, **options}
    )


def alone(speech2text: Speech2Text, sound: Sound) -> Recognised:
    return speech2text._recogniser([sound])[0]


def assert_same(found: Recognised, expected: Recognised) -> None:
    ours, theirs = found.nbest, expected.nbest
    assert [h.tokens for h in ours] == [h.tokens for h in theirs]
    scores = [h.score for h in theirs]
    assert [h.score for h in ours] == pytest.approx(scores, rel=1e-4, abs=1e-4)
    assert (found.key, found.audio_seconds) == (expected.key, expected.audio_seconds)
    sizes = (found.encoder_frames, found.prompt_frames)
    assert sizes == (expected.encoder_frames, expected.prompt_frames)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"beam_size": 1}, id="greedy"),
        pytest.param({"beam_size": 4, "nbest": 3}, id="beam"),
        pytest.param({"beam_size": 3, "ctc_weight": 0.4}, id="ctc"),
        pytest.param({"beam_size": 3, "cache_dtype": "int8"}, id="int8"),
        pytest.param({"beam_size": 3, "lm_weight": 0.5}, id="lm"),
    ],
)
def test_texts_under_load_are_those_alone(
    model: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    """Four threads, random pauses, and at most five sounds in the batch."""
    if "lm_weight" in options:
        options = {**options, "lm": str(make_lm(tmp_path / "lm"))}
    speech2text = load(model, **options)
    expected = [alone(speech2text, sound) for sound in SOUNDS]
    assert len({tuple(r.nbest[0].tokens) for r in expected}) > len(SOUNDS) // 2
    engine = Engine(speech2text.trained, speech2text.options, largest_batch=5)
    found: list[tuple[int, Recognised]] = []

    def client(seed: int) -> None:
        generator = random.Random(seed)
        order = generator.sample(range(len(SOUNDS)), len(SOUNDS))
        while order:
            some, order = order[:3], order[3:]
            jobs = [(n, engine.submit(SOUNDS[n])) for n in some]
            time.sleep(generator.random() * 0.02)
            found.extend((n, job.future.result(60)) for n, job in jobs)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.stop()
    assert len(found) == 4 * len(SOUNDS)
    assert 2 <= engine.largest <= 5
    for number, result in found:
        assert_same(result, expected[number])


def test_hotwords_of_one_sound_leave_the_others_alone(model: Path) -> None:
    speech2text = load(model, beam_size=3)
    trained = speech2text.trained
    phrases = ("ag", "d")
    hotwords = load_hotwords(phrases, 30.0, trained)
    with_them = load(model, beam_size=3, hotwords=phrases, hotword_bonus=30.0)
    engine = Engine(trained, speech2text.options)
    jobs = [
        engine.submit(sound, hotwords=hotwords if number % 2 else None)
        for number, sound in enumerate(SOUNDS)
    ]
    changed = 0
    for number, (sound, job) in enumerate(zip(SOUNDS, jobs, strict=True)):
        expected = alone(with_them if number % 2 else speech2text, sound)
        assert_same(job.future.result(60), expected)
        plain = alone(speech2text, sound)
        changed += expected.nbest[0].tokens != plain.nbest[0].tokens
    engine.stop()
    assert changed, "hotwords that change nothing show nothing"


def test_a_small_budget_makes_sounds_wait(model: Path) -> None:
    """Admission is by the formula: no more sounds at once than it allows."""
    from espnet_mtla.recognise.memory import load_bytes, utterance_load

    speech2text = load(model, beam_size=3)
    trained, options = speech2text.trained, speech2text.options
    two = utterance_load(trained, options, round(100 * LENGTHS[0]))
    budget = 2 * load_bytes(trained, options, two)
    engine = Engine(trained, options, budget=budget)
    jobs = [engine.submit(SOUNDS[0]) for _ in range(6)]
    results = [job.future.result(60) for job in jobs]
    with pytest.raises(UserError, match=r"u5: 2\.6 s do not fit"):
        engine.submit(Sound("u5", noise(5, 26.0)[: int(2.6 * FS)]))
    engine.stop()
    assert engine.largest == 2
    for result in results:
        assert_same(result, alone(speech2text, SOUNDS[0]))


def test_dropped_and_late_sounds_leave_and_the_others_go_on(model: Path) -> None:
    speech2text = load(model, beam_size=3, min_length_ratio=0.9)
    engine = Engine(speech2text.trained, speech2text.options)
    dropped = engine.submit(SOUNDS[5])
    late = engine.submit(SOUNDS[2], deadline=time.monotonic() - 1)
    stays = engine.submit(SOUNDS[0])
    engine.drop(dropped)
    assert_same(stays.future.result(60), alone(speech2text, SOUNDS[0]))
    for job in (dropped, late):
        with pytest.raises(DeadlinePassed):
            job.future.result(60)
    engine.stop()
    assert engine.running == engine.waiting == 0


def test_stopping_finishes_what_was_submitted(model: Path) -> None:
    speech2text = load(model, beam_size=3)
    engine = Engine(speech2text.trained, speech2text.options)
    jobs = [engine.submit(sound) for sound in SOUNDS]
    engine.stop()
    assert all(job.future.done() for job in jobs) and not engine.is_alive
    with pytest.raises(RuntimeError, match="stopped"):
        engine.submit(SOUNDS[0])


def test_an_error_in_a_step_ends_the_running_jobs_alone(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech2text = load(model, beam_size=3)
    engine = Engine(speech2text.trained, speech2text.options)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("espnet_mtla.serve.engine.tell_partial", broken)
        with pytest.raises(ZeroDivisionError):
            engine.submit(SOUNDS[0]).future.result(60)
    later = engine.submit(SOUNDS[0]).future.result(60)
    assert_same(later, alone(speech2text, SOUNDS[0]))
    engine.stop()


@pytest.mark.parametrize("beam", [1, 4])
def test_partial_tokens_only_grow_and_begin_the_result(model: Path, beam: int) -> None:
    speech2text = load(model, beam_size=beam, min_length_ratio=0.5)
    engine = Engine(speech2text.trained, speech2text.options)
    told: dict[int, list[list[int]]] = {n: [] for n in range(len(SOUNDS))}
    jobs = [
        engine.submit(sound, partial=told[number].append)
        for number, sound in enumerate(SOUNDS)
    ]
    for number, job in enumerate(jobs):
        tokens = job.future.result(60).nbest[0].tokens
        for shorter in told[number]:
            assert shorter == tokens[: len(shorter)]
        lengths = [len(partial) for partial in told[number]]
        assert lengths == sorted(set(lengths))
    engine.stop()
    assert sum(map(len, told.values())) > len(SOUNDS)


def test_a_model_of_ctc_alone_needs_no_search(tmp_path: Path) -> None:
    speech2text = load(make_model(tmp_path / "ctc", ctc_weight=1.0))
    engine = Engine(speech2text.trained, speech2text.options)
    jobs = [engine.submit(sound) for sound in SOUNDS]
    for sound, job in zip(SOUNDS, jobs, strict=True):
        assert_same(job.future.result(60), alone(speech2text, sound))
    engine.stop()
    assert engine.steps == 0
