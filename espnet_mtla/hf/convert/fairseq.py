"""Convert a speech model of the paper's code, a fairseq checkpoint, for recipes.

Decoder, projector and vocabulary are converted; the encoder differs in structure and
is left out. fairseq's list begins with <s>, <pad>, </s> and <unk>. Here <s>, the blank
of its CTC, becomes <blank>; </s>, which begins and ends texts, becomes <sos/eos>; and
the row of <pad> is dropped. An incomplete last stack of frames is dropped there, and
filled with zeros here.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.data.tokens import BLANK, SOS_EOS, UNK
from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.recipe import read_checkpoint, rename_decoder
from espnet_mtla.settings.names import CONFIG, MODEL, TOKENS
from espnet_mtla.text_files import read_text

RESERVED = 4
"""Rows before the tokens of the dictionary: <s>, <pad>, </s>, <unk>."""
PROJECTOR = {"linear1": "layers.0", "linear2": "layers.2"}
_ROWS = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
_SIZES = (
    *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"),
    *("v_head_dim", "down_rate"),
)
_TYPES = {"MTLA": "mtla", "MLA": "mla"}


def from_fairseq(source: Path, dictionary: Path, output: Path) -> int:
    """Write a folder with weights, token list and training YAML of a checkpoint.

    Args:
        source: checkpoint of ``fairseq-train``.
        dictionary: its ``dict.txt``.
        output: folder to write.
    Returns:
        The number of tensors written.
    Raises:
        UserError: the checkpoint is a pickle of other objects, of another model, or
            does not fit the dictionary.
    """
    import yaml

    saved = read_checkpoint(source)
    if not isinstance(saved.get("model"), dict):
        raise UserError(f"{source}: no fairseq checkpoint: it has no 'model'")
    states, args = dict(saved["model"]), _options(source, saved)
    tokens = _read_dictionary(dictionary)
    for name in _ROWS:
        if name not in states:
            raise UserError(f"{source}: no decoder-only model: it has no {name}")
        states[name] = _reorder(source, states[name], dictionary, len(tokens))
    names = [key for key in states if key.startswith("decoder.projector.")]
    projector = {key: states.pop(key) for key in names}
    weights = rename_decoder(source, states)
    weights |= {_projector_name(source, key): v for key, v in projector.items()}
    config = _config(source, states, args, projector)
    with atomic_folder(output) as aside:
        torch.save(weights, aside / MODEL)
        listing = "".join(f"{token}\n" for token in (BLANK, UNK, *tokens, SOS_EOS))
        (aside / TOKENS).write_text(listing, encoding="utf-8")
        (aside / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    return len(weights)


def _options(source: Path, saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model's options, of ``args`` or of ``cfg`` of newer versions."""
    options = saved.get("args") or (saved.get("cfg") or {}).get("model")
    if isinstance(options, Namespace):
        return vars(options)
    if isinstance(options, Mapping):
        return options
    raise UserError(f"{source}: no options of a model (args, or cfg.model)")


def _read_dictionary(path: Path) -> list[str]:
    """Return the tokens of a ``dict.txt``, of lines ``token count``."""
    tokens = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        token, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not token or not count.isdigit():
            raise UserError(f"{path}:{number}: 'token count' needed, found {line!r}")
        tokens.append(token)
    return tokens


def _reorder(source: Path, rows: Tensor, dictionary: Path, count: int) -> Tensor:
    """Return the rows of <blank>, <unk>, the tokens and <sos/eos>."""
    if len(rows) != RESERVED + count:
        raise UserError(
            f"{dictionary}: {count} tokens, and {source} has {len(rows) - RESERVED}; "
            "take the dictionary that it was trained with"
        )
    return rows[[0, 3, *range(RESERVED, RESERVED + count), 2]]


def _projector_name(source: Path, key: str) -> str:
    layer, _, rest = key.removeprefix("decoder.projector.").partition(".")
    if layer not in PROJECTOR:
        raise UserError(f"{source}: {key} has no counterpart in the projector")
    return f"projector.{PROJECTOR[layer]}.{rest}"


def _config(
    source: Path,
    states: Mapping[str, Tensor],
    args: Mapping[str, Any],
    projector: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Return sections of a training YAML that describe the converted parts."""
    decoder_type = args.get("decoder_type")
    if decoder_type not in _TYPES:
        raise UserError(
            f"{source}: decoder_type {decoder_type!r}: {' and '.join(_TYPES)} are "
            "converted"
        )
    for name, needed in (
        ("decoder_normalize_before", True),
        ("activation_fn", "relu"),
    ):
        if args.get(name, needed) != needed:
            raise UserError(f"{source}: {name} {args[name]!r} is not converted")
    sizes = _SIZES if decoder_type == "MTLA" else _SIZES[:-1]
    for name in ("attention_heads", *sizes):
        if f"decoder_{name}" not in args:
            raise UserError(f"{source}: its options have no decoder_{name}")
    layers = {key.split(".")[2] for key in states if key.startswith("decoder.layers.")}
    decoder = {
        "embed_dim": states[_ROWS[0]].size(1),
        "num_layers": len(layers),
        "num_heads": args["decoder_attention_heads"],
        "ffn_dim": len(states["decoder.layers.0.fc1.weight"]),
        "attention": _TYPES[decoder_type],
        "attention_conf": {name: args[f"decoder_{name}"] for name in sizes},
        "tie_embeddings": bool(args.get("share_decoder_input_output_embed", False)),
        "scale_embedding": not args.get("no_scale_embedding", False),
    }
    config: dict[str, Any] = {"decoder_conf": decoder}
    if projector:
        config["projector_conf"] = {
            "stack": args.get("encoder_projector_ds_rate", 1),
            "hidden_size": len(projector["decoder.projector.linear1.weight"]),
        }
    return config
