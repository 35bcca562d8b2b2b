"""Speech translation: the text is a translation; CTC is on what was said, if given."""

from __future__ import annotations

from espnet_mtla.task.asr import ASRTask


class STTask(ASRTask):
    """As recognition, but for what the target text is.

    With ``--source_text`` CTC learns the words spoken, so it cannot take part in the
    search for a translation. Without it CTC, if there is one, is on the translation.
    """

    name = "st"
