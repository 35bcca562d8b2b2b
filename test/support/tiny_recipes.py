"""Tiny models of every part that recipes choose from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from espnet_mtla.attention.registry import ATTENTIONS
from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq, MTLASpeechConfig
from test.support.all_tensors import tensors
from test.support.tiny_decoder import LLAMA_LAYERS
from test.support.tiny_experiment import FS, LATENT, TOKENS

DEFAULT = {"fs": FS, "n_fft": 256, "win_length": 200, "hop_length": 80, "n_mels": 20}
SIZES = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
CONFORMER = {**SIZES, "linear_units": 32, "cnn_module_kernel": 3}
PLAIN = {"encoder_conf": {**CONFORMER, "selfattention_layer_type": "selfattn"}}
BRANCHES = {"cgmlp_linear_units": 16, "cgmlp_conv_kernel": 3, "merge_conv_kernel": 3}


def encoder(name: str | None, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"encoder": name, "encoder_conf": {**settings, **more}}


def positions(name: str) -> dict[str, Any]:
    return encoder("conformer", PLAIN["encoder_conf"], pos_enc_layer_type=name)


RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fbank": {"frontend": "fbank", "frontend_conf": {"fs": FS, "n_mels": 20}},
    "utterance_mvn": {"normalize": "utterance_mvn"},
    "global_mvn": {"normalize": "global_mvn"},
    "fbank_global_mvn": {
        **{"frontend": "fbank", "frontend_conf": {"fs": FS, "n_mels": 13}},
        "normalize": "global_mvn",
    },
    "specaug": {
        "specaug": "specaug",
        "specaug_conf": {"apply_time_warp": False, "time_mask_width_range": [0, 4]},
    },
    "no_encoder": encoder(None, {}),
    "transformer": encoder("transformer", {**SIZES, "linear_units": 32}),
    "e_branchformer": encoder("e_branchformer", {**SIZES, **BRANCHES}),
    "abs_pos": positions("abs_pos"),
    "scaled_abs_pos": positions("scaled_abs_pos"),
    "tied": {"decoder_conf": {"tie_embeddings": True}},
    **{name: {"decoder_conf": {"attention": name}} for name in ATTENTIONS},
    "llama": {
        "decoder_conf": {
            **{"attention": "gqa", "tie_embeddings": True, **LLAMA_LAYERS},
            "attention_conf": {
                **{"qk_norm": True, "bias": True, "output_bias": False},
                "rope_frequencies": [0.9, 0.3, 0.1, 0.03],
            },
        },
    },
}


def tiny(
    frontend: str = "default",
    decode: dict[str, Any] | None = None,
    **changes: Any,
) -> MTLAForSpeechSeq2Seq:
    """A model as if trained: no weight, buffer or statistic has its first value."""
    decoder = dict(changes.pop("decoder_conf", {}))
    widths = (
        {**LATENT, "v_head_dim": 8}
        if decoder.get("attention", "mtla") in (*("mla", "mtla"),)
        else {}
    )
    sizes = {"embed_dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
    recipe = {
        **{"token_list": TOKENS, "token_type": "char", "input_size": None},
        **{"frontend": frontend, "frontend_conf": DEFAULT},
        **{"specaug": None, "specaug_conf": {}, "normalize": None},
        **{"normalize_conf": {}, **encoder("conformer", CONFORMER)},
        **{"projector_conf": {"stack": 1}, "ctc_conf": {}, "model_conf": {}},
        "decoder_conf": {**sizes, "attention_conf": widths, **decoder},
        **changes,
    }
    torch.manual_seed(5)
    decode = decode or {"beam_size": 2, "min_length_ratio": 0.15}
    model = MTLAForSpeechSeq2Seq(MTLASpeechConfig(recipe, TOKENS, decode, FS))
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
        model.speech.decoder.output.weight.mul_(4.0)
    return model.eval()


def noise(rows: int = 2, samples: int = 5000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(rows, samples, generator=generator)


def check_same(loaded: MTLAForSpeechSeq2Seq, model: MTLAForSpeechSeq2Seq) -> None:
    """The same tensors everywhere, and from them the same logits and the same text."""
    expected, found = dict(tensors(model)), dict(tensors(loaded))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    sound, tokens = noise(samples=20000), torch.tensor([[10, 3, 4], [10, 5, 6]])
    with torch.no_grad():
        logits = [m(sound, decoder_input_ids=tokens).logits for m in (loaded, model)]
    assert torch.isfinite(logits[0]).all()
    # Rounding: a transposed matrix is loaded as a contiguous one.
    bound = {"float64": 1e-9, "float32": 1e-4}.get(loaded.decoder_dtype(), 0.1)
    torch.testing.assert_close(*logits, rtol=0, atol=bound)
    if loaded.decoder_dtype() != "float64":
        assert torch.equal(loaded.generate(sound), model.generate(sound))
