"""Summarisation: text in, text out, one vocabulary for both."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from espnet_mtla.model.bounds import bounded_by_memory
from espnet_mtla.model.build import build_text_model
from espnet_mtla.model.components import CHOICES
from espnet_mtla.model.text import DecoderOnlyTextModel
from espnet_mtla.task.asr import ASRTask
from espnet_mtla.task.source import Source


class SUMTask(ASRTask):
    """Train :class:`DecoderOnlyTextModel` on text; no audio, no encoder."""

    name = "sum"
    reads_sound = False

    @classmethod
    def add_task_arguments(cls, parser: ArgumentParser) -> None:
        super().add_task_arguments(parser)
        parts = {choices.name: None for choices in CHOICES}
        parser.set_defaults(**parts, source_text="text.source")
        parser.set_defaults(
            best_model_criterion=[["valid", "acc", "max"], ["valid", "loss", "min"]]
        )

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        del train
        return ("source",) if inference else ("source", "text")

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        del train
        return ("text",) if inference else ()

    @classmethod
    def input_lengths(cls, args: Namespace, source: Source) -> dict[str, str]:
        """Return the number of tokens of each source text, as text by key."""
        prepare = cls.build_preprocess_fn(args, train=False)
        return {
            key: str(len(prepare.token_ids(text)))
            for key, text in source.source_texts.items()
        }

    @classmethod
    def build_model(cls, args: Namespace) -> DecoderOnlyTextModel:
        """See :func:`espnet_mtla.model.build.build_text_model`."""
        with bounded_by_memory("decoder_conf"):
            model = build_text_model(args)
        cls.with_adapters(model, args)
        return model
