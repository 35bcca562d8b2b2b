"""A trained recipe model in Transformers: configuration, model, processor, pipeline.

Importing this package registers the classes with the Auto classes and
``pipeline("automatic-speech-recognition")``. The classes are adapters: front-end,
encoder, decoder and search are those of the recipes.
"""

from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from espnet_mtla.hf.speech.configuration import MTLASpeechConfig
from espnet_mtla.hf.speech.modeling import MTLAForSpeechSeq2Seq
from espnet_mtla.hf.speech.processing import MTLASpeechProcessor, MTLASpeechTokenizer

_MODEL_TYPE = MTLASpeechConfig.model_type
AutoConfig.register(_MODEL_TYPE, MTLASpeechConfig, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(
    MTLASpeechConfig, MTLAForSpeechSeq2Seq, exist_ok=True
)
AutoTokenizer.register(MTLASpeechConfig, MTLASpeechTokenizer, exist_ok=True)
AutoProcessor.register(MTLASpeechConfig, MTLASpeechProcessor, exist_ok=True)
# The pipeline looks here to tell a model that generates text from one of CTC.
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES[_MODEL_TYPE] = MTLAForSpeechSeq2Seq.__name__

__all__ = [
    "MTLAForSpeechSeq2Seq",
    "MTLASpeechConfig",
    "MTLASpeechProcessor",
    "MTLASpeechTokenizer",
]
