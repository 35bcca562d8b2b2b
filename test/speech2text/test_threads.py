"""One model in several threads gives each caller what it gives one caller alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import TypeVar

import numpy as np
import pytest
import torch

from espnet_mtla import Speech2Text
from test.tiny_experiment import FS

Job = TypeVar("Job")
Result = TypeVar("Result")
THREADS = 4
SOUNDS = 6
ROUNDS = 3


@pytest.fixture(autouse=True)
def interleaved() -> Iterator[None]:
    """Let Python change threads at nearly every instruction, torch use one thread."""
    interval, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    sys.setswitchinterval(interval)


def in_threads(
    work: Callable[[Job], Result], jobs: Sequence[Job], rounds: int = ROUNDS
) -> list[list[Result]]:
    """``work`` of all jobs in each of :data:`THREADS`, which begin at the same time.

    Each thread starts at another job, so that different ones run beside each other.
    """
    barrier = threading.Barrier(THREADS)

    def turn(thread: int) -> list[Result]:
        results: dict[int, Result] = {}
        for count in range(rounds * len(jobs)):
            place = (count + thread) % len(jobs)
            barrier.wait(timeout=60)
            results[place] = work(jobs[place])
        return [results[place] for place in range(len(jobs))]

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(turn, thread) for thread in range(THREADS)]
        for future in futures:
            if (error := future.exception()) is not None:
                barrier.abort()
                raise error
        return [future.result() for future in futures]


def sounds() -> list[np.ndarray]:
    """Noise of different lengths and colours, so that no two texts are the same."""
    generator = np.random.default_rng(3)
    made = []
    for number in range(SOUNDS):
        samples = generator.normal(0, 0.1, int((0.4 + 0.17 * number) * FS))
        samples[: len(samples) // 2].cumsum(out=samples[: len(samples) // 2])
        made.append(np.clip(samples, -1, 1).astype(np.float32))
    return made


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_texts_scores_and_times_are_those_of_one_thread(
    model, beam: int, ctc_weight: float
) -> None:
    speech2text = Speech2Text.from_pretrained(
        model,
        device="cpu",
        beam_size=beam,
        nbest=beam,
        ctc_weight=ctc_weight,
        min_length_ratio=0.15,
    )

    def transcribe(samples: np.ndarray) -> tuple[object, ...]:
        transcript = speech2text(samples, FS, timestamps=True)
        assert not isinstance(transcript, list)
        return astuple(transcript)

    jobs = sounds()
    alone = [transcribe(samples) for samples in jobs]
    assert len({result[2] for result in alone}) > SOUNDS // 2, "texts that tell nothing"
    for results in in_threads(transcribe, jobs):
        assert results == alone
