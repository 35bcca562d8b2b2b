"""Average the parameters of the best epochs."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError
from espnet_mtla.model.checkpoint import CHECKPOINT, FROZEN, load, save
from espnet_mtla.settings.names import MODEL

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Criterion:
    """A criterion such as ``valid.acc.max``: data set, statistic, better end."""

    part: str
    name: str
    largest: bool

    @classmethod
    def parse(cls, text: str) -> Criterion:
        """Raises :class:`UserError` unless of the form PART.NAME.max or .min."""
        part, _, rest = text.partition(".")
        name, _, mode = rest.rpartition(".")
        if not part or not name or mode not in ("max", "min"):
            raise UserError(f"--metric {text}: such as valid.acc.max or valid.loss.min")
        return cls(part, name, mode == "max")

    def __str__(self) -> str:
        return f"{self.part}.{self.name}"

    def rank(self, stats: dict[int, dict[str, Any]]) -> list[tuple[int, float]]:
        """Return (epoch, value), best first, of epochs with a finite value.

        Raises:
            UserError: no epoch has the statistic; names those there are.
        """
        values = {
            epoch: parts.get(self.part, {}).get(self.name)
            for epoch, parts in stats.items()
        }
        found = [(e, float(v)) for e, v in values.items() if _finite(v)]
        if not found:
            there = sorted(
                f"valid.{name}"
                for name, value in stats[max(stats)]["valid"].items()
                if _finite(value) and name != "total_count"
            )
            raise UserError(f"--metric {self}: not recorded; valid: {', '.join(there)}")
        return sorted(found, key=lambda pair: -pair[1] if self.largest else pair[1])


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def average(folder: Path, metric: Criterion, nbest: int) -> list[int]:
    """Write ``METRIC.ave_Nbest.pth``, ``model.pth``, and a JSON of the epochs.

    ``model.pth`` also has the parameters that did not train.

    Returns:
        The averaged epochs, best first.
    Raises:
        UserError: nothing was trained, or the metric is not recorded.
    """
    if nbest < 1:
        raise UserError(f"--nbest {nbest}: at least 1 is needed")
    if not (folder / CHECKPOINT).is_file():
        raise UserError(f"{folder}: no {CHECKPOINT}: nothing was trained here")
    ranked = metric.rank(load(folder / CHECKPOINT)["reporter"]["stats"])
    chosen = [(e, v) for e, v in ranked[:nbest] if (folder / f"{e}epoch.pth").is_file()]
    if not chosen:
        raise UserError(f"{folder}: none of the {nbest} best epochs is kept")
    if len(chosen) < nbest:
        logger.warning(
            "%s: %d of %d epochs asked for: %d were trained, and keep_nbest_models "
            "decides how many are kept",
            *(folder, len(chosen), nbest, len(ranked)),
        )
    epochs = [epoch for epoch, _ in chosen]
    mean = mean_states([folder / f"{epoch}epoch.pth" for epoch in epochs])
    stem = f"{metric}.ave_{nbest}best"
    with atomic_file(folder / f"{stem}.json") as stream:
        record = {"metric": str(metric), "best": "max" if metric.largest else "min"}
        json.dump({**record, "epochs": dict(chosen)}, stream, indent=1)
    save(mean, folder / f"{stem}.pth")
    frozen = load(folder / FROZEN) if (folder / FROZEN).is_file() else {}
    save({**frozen, **mean}, folder / MODEL)
    return epochs


def mean_states(paths: list[Path]) -> dict[str, Tensor]:
    """Return the mean of floating-point entries, and the first file's other ones.

    Raises:
        UserError: the files do not hold the same parameters.
    """
    first = load(paths[0])
    sums = {k: v.double() for k, v in first.items() if v.is_floating_point()}
    for path in paths[1:]:
        states = load(path)
        if states.keys() != first.keys():
            key = min(states.keys() ^ first.keys())
            raise UserError(f"{path}: differs from {paths[0]} in {key}")
        for key in sums:
            sums[key] += states[key]
    means = {k: (v / len(paths)).to(first[k].dtype) for k, v in sums.items()}
    return {key: means.get(key, value) for key, value in first.items()}
