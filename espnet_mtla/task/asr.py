"""Speech recognition on espnet2's AbsTask: which parts there are and how they join."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from torch import nn

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.model.config import ModelConfig, ProjectorConfig
from espnet_mtla.task.batch import Preprocess, collate
from espnet_mtla.task.checkpoint import load
from espnet_mtla.task.choices import quiet_import
from espnet_mtla.task.config import load_yaml
from espnet_mtla.task.files import use_copies
from espnet_mtla.task.log import log_to
from espnet_mtla.task.parts import (
    CHOICES,
    FRONTEND,
    NORMALIZE,
    SPECAUG,
    build_encoder,
    build_part,
    naming,
)
from espnet_mtla.task.tokens import TOKEN_TYPES, read_token_list

with quiet_import():
    from espnet2.asr.ctc import CTC
    from espnet2.tasks.abs_task import AbsTask
    from espnet2.utils.nested_dict_action import NestedDictAction
    from espnet2.utils.types import int_or_none, str_or_none

    from espnet_mtla.model.projector import FrameStackProjector
    from espnet_mtla.model.speech import DecoderOnlySpeechModel
    from espnet_mtla.task.trainer import SafeTrainer


class ASRTask(AbsTask):
    """Train :class:`DecoderOnlySpeechModel` with espnet2's trainer, samplers and DDP."""

    trainer = SafeTrainer
    class_choices_list = CHOICES

    @classmethod
    def add_task_arguments(cls, parser: ArgumentParser) -> None:
        """Model options; their defaults are those of the parts themselves."""
        group = parser.add_argument_group("Task related")
        group.add_argument("--token_list", type=str_or_none, default=None)
        group.add_argument("--token_type", choices=TOKEN_TYPES, default="bpe")
        group.add_argument("--bpemodel", type=str_or_none, default=None)
        group.add_argument("--non_linguistic_symbols", type=str_or_none, default=None)
        group.add_argument(
            "--input_size",
            type=int_or_none,
            default=None,
            help="Width of given features, with --frontend none",
        )
        for choices in cls.class_choices_list:
            choices.add_arguments(group)
        for name, what in (
            ("ctc", "CTC"),
            ("projector", "frame stacking and projection"),
            ("decoder", "the decoder-only layers"),
            ("model", "the losses"),
        ):
            group.add_argument(
                f"--{name}_conf",
                action=NestedDictAction,
                default={},
                help=f"Settings of {what}",
            )
        parser.set_defaults(
            required=["output_dir", "token_list"],
            # Plots take longer than an epoch of a small model; TensorBoard has them.
            num_att_plot=0,
            use_matplotlib=False,
            resume=True,
            best_model_criterion=[["valid", "acc", "max"], ["valid", "loss", "min"]],
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
        return ("text",) if inference else ()

    @classmethod
    def build_collate_fn(cls, args: Namespace, train: bool) -> Callable:
        del args, train
        return collate

    @classmethod
    def build_preprocess_fn(cls, args: Namespace, train: bool) -> Preprocess:
        del train
        return Preprocess(
            read_token_list(args.token_list),
            args.token_type,
            args.bpemodel,
            args.non_linguistic_symbols,
            samples=args.frontend is not None,
        )

    @classmethod
    def main_worker(cls, args: Namespace) -> None:
        """One process of a run; the first one keeps a log beside its output."""
        rank = (
            args.dist_rank if args.dist_rank is not None else os.environ.get("RANK", 0)
        )
        name = "collect.log" if args.collect_stats else "train.log"
        path = Path(args.output_dir) / name if int(rank) == 0 else None
        with log_to(path):
            super().main_worker(args)

    @classmethod
    def build_model(cls, args: Namespace) -> DecoderOnlySpeechModel:
        """Build from parsed options or from a ``config.yaml`` read back.

        Raises:
            UserError: names the option or key that is wrong.
        """
        # Kept in config.yaml as a list: a trained model needs no other file for it.
        args.token_list = read_token_list(args.token_list)
        vocab_size = len(args.token_list)
        config = ModelConfig(**args.model_conf)
        frontend = build_part(FRONTEND, args)
        input_size = frontend.output_size() if frontend else args.input_size
        if not input_size:
            raise UserError("input_size: needed with frontend none (features given)")
        encoder = build_encoder(args, input_size)
        width = encoder.output_size() if encoder else input_size
        ctc = projector = decoder = None
        if config.uses_ctc:
            with naming("ctc_conf"):
                ctc = CTC(vocab_size, width, **args.ctc_conf)
        if config.uses_decoder:
            settings = DecoderConfig(vocab_size=vocab_size, **args.decoder_conf)
            decoder = DecoderOnlyTransformer(settings)
            projector = FrameStackProjector(
                width, settings.embed_dim, ProjectorConfig(**args.projector_conf)
            )
        return DecoderOnlySpeechModel(
            args.token_list,
            config,
            frontend=frontend,
            specaug=build_part(SPECAUG, args),
            normalize=build_part(NORMALIZE, args),
            encoder=encoder,
            projector=projector,
            decoder=decoder,
            ctc=ctc,
            input_size=input_size,
        )

    @classmethod
    def build_model_from_file(
        cls,
        config_file: str | Path | None = None,
        model_file: str | Path | None = None,
        device: str = "cpu",
    ) -> tuple[nn.Module, Namespace]:
        """Rebuild a trained model; its folder may have been moved.

        Args:
            config_file: ``config.yaml`` of the experiment; by default beside the model.
            model_file: parameters; None leaves them as initialised.
        Returns:
            The model on ``device``, and the options it was built from.
        Raises:
            UserError: a file that is missing, unreadable, or does not fit.
        """
        if config_file is None:
            if model_file is None:
                raise ValueError("config_file or model_file is needed")
            config_file = Path(model_file).parent / "config.yaml"
        args = Namespace(**load_yaml(config_file))
        use_copies(args, Path(config_file).parent)
        model = cls.build_model(args)
        if model_file is not None:
            try:
                model.load_state_dict(load(model_file))
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{model_file}: does not fit {config_file}: {reason}"
                ) from None
        return model.to(device), args
