"""Spoken language understanding: predict the intent, one word, then the words."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping

from espnet_mtla.errors import UserError
from espnet_mtla.model.batch import Preprocess
from espnet_mtla.task.asr import ASRTask
from espnet_mtla.task.source import Source

logger = logging.getLogger(__name__)


class SLUTask(ASRTask):
    """Speech recognition with a loss and an accuracy (``acc_intent``) of intents."""

    name = "slu"

    @classmethod
    def build_preprocess_fn(cls, args: Namespace, train: bool) -> Preprocess:
        del train
        return Preprocess(args, intents=True)

    @classmethod
    def check_texts(
        cls, args: Namespace, sources: Mapping[str, Source], allow_unk: bool
    ) -> None:
        """Check symbols, and that training texts contain each validation intent.

        Raises:
            UserError: a symbol or intent is unknown and ``allow_unk`` is false.
        """
        super().check_texts(args, sources, allow_unk)
        intents = {part: _intents(source) for part, source in sources.items()}
        known = Counter(intents["train"].values())
        logger.info(
            "%d intents in training, the rarest, %s, %d times",
            *(len(known), *min(known.items(), key=lambda item: item[::-1])),
        )
        unknown = {k: i for k, i in intents["valid"].items() if i not in known}
        logger.info("%d validation texts of other intents", len(unknown))
        if unknown and not allow_unk:
            key, intent = min(unknown.items())
            raise UserError(
                f"{sources['valid'].target}: {key}: intent {intent!r} is unknown: no "
                "training text begins with it; move some there, or drop it"
            )


def _intents(source: Source) -> dict[str, str]:
    return {key: text.split(maxsplit=1)[0] for key, text in source.texts.items()}
