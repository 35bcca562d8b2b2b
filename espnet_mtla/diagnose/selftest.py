"""Checks and timings of the decoder on this machine, in a few seconds. Torch alone.

The models have random parameters; nothing is trained or downloaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.diagnose.check_result import CheckResult, worst

TYPES: dict[str, tuple[str, dict[str, int]]] = {
    "mha": ("mha", {}),
    "gqa": ("gqa", {}),
    "mqa": ("mqa", {}),
    "mla": ("mla", {}),
    "mtla_s2": ("mtla", {"down_rate": 2}),
    "mtla_s3": ("mtla", {"down_rate": 3}),
    "mtla_s4": ("mtla", {"down_rate": 4}),
}
ALLOWED = 1e-4
"""Largest difference of a logit of order 1 in float32."""
SPEED_BATCH, SPEED_BEAM, SPEED_PROMPT, SPEED_STEPS = 4, 10, 500, 12


def make_decoder(
    name: str, device: torch.device, **sizes: Any
) -> DecoderOnlyTransformer:
    """Return a decoder with random parameters, in evaluation mode."""
    attention, conf = TYPES[name]
    config = DecoderConfig(attention=attention, attention_conf=conf, **sizes)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return DecoderOnlyTransformer(config).to(device).eval()


def decode_stepwise(
    decoder: DecoderOnlyTransformer, prompt: Tensor, lengths: Tensor, tokens: Tensor
) -> Tensor:
    """Return the logits ``(B, U, V)`` of a prefill and ``U`` steps over the cache.

    Args:
        decoder: the decoder.
        prompt: ``(B, P, D)``.
        lengths: valid positions of each prompt, ``(B,)``.
        tokens: ``(B, U)``, fed one by one.
    """
    state = decoder.prefill(prompt, lengths, max_tokens=tokens.size(1))
    return torch.stack([decoder.step(token, state) for token in tokens.T], 1)


@torch.inference_mode()
def training_is_decoding(device: torch.device) -> Iterator[CheckResult]:
    """Compare one pass, as in training, with prefill and steps, for each type."""
    for name in TYPES:
        decoder = make_decoder(
            *(name, device),
            vocab_size=50,
            embed_dim=64,
            num_layers=2,
            num_heads=4,
            ffn_dim=64,
        )
        prompt, lengths = _prompt(2, 33, 64, device)
        lengths[1] = 20
        prompt[1, 20:] = float("nan")
        tokens = torch.randint(0, 50, (2, 9), device=device)
        whole = decoder(prompt, lengths, tokens)
        steps = decode_stepwise(decoder, prompt, lengths, tokens)
        differences = [("", float((whole - steps).abs().max()))]
        yield worst(f"{name}: training = decoding", "18 steps", differences, ALLOWED)


@torch.inference_mode()
def step_times(device: torch.device, dtype: torch.dtype) -> list[list[str]]:
    """Return a row for each attention type: ms of a decoding step, MB of cache.

    One layer of the paper's size, 4 utterances, beam 10, prompts of 500 frames.
    """
    rows = []
    for name in TYPES:
        decoder = make_decoder(name, device, vocab_size=500, num_layers=1).to(dtype)
        prompt, lengths = _prompt(SPEED_BATCH, SPEED_PROMPT, 512, device)
        state = decoder.prefill(
            prompt.to(dtype), lengths, max_tokens=SPEED_STEPS + 1, beam=SPEED_BEAM
        )
        tokens = torch.zeros(SPEED_BATCH * SPEED_BEAM, dtype=torch.long, device=device)
        times = []
        for _ in range(SPEED_STEPS):
            began = time.perf_counter()
            decoder.step(tokens, state)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        # The fastest step: other processes can only add to the time.
        best = 1000 * min(times)
        rows.append([name, f"{best:.2f}", f"{state.used_nbytes / 1e6:.2f}"])
    return rows


def _prompt(
    batch: int, frames: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(batch, frames, width, generator=generator).to(device)
    return prompt, torch.full((batch,), frames, device=device)
