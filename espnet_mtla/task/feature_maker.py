"""A front-end from a training YAML, applied to one utterance at a time."""

from __future__ import annotations

import functools
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from espnet_mtla.data.audio import open_audio, read_span
from espnet_mtla.errors import UserError
from espnet_mtla.frontend.stored import StoringFrontend
from espnet_mtla.model.components import FRONTEND, SETTLED, build_part, sampling_rate
from espnet_mtla.settings.choices import setting_names
from espnet_mtla.settings.yaml_files import check_keys, load_config, overlay

if TYPE_CHECKING:
    import numpy as np


class FeatureMaker:
    """A front-end in evaluation mode; computes the stored features of an utterance."""

    def __init__(self, args: Namespace, device: str) -> None:
        for key in ("finetune", "lora"):
            if args.frontend_conf.get(key) not in (None, False):
                raise UserError(
                    f"frontend_conf.{key}: the encoder's output changes while it is "
                    "trained; dump features of a frozen one"
                )
        module: nn.Module | None = build_part(FRONTEND, args)
        if module is None:
            raise UserError("frontend: none makes no features")
        self.module = module.eval().to(device)
        self.device = device
        self.rate = sampling_rate(args)
        self.settings = {
            "frontend": args.frontend,
            "frontend_conf": args.frontend_conf,
        }

    @functools.cached_property
    def identity(self) -> dict[str, object]:
        """Front-end, settings and checkpoint that the features depend on."""
        if isinstance(self.module, StoringFrontend):
            return {**self.settings, "checkpoint": self.module.identity()}
        return self.settings

    @torch.inference_mode()
    def __call__(self, key: str, source: str) -> np.ndarray:
        """Compute the features of one utterance, (frames, width) float32.

        Raises:
            UserError: the sound is unreadable, too short or has another sampling rate;
                the message names the utterance.
        """
        try:
            samples = torch.from_numpy(self._read(source)).to(self.device)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        if isinstance(self.module, StoringFrontend):
            features = self.module.to_store(samples)
        else:
            lengths = torch.tensor([len(samples)], device=self.device)
            rows, counts = self.module(samples.unsqueeze(0), lengths)
            features = rows[0, : int(counts)]
        if not len(features):
            raise UserError(
                f"{key}: {len(samples)} samples are too few for a frame; drop such "
                "ones (espnet-mtla filter_data --min_seconds)"
            )
        return features.float().cpu().numpy()

    def _read(self, source: str) -> np.ndarray:
        with open_audio(source) as sound:
            if sound.samplerate != self.rate:
                raise UserError(
                    f"{source}: {sound.samplerate} Hz, and the front-end takes "
                    f"{self.rate}; run espnet-mtla format_audio --fs {self.rate}"
                )
            return read_span(sound, source)


def read_frontend(
    config: Path, fragment: Path | None = None, model: str | None = None
) -> Namespace:
    """Read ``frontend`` and ``frontend_conf`` from a training YAML.

    Args:
        config: training YAML.
        fragment: YAML whose values override those in ``config``.
        model: value that overrides ``frontend_conf.model``.

    Raises:
        UserError: the front-end or a setting is unknown.
    """
    values = load_config(config)
    if fragment:
        values = overlay(values, load_config(fragment))
    name = values.get("frontend", FRONTEND.default)
    settings = values.get("frontend_conf", {})
    if model:
        settings = {**settings, "model": model}
    args = Namespace(frontend=None if name == "none" else name, frontend_conf=settings)
    component = FRONTEND.get_class(args.frontend)
    valid = setting_names(component, SETTLED) if component else []
    check_keys("frontend_conf", settings, valid)
    return args
