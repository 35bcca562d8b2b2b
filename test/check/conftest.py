import sys
from pathlib import Path

import pytest

# The tiny model and its sound are those of the commands' tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "bin"))
from tiny_experiment import make_data, make_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("check") / "asr_tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("check_data") / "test")


@pytest.fixture(scope="session")
def prover(model, data):
    import torch

    from espnet_mtla.check.prove import Prover
    from espnet_mtla.recognise.load import load_model
    from espnet_mtla.recognise.utterances import list_utterances, load_sound
    from espnet_mtla.search.options import DecodeOptions

    options = DecodeOptions(beam_size=3, nbest=2, min_length_ratio=0.15)
    trained = load_model(model, torch.device("cpu"), options)
    utterances = list_utterances(data, trained.fs)[:4]
    sounds = [load_sound(utterance, trained.fs) for utterance in utterances]
    return Prover(trained, options, sounds, batch_size=3)
