"""Speech recognition on espnet2's AbsTask: options, data and model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _ArgumentGroup
from collections.abc import Mapping
from pathlib import Path

from torch.nn import Module
from torch.optim import Optimizer

from espnet_mtla.data.tokens import TOKEN_TYPES, TYPE_ALIASES
from espnet_mtla.espnet import quiet_import
from espnet_mtla.lora import add_lora
from espnet_mtla.model.base import DecoderOnlyModel
from espnet_mtla.model.batch import Collate, Preprocess, collate
from espnet_mtla.model.bounds import bounded_by_memory
from espnet_mtla.model.build import INITS, build_model, load_model
from espnet_mtla.model.components import CHOICES
from espnet_mtla.model.decoders import DECODER
from espnet_mtla.task.checks import check_symbols
from espnet_mtla.task.log import log_to
from espnet_mtla.task.optimiser import check_frozen, parameter_groups
from espnet_mtla.task.source import Source, lengths

with quiet_import():
    from espnet2.tasks.abs_task import AbsTask
    from espnet2.train.distributed_utils import get_rank
    from espnet2.utils.nested_dict_action import NestedDictAction
    from espnet2.utils.types import int_or_none, str_or_none

    from espnet_mtla.task import dataset
    from espnet_mtla.task.trainer import SafeTrainer

# At import, so that the processes of a distributed run do it too.
dataset.register()


class ASRTask(AbsTask):
    """Train :class:`DecoderOnlyModel` with espnet2's trainer and samplers."""

    name = "asr"
    reads_sound = True
    trainer = SafeTrainer
    class_choices_list = (*CHOICES, DECODER)

    @classmethod
    def add_task_arguments(cls, parser: ArgumentParser) -> None:
        """Add the model's options; the components hold the defaults."""
        group = parser.add_argument_group("Task related")
        group.add_argument("--task", choices=[cls.name], default=cls.name)
        group.add_argument(
            "--target_text",
            default="text",
            help="Table of the data folders with the text to predict",
        )
        group.add_argument(
            "--source_text",
            default="",
            help="Table with the words spoken, for CTC, if the text is another one; in "
            "summarisation the table of the sources",
        )
        cls._add_tokens(group)
        group.add_argument(
            "--input_size",
            type=int_or_none,
            default=None,
            help="Width of the features, with --frontend none",
        )
        group.add_argument(
            "--init",
            type=str_or_none,
            default=None,
            choices=INITS,
            help="Initialisation of encoder and decoder, as in espnet2; none: torch's "
            "own. Embeddings and front-ends always have their own",
        )
        group.add_argument(
            "--trained_seconds",
            type=float,
            default=None,
            help="Length in s that one training utterance in a hundred exceeds; "
            "training computes it. Speech2Text cuts longer recordings to it",
        )
        group.add_argument(
            "--decoder_base_model",
            type=str_or_none,
            default=None,
            help="Language model that the decoder began from; training records it",
        )
        cls._add_components(group)
        parser.set_defaults(
            required=["output_dir", "token_list"],
            # Plots take longer than an epoch of a small model; TensorBoard has them.
            num_att_plot=0,
            use_matplotlib=False,
            resume=True,
            best_model_criterion=[
                ["valid", "acc", "max"],
                ["valid", "cer_ctc", "min"],
                ["valid", "loss", "min"],
            ],
        )

    @classmethod
    def _add_tokens(cls, group: _ArgumentGroup) -> None:
        """Add the options of token list and tokeniser."""
        group.add_argument("--token_list", type=str_or_none, default=None)
        group.add_argument(
            "--token_type",
            type=lambda name: TYPE_ALIASES.get(name, name),
            choices=TOKEN_TYPES,
            default="bpe",
        )
        group.add_argument(
            "--bpemodel",
            type=str_or_none,
            default=None,
            help="Model of sentencepiece; for hf folder or hub name of a Transformers "
            "tokenizer",
        )
        group.add_argument("--non_linguistic_symbols", type=str_or_none, default=None)

    @classmethod
    def _add_components(cls, group: _ArgumentGroup) -> None:
        """Add the options of components with a choice, and of those without."""
        for name, text in (
            ("lora", "Parts that train by adapters alone, and the adapters' settings"),
            ("lr_scale", "Parts that learn slower or faster: factors by part"),
        ):
            group.add_argument(
                f"--{name}", action=NestedDictAction, default={}, help=text
            )
        for choices in cls.class_choices_list:
            choices.add_arguments(group)
        for name, what in (
            ("ctc", "CTC"),
            ("projector", "frame stacking and projection"),
            ("model", "the losses"),
        ):
            group.add_argument(
                f"--{name}_conf",
                action=NestedDictAction,
                default={},
                help=f"Settings of {what}",
            )

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        del train
        return ("speech",) if inference else ("speech", "text")

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        del train
        return ("source", "text", "task") if inference else ("source", "task")

    @classmethod
    def build_collate_fn(cls, args: Namespace, train: bool) -> Collate:
        del args, train
        return collate

    @classmethod
    def build_preprocess_fn(cls, args: Namespace, train: bool) -> Preprocess:
        del train
        return Preprocess(args)

    @classmethod
    def input_lengths(cls, args: Namespace, source: Source) -> dict[str, str]:
        """Return input lengths by key; see :func:`.source.lengths`."""
        del args
        return lengths(source)

    @classmethod
    def check_texts(
        cls, args: Namespace, sources: Mapping[str, Source], allow_unk: bool
    ) -> None:
        """Check the texts before training; raise :class:`UserError`."""
        check_symbols(args, sources, allow_unk)

    @classmethod
    def is_first(cls, args: Namespace) -> bool:
        """Return True in the process of a distributed run that writes files."""
        return not get_rank(args.dist_rank, args.dist_launcher)

    @classmethod
    def main_worker(cls, args: Namespace) -> None:
        """Run one process of a training; the first one writes a log into the output."""
        name = "collect.log" if args.collect_stats else "train.log"
        with log_to(Path(args.output_dir) / name if cls.is_first(args) else None):
            super().main_worker(args)

    @classmethod
    def build_model(cls, args: Namespace) -> DecoderOnlyModel:
        """See :func:`espnet_mtla.model.build.build_model`."""
        with bounded_by_memory("encoder_conf, decoder_conf"):
            model = build_model(args)
        return cls.with_adapters(model, args)

    @classmethod
    def with_adapters(
        cls, model: DecoderOnlyModel, args: Namespace
    ) -> DecoderOnlyModel:
        """Add the adapters of the option ``lora`` to a model that is to be trained."""
        if not args.collect_stats:
            add_lora(model, args.lora)
        return model

    @classmethod
    def build_optimizers(cls, args: Namespace, model: Module) -> list[Optimizer]:
        """Build the optimiser, with ``lr_scale`` a group of parameters for each rate.

        Raises:
            UserError: ``freeze_param`` or ``lr_scale`` name no part of the model.
        """
        if not args.collect_stats:
            check_frozen(model, args.freeze_param)
        optimisers: list[Optimizer] = super().build_optimizers(args, model)
        if args.lr_scale and not args.collect_stats:
            (plain,) = optimisers
            rate = plain.param_groups[0]["lr"]
            groups = parameter_groups(model, args.lr_scale, rate)
            return [type(plain)(groups, **args.optim_conf)]
        return optimisers

    @classmethod
    def build_model_from_file(
        cls,
        config_file: str | Path | None = None,
        model_file: str | Path | None = None,
        device: str = "cpu",
    ) -> tuple[DecoderOnlyModel, Namespace]:
        """See :func:`espnet_mtla.model.build.load_model`."""
        return load_model(config_file, model_file, device)
