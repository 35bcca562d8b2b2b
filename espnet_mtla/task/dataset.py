"""Let espnet2's datasets read sound and features through ``data.utterance_table``.

espnet2's own readers raise a traceback without the utterance's key for a truncated
file, and unpickle the content of archives.
"""

from __future__ import annotations

from espnet2.train.dataset import DATA_TYPES

from espnet_mtla.data.utterance_table import TYPE, UtteranceTable


def register() -> None:
    """Register the type ``utterance`` for ``*_data_path_and_name_and_type``."""
    DATA_TYPES[TYPE] = {
        "func": UtteranceTable,
        "kwargs": [],
        "help": "Sound (wav.scp) or features (feats.scp), one location per utterance",
    }
