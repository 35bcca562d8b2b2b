"""Build a model from its options, or from the folder that it was trained in.

Decoding needs no more: espnet2's AbsTask, whose import takes seconds, is not imported.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.espnet import initialisations, quiet_import
from espnet_mtla.lora import add_lora, has_adapters, merge_lora
from espnet_mtla.model.bounds import bounded_by_memory, bounded_by_weights
from espnet_mtla.model.checkpoint import load_all, notes_of
from espnet_mtla.model.components import (
    CHOICES,
    SPECAUG,
    build_encoder,
    build_frontend,
    build_normalize,
    build_part,
)
from espnet_mtla.model.config import ModelConfig, ProjectorConfig, TextProjectorConfig
from espnet_mtla.model.decoders import build_decoder, is_pretrained
from espnet_mtla.model.errors import config_errors
from espnet_mtla.model.files import read_settings, resolve_files
from espnet_mtla.settings.names import CONFIG
from espnet_mtla.text_files import parse_json

with quiet_import():
    from espnet2.asr.ctc import CTC
    from espnet2.torch_utils.initialize import initialize

    from espnet_mtla.model.base import DecoderOnlyModel
    from espnet_mtla.model.language import LOSSES, DecoderOnlyLanguageModel
    from espnet_mtla.model.projector import FrameStackProjector, TokenConvolution
    from espnet_mtla.model.speech import DecoderOnlySpeechModel
    from espnet_mtla.model.symbols import check_ctc, read_tokens, set_symbols
    from espnet_mtla.model.template import set_templates
    from espnet_mtla.model.text import DecoderOnlyTextModel

INITS = (*initialisations(), None)
"""Names for espnet2's ``initialize``; None for torch's own initialisation."""


def build_model(
    args: Namespace, weights_follow: bool = False
) -> DecoderOnlySpeechModel:
    """Build a speech model from parsed options or from those of a ``config.yaml``.

    Args:
        args: the options; its ``token_list`` becomes a list.
        weights_follow: read neither statistics of ``global_mvn`` nor weights of a
            trained front-end: loading the model's weights sets them.

    Raises:
        UserError: names the option or key that is wrong.
    """
    # A list in config.yaml: a trained model needs no file of tokens.
    args.token_list = read_tokens(args)
    vocab_size = len(args.token_list)
    with config_errors("model_conf"):
        config = ModelConfig(**args.model_conf)
    check_ctc(args, config)
    frontend = build_frontend(args, weights_follow)
    input_size = frontend.output_size() if frontend else args.input_size
    if not input_size:
        raise UserError("input_size: needed with frontend none (features given)")
    encoder = build_encoder(args, input_size)
    width = encoder.output_size() if encoder else input_size
    ctc = projector = decoder = None
    pretrained = is_pretrained(args)
    if config.uses_ctc:
        with config_errors("ctc_conf"):
            ctc = CTC(vocab_size, width, **args.ctc_conf)
    if config.uses_decoder:
        decoder = build_decoder(args, vocab_size)
        with config_errors("projector_conf"):
            projector = FrameStackProjector(
                width, decoder.config.embed_dim, ProjectorConfig(**args.projector_conf)
            )
    layers = None if decoder is None or pretrained else decoder.layers
    initialise(args, encoder, ctc, projector, layers)
    model = DecoderOnlySpeechModel(
        args.token_list,
        config,
        frontend=frontend,
        specaug=build_part(SPECAUG, args),
        normalize=build_normalize(args, input_size, weights_follow),
        encoder=encoder,
        projector=projector,
        decoder=decoder,
        ctc=ctc,
        input_size=input_size,
    )
    set_symbols(model, args)
    set_templates(model, args)
    return model


def build_text_model(args: Namespace) -> DecoderOnlyTextModel:
    """Build a text model; see :func:`build_model`."""
    config, decoder = _text_parts(args, {"ctc_weight": 0.0})
    with config_errors("projector_conf"):
        projection = TextProjectorConfig(**args.projector_conf)
    projector = None
    if projection.kernel > 1:
        projector = TokenConvolution(decoder.config.embed_dim, projection)
    model = DecoderOnlyTextModel(args.token_list, config, decoder, projector)
    set_symbols(model, args)
    return model


def build_language_model(args: Namespace) -> DecoderOnlyLanguageModel:
    """Build a language model; see :func:`build_model`."""
    config, decoder = _text_parts(args, LOSSES)
    if args.projector_conf:
        raise UserError("projector_conf: a language model has no prompt; leave it out")
    model = DecoderOnlyLanguageModel(args.token_list, config, decoder)
    set_symbols(model, args)
    return model


def _text_parts(
    args: Namespace, losses: Mapping[str, object]
) -> tuple[ModelConfig, DecoderOnlyTransformer]:
    """Build losses and decoder of a model that reads no sound.

    Args:
        losses: defaults of ``model_conf`` that differ from those for speech.
    """
    args.token_list = read_tokens(args)
    for choices in CHOICES:
        if getattr(args, choices.name) is not None:
            raise UserError(f"{choices.name}: text needs none; leave it out")
    with config_errors("model_conf"):
        config = ModelConfig(**{**losses, **args.model_conf})
    if config.uses_ctc:
        raise UserError("model_conf.ctc_weight: 0 for text, which has no frames")
    if config.all_templates:
        raise UserError("model_conf.template: for sound alone; leave it out")
    if config.encoded_cache_mb:
        raise UserError(
            "model_conf.encoded_cache_mb: 0 for text, whose embeddings are trained"
        )
    pretrained = is_pretrained(args)
    decoder = build_decoder(args, len(args.token_list))
    initialise(args, None if pretrained else decoder.layers)
    return config, decoder


def initialise(args: Namespace, *parts: nn.Module | None) -> None:
    """Initialise the modules as ``init`` says; without it, leave them unchanged."""
    init = getattr(args, "init", None)
    if init is None:
        return
    if init not in INITS:
        raise UserError(
            f"init: {init!r} is not in this version of ESPnet; valid: "
            f"{', '.join(name for name in INITS if name)}, or leave it out"
        )
    for part in parts:
        if part is not None:
            initialize(part, init)


def load_model(
    config_file: str | Path | None = None,
    model_file: str | Path | None = None,
    device: str = "cpu",
) -> tuple[DecoderOnlyModel, Namespace]:
    """Load a trained model; its folder may have been moved.

    Args:
        config_file: ``config.yaml`` of the experiment; by default beside the model.
        model_file: parameters; None leaves them as initialised. Adapters in it are
            merged.
        device: torch's name of the device.
    Returns:
        The model on ``device``, and its options.
    Raises:
        UserError: a file is missing, unreadable, or does not fit.
    """
    if config_file is None:
        if model_file is None:
            raise ValueError("config_file or model_file is needed")
        config_file = Path(model_file).parent / CONFIG
    args = read_settings(Path(config_file))
    resolve_files(args, Path(config_file).parent)
    if model_file is not None:
        args.init = None  # the file has every parameter
    builders: dict[str, Callable[[Namespace], DecoderOnlyModel]] = {
        "sum": build_text_model,
        "lm": build_language_model,
    }
    place = str(config_file)
    bound = bounded_by_memory(place)
    if model_file is not None:
        bound = bounded_by_weights(Path(model_file), place)
    build_speech = partial(build_model, weights_follow=model_file is not None)
    with bound:
        model = builders.get(getattr(args, "task", "asr"), build_speech)(args)
    if model_file is not None:
        parameters = load_all(model_file)
        adapters = _adapters(parameters, args, model_file)
        add_lora(model, adapters)
        _check_vocabulary(parameters, model, model_file)
        _check_decoder(model, model_file)
        try:
            model.load_state_dict(parameters)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{model_file}: does not fit {config_file}: {reason}"
            ) from None
        for part in adapters:
            merge_lora(getattr(model, part))
        args.lora = {}
    return model.to(device), args


def _adapters(
    parameters: Mapping[str, Tensor], args: Namespace, model_file: str | Path
) -> dict[str, Any]:
    """Return the settings of the adapters in a file; {} if it has them merged.

    Adapters that ``frontend_conf`` has are the front-end's own, which keeps them apart.

    Raises:
        UserError: there are adapters, and the configuration does not describe them.
    """
    own = (getattr(args, "frontend_conf", None) or {}).get("lora")
    if not has_adapters(
        n for n in parameters if not own or not n.startswith("frontend.")
    ):
        return {}
    settings: dict[str, Any] = getattr(args, "lora", None) or {}
    if not settings:
        raise UserError(
            f"{model_file}: has unmerged adapters, and config.yaml has no lora, their "
            "settings; take the config.yaml of the same training"
        )
    return settings


def _check_vocabulary(
    parameters: Mapping[str, Tensor],
    model: DecoderOnlyModel,
    model_file: str | Path,
) -> None:
    """Refuse another token list; torch would name shapes alone."""
    for name in ("decoder.output.weight", "ctc.ctc_lo.weight"):
        if name in parameters and len(parameters[name]) != len(model.token_list):
            raise UserError(
                f"{model_file}: trained with {len(parameters[name])} tokens, and the "
                f"token list has {len(model.token_list)}; put back the one it came with"
            )


def _check_decoder(model: DecoderOnlyModel, model_file: str | Path) -> None:
    """Refuse decoder settings other than those of training.

    Some, such as ``down_rate``, change no shape, so that loading would succeed.
    """
    noted = notes_of(model_file).get("decoder")
    if noted is None or model.decoder is None:
        return
    configured = flat(model.decoder.config.complete())
    notes = parse_json(noted, f"{model_file}: decoder")
    with config_errors(f"{model_file}: decoder"):
        # Settings that are newer than the notes had their defaults.
        noted_config = DecoderConfig(1, **notes)
    for name, trained in flat(noted_config.complete()).items():
        # Dropout does not change what a trained model computes.
        if configured.get(name) != trained and not name.endswith("dropout"):
            raise UserError(
                f"{model_file}: trained with decoder_conf.{name} {trained}, and its "
                f"config.yaml says {configured.get(name)}; put that back"
            )


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested settings with dotted names.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    dotted: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            dotted |= flat(value, f"{prefix}{key}.")
        else:
            dotted[f"{prefix}{key}"] = value
    return dotted
