"""A model of a few thousand random parameters, and sound for it."""

import numpy as np
import soundfile
import torch
import yaml

FS = 8000
TOKENS = ["<blank>", "<unk>", "<space>", *"abcdefg", "<sos/eos>"]
SECONDS = [0.9, 0.31, 1.4, 0.55, 0.72, 0.4]
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}


def make_model(
    folder, ctc_weight=0.3, attention="mtla", attention_conf=None, **changes
):
    """Write config.yaml and model.pth; random parameters, sharp outputs.

    ``changes`` are options beside or instead of those below.
    """
    from espnet_mtla.task.asr import ASRTask

    if attention_conf is None:
        attention_conf = {**LATENT, "v_head_dim": 8}
    config = {
        "token_list": TOKENS,
        "token_type": "char",
        "bpemodel": None,
        "non_linguistic_symbols": None,
        "input_size": None,
        "frontend": "default",
        "frontend_conf": {
            "fs": FS,
            "n_fft": 256,
            "win_length": 200,
            "hop_length": 80,
            "n_mels": 20,
        },
        "specaug": None,
        "specaug_conf": {},
        "normalize": "utterance_mvn",
        "normalize_conf": {},
        "encoder": "conformer",
        "encoder_conf": {
            "output_size": 16,
            "attention_heads": 2,
            "linear_units": 32,
            "num_blocks": 1,
            "cnn_module_kernel": 3,
        },
        "projector_conf": {"stack": 1},
        "decoder_conf": {
            "embed_dim": 32,
            "num_layers": 2,
            "num_heads": 4,
            "ffn_dim": 48,
            "attention": attention,
            "attention_conf": attention_conf,
        },
        "ctc_conf": {},
        "model_conf": {"ctc_weight": ctc_weight},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(5)
    model, args = ASRTask.build_model_from_file(folder / "config.yaml")
    # As training does: it writes what building has completed.
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    with torch.no_grad():
        if model.decoder is not None:
            model.decoder.output.weight.mul_(6.0)
        if model.ctc is not None:
            model.ctc.ctc_lo.weight.mul_(4.0)
    torch.save(model.state_dict(), folder / "model.pth")
    return folder


def make_text_model(folder):
    """As :func:`make_model`, one that takes texts: the table ``text.source``."""
    from espnet_mtla.model.build import load_model

    nothing = dict.fromkeys(("frontend", "specaug", "normalize", "encoder"))
    nothing |= {f"{name}_conf": {} for name in nothing}
    nothing |= {"bpemodel": None, "non_linguistic_symbols": None, "input_size": None}
    sizes = {"embed_dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
    config = {
        **{"task": "sum", "source_text": "text.source", **nothing},
        "token_list": [token for token in TOKENS if token != "<space>"],
        "token_type": "word",
        **{"model_conf": {}, "ctc_conf": {}, "projector_conf": {}},
        "decoder_conf": {**sizes, "prompt_mode": "recompute"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    model, _ = load_model(folder / "config.yaml")
    torch.save(model.state_dict(), folder / "model.pth")
    return folder


def make_lm(folder, tokens=TOKENS, token_type="char", attention="mtla"):
    """As :func:`make_model`, a language model over the same tokens."""
    from espnet_mtla.model.build import load_model

    nothing = dict.fromkeys(("frontend", "specaug", "normalize", "encoder"))
    nothing |= {f"{name}_conf": {} for name in nothing}
    nothing |= {"bpemodel": None, "non_linguistic_symbols": None, "input_size": None}
    sizes = {"embed_dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
    config = {
        **{"task": "lm", "source_text": "", **nothing},
        **{"token_list": list(tokens), "token_type": token_type},
        **{"model_conf": {}, "ctc_conf": {}, "projector_conf": {}},
        "decoder_conf": {**sizes, "attention": attention},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(8)
    model, _ = load_model(folder / "config.yaml")
    with torch.no_grad():
        model.decoder.output.weight.mul_(6.0)
    torch.save(model.state_dict(), folder / "model.pth")
    return folder


def make_texts(folder):
    """A data folder of texts alone."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = "d1 a b c d e f g\nd2 a a b\nd3 c a b d e\n"
    (folder / "text.source").write_text(texts)
    return folder


def make_data(folder, fs=FS, seconds=SECONDS):
    """A data folder of noise that changes its colour, keys not in order of length."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    lines = []
    for number, length in enumerate(seconds):
        samples = generator.normal(0, 0.1, int(length * fs)).astype(np.float32)
        samples[: len(samples) // 2].cumsum(out=samples[: len(samples) // 2])
        path = folder / f"u{number}.wav"
        soundfile.write(path, np.clip(samples, -1, 1), fs, subtype="FLOAT")
        lines.append(f"u{number} {path}\n")
    (folder / "wav.scp").write_text("".join(lines))
    return folder
