"""A model used by several threads gives each caller the results of a single caller."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_mtla import Speech2Text
from espnet_mtla.attention.training.kernel_choice import is_automatic, training_kernel
from espnet_mtla.quiet import quiet
from espnet_mtla.recognise.profile import Profile
from espnet_mtla.turns import Turns
from test.support.threads import in_threads, overlapped
from test.support.tiny_experiment import FS

SOUNDS = 6


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
    model: Path, beam: int, ctc_weight: float
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
    for results in in_threads(transcribe, jobs, rounds=2):
        assert results == alone


def test_seconds_of_all_threads_are_counted() -> None:
    from espnet_mtla.recognise.recogniser import Costs

    costs = Costs()
    in_threads(lambda seconds: costs.add_seconds(seconds, 1.0), [2.0] * 500)
    assert (costs.encoder_seconds, costs.search_seconds) == (4000.0, 2000.0)
    assert costs.wall_seconds == 6000.0


def test_loading_in_threads_leaves_the_screen_as_it_was(model: Path, capsys) -> None:
    """Also what other threads print meanwhile."""
    screen = sys.stdout
    both, done = threading.Barrier(2), threading.Barrier(2)

    def load() -> None:
        with quiet():
            both.wait(timeout=30)
            print("of a library")
            done.wait(timeout=30)

    thread = threading.Thread(target=load)
    thread.start()
    both.wait(timeout=30)
    print("of the caller")
    done.wait(timeout=30)
    thread.join()
    overlapped(quiet)
    assert sys.stdout is screen
    in_threads(lambda _: Speech2Text.from_pretrained(model, device="cpu"), [0])
    assert sys.stdout is screen
    assert capsys.readouterr().out == "of the caller\n"


def test_tokenisers_are_ready_before_threads_use_them(tmp_path: Path) -> None:
    import sentencepiece

    from espnet_mtla.data.token_list import build_tokeniser

    (tmp_path / "text").write_text("hello world, foo bar\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "bpe"),
        vocab_size=15,
        minloglevel=2,
    )
    tokeniser = build_tokeniser("bpe", tmp_path / "bpe.model")
    assert tokeniser.sp is not None  # what it would else read at its first call
    assert pickle.loads(pickle.dumps(tokeniser)).text2tokens("foo")


def test_a_kernel_that_is_asked_for_is_put_back() -> None:
    overlapped(lambda: training_kernel("blocked"))
    assert is_automatic()


def test_a_profile_counts_its_own_thread(speech2text: Speech2Text) -> None:
    profile, samples = Profile(torch.device("cpu")), sounds()[0]
    with profile.watching(speech2text.trained):
        speech2text(samples, FS)
        counted = dict(profile.calls)
        other = threading.Thread(target=speech2text, args=(samples, FS))
        other.start()
        other.join()
    assert profile.calls == counted and counted["encoder"] == 1


def test_a_copied_model_takes_its_own_turns() -> None:
    turns = Turns()
    assert copy.copy({"turns": turns})["turns"] is turns
    for other in (copy.deepcopy(turns), pickle.loads(pickle.dumps(turns))):
        assert isinstance(other, Turns) and other is not turns
