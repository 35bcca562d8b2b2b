"""Speech translation: predict a translation; CTC may learn the words spoken."""

from __future__ import annotations

from espnet_mtla.task.asr import ASRTask


class STTask(ASRTask):
    """Speech recognition with a translation as the target text.

    With ``--source_text`` CTC learns the words spoken, and cannot score translations in
    decoding. Without it CTC learns the translation.
    """

    name = "st"
