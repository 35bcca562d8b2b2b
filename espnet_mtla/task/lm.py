"""Language modelling: text alone, for scores that join in the search."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from espnet_mtla.model.bounds import bounded_by_memory
from espnet_mtla.model.build import build_language_model
from espnet_mtla.model.language import DecoderOnlyLanguageModel
from espnet_mtla.task.source import Source
from espnet_mtla.task.sum import SUMTask


class LMTask(SUMTask):
    """Train :class:`DecoderOnlyLanguageModel` on a table of texts."""

    name = "lm"

    @classmethod
    def add_task_arguments(cls, parser: ArgumentParser) -> None:
        """Add the options of a text model; there is no source."""
        super().add_task_arguments(parser)
        parser.set_defaults(
            source_text="",
            best_model_criterion=[["valid", "loss", "min"], ["valid", "acc", "max"]],
        )

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        """Return the names of a batch's data."""
        del train, inference
        return ("text",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        """Return no names: text is all there is."""
        del train, inference
        return ()

    @classmethod
    def input_lengths(cls, args: Namespace, source: Source) -> dict[str, str]:
        """Return the number of tokens of each text."""
        prepare = cls.build_preprocess_fn(args, train=False)
        return {
            key: str(len(prepare.token_ids(text))) for key, text in source.texts.items()
        }

    @classmethod
    def build_model(cls, args: Namespace) -> DecoderOnlyLanguageModel:
        """See :func:`espnet_mtla.model.build.build_language_model`."""
        with bounded_by_memory("decoder_conf"):
            model = build_language_model(args)
        cls.with_adapters(model, args)
        return model
