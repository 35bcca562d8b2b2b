"""Self-supervised models of S3PRL as front-ends, with equal output in any batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.hidden_states import HiddenStatesFrontend
from espnet_mtla.frontend.upstream import checkpoint_digest, load_upstream

FS = 16000
# Some upstream has no frame for shorter audio.
MIN_SAMPLES = 800


class S3PRLFrontend(HiddenStatesFrontend):
    """Hidden states of an upstream: one layer, or a learned weighted sum of all.

    Each utterance passes through the upstream alone: several upstreams normalise over
    time including the padding, so that output and length would depend on the batch. To
    save this time, ``dump_features`` stores the states once, and training reads them
    with the same configuration. Audio shorter than 0.05 s has no frames.

    Checkpoints do not contain a frozen upstream: it is read from ``path`` each time.

    Args:
        upstream: a name of S3PRL's, such as ``wavlm_local`` or ``hf_hubert_custom``.
        path: its checkpoint, a file or a folder of this machine.
        layer: 0 is the first layer's input, -1 the last layer's output; None for the
            weighted sum.
        finetune: train the upstream too.
        fs: must be 16000.
    """

    trained_name = "upstream"

    def __init__(
        self,
        upstream: str,
        path: str | None = None,
        layer: int | None = None,
        finetune: bool = False,
        fs: int | str = FS,
    ) -> None:
        if fs not in (FS, "16k", "16000"):
            raise UserError(f"fs: {fs!r}: upstreams take {FS} Hz")
        model = load_upstream(upstream, path)
        super().__init__(model, finetune)
        self.path = path
        with torch.no_grad():
            states = self._states(torch.zeros(FS))
        self.choose_layer(layer, len(states), upstream)
        if self.layer is not None:
            states = [states[self.layer]]
        widths = {state.size(-1) for state in states}
        if len(widths) > 1:
            raise UserError(f"layer: needed: layers of {upstream} differ in width")
        self.width = widths.pop()
        rates = model.get_downsample_rates("hidden_states")
        self.hop_length = rates if isinstance(rates, int) else rates[self.layer or 0]

    def store_rows(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return states (T, layers x width) of each row of samples (n,)."""
        return [self._store(row) for row in rows]

    def _store(self, samples: Tensor) -> Tensor:
        if len(samples) < MIN_SAMPLES:
            return samples.new_zeros(0, self.layers * self.width)
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            states = self._states(samples.float())
        if self.layer is not None:
            states = [states[self.layer]]
        frames = min(state.size(1) for state in states)
        return torch.cat([state[0, :frames] for state in states], -1)

    def identity(self) -> str:
        """Return a hash of the checkpoint, on which stored states depend."""
        return checkpoint_digest(self.path)

    def _states(self, samples: Tensor) -> list[Tensor]:
        """Return all hidden states (1, T, width) of samples (n,)."""
        with self.turns:  # its hooks collect the states on the upstream itself
            self._follow(samples.device)
            return list(self._pretrained()([samples])["hidden_states"])
