"""Alias of :mod:`espnet_mtla.hf.speech`, its name up to version 0.2."""

from espnet_mtla.hf.speech import *  # noqa: F403
from espnet_mtla.hf.speech import __all__ as __all__
