"""Checkpoints of the published models' form, with a few thousand random parameters."""

from __future__ import annotations

from pathlib import Path

import torch

CONVOLUTIONS = [(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2


def make_wavlm(path: Path, normalize: bool = True) -> Path:
    """``wavlm_local``: WavLM-large's form, two layers of 16."""
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    settings = {
        "extractor_mode": "layer_norm" if normalize else "default",
        "encoder_layers": 2,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24,
        "encoder_attention_heads": 2,
        "layer_norm_first": normalize,
        "conv_feature_layers": str(CONVOLUTIONS),
        "normalize": normalize,
        "conv_pos": 8,
        "conv_pos_groups": 4,
        "relative_position_embedding": True,
        "num_buckets": 32,
        "max_distance": 80,
        "gru_rel_pos": True,
    }
    torch.manual_seed(3)
    model = WavLM(WavLMConfig(settings))
    torch.save({"cfg": settings, "model": model.state_dict()}, path)
    return path


def make_transformers(folder: Path, kind: str = "hubert") -> Path:
    """``hf_hubert_custom`` or ``hf_wav2vec2_custom``: two layers of 16."""
    import transformers

    config, model = {
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
    }[kind]
    torch.manual_seed(4)
    settings = config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=[channels for channels, _, _ in CONVOLUTIONS],
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
    )
    model(settings).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder
