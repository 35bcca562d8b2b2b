"""The decoder of a model: from nothing, or begun from a pretrained language model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from espnet_mtla.attention import attention_settings, parse_attention
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


def pretrained_sizes(conf: Mapping[str, Any], attention: str) -> dict[str, Any]:
    """Return the settings that a pretrained decoder would have with an attention type.

    Weights are not loaded.

    Args:
        conf: ``decoder_conf`` of ``decoder: pretrained``.
        attention: a name, MTLA with its stride (``mtla_s2``). Only latent types differ
            from what the checkpoint has: it is converted to them.

    Raises:
        UserError: the checkpoint or the name is wrong.
    """
    settings = DECODER.get_class(PRETRAINED)
    assert settings is not None, "it is a choice"
    sizes: dict[str, Any] = settings(model=conf.get("model", "")).sizes()
    (name, implied), latent = parse_attention(attention), ("mla", "mtla")
    if name not in latent or sizes["attention"] in latent:
        return sizes
    widths = dict(conf.get("attention_conf", {}))
    if name == "mla" or implied:  # the name says which options it has
        widths.pop("raw_window", None)
    if name == "mla":
        widths.pop("down_rate", None)
    widths |= implied
    changed = {**conf, "attention": name, "attention_conf": widths}
    return settings(**changed).sizes()


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
