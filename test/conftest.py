"""For all tests: the longest first, Triton set up before its import, a tiny model.

Where there is no GPU, Triton's kernels run in its interpreter, on the CPU. That is
settled when a kernel is defined, and for Triton's own functions when it is imported, so
it is set here, before any test module is read.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

pytest.register_assert_rewrite("test.support")

if TYPE_CHECKING:
    from espnet_mtla import Speech2Text

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _mend_the_interpreter() -> None:
    """Correct two errors of Triton's interpreter (3.6 and older).

    Loop bounds are arrays of one number, which NumPy 2.4 no longer takes for integers.
    And a product of bfloat16 tiles, which are kept as bits, multiplies the bits.
    """
    import numpy as np
    from triton import language as tl
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor
    dot = interpreter.InterpreterBuilder.create_dot

    def as_index(self: object) -> int:
        return self.handle.data.item()

    def patch(tensor: type, *scope: object) -> None:
        patch_tensor(tensor, *scope)
        if scope:
            scope[0].set_attr(tensor, "__index__", as_index)
        else:  # Triton 3.3, of PyTorch 2.7
            tensor.__index__ = as_index

    def widened(tile: object) -> object:
        if tile.dtype.scalar != tl.bfloat16:
            return tile
        numbers = (tile.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, tl.float32)

    def create_dot(self: object, a: object, b: object, *rest: object) -> object:
        return dot(self, widened(a), widened(b), *rest)

    interpreter._patch_lang_tensor = patch
    interpreter.InterpreterBuilder.create_dot = create_dot


if os.environ.get("TRITON_INTERPRET") == "1":
    _mend_the_interpreter()


def pytest_configure() -> None:
    """No property test is a timed one: a busy machine is no failure."""
    if find_spec("hypothesis"):  # a machine for test/gpu may have torch alone
        from hypothesis import settings

        settings.register_profile("untimed", deadline=None)
        settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start tests of recipes first: they take minutes."""
    items.sort(key=lambda item: item.get_closest_marker("recipe") is None)


# What they need is imported when they are used: torch may be all there is.


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an experiment folder; tests must not write to it."""
    from test.support.tiny_experiment import make_model

    return make_model(tmp_path_factory.mktemp("model") / "asr_tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound for it, as a data folder."""
    from test.support.tiny_experiment import make_data

    return make_data(tmp_path_factory.mktemp("data") / "test")


@pytest.fixture(scope="session")
def speech2text(model: Path) -> Speech2Text:
    """The model as one call, which finds several texts for a sound."""
    from espnet_mtla import Speech2Text

    return Speech2Text.from_pretrained(
        model, device="cpu", beam_size=3, nbest=2, min_length_ratio=0.15
    )
