"""What is fast, what is small, by how much: the parts of ``bin/benchmark.py``.

A part is a module of this package named in :data:`PARTS`, light to import, with

- ``add_arguments(parser)``: its own options, beside the common ones of the command;
- ``run(args) -> Report``: first the correctness gate (:mod:`.gate`), which ends the
  benchmark where results differ, then measurements (:mod:`.measure`).

The command adds device, versions, commit and load, prints the table, and writes JSON,
table and plot (:mod:`.report`). Parts need torch alone; peers join when installed.
"""

from __future__ import annotations

PARTS = {
    "train": "one attention layer, forward and backward: time and kept bytes",
    "decode": "steps with a cache: time and bytes, beside the reference's",
    "recipe": "a trained experiment's decoding, in batches, singly, by ESPnet",
    "kernel": "attention over a cache: bytes and products a second",
}
"""Part and what it measures; ``all`` runs them as :mod:`.table` says."""
