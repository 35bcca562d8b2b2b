"""MTLA in Hugging Face Transformers: configuration, models, cache.

Importing this package registers the classes, so that ``AutoConfig``, ``AutoModel`` and
``AutoModelForCausalLM`` load them. Needs torch and transformers alone.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from espnet_mtla.hf.cache import TemporalLatentCache
from espnet_mtla.hf.configuration import LlamaMTLAConfig
from espnet_mtla.hf.modeling import (
    LlamaMTLAForCausalLM,
    LlamaMTLAModel,
    LlamaMTLAPreTrainedModel,
)

AutoConfig.register(LlamaMTLAConfig.model_type, LlamaMTLAConfig, exist_ok=True)
AutoModel.register(LlamaMTLAConfig, LlamaMTLAModel, exist_ok=True)
AutoModelForCausalLM.register(LlamaMTLAConfig, LlamaMTLAForCausalLM, exist_ok=True)

__all__ = [
    "LlamaMTLAConfig",
    "LlamaMTLAForCausalLM",
    "LlamaMTLAModel",
    "LlamaMTLAPreTrainedModel",
    "TemporalLatentCache",
]
