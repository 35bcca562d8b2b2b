"""The components of a speech model by name, and the valid keys of their settings."""

from __future__ import annotations

import inspect
import tempfile
import zlib
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from torch import nn

from espnet_mtla.data.features import DAMAGED
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.espnet import unify_parameter_names
from espnet_mtla.lora import check_lora
from espnet_mtla.model.bounds import MOST_FRONTEND, check_sizes
from espnet_mtla.model.config import ModelConfig, ProjectorConfig, TextProjectorConfig
from espnet_mtla.model.decoders import check_decoder
from espnet_mtla.model.errors import config_errors
from espnet_mtla.settings.checks import require
from espnet_mtla.settings.choices import LazyChoices, setting_names
from espnet_mtla.settings.names import STATS
from espnet_mtla.settings.yaml_files import check_keys

if TYPE_CHECKING:
    from espnet2.asr.encoder.abs_encoder import AbsEncoder

FRONTEND = LazyChoices(
    "frontend",
    {
        "default": "espnet2.asr.frontend.default:DefaultFrontend",
        "fbank": "espnet_mtla.frontend.fbank:FbankFrontend",
        "s3prl": "espnet_mtla.frontend.s3prl:S3PRLFrontend",
        "transformers": "espnet_mtla.frontend.pretrained:TransformersFrontend",
    },
    "default",
)
SPECAUG = LazyChoices(
    "specaug", {"specaug": "espnet2.asr.specaug.specaug:SpecAug"}, None
)
NORMALIZE = LazyChoices(
    "normalize",
    {
        "global_mvn": "espnet2.layers.global_mvn:GlobalMVN",
        "utterance_mvn": "espnet_mtla.frontend.normalise:UtteranceMVN",
    },
    "utterance_mvn",
)
_ENCODERS = "espnet2.asr.encoder"
ENCODER = LazyChoices(
    "encoder",
    {
        "transformer": f"{_ENCODERS}.transformer_encoder:TransformerEncoder",
        "conformer": f"{_ENCODERS}.conformer_encoder:ConformerEncoder",
        "e_branchformer": f"{_ENCODERS}.e_branchformer_encoder:EBranchformerEncoder",
    },
    "conformer",
)
CHOICES = (FRONTEND, SPECAUG, NORMALIZE, ENCODER)
"""Components before the decoder, which a model of text lacks."""
SETTLED = ("weights_follow",)
"""Arguments of front-ends that are no settings."""
MOST_RATE = 1_000_000
"""Largest sampling rate in Hz."""
# Encoder options that make an utterance's output depend on the rest of its batch, or
# that change what the encoder returns.
_REFUSED = {
    "rel_pos_type": ("legacy", "depends on the batch's longest utterance; use latest"),
    "ctc_trim": (True, "is not supported"),
}


def build_part(choices: LazyChoices, args: Namespace, **settled: object) -> Any | None:
    """Build the front-end, SpecAug or normalisation that ``args`` choose, or None.

    Args:
        choices: the part and its choices.
        args: the options.
        settled: arguments of the constructor beside those in ``args``.
    """
    component = choices.get_class(getattr(args, choices.name))
    if component is None:
        return None
    section = f"{choices.name}_conf"
    settings = getattr(args, section)
    if choices is FRONTEND:
        check_sizes(section, settings, MOST_FRONTEND)
        sampling_rate(args)  # it is checked
    with config_errors(section):
        return component(**settings, **settled)


def build_frontend(args: Namespace, weights_follow: bool) -> Any | None:
    """Build the front-end that ``args`` choose, or return None.

    Args:
        args: the options.
        weights_follow: read no weights of a trained encoder, which the model's
            checkpoint contains.
    """
    if weights_follow and args.frontend == "transformers":
        return build_part(FRONTEND, args, **dict.fromkeys(SETTLED, True))
    return build_part(FRONTEND, args)


def sampling_rate(args: Namespace) -> int:
    """Return the sampling rate of the front-end's input, in Hz.

    Raises:
        UserError: it is not a number (or such as 16k), or there is no front-end.
    """
    import humanfriendly

    component = FRONTEND.get_class(args.frontend)
    if component is None:
        raise UserError("frontend: none has no sampling rate")
    default = inspect.signature(component).parameters["fs"].default
    fs = args.frontend_conf.get("fs", default)
    try:
        rate = humanfriendly.parse_size(str(fs))
    except humanfriendly.InvalidSize:
        raise UserError(f"frontend_conf.fs: {fs!r}: a rate such as 16000") from None
    require(
        1 <= rate <= MOST_RATE, "frontend_conf.fs", fs, "a rate of 1 Hz to 1 MHz is"
    )
    return rate


def build_normalize(
    args: Namespace, input_size: int, weights_follow: bool = False
) -> nn.Module | None:
    """Build the normalisation that ``args`` choose, or return None.

    Args:
        input_size: features per frame.
        weights_follow: read no statistics: loading the weights sets them.
    Raises:
        UserError: the statistics are missing, unreadable, or of another width.
    """
    import numpy as np

    if args.normalize == "global_mvn" and weights_follow:
        return _without_statistics(args, input_size)
    if args.normalize == "global_mvn":
        _check_statistics(args.normalize_conf.get("stats_file"))
    with np.errstate(all="ignore"):  # what is not finite is refused below
        layer = build_part(NORMALIZE, args)
    mean, std = (getattr(layer, name, None) for name in ("mean", "std"))
    if mean is not None and not (mean + std).isfinite().all():
        raise UserError(
            f"{args.normalize_conf['stats_file']}: statistics that are NaN or "
            "infinite; run espnet-mtla train --collect_stats again"
        )
    if mean is not None and mean.numel() != input_size:
        raise UserError(
            f"{args.normalize_conf['stats_file']}: statistics of {mean.numel()} "
            f"features, and there are {input_size}; run espnet-mtla train "
            "--collect_stats again"
        )
    return layer


def _without_statistics(args: Namespace, input_size: int) -> nn.Module:
    """Build ``global_mvn`` of mean 0 and variance 1; espnet2 reads them from a file."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / STATS)
        zeros, ones = np.zeros(input_size), np.ones(input_size)
        np.savez(file, count=1, sum=zeros, sum_square=ones)
        layer = build_part(
            NORMALIZE,
            Namespace(
                normalize=args.normalize,
                normalize_conf={**args.normalize_conf, "stats_file": file},
            ),
        )
    if layer is None:
        raise AssertionError("global_mvn is a normalisation")
    return layer


def _check_statistics(path: str | None) -> None:
    import numpy as np

    if path is None:
        raise UserError("normalize_conf.stats_file: needed by global_mvn")
    if not Path(path).is_file():
        raise UserError(f"normalize_conf.stats_file: {path}: {no_file(path)}")
    try:
        stats = np.load(path)
        arrays = [stats] if isinstance(stats, np.ndarray) else list(stats.values())
        fine = all(np.isfinite(array).all() for array in arrays)
    except (*DAMAGED, BadZipFile, zlib.error, OSError, RuntimeError):
        fine = False
    if not fine:
        raise UserError(
            f"normalize_conf.stats_file: {path}: no .npz of statistics; run "
            "espnet-mtla train --collect_stats again"
        )


def build_encoder(args: Namespace, input_size: int) -> AbsEncoder | None:
    """Build the encoder that ``args`` choose, or return None.

    Raises:
        UserError: a setting is invalid, or makes an output depend on the batch.
    """
    component = ENCODER.get_class(args.encoder)
    if component is None:
        return None
    settings = encoder_settings(args)
    for key, (value, reason) in _REFUSED.items():
        if settings.get(key) == value:
            raise UserError(f"encoder_conf.{key}: {value} {reason}")
    if settings.get("interctc_layer_idx"):
        raise UserError("encoder_conf.interctc_layer_idx: is not supported")
    check_sizes("encoder_conf", settings)
    with config_errors("encoder_conf"):
        encoder = component(input_size=input_size, **settings)
    unify_parameter_names(encoder)
    return encoder


def encoder_settings(args: Namespace) -> dict[str, Any]:
    """Return ``encoder_conf`` with the one default that differs from espnet2's."""
    settings = dict(args.encoder_conf)
    component = ENCODER.get_class(args.encoder)
    if component and "rel_pos_type" in setting_names(component):
        settings.setdefault("rel_pos_type", "latest")
    return settings


def check_sections(args: Namespace) -> None:
    """Check the keys of every ``_conf`` section against the component it is for.

    Raises:
        UserError: names the section, the unknown key and the valid ones.
    """
    from espnet2.asr.ctc import CTC
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    for choices in CHOICES:
        component = choices.get_class(getattr(args, choices.name))
        settled = ("input_size", *SETTLED)
        valid = setting_names(component, settled) if component else []
        check_keys(f"{choices.name}_conf", getattr(args, f"{choices.name}_conf"), valid)
    check_keys(
        "ctc_conf", args.ctc_conf, setting_names(CTC, ("odim", "encoder_output_size"))
    )
    text = args.task == "sum"
    for section, dataclass in (
        ("projector_conf", TextProjectorConfig if text else ProjectorConfig),
        ("model_conf", ModelConfig),
    ):
        check_keys(section, getattr(args, section), [f.name for f in fields(dataclass)])
    check_decoder(args)
    check_lora(args.lora)
    if args.use_adapter:
        raise UserError(
            "use_adapter (ESPnet): name the part and its settings instead, such as "
            "lora: {decoder: {rank: 8, alpha: 16, targets: [wq, wv]}}"
        )
    if args.lr_scale and args.exclude_weight_decay:
        raise UserError("lr_scale and exclude_weight_decay: choose one of them")
    check_optimiser(args, optim_classes, scheduler_classes)


def check_optimiser(
    args: Namespace, optimisers: dict[str, type], schedulers: dict[str, type]
) -> None:
    """Build optimiser and scheduler for an unused parameter, so that they check."""
    if args.optim not in optimisers:
        raise UserError(f"optim: {args.optim!r} given; valid: {', '.join(optimisers)}")
    chosen = optimisers[args.optim]
    check_keys("optim_conf", args.optim_conf, _after_first(chosen))
    with config_errors("optim_conf"):
        optimiser = chosen([nn.Parameter()], **args.optim_conf)
    if args.scheduler is None:
        return
    if args.scheduler not in schedulers:
        raise UserError(
            f"scheduler: {args.scheduler!r} given; valid: {', '.join(schedulers)}"
        )
    chosen = schedulers[args.scheduler]
    check_keys("scheduler_conf", args.scheduler_conf, _after_first(chosen))
    with config_errors("scheduler_conf"):
        chosen(optimiser, **args.scheduler_conf)


def _after_first(component: type) -> list[str]:
    """Return argument names after the first (the parameters, or the optimiser)."""
    names = list(inspect.signature(component).parameters)
    return names[1:]
