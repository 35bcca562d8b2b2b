"""A trained model and what using it needs: device, sampling rate, tokens to text."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    import torch

    from espnet_mtla.model.speech import DecoderOnlySpeechModel


@dataclass(frozen=True)
class TrainedModel:
    """``fs`` is what the front-end was built for, in Hz."""

    model: DecoderOnlySpeechModel
    device: torch.device
    fs: int
    to_text: Callable[[Sequence[str]], str]


def choose_device(ngpu: int) -> torch.device:
    """The CPU, or the first GPU that is visible.

    Raises:
        UserError: A GPU is asked for and there is none.
    """
    import torch

    if ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch sees no CUDA device here; use --ngpu 0")
    return torch.device("cuda" if ngpu else "cpu")


def load_model(
    folder: Path, device: torch.device, options: DecodeOptions
) -> TrainedModel:
    """Rebuild the model of an experiment folder for decoding.

    The decoder is converted to ``options.dtype``; everything before it stays float32.

    Raises:
        UserError: A file is missing or does not fit, or the options ask for a CTC that
            the model does not have.
    """
    import torch

    from espnet_mtla.task.asr import ASRTask
    from espnet_mtla.task.tokens import build_tokeniser

    if not folder.is_dir():
        raise UserError(f"--model_dir {folder}: no such folder")
    file = folder / "model.pth"
    if not file.is_file():
        raise UserError(
            f"{file}: no such file; python -m espnet_mtla.bin.average makes it "
            "from the checkpoints of training"
        )
    model, args = ASRTask.build_model_from_file(
        folder / "config.yaml", file, device=str(device)
    )
    if options.ctc_weight > 0 and model.ctc is None:
        raise UserError(
            f"ctc_weight {options.ctc_weight}: the model in {folder} has no CTC "
            "(trained with model_conf.ctc_weight 0); decode with ctc_weight 0"
        )
    if model.decoder is not None:
        model.decoder.to(getattr(torch, options.dtype))
    tokeniser = build_tokeniser(
        args.token_type, args.bpemodel, args.non_linguistic_symbols
    )
    fs = sampling_rate(args, folder)
    return TrainedModel(model.eval(), device, fs, tokeniser.tokens2text)


def sampling_rate(args: Namespace, folder: Path) -> int:
    """The front-end's ``fs`` in Hz, written as espnet takes it: 16000 or 16k."""
    if args.frontend in (None, "none"):
        raise UserError(
            f"{folder}: the model takes features (frontend none); this command reads "
            "sound"
        )
    text = str(args.frontend_conf.get("fs", 16000)).strip().lower()
    scale = 1000 if text.endswith("k") else 1
    return round(float(text.removesuffix("k")) * scale)
