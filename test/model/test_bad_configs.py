"""A config.yaml that is wrong: one line, within seconds and little memory."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.load import TrainedModel
from espnet_mtla.search.options import DecodeOptions

MISSING = object()
TOO_LARGE = "describes a model of more than"
WRONG = [
    (("token_type",), MISSING, "the configuration has no 'token_type'"),
    (("encoder_conf",), None, r"config\.yaml: encoder_conf: None given, keys and"),
    (("decoder_conf",), [1], r"decoder_conf: \[1\] given, keys and values are needed"),
    (("model_conf", 3), 0.5, r"model_conf: .* given, keys and values are needed"),
    (("encoder",), ["conformer"], r"encoder: \['conformer'\] given, a name, or null"),
    (("normalize",), {}, "normalize: {} given, a name, or null, is needed"),
    (("input_size",), "wide", "input_size: 'wide' given, a width is needed"),
    (("token_list",), [1, 2, 3, 4], "token_list: a list of texts, or a file's name"),
    (("token_list",), 7, "token_list: a list of texts, or a file's name"),
    (("frontend_conf", "hop_length"), 0, "hop_length: 0 given, a whole number from 1"),
    (("frontend_conf", "n_mels"), 10**7, "n_mels: 10000000 given, a whole number"),
    (("frontend_conf", "n_fft"), "many", "n_fft: 'many' given, a whole number from 1"),
    (("frontend_conf", "fs"), 0, "frontend_conf.fs: 0 given, a rate of 1 Hz to 1 MHz"),
    (("encoder_conf", "output_size"), 10**6, TOO_LARGE),
    (("encoder_conf", "linear_units"), 10**30, "at most 1048576 is needed"),
    (("encoder_conf", "num_blocks"), 10**6, TOO_LARGE),
    (("encoder_conf", "attention_heads"), 0, "encoder_conf: "),
    (("decoder_conf", "embed_dim"), 2**22, "decoder_conf: "),
    (("decoder_conf", "num_layers"), 10**9, TOO_LARGE),
    (("projector_conf", "hidden_size"), 10**8, TOO_LARGE),
]


@pytest.mark.parametrize(
    ("keys", "value", "message"), WRONG, ids=[".".join(map(str, w[0])) for w in WRONG]
)
def test_one_line_that_names_it(
    model: Path, tmp_path: Path, keys: tuple[Any, ...], value: object, message: str
) -> None:
    folder = shutil.copytree(model, tmp_path / "broken")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    section = config
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    if value is MISSING:
        del section[keys[-1]]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    began = time.process_time()
    with pytest.raises(UserError, match=message) as refusal:
        TrainedModel.from_folder(folder, torch.device("cpu"), DecodeOptions())
    assert "\n" not in str(refusal.value)
    assert time.process_time() - began < 10


def test_the_bound_follows_the_weights(model: Path) -> None:
    """What is built is counted: the tiny model itself is far below its bound."""
    from espnet_mtla.model.bounds import bounded_by_weights
    from espnet_mtla.model.build import load_model

    bound = bounded_by_weights(model / "model.pth", "here")
    with bound:
        built, _ = load_model(model / "config.yaml")
    parameters = sum(p.nbytes for p in built.parameters())
    assert parameters <= bound.bytes < bound.most_bytes < 2**30
    assert bound.tensors > 50
