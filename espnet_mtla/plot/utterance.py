"""One utterance as a picture: sound, how it is merged, where each token looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError
from espnet_mtla.plot.maps import LayerMap, layer_maps

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.recogniser import Recogniser


@dataclass(frozen=True)
class Picture:
    """``features (n, F)``, the prompt's ``frames`` of ``shift`` seconds each, and the
    maps, in which row u is where the model looked to write ``tokens[u]``."""

    key: str
    text: str
    seconds: float
    features: np.ndarray
    frames: int
    shift: float
    tokens: list[str]
    maps: list[LayerMap]


@torch.inference_mode()
def look(recogniser: Recogniser, key: str, samples: np.ndarray) -> Picture:
    """Decode one utterance and note where its hypothesis looked.

    Raises:
        UserError: the model has no decoder.
    """
    from espnet_mtla.model.frames import seconds_per_frame
    from espnet_mtla.recognise.utterances import Sound

    trained: TrainedModel = recogniser.trained
    model = trained.model
    if model.decoder is None:
        raise UserError("the model has no decoder, and so nothing to look with")
    best = recogniser([Sound(key, samples)])[0].nbest[0]
    speech = torch.from_numpy(samples).to(trained.device).unsqueeze(0)
    lengths = torch.tensor([len(samples)], device=trained.device)
    features, _ = model.extract_feats(speech, lengths)
    encoded, frames = model.encode(speech, lengths, [key])
    prompt, prompt_lens = model.project(encoded, frames.to(trained.device))
    fed = torch.tensor([model.sos, *best.tokens], device=trained.device)
    names = [model.token_list[token] for token in best.tokens]
    stack = 1 if model.projector is None else model.projector.stack
    return Picture(
        key,
        trained.to_text(names),
        len(samples) / trained.fs,
        features[0].cpu().numpy(),
        int(prompt_lens[0]),
        seconds_per_frame(trained.fs, model.frontend, model.encoder, stack),
        [*names, "<eos>"],
        layer_maps(model.decoder, prompt[0, : int(prompt_lens[0])], fed),
    )


def draw(picture: Picture, layer: int = -1, head: int | None = None) -> Figure:
    """Spectrogram, merge weights of every layer, and one layer's attention.

    Args:
        layer: whose attention, from 0, or from the end; ``head``: None is their mean.
    Raises:
        UserError: no such layer or head.
    """
    count, heads = len(picture.maps), picture.maps[0].attention.size(0)
    if not -count <= layer < count:
        raise UserError(f"--layer {layer}: there are {count}, 0 to {count - 1}")
    if head is not None and not 0 <= head < heads:
        raise UserError(f"--head {head}: there are {heads}, 0 to {heads - 1}")
    merged = picture.maps[layer].merging is not None
    rows = 3 if merged else 2
    tall = max(2.5, 0.18 * len(picture.tokens))
    heights = [2.0, *([0.35 * count + 0.8] if merged else []), tall]
    figure = Figure(figsize=(11, sum(heights) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot, no display is asked for
    axes = list(figure.subplots(rows, 1, sharex=True, height_ratios=heights))
    figure.suptitle(f"{picture.key}: {picture.text}", fontsize=11)
    _spectrogram(axes.pop(0), picture)
    if merged:
        _merging(axes.pop(0), picture)
    _attention(axes[0], picture, layer % count, head)
    axes[0].set_xlabel("seconds")
    axes[0].set_xlim(0, picture.seconds)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with atomic_file(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=130)


def _spectrogram(axis: Axes, picture: Picture) -> None:
    width = picture.features.shape[1]
    axis.imshow(
        picture.features.T,
        aspect="auto",
        origin="lower",
        cmap="magma",
        extent=(0, picture.seconds, 0, width),
    )
    axis.set_ylabel("feature")
    axis.set_title("what the encoder is given", loc="left", fontsize=10)


def _merging(axis: Axes, picture: Picture) -> None:
    """A row a layer; lines where chunks end."""
    weights = torch.stack(
        [
            one.merging[: picture.frames]
            for one in picture.maps
            if one.merging is not None
        ]
    )
    stop = picture.frames * picture.shift
    shown = axis.imshow(
        weights.float().cpu().numpy(),
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=1,
        extent=(0, stop, len(weights) - 0.5, -0.5),
        interpolation="nearest",
    )
    stride = picture.maps[0].stride
    for edge in range(stride, picture.frames, stride):
        axis.axvline(edge * picture.shift, color="white", linewidth=0.6)
    axis.set_yticks(range(len(weights)))
    axis.set_ylabel("layer")
    title = f"weight of each prompt position in its chunk of {stride}"
    axis.set_title(title, loc="left", fontsize=10)
    axis.figure.colorbar(shown, ax=axis, pad=0.01)


def _attention(axis: Axes, picture: Picture, layer: int, head: int | None) -> None:
    noted = picture.maps[layer]
    weights = noted.attention.mean(0) if head is None else noted.attention[head]
    share = float(weights[:, : picture.frames].sum(1).mean())
    drawn = over_chunks(weights[:, : picture.frames], noted.stride)
    shown = axis.imshow(
        drawn.float().cpu().numpy(),
        aspect="auto",
        cmap="Blues",
        extent=(0, picture.frames * picture.shift, len(picture.tokens) - 0.5, -0.5),
        interpolation="nearest",
    )
    axis.set_yticks(range(len(picture.tokens)), picture.tokens, fontsize=8)
    who = "mean of heads" if head is None else f"head {head}"
    axis.set_title(
        f"attention of layer {layer}, {who}; {100 * share:.0f} % of it on the sound",
        loc="left",
        fontsize=10,
    )
    axis.figure.colorbar(shown, ax=axis, pad=0.01)


def over_chunks(weights: torch.Tensor, stride: int) -> torch.Tensor:
    """``(U, P)``: what lies on a chunk's last place, spread over all its places."""
    if stride == 1:
        return weights
    places = weights.size(1)
    padded = torch.nn.functional.pad(weights, (0, -places % stride))
    sums = padded.unflatten(1, (-1, stride)).sum(-1, keepdim=True) / stride
    return sums.expand(-1, -1, stride).flatten(1)[:, :places]
