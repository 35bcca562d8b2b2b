import sys
from pathlib import Path

import pytest

# The tiny model and its sound are those of the commands' tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "bin"))
from tiny_experiment import make_data, make_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("plot") / "asr_tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("plot_data") / "test")


@pytest.fixture(scope="session")
def speech2text(model):
    from espnet_mtla import Speech2Text

    return Speech2Text.from_pretrained(
        model, device="cpu", beam_size=3, nbest=2, min_length_ratio=0.15
    )
