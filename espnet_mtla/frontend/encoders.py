"""Pretrained encoders of Transformers; a row's output does not depend on other rows.

An encoder takes unpadded rows of samples, pads them itself, and returns its hidden
states: the input of each layer, and the output of the encoder after its last
normalisation. Letters of shapes: ``B`` rows, ``T`` frames, ``D`` width.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, pad
from torch.nn.utils.rnn import pad_sequence

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.frontend.mel import StackedKaldiMel, Waveform, WhisperLogMel

_MODELS = {"wavlm": "WavLMModel", "hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model"}


class PretrainedEncoder(nn.Module, ABC):
    """Base of the encoders.

    Args:
        config: Transformers' configuration of the checkpoint.
        extractor: Transformers' feature extractor of the checkpoint.
    """

    extractor_name: ClassVar[str]
    prefixes: ClassVar[tuple[str, ...]]
    """Prefixes of its tensors in checkpoints; the first that occurs counts."""
    adapted: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers that LoRA adapts by default."""

    model: nn.Module
    rate: int
    """Samples per second."""
    hop_length: int
    """Samples from one frame to the next."""
    width: int
    """D."""
    layers: int
    """Number of hidden states."""
    window: int | None = None
    """Most samples that the model takes at once; None: any number."""
    mixes_lengths = True
    """False if rows of different lengths cannot be in one batch."""

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Return the number of frames of a row of samples."""

    @abstractmethod
    def states(
        self, rows: Sequence[Tensor], last: int | None = None
    ) -> tuple[list[Tensor], list[int]]:
        """Return the hidden states (B, T, D), and the valid frames of each row.

        Args:
            rows: samples (n,) each, with at least one frame.
            last: number of the last state to return; the layers after it are not
                computed. None: all states.
        """


class WhisperEncoder(PretrainedEncoder):
    """Whisper's encoder on the frames of each row, without padding to 30 s.

    Position embeddings are cut to the row. Frames after a row's end are zero before
    both convolutions, as the convolutions' own padding is for a row alone, and are
    masked in attention.

    Args:
        keep_padding: pad each row to 30 s as Transformers does; all 1500 frames count
            as valid.
    """

    extractor_name = "WhisperFeatureExtractor"
    prefixes = ("model.encoder.", "encoder.")

    def __init__(self, config: Any, extractor: Any, keep_padding: bool) -> None:
        from transformers.models.whisper import modeling_whisper

        super().__init__()
        self.features = WhisperLogMel(extractor)
        if self.features.n_mels != config.num_mel_bins:
            raise UserError(
                f"model: {self.features.n_mels} mels in preprocessor_config.json, and "
                f"{config.num_mel_bins} in config.json; take both from one checkpoint"
            )
        self.model = modeling_whisper.WhisperEncoder(config)
        self.keep_padding = keep_padding
        self.rate = self.features.rate
        self.hop_length = 2 * self.features.hop
        self.width, self.layers = config.d_model, config.encoder_layers + 1
        positions = config.max_source_positions * self.hop_length
        self.window = min(positions, self.features.window_samples)

    def frames(self, samples: int) -> int:
        if self.keep_padding and self.window and samples:
            return self.window // self.hop_length
        return (self.features.frames(samples) + 1) // 2

    def states(
        self, rows: Sequence[Tensor], last: int | None = None
    ) -> tuple[list[Tensor], list[int]]:
        if self.keep_padding and self.window:
            rows = [pad(row, (0, self.window - len(row))) for row in rows]
        mel, counts = self.features(rows)  # (B, mels, N)
        model: Any = self.model
        frames = (counts + 1) // 2
        x = gelu(model.conv1(mel))
        x = x * valid_frames(counts, x.size(2)).unsqueeze(1)
        x = gelu(model.conv2(x)).transpose(1, 2)  # (B, T, D)
        x = x + model.embed_positions.weight[: x.size(1)]
        x = dropout(x, model.dropout, model.training)
        mask = None
        if int(frames.min()) < x.size(1):
            mask = valid_frames(frames, x.size(1))[:, None, None]  # (B, 1, 1, T)
            mask = mask.expand(-1, 1, x.size(1), -1)
        states = []
        for number, layer in enumerate(model.layers):
            states.append(x)
            if number == last:
                return states, frames.tolist()
            x = _first(layer(x, mask, **_nones(layer.forward, "layer_head_mask")))
        return [*states, model.layer_norm(x)], frames.tolist()


class _ConvolvedEncoder(PretrainedEncoder):
    """A model with ``feature_projection`` and ``encoder``, which masks by itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.width = model.config.hidden_size
        self.layers = model.config.num_hidden_layers + 1

    @abstractmethod
    def projected(self, rows: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Return the encoder's input before its projection, (B, T, ...), and frames."""

    def states(
        self, rows: Sequence[Tensor], last: int | None = None
    ) -> tuple[list[Tensor], list[int]]:
        features, counts = self.projected(rows)
        model: Any = self.model
        x = _first(model.feature_projection(features))
        mask = None
        if min(counts) < x.size(1):
            lengths = torch.tensor(counts, device=x.device)
            mask = valid_frames(lengths, x.size(1))
        with _inputs_of(model.encoder.layers, last) as states:
            states.append(model.encoder(x, attention_mask=mask).last_hidden_state)
        return states, counts


class Wav2Vec2Encoder(_ConvolvedEncoder):
    """wav2vec 2.0, XLS-R, HuBERT and WavLM: convolutions over samples, then layers.

    The convolutions of "base" models normalise over time (group norm). Transformers
    includes padding in it; here they run on each row alone, and the layers on the
    padded batch. HuBERT with batch normalisation of positions changes padding to
    values other than zero, so rows of different lengths are not mixed.
    """

    extractor_name = "Wav2Vec2FeatureExtractor"
    prefixes = ("wav2vec2.", "hubert.", "wavlm.")

    def __init__(self, config: Any, extractor: Any, keep_padding: bool) -> None:
        import transformers

        _no_padding(config, keep_padding)
        super().__init__(getattr(transformers, _MODELS[config.model_type])(config))
        self.features = Waveform(extractor)
        self.rate = self.features.rate
        self.convolutions = list(
            zip(config.conv_kernel, config.conv_stride, strict=True)
        )
        self.hop_length = 1
        for _, stride in self.convolutions:
            self.hop_length *= stride
        self.alone = config.feat_extract_norm == "group"
        self.mixes_lengths = not getattr(config, "conv_pos_batch_norm", False)
        if config.model_type == "wavlm":
            # Its attention uses the weights of q_proj and v_proj without calling them.
            self.adapted = ("intermediate_dense", "output_dense")

    def frames(self, samples: int) -> int:
        for kernel, stride in self.convolutions:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def projected(self, rows: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        samples, lengths = self.features(rows)
        model: Any = self.model
        counts = [self.frames(length) for length in lengths.tolist()]
        if self.alone and len(rows) > 1:
            convolved = [
                model.feature_extractor(row[None, :length])[0].T
                for row, length in zip(samples, lengths.tolist(), strict=True)
            ]
            return pad_sequence(convolved, batch_first=True), counts
        return model.feature_extractor(samples).transpose(1, 2), counts

    def train(self, mode: bool = True) -> Wav2Vec2Encoder:
        """Set the mode; batch normalisation stays independent of the batch."""
        super().train(mode)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self


class Wav2Vec2BertEncoder(_ConvolvedEncoder):
    """w2v-BERT 2.0: conformer layers over stacked mel energies."""

    extractor_name = "SeamlessM4TFeatureExtractor"
    prefixes = ("wav2vec2_bert.",)
    adapted = ("linear_q", "linear_v")

    def __init__(self, config: Any, extractor: Any, keep_padding: bool) -> None:
        import transformers

        _no_padding(config, keep_padding)
        super().__init__(transformers.Wav2Vec2BertModel(config))
        self.features = StackedKaldiMel(extractor)
        if self.features.width != config.feature_projection_input_dim:
            raise UserError(
                f"model: {self.features.width} features in preprocessor_config.json "
                f"(mels x stride), and {config.feature_projection_input_dim} in "
                "config.json; take both from one checkpoint"
            )
        self.rate = self.features.rate
        self.hop_length = self.features.hop * self.features.stride

    def frames(self, samples: int) -> int:
        return self.features.frames(samples)

    def projected(self, rows: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        features, counts = self.features(rows)
        return features, counts.tolist()


def _no_padding(config: Any, keep_padding: bool) -> None:
    if keep_padding:
        raise UserError(
            f"keep_padding: {config.model_type} pads nothing; it is for whisper"
        )


def _first(output: Any) -> Tensor:
    """Return a tensor, or the first of several: this differs between versions."""
    return output[0] if isinstance(output, tuple) else output


def _nones(call: Callable[..., object], *names: str) -> dict[str, None]:
    """Return None for those of the names that a call has as parameters."""
    parameters = inspect.signature(call).parameters
    return {name: None for name in names if name in parameters}


class _Reached(Exception):
    """Ends the call of a model as soon as the last state needed is known."""


@contextmanager
def _inputs_of(layers: Any, last: int | None) -> Iterator[list[Tensor]]:
    """Collect the first argument of each layer's call.

    The body of the ``with`` is left at the call of layer number ``last``.
    """
    inputs: list[Tensor] = []

    def collect(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0])
        if last is not None and len(inputs) > last:
            raise _Reached

    hooks = [layer.register_forward_pre_hook(collect) for layer in layers]
    try:
        with suppress(_Reached):
            yield inputs
    finally:
        for hook in hooks:
            hook.remove()
