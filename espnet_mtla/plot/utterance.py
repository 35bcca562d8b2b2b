"""Draw one utterance: features, merge weights, and the attention of each token.

Letters: ``n`` feature frames, ``F`` features, ``U`` tokens, ``P`` prompt frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from espnet_mtla.errors import UserError
from espnet_mtla.plot.attention_maps import LayerMap, layer_maps
from espnet_mtla.plot.figure import new_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.recogniser import Recogniser


@dataclass(frozen=True)
class DecodedUtterance:
    """What the figure of one utterance shows.

    Attributes:
        key: name of the utterance.
        text: the best hypothesis.
        seconds: length of the sound.
        features: of the sound, ``(n, F)``.
        frames: prompt frames P that the decoder reads.
        shift: seconds per prompt frame.
        tokens: the hypothesis and <eos>.
        maps: weights of each layer; row u of ``attention`` predicts ``tokens[u]``.
    """

    key: str
    text: str
    seconds: float
    features: np.ndarray
    frames: int
    shift: float
    tokens: list[str]
    maps: list[LayerMap]


@torch.inference_mode()
def decode_with_maps(
    recogniser: Recogniser, key: str, samples: np.ndarray
) -> DecodedUtterance:
    """Decode one utterance and compute the weights behind its best hypothesis.

    Args:
        recogniser: a model with its decoding options.
        key: name of the utterance.
        samples: sound ``(samples,)`` at the model's rate.

    Raises:
        UserError: the model has no decoder.
    """
    from espnet_mtla.model.frames import seconds_per_frame
    from espnet_mtla.recognise.utterances import Sound

    trained: TrainedModel = recogniser.trained
    model = trained.model
    if model.decoder is None:
        raise UserError("the model has no decoder, so there is no attention to draw")
    best = recogniser([Sound(key, samples)])[0].nbest[0]
    speech = torch.from_numpy(samples).to(trained.device).unsqueeze(0)
    lengths = torch.tensor([len(samples)], device=trained.device)
    features, _ = model.extract_feats(speech, lengths)
    encoded, frames = model.encode(speech, lengths, [key])
    tasks = recogniser.tasks([Sound(key, samples)])
    prompt, prompt_lens = model.project(encoded, frames.to(trained.device), tasks)
    fed = torch.tensor([model.sos, *best.tokens], device=trained.device)
    names = [model.token_list[token] for token in best.tokens]
    stack = 1 if model.projector is None else model.projector.stack
    return DecodedUtterance(
        key,
        trained.to_text(names),
        len(samples) / trained.fs,
        features[0].cpu().numpy(),
        int(prompt_lens[0]),
        seconds_per_frame(trained.fs, model.frontend, model.encoder, stack),
        [*names, "<eos>"],
        layer_maps(model.decoder, prompt[0, : int(prompt_lens[0])], fed),
    )


def draw_utterance(
    utterance: DecodedUtterance, layer: int = -1, head: int | None = None
) -> Figure:
    """Draw the features, the merge weights of every layer, and one layer's attention.

    Args:
        utterance: the utterance.
        layer: layer whose attention is drawn, from 0, or from the end if negative.
        head: head whose attention is drawn; None: the mean of all heads.

    Raises:
        UserError: no such layer or head.
    """
    count, heads = len(utterance.maps), utterance.maps[0].attention.size(0)
    if not -count <= layer < count:
        raise UserError(f"--layer {layer}: there are {count}, 0 to {count - 1}")
    if head is not None and not 0 <= head < heads:
        raise UserError(f"--head {head}: there are {heads}, 0 to {heads - 1}")
    merged = utterance.maps[layer].merging is not None
    rows = 3 if merged else 2
    tall = max(2.5, 0.18 * len(utterance.tokens))
    heights = [2.0, *([0.35 * count + 0.8] if merged else []), tall]
    figure = new_figure(11, sum(heights) + 1.2)
    axes = list(figure.subplots(rows, 1, sharex=True, height_ratios=heights))
    figure.suptitle(f"{utterance.key}: {utterance.text}", fontsize=11)
    _draw_features(axes.pop(0), utterance)
    if merged:
        _draw_merging(axes.pop(0), utterance)
    _draw_attention(axes[0], utterance, layer % count, head)
    axes[0].set_xlabel("seconds")
    axes[0].set_xlim(0, utterance.seconds)
    return figure


def _draw_features(axis: Axes, utterance: DecodedUtterance) -> None:
    width = utterance.features.shape[1]
    axis.imshow(
        utterance.features.T,
        aspect="auto",
        origin="lower",
        cmap="magma",
        extent=(0, utterance.seconds, 0, width),
    )
    axis.set_ylabel("feature")
    axis.set_title("input features of the encoder", loc="left", fontsize=10)


def _draw_merging(axis: Axes, utterance: DecodedUtterance) -> None:
    """Draw the merge weights of the prompt, a row per layer, lines between chunks."""
    merging = [one.merging for one in utterance.maps if one.merging is not None]
    weights = torch.stack([layer[: utterance.frames] for layer in merging])
    stop = utterance.frames * utterance.shift
    shown = axis.imshow(
        weights.float().cpu().numpy(),
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=1,
        extent=(0, stop, len(weights) - 0.5, -0.5),
        interpolation="nearest",
    )
    stride = utterance.maps[0].stride
    for edge in range(stride, utterance.frames, stride):
        axis.axvline(edge * utterance.shift, color="white", linewidth=0.6)
    axis.set_yticks(range(len(weights)))
    axis.set_ylabel("layer")
    title = f"weight of each prompt position in its chunk of {stride}"
    axis.set_title(title, loc="left", fontsize=10)
    axis.figure.colorbar(shown, ax=axis, pad=0.01)


def _draw_attention(
    axis: Axes, utterance: DecodedUtterance, layer: int, head: int | None
) -> None:
    """Draw attention to the prompt, a row per token, evenly spread over chunks."""
    shown_map = utterance.maps[layer]
    attention = shown_map.attention
    weights = attention.mean(0) if head is None else attention[head]
    share = float(weights[:, : utterance.frames].sum(1).mean())
    drawn = over_chunks(weights[:, : utterance.frames], shown_map.stride)
    shown = axis.imshow(
        drawn.float().cpu().numpy(),
        aspect="auto",
        cmap="Blues",
        extent=(
            0,
            utterance.frames * utterance.shift,
            len(utterance.tokens) - 0.5,
            -0.5,
        ),
        interpolation="nearest",
    )
    axis.set_yticks(range(len(utterance.tokens)), utterance.tokens, fontsize=8)
    heads = "mean of heads" if head is None else f"head {head}"
    axis.set_title(
        f"attention of layer {layer}, {heads}; {100 * share:.0f} % of it on the prompt",
        loc="left",
        fontsize=10,
    )
    axis.figure.colorbar(shown, ax=axis, pad=0.01)


def over_chunks(weights: torch.Tensor, stride: int) -> torch.Tensor:
    """Spread the weight of each chunk evenly over its positions, ``(U, P)``.

    >>> over_chunks(torch.tensor([[0.0, 0.5, 0.0, 0.25]]), 2).tolist()
    [[0.25, 0.25, 0.125, 0.125]]
    """
    if stride == 1:
        return weights
    positions = weights.size(1)
    padded = torch.nn.functional.pad(weights, (0, -positions % stride))
    sums = padded.unflatten(1, (-1, stride)).sum(-1, keepdim=True) / stride
    return sums.expand(-1, -1, stride).flatten(1)[:, :positions]
