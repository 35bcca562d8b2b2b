"""Spoken language understanding: a text is an intent, one word, then what was said."""

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
    """As recognition, with a loss and a statistic (``acc_intent``) for the intent."""

    name = "slu"

    @classmethod
    def build_preprocess_fn(cls, args: Namespace, train: bool) -> Preprocess:
        del train
        return Preprocess(args, intents=True)

    @classmethod
    def check_texts(
        cls, args: Namespace, sources: Mapping[str, Source], allow_unk: bool
    ) -> None:
        """Also: no intent to validate on that training has not, unless ``allow_unk``.

        Raises:
            UserError: names the intent and the utterance.
        """
        super().check_texts(args, sources, allow_unk)
        intents = {part: _intents(source) for part, source in sources.items()}
        known = Counter(intents["train"].values())
        logger.info(
            "%d intents in training, the rarest, %s, %d times",
            *(len(known), *min(known.items(), key=lambda item: item[::-1])),
        )
        strange = {k: i for k, i in intents["valid"].items() if i not in known}
        logger.info("%d validation texts of other intents", len(strange))
        if strange and not allow_unk:
            key, intent = min(strange.items())
            raise UserError(
                f"{sources['valid'].target}: {key}: intent {intent!r} is unknown: no "
                "training text begins with it; move some there, or drop it"
            )


def _intents(source: Source) -> dict[str, str]:
    return {key: text.split(maxsplit=1)[0] for key, text in source.texts.items()}
