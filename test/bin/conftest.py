import sys

import pytest


@pytest.fixture
def command(monkeypatch):
    def call(module, **options):
        words = []
        for name, value in options.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        monkeypatch.setattr(sys, "argv", ["command", *words])
        module.main()

    return call
