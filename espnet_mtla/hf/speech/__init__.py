"""A trained recipe model in Transformers: configuration, model, processor, pipeline.

Importing this package registers the classes, so that the Auto classes and
``pipeline("automatic-speech-recognition")`` know them. Nothing is computed here that
the recipes do not compute: front-end, encoder, decoder and search are theirs.
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

_KIND = MTLASpeechConfig.model_type
AutoConfig.register(_KIND, MTLASpeechConfig, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(
    MTLASpeechConfig, MTLAForSpeechSeq2Seq, exist_ok=True
)
AutoTokenizer.register(MTLASpeechConfig, MTLASpeechTokenizer, exist_ok=True)
AutoProcessor.register(MTLASpeechConfig, MTLASpeechProcessor, exist_ok=True)
# By this name the pipeline knows that a model writes text and is no CTC.
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES[_KIND] = MTLAForSpeechSeq2Seq.__name__

__all__ = [
    "MTLAForSpeechSeq2Seq",
    "MTLASpeechConfig",
    "MTLASpeechProcessor",
    "MTLASpeechTokenizer",
]
