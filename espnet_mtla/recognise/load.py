"""A trained model and what using it takes: device, sampling rate, tokens to text."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import FRAMES_PER_SECOND
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.settings.checks import require
from espnet_mtla.settings.names import CONFIG

if TYPE_CHECKING:
    import torch

    from espnet_mtla.model.base import DecoderOnlyModel, Unit
    from espnet_mtla.recognise.fusion import Fusion


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode, and what its input and its output mean.

    Attributes:
        fs: samples in a unit of time. Of a model without front-end, which takes
            features, these are frames a second; of a model of text, 1.
        to_text: turns tokens into text.
        word_starts: ``(V,)``, true at tokens that begin a word.
        frontend: name of the front-end; None: the model takes features, or text.
        task: ``asr``, ``st``, ``slu`` or ``sum``.
        source_text: table of the texts that CTC was trained on or, of a model of text,
            that it reads; empty if there is none.
        read_source: of a model of text: turns a source text into token ids.
        token_ids: turns a text to write into token ids; None: there is no tokeniser.
        trained_seconds: usual length of an utterance in training, if it is known.
        fusions: language models and hotwords, by the options that named them.
    """

    model: DecoderOnlyModel
    device: torch.device
    fs: int
    to_text: Callable[[Sequence[str]], str]
    word_starts: torch.Tensor
    frontend: str | None = "default"
    frontend_conf: Mapping[str, object] = field(default_factory=dict)
    task: str = "asr"
    source_text: str = ""
    read_source: Callable[[str], list[int]] | None = None
    token_ids: Callable[[str], list[int]] | None = None
    trained_seconds: float | None = None
    fusions: dict[object, Fusion] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def unit(self) -> Unit:
        """Unit in which the length of an input is counted."""
        return self.model.unit

    @classmethod
    def from_folder(
        cls, folder: Path, device: torch.device, options: DecodeOptions
    ) -> TrainedModel:
        """Load the model of an experiment folder or a packed folder for decoding.

        The decoder is converted to ``options.dtype``; all other parts stay float32.

        Raises:
            UserError: a file is missing or does not fit, or the model cannot decode
                with these options.
        """
        import torch

        from espnet_mtla.model import build
        from espnet_mtla.model.files import locate_weights

        weights = locate_weights(folder)
        model, args = build.load_model(folder / CONFIG, weights, device=str(device))
        trained = describe_model(model.eval(), args, device)
        try:
            trained.check_options(options)
            usual = trained_seconds(vars(args))
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        if model.decoder is not None:
            model.decoder.to(getattr(torch, options.dtype))
        return replace(trained, trained_seconds=usual)

    def check_options(self, options: DecodeOptions) -> None:
        """Require a CTC of the output text if the options use CTC scores.

        Raises:
            UserError: the model has no such CTC.
        """
        if options.ctc_weight == 0:
            return
        problem = None
        if self.model.ctc is None:
            problem = "the model has no CTC (trained with model_conf.ctc_weight 0)"
        elif self.source_text:
            problem = f"the model's CTC was trained on the table {self.source_text}, "
            problem += "not on the text that it writes"
        if problem is not None:
            raise UserError(
                f"ctc_weight {options.ctc_weight}: {problem}; decode with ctc_weight 0"
            )


def describe_model(
    model: DecoderOnlyModel, args: Namespace, device: torch.device
) -> TrainedModel:
    """Return ``model`` with what the options of its training say about its use.

    Args:
        model: the model, on ``device``.
        args: the options it was built from.
        device: where it computes.
    """
    import torch

    from espnet_mtla.data.token_list import word_starts
    from espnet_mtla.model.batch import Preprocess
    from espnet_mtla.model.components import sampling_rate

    task = getattr(args, "task", "asr")
    if task == "lm":
        raise UserError("a language model decodes nothing by itself: name it as --lm")
    prepare = Preprocess(args)
    frontend = None if args.frontend in (None, "none") else args.frontend
    fs = sampling_rate(args) if frontend else FRAMES_PER_SECOND
    return TrainedModel(
        model=model,
        device=device,
        fs=1 if task == "sum" else fs,
        to_text=prepare.tokeniser.tokens2text,
        word_starts=torch.tensor(word_starts(args.token_list, args.token_type)),
        frontend=frontend,
        frontend_conf=args.frontend_conf,
        task=task,
        source_text=getattr(args, "source_text", None) or "",
        read_source=prepare.token_ids if task == "sum" else None,
        token_ids=prepare.token_ids,
    )


def trained_seconds(settings: Mapping[str, Any]) -> float | None:
    """Return the usual length of the training's utterances, None if it is not known.

    Raises:
        UserError: the value in ``settings``, a model's configuration, is not a
            positive number.
    """
    value = settings.get("trained_seconds")
    if value is not None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        needed = "null, or a number of seconds, is"
        fine = number and 0 < value < math.inf
        require(fine, f"{CONFIG}: trained_seconds", value, needed)
    return value


def choose_device(name: str | int) -> torch.device:
    """Return the device to compute on.

    Args:
        name: ``auto`` (a GPU if there is one), a device as torch spells it, or, as the
            option ``--ngpu``, 0 for the CPU and 1 for a GPU.
    Raises:
        UserError: torch knows no such device, or has none here.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        name = int(available)
    shown, cpu = f"device {name}", "cpu"
    if isinstance(name, int):
        shown, cpu = f"--ngpu {name}", "--ngpu 0"
        name = "cuda" if name else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"device {name!r}: auto, cpu, cuda or cuda:1 and so on is needed"
        ) from None
    if device.type == "cuda" and not available:
        raise UserError(f"{shown}: torch sees no CUDA device here; use {cpu}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"{shown}: torch sees {torch.cuda.device_count()} CUDA devices here, "
            "counted from 0"
        )
    return device
