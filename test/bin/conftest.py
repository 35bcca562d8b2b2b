import sys

import pytest
from tiny_experiment import make_data, make_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("exp") / "asr_tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "test")


@pytest.fixture
def command(monkeypatch):
    def call(module, **options):
        words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
        monkeypatch.setattr(sys, "argv", ["command", *words])
        module.main()

    return call
