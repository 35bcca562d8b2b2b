"""Train a decoder-only model of speech or text, or collect statistics for training.

Other options are passed to espnet2 (AbsTask): --ngpu, --max_epoch, --init_param,
--decoder_conf attention_conf.down_rate=3 and so on. --help_all lists them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.settings.checks import true_or_false
from espnet_mtla.task.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("train", __doc__)
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--task", choices=TASKS, default="asr", help="task of the model")
    add("--config", type=Path, help="training YAML")
    add(
        "--attention",
        help="attention YAML that overrides it: a name in conf/attention, or a path",
    )
    add(
        "--frontend_config",
        help="front-end YAML that overrides it: a name in conf/frontend, or a path",
    )
    add("--train_data", type=Path, help="training set: formatted folder; lm: or a text")
    add(
        "--valid_data",
        type=Path,
        help="validation set: formatted folder; lm: or a text",
    )
    add("--stats_dir", type=Path, help="statistics, written by --collect_stats")
    add("--output_dir", type=Path, help="experiment folder; an existing one is resumed")
    add(
        "--encoder_model",
        type=Path,
        help="model.pth trained with CTC alone: begin from all of its parts",
    )
    add("--collect_stats", action="store_true", help="collect statistics only")
    add(
        "--allow_unk",
        type=true_or_false,
        default=False,
        help="true: train symbols outside the token list as <unk>; false: refuse them",
    )
    add("--help_all", action="store_true", help="also list espnet2's options")
    return parser


def find_fragment(option: str, name: str | None) -> Path | None:
    """Return the file of ``--attention`` or ``--frontend_config``.

    Args:
        option: the option without its dashes.
        name: a path, or a name in the folder ``conf``; None: no file.

    Raises:
        UserError: no such file and no such name; lists the names.
    """
    if name is None:
        return None
    if Path(name).is_file():
        return Path(name)
    folder_name = option.removesuffix("_config")
    package = Path(__file__).resolve().parents[1]
    # In a checkout, and in an installed package.
    folders = [root / "conf" / folder_name for root in (package.parent, package)]
    known = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    if name not in known:
        raise UserError(
            f"--{option} {name}: {no_file(name)}; names are {', '.join(sorted(known))}"
        )
    return known[name]


def main() -> None:
    options, rest = get_parser().parse_known_args()
    if options.help_all:
        from espnet_mtla.task.launch import show_all_options

        show_all_options(options.task)
        return
    needed = ["config", "train_data", "valid_data", "stats_dir"]
    if not options.collect_stats:
        needed.append("output_dir")
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing:
        raise UserError(f"missing: {', '.join(missing)}")
    attention = find_fragment("attention", options.attention)
    frontend = find_fragment("frontend_config", options.frontend_config)

    from espnet_mtla.task import launch
    from espnet_mtla.task.checks import encoder_parts

    config = launch.read_config(options.config, attention, frontend)
    args = launch.parse(config, rest, options.task)
    folders = launch.Folders(options.train_data, options.valid_data, options.stats_dir)
    if options.collect_stats:
        launch.collect(args, folders, options.allow_unk)
    else:
        args.output_dir = str(options.output_dir)
        if options.encoder_model is not None:
            args.init_param += encoder_parts(options.encoder_model)
        launch.train(args, folders, options.allow_unk)


if __name__ == "__main__":
    run(main)
