"""Half precision of a speech model: its decoder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from espnet_mtla.decoder.transformer import DecoderOnlyTransformer

HALF = (torch.float16, torch.bfloat16)


class HalfPrecisionDecoder(nn.Module):
    """Convert only the decoder to half precision, as ``from_pretrained`` does.

    Front-end, encoder, projector and CTC stay in single precision or higher: energies
    span more decades than half precision resolves, and torch has no Fourier transform
    for it on a CPU.
    """

    if TYPE_CHECKING:

        @property
        def _decoder(self) -> DecoderOnlyTransformer: ...

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move and convert as torch does; half precision is for the decoder alone."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype not in HALF:
            return super().to(*args, **kwargs)
        if device is not None:
            super().to(device)
        self._decoder.to(dtype)
        return self

    def half(self, *args: Any) -> Any:
        """Convert the decoder to float16."""
        del args
        return self.to(torch.float16)

    def bfloat16(self, *args: Any) -> Any:
        """Convert the decoder to bfloat16."""
        del args
        return self.to(torch.bfloat16)
