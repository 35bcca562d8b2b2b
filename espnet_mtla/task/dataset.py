"""Let espnet2's datasets read sound and features through :mod:`.utterance_table`.

espnet2's own readers end in a traceback at a truncated file, do not say whose it is,
and unpickle what lies in an archive.
"""

from __future__ import annotations

from espnet2.train.dataset import DATA_TYPES

from espnet_mtla.data.utterance_table import TYPE, UtteranceTable


def register() -> None:
    """Make ``PATH,NAME,utterance`` known to ``*_data_path_and_name_and_type``."""
    DATA_TYPES[TYPE] = {
        "func": UtteranceTable,
        "kwargs": [],
        "help": "Sound (wav.scp) or features (feats.scp), one place an utterance",
    }
