"""MTLA in Hugging Face Transformers: configuration, models, cache.

Importing this package registers the classes, so that ``AutoConfig``, ``AutoModel`` and
``AutoModelForCausalLM`` load them. It needs torch and transformers alone.

Our classes report a missing model at once, in one line. The Auto classes download the
configuration first, and retry for a minute if the hub cannot be reached; set
``HF_HUB_OFFLINE=1`` to prevent that.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from espnet_mtla.hf.versions import check_transformers

check_transformers()  # before imports that fail with an older version

# ruff: noqa: E402
from espnet_mtla.hf.llama.cache import TemporalLatentCache
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig
from espnet_mtla.hf.llama.modeling import (
    LlamaMTLAForCausalLM,
    LlamaMTLAModel,
    LlamaMTLAPreTrainedModel,
)

AutoConfig.register(LlamaMTLAConfig.model_type, LlamaMTLAConfig, exist_ok=True)
AutoModel.register(LlamaMTLAConfig, LlamaMTLAModel, exist_ok=True)
AutoModelForCausalLM.register(LlamaMTLAConfig, LlamaMTLAForCausalLM, exist_ok=True)
# Pipelines look up here what a model does; the Trainer's label smoothing looks up that
# labels are shifted by one token.
_MODEL_TYPE = LlamaMTLAConfig.model_type
MODEL_MAPPING_NAMES[_MODEL_TYPE] = LlamaMTLAModel.__name__
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[_MODEL_TYPE] = LlamaMTLAForCausalLM.__name__

__all__ = [
    "LlamaMTLAConfig",
    "LlamaMTLAForCausalLM",
    "LlamaMTLAModel",
    "LlamaMTLAPreTrainedModel",
    "TemporalLatentCache",
]
