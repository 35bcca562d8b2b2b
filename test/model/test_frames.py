"""Frames a second: as counted of sound that front-ends and encoders have run on."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from torch import nn

from espnet_mtla.bin.plan import frames_per_second
from espnet_mtla.errors import UserError
from espnet_mtla.model.components import (
    FRONTEND,
    build_encoder,
    build_part,
    sampling_rate,
)
from espnet_mtla.model.config import ModelConfig, ProjectorConfig
from espnet_mtla.model.frames import seconds_per_frame
from espnet_mtla.model.projector import FrameStackProjector
from espnet_mtla.model.speech import DecoderOnlySpeechModel
from test.support.tiny_speech import ENCODERS, TOKENS

SECONDS = torch.arange(1, 11)
FRONTENDS = {
    "default": ("default", {"n_mels": 20}),
    "default_8k": (
        "default",
        {"n_mels": 20, "fs": "8k", "n_fft": 256, "hop_length": 80},
    ),
    "fbank": ("fbank", {"n_mels": 20}),
    "fbank_22k": ("fbank", {"n_mels": 20, "fs": 22050, "frame_shift": 12.5}),
    "s3prl": ("s3prl", {"upstream": "fbank"}),
}
CONV2D = ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"]
LAYERS = {
    "transformer": ["linear", "conv1d2", *CONV2D],
    "conformer": ["linear", *CONV2D],
    "e_branchformer": ["linear", "conv1d1", "conv1d2", "conv1d3", *CONV2D],
}
STACK = 3


def arguments(frontend: str, encoder: str = "none", layer: str = "") -> Namespace:
    name, conf = FRONTENDS[frontend]
    conf_of_encoder = {**ENCODERS[encoder], "input_layer": layer} if layer else {}
    return Namespace(
        frontend=name,
        frontend_conf=dict(conf),
        encoder=encoder,
        encoder_conf=conf_of_encoder,
    )


def slope(counts: torch.Tensor) -> float:
    """Frames of the nine seconds between the shortest and the longest."""
    return int(counts[-1] - counts[0]) / 9


def noise(fs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sound of 1 to 10 seconds."""
    generator = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(len(SECONDS), 10 * fs, generator=generator)
    return speech, SECONDS * fs


def encoder_model(args: Namespace, frontend: nn.Module) -> DecoderOnlySpeechModel:
    """Front-end and encoder as a model runs them."""
    parts = dict.fromkeys(("specaug", "normalize", "projector", "decoder", "ctc"))
    return DecoderOnlySpeechModel(
        TOKENS,
        ModelConfig(),
        frontend=frontend,
        encoder=build_encoder(args, 20),
        input_size=20,
        **parts,
    ).eval()


@pytest.mark.parametrize("name", FRONTENDS)
@torch.no_grad()
def test_features_of_every_front_end(name: str) -> None:
    if name == "s3prl":
        pytest.importorskip("s3prl", reason="the extra ssl is not installed")
    args = arguments(name)
    frontend, fs = build_part(FRONTEND, args).eval(), sampling_rate(args)
    found, counts = frontend(*noise(fs))
    assert found.size(1) == counts[-1]
    frame = seconds_per_frame(fs, frontend)
    assert slope(counts) == pytest.approx(1 / frame, abs=1 / 9)
    assert (counts * frame - SECONDS).abs().max() < 0.05 + frame
    config = {**vars(args), "projector_conf": {"stack": 1}}
    assert frames_per_second(config) == pytest.approx(1 / frame)


@pytest.mark.parametrize(
    ("encoder", "layer"), [(name, layer) for name in LAYERS for layer in LAYERS[name]]
)
@torch.no_grad()
def test_encoder_and_prompt_of_every_input_layer(encoder: str, layer: str) -> None:
    """Alone, in a batch and by ``plan``: the frames that the encoder has made."""
    args = arguments("fbank", encoder, layer)
    frontend, fs = build_part(FRONTEND, args).eval(), sampling_rate(args)
    model = encoder_model(args, frontend)
    speech, lengths = noise(fs)
    batch, counts = model.encode(speech, lengths)
    assert batch.size(1) == counts[-1]
    for row in (0, 4):
        alone, count = model.encode(speech[row : row + 1], lengths[row : row + 1])
        assert alone.size(1) == count[0] == counts[row]
    frame = seconds_per_frame(fs, frontend, model.encoder)
    assert slope(counts) == pytest.approx(1 / frame, abs=1 / 9)
    assert (counts * frame - SECONDS).abs().max() < 0.05 + 2 * frame
    projector = FrameStackProjector(batch.size(2), 8, ProjectorConfig(stack=STACK))
    _, prompt = projector(batch, counts)
    assert slope(prompt) == pytest.approx(1 / (STACK * frame), abs=1 / 9)
    config = {**vars(args), "projector_conf": {"stack": STACK}}
    assert frames_per_second(config) == pytest.approx(1 / (STACK * frame))
    found = seconds_per_frame(fs, frontend, model.encoder, STACK)
    assert found == pytest.approx(STACK * frame)


@pytest.mark.parametrize(("layer", "stack"), [("conv2d", 1), ("conv2d6", 2)])
def test_given_features(layer: str, stack: int) -> None:
    """Given features: the rate is that of the frames."""
    model = build_encoder(arguments("fbank", "conformer", layer), 20)
    strides = {"conv2d": 4, "conv2d6": 6}[layer]
    assert seconds_per_frame(100, None, model, stack) == strides * stack / 100


def test_a_front_end_without_a_hop_is_named() -> None:
    with pytest.raises(UserError, match="frontend: Identity has no hop_length"):
        seconds_per_frame(16000, nn.Identity())
