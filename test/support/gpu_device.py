"""The device of these tests, and the mark that skips them where there is none."""

from __future__ import annotations

import pytest
import torch

CUDA = torch.device("cuda")
NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch finds no CUDA device here"
    ),
]
