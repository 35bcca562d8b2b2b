"""The ``train`` command: parse options, check data, collect statistics, train."""

from __future__ import annotations

import logging
import warnings
from argparse import Action, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch.multiprocessing.spawn import ProcessExitedException

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.data.lock import lock_folder
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.model.components import check_sections, sampling_rate
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.decoders import DECODER, complete_decoder, is_pretrained
from espnet_mtla.model.files import bundle_files
from espnet_mtla.model.originals import record_originals
from espnet_mtla.settings.names import CONFIG, STATS, TASKS
from espnet_mtla.settings.yaml_files import check_keys, load_config, overlay
from espnet_mtla.task.checks import check_adapted, check_init_param, without_ctc
from espnet_mtla.task.devices import check_devices, lost_peer
from espnet_mtla.task.numbers import check_ranges, read_as_yaml
from espnet_mtla.task.progress import DONE, finish, is_done, run_identity, start
from espnet_mtla.task.source import (
    Source,
    Triple,
    check_features,
    check_rate,
    open_source,
    same_keys,
    shape_files,
    usual_seconds,
)
from espnet_mtla.task.tasks import task_class

logger = logging.getLogger(__name__)

# espnet2's options that training sets itself, and the options of ours that give them.
_FROM_FOLDERS = {
    "train_data_path_and_name_and_type": "--train_data FOLDER",
    "valid_data_path_and_name_and_type": "--valid_data FOLDER",
    "train_shape_file": "--stats_dir FOLDER, which --collect_stats writes",
    "valid_shape_file": "--stats_dir FOLDER, which --collect_stats writes",
}
_WRITER = ("PytorchStreamWriter", "inline_container")


@dataclass(frozen=True)
class Folders:
    """The command's folders of data and statistics."""

    train_data: Path
    valid_data: Path
    stats_dir: Path


def parse(
    config: Mapping[str, Any], rest: Sequence[str], task: str = "asr"
) -> Namespace:
    """Return AbsTask's options: defaults, then the YAML's, then the command line's.

    Raises:
        UserError: an unknown key or option, or a value that does not fit.
    """
    parser = task_class(task).get_parser()
    parser.allow_abbrev = False
    parser.error = _refuse
    read_as_yaml(parser._actions)
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", "config")}
    check_keys("", config, actions)
    parser.set_defaults(**{k: _value(actions[k], v) for k, v in config.items()})
    args = parser.parse_args(rest)
    for name, instead in _FROM_FOLDERS.items():
        if getattr(args, name) != parser.get_default(name) or name in config:
            raise UserError(f"{name}: use {instead}")
    if args.token_list is None:
        raise UserError("token_list: needed (--token_list FILE)")
    check_ranges(args)
    check_sections(args)
    return args


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message} (espnet-mtla train --help_all lists the options)")


def _value(action: Action, value: Any) -> Any:
    """Convert a YAML value as the command line would."""
    if isinstance(value, dict | list) or value is None or not callable(action.type):
        return value
    try:
        value = action.type(str(value))
    except (ValueError, TypeError, ArgumentTypeError) as error:
        raise UserError(f"{action.dest}: {value!r}: {error}") from None
    if action.choices is not None and value not in action.choices:
        valid = ", ".join(str(choice) for choice in action.choices)
        raise UserError(f"{action.dest}: {value!r} given; valid: {valid}")
    return value


def show_all_options(task: str) -> None:
    """Print every option, including those of AbsTask."""
    task_class(task).get_parser().print_help()


def read_config(path: Path, *fragments: Path | None) -> dict[str, Any]:
    """Return the training YAML with fragments (attention, front-end) laid over it."""
    config = load_config(path)
    for fragment in filter(None, fragments):
        config = overlay(config, load_config(fragment))
    return config


def collect(args: Namespace, folders: Folders, allow_unk: bool) -> None:
    """Collect lengths and statistics into ``stats_dir``, which appears when complete.

    Texts that training would refuse are refused here, before an encoder is trained.
    Without global normalisation, and if the folders hold the lengths, no audio is read.
    """
    sources = open_sources(args, folders)
    _refuse_other_files(folders.stats_dir)
    task = task_class(args.task)
    task.check_texts(args, sources, allow_unk)
    known = {part: task.input_lengths(args, sources[part]) for part in sources}
    if args.normalize != "global_mvn" and all(known.values()):
        collect_lengths(args, folders.stats_dir, sources, known)
    else:
        collect_all(args, folders.stats_dir, sources, known)


def collect_lengths(
    args: Namespace,
    stats_dir: Path,
    sources: Mapping[str, Source],
    known: Mapping[str, Mapping[str, str]],
) -> None:
    """Write shape files from the folders' lengths and the tokenised texts."""
    prepare = task_class(args.task).build_preprocess_fn(args, train=False)
    with atomic_folder(stats_dir) as aside:
        for part, source in sources.items():
            tokens = {
                key: str(len(prepare.token_ids(text)))
                for key, text in source.texts.items()
            }
            write_table(aside / part / f"{source.inputs}_shape", known[part])
            write_table(aside / part / "text_shape", tokens)
            logger.info("%s: %d utterances, lengths only", part, len(source))
        (aside / DONE).write_text("", encoding="utf-8")


def collect_all(
    args: Namespace,
    stats_dir: Path,
    sources: Mapping[str, Source],
    known: Mapping[str, Mapping[str, str]],
) -> None:
    """Read all audio: lengths, and mean and variance of the features.

    Known lengths take precedence, so that batches are the same for stored features.
    """
    args.collect_stats = True
    args.ngpu = 0  # the front-end is cheap; reading the audio takes the time
    # Normalisation needs the statistics, and nothing is trained.
    args.normalize, args.specaug = None, None
    args.normalize_conf, args.specaug_conf = {}, {}
    if is_pretrained(args):  # statistics do not depend on the decoder: do not load it
        args.decoder, args.decoder_conf = DECODER.default, {}
    with atomic_folder(stats_dir) as aside:
        args.output_dir = str(aside)
        run(args)
        (aside / CONFIG).unlink()
        for part, source in sources.items():
            shape_files(aside, part, source)
            if known[part]:
                write_table(aside / part / f"{source.inputs}_shape", known[part])
            logger.info("%s: %d utterances in, all measured", part, len(source))
        (aside / DONE).write_text("", encoding="utf-8")


def _refuse_other_files(stats: Path) -> None:
    if stats.is_dir():
        ours = {"train", "valid", DONE, "collect.log"}
        others = sorted({entry.name for entry in stats.iterdir()} - ours)
        if others:
            raise UserError(
                f"{stats}: holds {others[0]}, which is no file of statistics; choose "
                "another folder for --stats_dir"
            )


def train(args: Namespace, folders: Folders, allow_unk: bool) -> None:
    """Train or resume, until ``output_dir/.done`` can be written."""
    check_devices(args)
    output = Path(args.output_dir)
    sources = open_sources(args, folders)
    args.train_shape_file = shape_files(folders.stats_dir, "train", sources["train"])
    args.valid_shape_file = shape_files(folders.stats_dir, "valid", sources["valid"])
    if args.normalize == "global_mvn" and "stats_file" not in args.normalize_conf:
        stats = str(folders.stats_dir / "train" / STATS)
        args.normalize_conf = {**args.normalize_conf, "stats_file": stats}
    if args.trained_seconds is None and args.frontend is not None:
        args.trained_seconds = usual_seconds(sources["train"], sampling_rate(args))
    losses = ModelConfig(**args.model_conf)
    if losses.uses_decoder:
        args.decoder_conf = complete_decoder(args)
    if not losses.uses_ctc:
        args.init_param = without_ctc(args.init_param)
    identity = run_identity(args)
    if is_done(output, identity, args.max_epoch):
        logger.info("%s: trained already", output)
        return
    task = task_class(args.task)
    task.check_texts(args, sources, allow_unk)
    check_init_param(args.init_param)
    check_adapted(args.init_param, args.lora)
    if not task.is_first(args):
        # The other processes wait for the first one inside run.
        run(args)
        return
    with lock_folder(output):
        start(output, identity, resume=args.resume)
        record_originals(args, output)
        bundle_files(args, output)
        run(args)
        finish(output, identity, args)


def open_sources(args: Namespace, folders: Folders) -> dict[str, Source]:
    """Check both data folders, and set AbsTask's paths of audio or features and texts.

    One folder may hold audio and the other features: the model reads both.
    """
    sound = task_class(args.task).reads_sound
    paths = {"train": folders.train_data, "valid": folders.valid_data}
    sources = {
        part: open_source(folder, args.target_text, args.source_text, sound)
        for part, folder in paths.items()
    }
    for part, source in sources.items():
        if not sound:
            pass  # texts have neither sampling rate nor width
        elif source.width is not None or args.frontend is None:
            check_features(source, args)
        else:
            check_rate(source, sampling_rate(args))
        triples = [*source.triples, *task_table(args, source)]
        setattr(args, f"{part}_data_path_and_name_and_type", triples)
    return sources


def task_table(args: Namespace, source: Source) -> list[Triple]:
    """Return the table of the utterances' tasks, if the model has several templates.

    Raises:
        UserError: there is no such table, or it has other utterances or tasks.
    """
    templates = args.model_conf.get("templates", {})
    if len(templates) < 2:
        return []
    table = source.folder / TASKS
    if not table.is_file():
        raise UserError(
            f"{table}: {no_file(table)}; it names a task of model_conf.templates for "
            "each utterance"
        )
    tasks = read_table(table)
    same_keys(table, tasks, source.target, source.texts)
    for key, task in tasks.items():
        if task not in templates:
            raise UserError(
                f"{table}: {key}: {task!r} is none of model_conf.templates, "
                f"{', '.join(templates)}"
            )
    return [(str(table), "task", "text")]


def run(args: Namespace) -> None:
    """Run AbsTask's main; turn the exceptions of its processes into one line."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"espnet2?\.")
    try:
        task_class(args.task).main(args=args)
    except UserError as error:
        # A DataLoader's worker sends its traceback as the message.
        line = str(error).strip().split("\n")[-1]
        raise UserError(line.split("UserError: ")[-1]) from error
    except ProcessExitedException:
        raise UserError(
            "a process of the training failed; see its error above"
        ) from None
    except RuntimeError as error:
        lost = lost_peer(error, args)
        if lost is not None:
            raise UserError(lost) from error
        # The message of torch.save for a full disk depends on where it is noticed.
        if not any(word in str(error) for word in _WRITER):
            raise
        raise UserError(
            f"{args.output_dir}: a checkpoint could not be written; is there space "
            "left? The last complete one is kept: run again to resume from it"
        ) from error
