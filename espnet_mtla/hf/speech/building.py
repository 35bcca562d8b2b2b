"""Build a recipe's model inside ``from_pretrained`` without losing its constants."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from espnet_mtla.hf.speech.configuration import MTLASpeechConfig
from espnet_mtla.tensor_modes import float32_default

if TYPE_CHECKING:
    from espnet_mtla.model.speech import DecoderOnlySpeechModel

_REGISTER = nn.Module.register_parameter
"""torch's own method: Transformers 4 replaces it while it loads a model."""


def build(config: MTLASpeechConfig) -> DecoderOnlySpeechModel:
    """Build the recipe's model on the CPU, with initial parameters."""
    from espnet_mtla.model.bounds import bounded_by_memory
    from espnet_mtla.model.build import build_model

    args = Namespace(**config.recipe)
    args.token_list = list(config.tokens)
    with on_the_cpu(), bounded_by_memory("the configuration"):
        return build_model(args, weights_follow=True)


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Build modules on the CPU in single precision, also inside ``from_pretrained``.

    ``from_pretrained`` builds on the meta device with the requested dtype as default;
    Transformers 4 moves each parameter when a module registers it. On the meta device
    the constant tensors of espnet2's modules and the weights of a frozen upstream,
    which are computed or loaded only here, would be lost.
    """
    # Transformers 4 assigns to this method, too.
    patched = nn.Module.register_parameter
    nn.Module.register_parameter = _REGISTER  # type: ignore[method-assign]
    try:
        with torch.device("cpu"), float32_default():
            yield
    finally:
        nn.Module.register_parameter = patched  # type: ignore[method-assign]


def non_persistent_buffers(model: nn.Module) -> dict[nn.Module, dict[str, Tensor]]:
    """Return copies of the buffers that checkpoints do not hold, by module and name."""
    return {
        module: {name: getattr(module, name).clone() for name in names}
        for module in model.modules()
        if (names := module._non_persistent_buffers_set)
    }
