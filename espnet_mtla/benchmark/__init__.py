"""Measurements of speed and memory, as run by ``bin/benchmark.py``.

A part is a module of this package named in :data:`PARTS`, light to import, with

- ``add_arguments(parser)``: its options, beside the common ones of the command;
- ``run(args)``: check the results against a slow exact computation (:mod:`.gate`),
  measure (:mod:`.measure`), and return a :class:`.report.BenchmarkReport`. A result
  that differs ends the benchmark before anything is timed.

The command adds device, versions, commit and load to the report, prints its table, and
writes it as JSON, Markdown and PNG. Parts need torch alone; other implementations are
measured beside ours where they are installed.
"""

from __future__ import annotations

PARTS = {
    "train": "one attention layer, forward and backward: time and saved bytes",
    "decode": "decoding steps with a cache: time and bytes, also of the reference",
    "recipe": "decoding with a trained experiment: in batches, one by one, by ESPnet",
    "kernel": "attention over a cache: bytes and products per second",
}
"""Each part and what it measures; ``all`` runs them as :mod:`.table` lists."""
