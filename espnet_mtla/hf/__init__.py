"""MTLA in Hugging Face Transformers: configuration, models, cache.

Importing this package registers the classes, so that ``AutoConfig``, ``AutoModel`` and
``AutoModelForCausalLM`` load them. Needs torch and transformers alone.

A name that is not there is one line at once from our own classes. The Auto classes ask
for its configuration first, and try again for a minute where the hub cannot be reached:
``HF_HUB_OFFLINE=1`` spares that.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from espnet_mtla.hf.versions import check_transformers

check_transformers()  # before the imports that an older version could not serve

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
# By these names the pipelines know what a model does, and the Trainer's label smoothing
# that a label is that of the token before.
_KIND = LlamaMTLAConfig.model_type
MODEL_MAPPING_NAMES[_KIND] = LlamaMTLAModel.__name__
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[_KIND] = LlamaMTLAForCausalLM.__name__

__all__ = [
    "LlamaMTLAConfig",
    "LlamaMTLAForCausalLM",
    "LlamaMTLAModel",
    "LlamaMTLAPreTrainedModel",
    "TemporalLatentCache",
]
