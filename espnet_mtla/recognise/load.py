"""A trained model and what using it needs: device, sampling rate, tokens to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import FRAMES_PER_SECOND
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    import torch

    from espnet_mtla.model.base import DecoderOnlyModel


@dataclass(frozen=True)
class TrainedModel:
    """``fs`` is what the front-end was built for, in Hz.

    Without front-end (None) the model takes features alone, and ``fs`` is how many
    frames a second they are taken to have. A model of text has ``read_source``, which
    turns a text of table ``source_text`` into token ids; its unit of time is a token
    and ``fs`` is 1. ``word_starts (V,)`` tells which tokens begin a word.
    """

    model: DecoderOnlyModel
    device: torch.device
    fs: int
    to_text: Callable[[Sequence[str]], str]
    word_starts: torch.Tensor
    frontend: str | None = "default"
    frontend_conf: Mapping[str, object] = field(default_factory=dict)
    source_text: str = ""
    read_source: Callable[[str], list[int]] | None = None


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

    from espnet_mtla.data.token_list import build_tokeniser, word_starts
    from espnet_mtla.model import build
    from espnet_mtla.model.batch import Preprocess
    from espnet_mtla.model.components import sampling_rate

    if not folder.is_dir():
        raise UserError(f"--model_dir {folder}: no such folder")
    packed, file = folder / "model.safetensors", folder / "model.pth"
    if packed.is_file():
        file = packed
    if not file.is_file():
        raise UserError(
            f"{file}: no such file; python -m espnet_mtla.bin.average makes it "
            "from the checkpoints of training"
        )
    model, args = build.load_model(folder / "config.yaml", file, device=str(device))
    if options.ctc_weight > 0 and model.ctc is None:
        raise UserError(
            f"ctc_weight {options.ctc_weight}: the model in {folder} has no CTC "
            "(trained with model_conf.ctc_weight 0); decode with ctc_weight 0"
        )
    source_text = getattr(args, "source_text", "")
    if options.ctc_weight > 0 and source_text:
        raise UserError(
            f"ctc_weight {options.ctc_weight}: the CTC of the model in {folder} tells "
            f"the words spoken ({source_text}), not the text; decode with ctc_weight 0"
        )
    if model.decoder is not None:
        model.decoder.to(getattr(torch, options.dtype))
    tokeniser = build_tokeniser(
        args.token_type, args.bpemodel, args.non_linguistic_symbols
    )
    starts = torch.tensor(word_starts(args.token_list, args.token_type))
    if getattr(args, "task", "asr") == "sum":
        return TrainedModel(
            *(model.eval(), device, 1, tokeniser.tokens2text, starts),
            frontend=None,
            source_text=source_text,
            read_source=Preprocess(args).token_ids,
        )
    frontend = None if args.frontend in (None, "none") else args.frontend
    return TrainedModel(
        model.eval(),
        device,
        sampling_rate(args) if frontend else FRAMES_PER_SECOND,
        tokeniser.tokens2text,
        starts,
        frontend,
        args.frontend_conf,
    )
