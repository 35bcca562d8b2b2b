"""Folders of pretrained encoders as Transformers writes them, small and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WINDOW = 2
"""Seconds that the tiny Whisper takes at once, instead of 30."""
_LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
_CONVOLUTIONS = {
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2_base": ("Wav2Vec2", _LAYERS | _CONVOLUTIONS),
    "wav2vec2_large": ("Wav2Vec2", _LAYERS | _CONVOLUTIONS | _LAYER_NORM),
    "hubert_base": ("Hubert", _LAYERS | _CONVOLUTIONS),
    "hubert_batch_norm": (
        "Hubert",
        _LAYERS | _CONVOLUTIONS | {"conv_pos_batch_norm": True},
    ),
    "wavlm_base": ("WavLM", _LAYERS | _CONVOLUTIONS),
    "wavlm_large": ("WavLM", _LAYERS | _CONVOLUTIONS | _LAYER_NORM),
    "w2v_bert": ("Wav2Vec2Bert", _LAYERS | {"feature_projection_input_dim": 160}),
    "w2v_bert_rotary": (
        "Wav2Vec2Bert",
        _LAYERS
        | {"feature_projection_input_dim": 160, "position_embeddings_type": "rotary"},
    ),
}
"""Names of the published models' forms: Transformers' prefix, and settings."""
NAMES = ("whisper", *FORMS)


def make_encoder(folder: Path, name: str, **changes: Any) -> Path:
    """Write a random model of a form, with its feature extractor."""
    if name == "whisper":
        return make_whisper(folder, **changes)
    import transformers

    prefix, settings = FORMS[name]
    torch.manual_seed(5)
    config = getattr(transformers, f"{prefix}Config")(**settings | changes)
    model = getattr(transformers, f"{prefix}Model")(config)
    _spread(model)
    model.save_pretrained(folder)
    if prefix == "Wav2Vec2Bert":
        extractor: Any = transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(folder)
    return folder


def make_whisper(folder: Path, mels: int = 80, **changes: Any) -> Path:
    """Write a random Whisper with its decoder, for windows of 2 s."""
    import transformers

    torch.manual_seed(6)
    settings = {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "vocab_size": 30,
        "max_source_positions": WINDOW * 50,
        "max_target_positions": 8,
        "num_mel_bins": mels,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
    }
    config = transformers.WhisperConfig(**settings | changes)
    model = transformers.WhisperForConditionalGeneration(config)
    _spread(model)
    model.save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(mels, chunk_length=WINDOW)
    extractor.save_pretrained(folder)
    return folder


@torch.no_grad()
def _spread(model: torch.nn.Module) -> None:
    """Make biases and statistics other than 0 and 1, which would hide mistakes."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point():
            noise = 0.2 * torch.rand_like(value)
            value.add_(noise if name.endswith("var") else noise - 0.1)


def noise(lengths: list[int], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples (B, L) with NaN after each row's end, and the lengths (B,)."""
    generator = torch.Generator().manual_seed(seed)
    speech = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    for row, length in zip(speech, lengths, strict=True):
        row[length:] = torch.nan
    return speech, torch.tensor(lengths)
