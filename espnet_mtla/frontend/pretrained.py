"""Pretrained encoders of Transformers as a front-end (``frontend: transformers``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.checkpoint import find_folder
from espnet_mtla.frontend.encoder_folder import (
    build_encoder,
    encoder_digest,
    load_encoder,
)
from espnet_mtla.frontend.encoders import PretrainedEncoder
from espnet_mtla.frontend.hidden_states import HiddenStatesFrontend
from espnet_mtla.lora import LoraSettings, adapter_tree, find_targets, inject

# Rows share a batch if at most this share of it is padding.
_MOST_PADDING = 0.2
# Most seconds in a batch: the layers' inner activations are large.
_MOST_SECONDS = 240
_LORA = "frontend_conf.lora"


class TransformersFrontend(HiddenStatesFrontend):
    """Hidden states of a pretrained encoder: one, or a learned weighted sum of all.

    Audio longer than the encoder takes at once (Whisper: 30 s) is cut into windows of
    that length, which are encoded one by one and joined. An utterance's output does
    not depend on its batch or on what follows its end. Layers after ``layer`` are not
    computed.

    Checkpoints do not contain a frozen encoder: it is read from ``model`` each time.

    Args:
        model: name on the hub, or folder as Transformers writes it, of Whisper, WavLM,
            HuBERT, wav2vec 2.0, XLS-R or w2v-BERT 2.0.
        layer: 0 is the first layer's input, -1 the last layer's output; None for the
            weighted sum.
        finetune: train the encoder too.
        lora: train adapters in the encoder, which stays as it is: a mapping with the
            keys of :class:`~espnet_mtla.lora.LoraSettings`. Checkpoints contain the
            adapters alone.
        keep_padding: Whisper alone: pad to 30 s as Transformers does, 1500 frames.
        fs: sampling rate; must be the encoder's.
        weights_follow: a trained encoder's weights are loaded afterwards, with those
            of the whole model; ``model`` needs no file of weights.
    """

    trained_name = "encoder"
    has_own_adapters = True
    """Adapters are settings of this front-end, not of the option ``lora``."""

    def __init__(
        self,
        model: str,
        layer: int | None = None,
        finetune: bool = False,
        lora: Mapping[str, Any] | None = None,
        keep_padding: bool = False,
        fs: int | str = 16000,
        weights_follow: bool = False,
    ) -> None:
        import humanfriendly

        if finetune and lora is not None:
            raise UserError("finetune, lora: one of them trains the encoder; give one")
        folder = find_folder(model)
        build = build_encoder if finetune and weights_follow else load_encoder
        encoder = build(folder, keep_padding)
        super().__init__(encoder, finetune)
        self.folder = folder
        if humanfriendly.parse_size(str(fs)) != encoder.rate:
            raise UserError(f"fs: {fs!r}: {model} takes {encoder.rate} Hz")
        self.choose_layer(layer, encoder.layers, model)
        self.hop_length, self.width = encoder.hop_length, encoder.width
        self.adapts = lora is not None
        if lora is not None:
            self.adapter = self._adapt(encoder, LoraSettings.parse(lora, _LORA))

    def _adapt(self, encoder: PretrainedEncoder, settings: LoraSettings) -> nn.Module:
        """Put adapters into the layers that are computed, and return the adapters.

        Raises:
            UserError: PEFT is missing, a target is no linear layer, or the encoder
                does not call it: WavLM's attention uses the weights of its projections
                directly, so that adapters would have no effect.
        """
        called = called_layers(encoder, self.layer)
        names: list[str] = []
        for target in settings.targets or encoder.adapted:
            chosen = find_targets(encoder.model, [target], _LORA)
            used = [n for n in chosen if encoder.model.get_submodule(n) in called]
            if not used:
                raise UserError(
                    f"{_LORA}.targets: {target}: the encoder does not call these "
                    "layers: adapters would have no effect; choose others, such as "
                    f"{', '.join(encoder.adapted)}, or a later layer"
                )
            names += used
        settings = replace(settings, targets=tuple(names))
        return adapter_tree(inject(encoder.model, settings, _LORA))

    @property
    def mixed_precision(self) -> bool:
        """Whether autocast applies: the encoder trains, and its states change."""
        return self.finetune or self.adapts

    def identity(self) -> str:
        """Return a hash of the checkpoint, on which stored states depend."""
        return encoder_digest(str(self.folder))

    def store_rows(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return states (T, layers x width) of each row of samples (n,)."""
        encoder: PretrainedEncoder = self._pretrained()
        parts: list[list[Tensor]] = [
            [row.new_zeros(0, self.layers * self.width, dtype=torch.float32)]
            for row in rows
        ]
        windows, owners = [], []
        for owner, row in enumerate(rows):
            for window in row.float().split(encoder.window or max(1, len(row))):
                if encoder.frames(len(window)):
                    windows.append(window)
                    owners.append(owner)
        grad = (self.finetune or self.adapts) and torch.is_grad_enabled()
        with self.turns, torch.set_grad_enabled(grad):
            self._follow(rows[0].device)
            encoded: dict[int, Tensor] = {}
            alone = rows[0].device.type == "cpu" and not grad
            for batch in batches(list(map(len, windows)), encoder, alone):
                states = self._encode(encoder, [windows[index] for index in batch])
                encoded |= zip(batch, states, strict=True)
        for index, owner in enumerate(owners):
            parts[owner].append(encoded[index])
        return [torch.cat(part) for part in parts]

    def _encode(
        self, encoder: PretrainedEncoder, rows: Sequence[Tensor]
    ) -> Iterator[Tensor]:
        """Return the chosen states (T, layers x width) of each row of a batch."""
        states, counts = encoder.states(rows, self.layer)
        chosen = states if self.layer is None else states[-1:]
        joined = torch.cat(chosen, -1)
        return (row[:count] for row, count in zip(joined, counts, strict=True))

    def _follow(self, device: torch.device) -> None:
        """Move a frozen encoder to the device of its input."""
        replica = getattr(self, "_is_replica", False)
        if self.adapts and replica and self._device != device:
            raise UserError(
                "lora: several GPUs need a process each (multiprocessing_distributed)"
            )
        super()._follow(device)

    def train(self, mode: bool = True) -> TransformersFrontend:
        """Set the mode; an encoder without adapters or training keeps its own."""
        super().train(mode)
        if self.adapts:
            self._frozen[0].train(mode)
        return self


def called_layers(encoder: PretrainedEncoder, last: int | None) -> set[nn.Module]:
    """Return the linear layers that are called to compute states up to ``last``."""
    called: set[nn.Module] = set()

    def note(layer: nn.Module, _: tuple[Tensor, ...], __: Tensor) -> None:
        called.add(layer)

    linear = [m for m in encoder.model.modules() if isinstance(m, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in linear]
    with torch.no_grad():
        encoder.states([torch.zeros(encoder.rate)], last)
    for hook in hooks:
        hook.remove()
    return called


def batches(
    lengths: Sequence[int], encoder: PretrainedEncoder, alone: bool
) -> Iterator[list[int]]:
    """Yield the numbers of rows to encode together: of similar lengths, not too many.

    Args:
        lengths: samples of each row.
        encoder: says whether rows of different lengths may share a batch.
        alone: one row at a time. Without gradients, a batch is not faster on a CPU, and
            it would change the rounding of its rows.
    """
    shortest = 1 - _MOST_PADDING if encoder.mixes_lengths else 1.0
    most = 0 if alone else _MOST_SECONDS * encoder.rate
    batch: list[int] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        full = (len(batch) + 1) * longest > most
        if batch and (full or lengths[row] < shortest * longest):
            yield batch
            batch = []
        longest = longest if batch else lengths[row]
        batch.append(row)
    if batch:
        yield batch
