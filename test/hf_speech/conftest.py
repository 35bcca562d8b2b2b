import sys
from pathlib import Path

import pytest

# The tiny model and its sound are those of the commands' tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "bin"))
from tiny_experiment import make_data, make_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf_speech") / "asr_tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("hf_speech_data") / "test")


@pytest.fixture(scope="session")
def packed(model, tmp_path_factory):
    """Of which ``generate`` finds texts of different lengths."""
    from espnet_mtla.search.options import DecodeOptions
    from espnet_mtla.share.card import Card
    from espnet_mtla.share.pack import pack

    folder = tmp_path_factory.mktemp("hf_packed") / "tiny"
    options = DecodeOptions(beam_size=3, min_length_ratio=0.15)
    pack(model, folder, options, Card("me/tiny"))
    return folder
