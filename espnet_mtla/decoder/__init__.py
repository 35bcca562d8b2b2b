"""The decoder-only Transformer and its step-by-step state. Needs torch alone."""

from espnet_mtla.decoder.config import DecoderConfig
from espnet_mtla.decoder.state import DecoderState
from espnet_mtla.decoder.transformer import DecoderOnlyTransformer

__all__ = ["DecoderConfig", "DecoderOnlyTransformer", "DecoderState"]
