"""Self-supervised models of S3PRL as front-ends, with equal output in any batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.upstream import checkpoint_digest, load_upstream
from espnet_mtla.turns import Turns

FS = 16000
# Some upstream has no frame for shorter audio.
MIN_SAMPLES = 800


class S3PRLFrontend(AbsFrontend):
    """Hidden states of an upstream: one layer, or a learned weighted sum of all.

    Each utterance passes through the upstream alone: several upstreams normalise over
    time including the padding, so that output and length would depend on the batch. To
    save this time, ``dump_features`` stores the states once, and training reads them
    with the same configuration.

    Checkpoints do not contain a frozen upstream: it is read from ``path`` each time.

    Args:
        upstream: a name of S3PRL's, such as ``wavlm_local`` or ``hf_hubert_custom``.
        path: its checkpoint, a file or a folder of this machine.
        layer: 0 is the first layer's input, -1 the last layer's output; None for the
            weighted sum.
        finetune: train the upstream too.
        fs: must be 16000.
    """

    def __init__(
        self,
        upstream: str,
        path: str | None = None,
        layer: int | None = None,
        finetune: bool = False,
        fs: int | str = FS,
    ) -> None:
        super().__init__()
        if fs not in (FS, "16k", "16000"):
            raise UserError(f"fs: {fs!r}: upstreams take {FS} Hz")
        self.name, self.path, self.finetune = upstream, path, finetune
        self.turns = Turns()
        model = load_upstream(upstream, path)
        if finetune:
            self.upstream = model
        else:
            # In a list, so that torch does not register it as a submodule.
            self._frozen = [model.eval().requires_grad_(False)]
        # Transformers' loaders move registered parameters alone, so the frozen upstream
        # is moved to the device of its input, in _states.
        self._device = torch.device("cpu")
        self.layer = None
        with torch.no_grad():
            states = self._states(torch.zeros(FS))
        if layer is None and len(states) == 1:
            layer = 0
        if layer is not None:
            if not -len(states) <= layer < len(states):
                raise UserError(
                    f"layer: {layer}: {upstream} has 0 to {len(states) - 1}"
                )
            self.layer = layer % len(states)
            states = [states[layer]]
        widths = {state.size(-1) for state in states}
        if len(widths) > 1:
            raise UserError(f"layer: needed: layers of {upstream} differ in width")
        self.width = widths.pop()
        self.layers = len(states)
        rates = model.get_downsample_rates("hidden_states")
        self.hop_length = rates if isinstance(rates, int) else rates[self.layer or 0]
        if self.layer is None:
            self.weights = nn.Parameter(torch.zeros(self.layers))

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.width

    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, width), zero after a row's end, and frames (B,).

        Args:
            speech: (B, L) samples in [-1, 1]; lengths: (B,). Audio shorter than 0.05 s
                has no frames.
        """
        rows = [
            self.from_stored(self.to_store(row[:length]))
            for row, length in zip(speech, lengths.tolist(), strict=True)
        ]
        counts = torch.tensor([len(row) for row in rows], device=speech.device)
        return pad_sequence(rows, batch_first=True), counts

    def to_store(self, samples: Tensor) -> Tensor:
        """Return the states to store, (T, layers x width), of samples (n,)."""
        if len(samples) < MIN_SAMPLES:
            return samples.new_zeros(0, self.layers * self.width)
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            states = self._states(samples.float())
        frames = min(state.size(1) for state in states)
        return torch.cat([state[0, :frames] for state in states], -1)

    def from_stored(self, stored: Tensor) -> Tensor:
        """Return features (..., T, width) of stored states (..., T, layers x width).

        States of another width are returned unchanged; the model refuses them.
        """
        if self.layer is not None or stored.size(-1) != self.layers * self.width:
            return stored
        states = stored.unflatten(-1, (self.layers, self.width))
        shares = self.weights.softmax(0).to(states.dtype)
        return torch.einsum("...ld,l->...d", states, shares)

    def identity(self) -> str:
        """Return a hash of the checkpoint, on which stored states depend."""
        return checkpoint_digest(self.path)

    def _states(self, samples: Tensor) -> list[Tensor]:
        """Return the chosen hidden states (1, T, width) of samples (n,)."""
        model = self.upstream if self.finetune else self._frozen[0]
        with self.turns:  # its hooks collect the states on the upstream itself
            if not self.finetune and self._device != samples.device:
                self._move_frozen(samples.device)
            states = list(model([samples])["hidden_states"])
        return states if self.layer is None else [states[self.layer]]

    def _apply(self, change: Callable[[Tensor], Tensor], *rest: bool) -> S3PRLFrontend:
        """Move the frozen upstream too; it stays in single precision."""
        super()._apply(change, *rest)
        if not self.finetune:
            device = change(torch.zeros(0, device=self._device)).device
            if device.type != "meta":  # where its weights would be lost
                self._move_frozen(device)
        return self

    def _move_frozen(self, device: torch.device) -> None:
        self._frozen[0].to(device)
        self._device = device
