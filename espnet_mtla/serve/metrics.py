"""Counters of a server, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram of seconds that requests take."""
PREFIX = "espnet_mtla_"


@dataclass
class Metrics:
    """What a server counted since its start; used by one thread.

    Attributes:
        answers: transcription requests by status of their answer; 499: the client has
            gone.
        audio_seconds: length of the sounds that were transcribed.
        request_seconds: sum over requests that got a text.
        buckets: such requests by the first of :data:`BUCKETS` that they fit into.
    """

    answers: Counter[int] = field(default_factory=Counter)
    audio_seconds: float = 0.0
    request_seconds: float = 0.0
    buckets: Counter[float] = field(default_factory=Counter)

    def note(self, status: int, seconds: float, audio: float = 0.0) -> None:
        """Count an answered request.

        Args:
            status: of the answer.
            seconds: from the first byte of the request to the answer.
            audio: seconds of sound that were transcribed.
        """
        self.answers[status] += 1
        if status == 200:
            self.audio_seconds += audio
            self.request_seconds += seconds
            bound = next((b for b in BUCKETS if seconds <= b), float("inf"))
            self.buckets[bound] += 1

    @property
    def mean_seconds(self) -> float:
        """Mean time of a request that got a text; 1 before the first."""
        return self.request_seconds / self.answers[200] if self.answers[200] else 1.0

    def text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """Return all numbers in the text format.

        Args:
            gauges: present values by name, each with its help text.
        """
        lines = _head("requests_total", "counter", "Requests by status of the answer.")
        lines += [
            f'{PREFIX}requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self.answers.items())
        ]
        lines += _head(
            "audio_seconds_total", "counter", "Seconds of sound transcribed."
        )
        lines.append(f"{PREFIX}audio_seconds_total {self.audio_seconds:.3f}")
        lines += self._histogram()
        for name, (help_text, value) in gauges.items():
            lines += _head(name, "gauge", help_text)
            lines.append(f"{PREFIX}{name} {value:g}")
        return "\n".join(lines) + "\n"

    def _histogram(self) -> list[str]:
        name, total = "request_seconds", 0
        lines = _head(name, "histogram", "Seconds of requests that got a text.")
        for bound in (*BUCKETS, float("inf")):
            total += self.buckets[bound]
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'{PREFIX}{name}_bucket{{le="{shown}"}} {total}')
        lines.append(f"{PREFIX}{name}_sum {self.request_seconds:.3f}")
        lines.append(f"{PREFIX}{name}_count {total}")
        return lines


def _head(name: str, kind: str, help_text: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {help_text}", f"# TYPE {PREFIX}{name} {kind}"]
