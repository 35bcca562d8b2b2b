"""Folders of published models, for tests marked ``real_weights``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "ESPNET_MTLA_TEST_MODELS"


def real_weights(name: str) -> str:
    """Return the folder of a published model; skip the test if it is not there.

    The environment variable names a folder that holds folders in the form of
    Transformers, such as ``whisper-base`` and ``smollm2-135m``.
    """
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip(f"{VARIABLE} names no folder of models")
    if not (Path(folder) / name).is_dir():
        pytest.skip(f"{VARIABLE}: {folder} has no folder {name}")
    return str(Path(folder) / name)
