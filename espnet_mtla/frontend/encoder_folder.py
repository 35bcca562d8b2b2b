"""Build a pretrained encoder from its folder, load its weights, and write it again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.checkpoint import (
    CONFIG,
    EXTRACTORS,
    SAFE,
    extractor_settings,
    find_folder,
    read_config,
    read_tensors,
)
from espnet_mtla.frontend.encoders import (
    PretrainedEncoder,
    Wav2Vec2BertEncoder,
    Wav2Vec2Encoder,
    WhisperEncoder,
)
from espnet_mtla.tensor_modes import float32_default

ENCODERS: dict[str, type[PretrainedEncoder]] = {
    "whisper": WhisperEncoder,
    "wavlm": Wav2Vec2Encoder,
    "hubert": Wav2Vec2Encoder,
    "wav2vec2": Wav2Vec2Encoder,
    "wav2vec2-bert": Wav2Vec2BertEncoder,
}
"""Encoders by the ``model_type`` of ``config.json``."""
# Layers that are left out and frames that are masked at random would change the hidden
# states from call to call. An adapter follows the encoder and changes none of them.
_OFF = {
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "add_adapter": False,
    "use_intermediate_ffn_before_adapter": False,
}
# Tensors of what is switched off.
_UNUSED = ("masked_spec_embed", "adapter.", "intermediate_ffn.")
_OTHER = "the checkpoint is not of its config.json"


def load_encoder(folder: Path, keep_padding: bool = False) -> PretrainedEncoder:
    """Build the encoder of a folder in single precision on the CPU, and load it.

    Args:
        folder: as Transformers writes it; may hold a whole model, such as Whisper with
            its decoder.
        keep_padding: see :class:`WhisperEncoder`.

    Raises:
        UserError: the folder lacks a file, or holds no speech encoder.
    """
    encoder = build_encoder(folder, keep_padding)
    missing = encoder.model.state_dict()
    with torch.no_grad():
        for name, tensor in encoder_tensors(folder, type(encoder)).items():
            if name not in missing:
                raise UserError(f"model: {folder}: unexpected weights {name}; {_OTHER}")
            target = missing.pop(name)
            if target.shape != tensor.shape:
                raise UserError(
                    f"model: {folder}: weights {name} of shape {tuple(tensor.shape)}, "
                    f"and config.json says {tuple(target.shape)}"
                )
            target.copy_(tensor)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"model: {folder}: no weights {min(missing)}{more}; {_OTHER}")
    return encoder


def encoder_tensors(folder: Path, kind: type[PretrainedEncoder]) -> dict[str, Tensor]:
    """Read an encoder's tensors from a folder, and no others."""

    def choose(names: set[str]) -> dict[str, str]:
        prefix = next(
            (p for p in kind.prefixes if any(name.startswith(p) for name in names)), ""
        )
        inner = {name: name.removeprefix(prefix) for name in names}
        return {
            name: _weight_norm(inner[name])
            for name in names
            if name.startswith(prefix) and not inner[name].startswith(_UNUSED)
        }

    return dict(read_tensors(folder, choose))


def _weight_norm(name: str) -> str:
    """Return the present name of a tensor of weight normalisation.

    >>> _weight_norm("conv.weight_g")
    'conv.parametrizations.weight.original0'
    """
    for number, ending in enumerate(("weight_g", "weight_v")):
        if name.endswith(ending):
            stem = name.removesuffix(ending)
            return f"{stem}parametrizations.weight.original{number}"
    return name


def encoder_type(folder: Path) -> type[PretrainedEncoder]:
    """Return the class of a folder's encoder.

    Raises:
        UserError: the folder has no configuration, or that of another model.
    """
    name = read_config(folder).get("model_type")
    if name not in ENCODERS:
        raise UserError(
            f"model: {folder}: a model of type {name!r} is no speech encoder; valid: "
            f"{', '.join(ENCODERS)}"
        )
    return ENCODERS[name]


def build_encoder(folder: Path, keep_padding: bool = False) -> PretrainedEncoder:
    """Build the encoder of a folder with random weights; those in it are not read.

    Args: see :func:`load_encoder`.

    Raises:
        UserError: the folder lacks a configuration, or holds no speech encoder.
    """
    try:
        import huggingface_hub.errors
        import transformers
    except ModuleNotFoundError:
        raise UserError(
            "frontend transformers: not installed; pip install 'espnet-mtla[hf]'"
        ) from None
    kind = encoder_type(folder)
    extractor = _build_extractor(folder, kind)
    # The class of wrong types in a configuration, since Transformers 5.
    wrong_type = getattr(huggingface_hub.errors, "StrictDataclassError", TypeError)
    try:
        config = transformers.AutoConfig.for_model(**read_config(folder))
        for key, value in _OFF.items():
            if hasattr(config, key):
                setattr(config, key, value)
        # The weights are replaced: the caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), float32_default():
            return kind(config, extractor, keep_padding).eval()
    except UserError:
        raise
    except (wrong_type, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model: {folder / CONFIG}: {reason}") from None


def _build_extractor(folder: Path, kind: type[PretrainedEncoder]) -> Any:
    """Return the feature extractor of a folder; it has to be the encoder's."""
    import transformers

    settings = extractor_settings(folder)
    name = settings.get("feature_extractor_type", kind.extractor_name)
    if name != kind.extractor_name:
        raise UserError(
            f"model: {folder}: feature extractor {name}, and the model takes "
            f"{kind.extractor_name}; take both from one checkpoint"
        )
    return getattr(transformers, name).from_dict(settings)


def encoder_digest(model: str) -> str:
    """Return a hash of an encoder's weights and settings.

    It is the same for a whole model, and for the folder that :func:`export_encoder`
    makes of it.

    Args:
        model: folder, or name on the hub.
    """
    folder = find_folder(model)
    whole = hashlib.sha256()
    settings = (read_config(folder), extractor_settings(folder))
    whole.update(json.dumps(settings, sort_keys=True).encode())
    tensors = encoder_tensors(folder, encoder_type(folder))
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def export_encoder(model: str, target: Path, weights: bool = True) -> None:
    """Write a folder with the encoder alone: safetensors and the JSON files.

    Args:
        model: folder, or name on the hub; may be a whole model, or a pickle of tensors.
        target: folder to write.
        weights: False writes the JSON files alone.
    """
    folder = find_folder(model)
    if folder.resolve() == target.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    if weights:
        _write_weights(folder, target / SAFE)
    for name in (CONFIG, *EXTRACTORS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _write_weights(folder: Path, target: Path) -> None:
    from safetensors.torch import save_file

    tensors = encoder_tensors(folder, encoder_type(folder))
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, target, metadata={"format": "pt"})
