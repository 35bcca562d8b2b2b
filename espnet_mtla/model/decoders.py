"""The decoder of a model: from nothing, or begun from a pretrained language model."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from espnet_mtla.attention import attention_settings
from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.model.errors import config_errors
from espnet_mtla.settings.choices import LazyChoices, setting_names
from espnet_mtla.settings.yaml_files import check_keys

PRETRAINED = "pretrained"
DECODER = LazyChoices(
    "decoder",
    {
        "transformer": "espnet_mtla.decoder.config:DecoderConfig",
        PRETRAINED: "espnet_mtla.hf.decoder.settings:PretrainedDecoder",
    },
    "transformer",
)
"""Settings of each decoder; ``pretrained`` needs Transformers."""


def is_pretrained(args: Namespace) -> bool:
    """Return True if the decoder is loaded from a checkpoint of Transformers.

    Configurations of version 0.2 name no decoder: there was one alone.
    """
    return getattr(args, "decoder", DECODER.default) == PRETRAINED


def build_decoder(args: Namespace, vocab_size: int) -> DecoderOnlyTransformer:
    """Build the decoder that ``args`` choose.

    After a pretrained one is loaded, ``args`` describe a decoder of these sizes, and
    ``decoder_base_model`` names the checkpoint. The configuration of a trained model
    therefore rebuilds it without the checkpoint.

    Raises:
        UserError: a setting or the checkpoint is wrong, or ``decoder`` is none.
    """
    settings = _settings(args)
    if not is_pretrained(args):
        with config_errors("decoder_conf"):
            config = DecoderConfig(vocab_size=vocab_size, **args.decoder_conf)
        return DecoderOnlyTransformer(config)
    pretrained = settings(**args.decoder_conf)
    decoder: DecoderOnlyTransformer = pretrained.load(vocab_size)
    args.decoder, args.decoder_conf = DECODER.default, decoder.config.complete()
    args.decoder_base_model = pretrained.model
    return decoder


def _settings(args: Namespace) -> type[Any]:
    """Return the dataclass of the chosen decoder's settings."""
    settings = DECODER.get_class(getattr(args, "decoder", DECODER.default))
    if settings is None:
        raise UserError(
            "decoder: none given; to train an encoder alone, set model_conf.ctc_weight "
            "to 1"
        )
    return settings


def complete_decoder(args: Namespace) -> dict[str, Any]:
    """Return ``decoder_conf`` with all defaults.

    Raises:
        UserError: a setting is unknown or invalid.
    """
    settings = _settings(args)
    if is_pretrained(args):
        return settings(**args.decoder_conf).complete()
    return DecoderConfig(1, **args.decoder_conf).complete()


def check_decoder(args: Namespace) -> None:
    """Check the keys of ``decoder_conf``.

    Raises:
        UserError: names the unknown key and the valid ones.
    """
    settings = DECODER.get_class(args.decoder)
    conf = args.decoder_conf
    valid = setting_names(settings, ("vocab_size",)) if settings else []
    check_keys("decoder_conf", conf, valid)
    if is_pretrained(args):
        complete_decoder(args)
        return
    attention = conf.get("attention", DecoderConfig.attention)
    check_keys(
        "decoder_conf.attention_conf",
        conf.get("attention_conf", {}),
        attention_settings(attention),
    )
