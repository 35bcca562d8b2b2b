"""How fast each rotary pair turns: radians a token."""

from __future__ import annotations

import math
from collections.abc import Mapping


def rotary_frequencies(
    dim: int, base: float, scaling: Mapping[str, object]
) -> list[float]:
    """Frequencies of the ``dim / 2`` pairs, ``base ** (-2k / dim)``, scaled.

    Args:
        dim: width that is rotated, even.
        base: ``rope_theta``.
        scaling: Transformers' settings, of which ``rope_type`` is read and with it
            ``linear``: ``factor``; ``llama3`` (the Llama 3.1 report, section 3.4):
            that, ``low_freq_factor``, ``high_freq_factor``,
            ``original_max_position_embeddings``.
    """
    plain = [base ** (-2 * k / dim) for k in range(dim // 2)]
    if scaling["rope_type"] == "default":
        return plain
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return [f / factor for f in plain]
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    context = float(scaling["original_max_position_embeddings"])

    def scaled(f: float) -> float:
        """Slow pairs turn ``factor`` times slower, fast ones as before."""
        turns = context * f / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return f * (kept + (1 - kept) / factor)

    return [scaled(f) for f in plain]
