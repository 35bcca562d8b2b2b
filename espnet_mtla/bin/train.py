"""Train a decoder-only model of speech or text, or collect the statistics for it.

Options not listed here are espnet2's (AbsTask's) and are passed on: --ngpu,
--max_epoch, --init_param, --decoder_conf attention_conf.down_rate=3 and so on
(--help_all lists them).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import true_or_false
from espnet_mtla.task.tasks import TASKS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--task", choices=TASKS, default="asr", help="what the model learns to do")
    add("--config", type=Path, help="training YAML")
    add("--attention", help="attention YAML laid over it: a name or a path")
    add("--frontend_config", help="front-end YAML laid over it: a name or a path")
    add("--train_data", type=Path, help="formatted folder (wav.scp, texts)")
    add("--valid_data", type=Path, help="formatted folder (wav.scp, texts)")
    add("--stats_dir", type=Path, help="statistics: written by --collect_stats")
    add("--output_dir", type=Path, help="experiment folder; continued if it is there")
    add("--collect_stats", action="store_true", help="collect statistics, no training")
    add(
        "--allow_unk",
        type=true_or_false,
        default=False,
        help="train symbols outside the token list as <unk>, instead of refusing them",
    )
    add("--help_all", action="store_true", help="list espnet2's options too")
    return parser


def find_fragment(option: str, name: str | None) -> Path | None:
    """The file of ``--attention`` or ``--frontend_config``: a path, or a name in conf.

    Raises:
        UserError: neither is there; lists the names.
    """
    if name is None:
        return None
    if Path(name).is_file():
        return Path(name)
    kind = option.removesuffix("_config")
    package = Path(__file__).resolve().parents[1]
    # The folder of a checkout, or where setup.py installs it.
    folders = [root / "conf" / kind for root in (package.parent, package)]
    known = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    if name not in known:
        raise UserError(
            f"--{option} {name}: no such file, and no name among "
            f"{', '.join(sorted(known))}"
        )
    return known[name]


def main() -> None:
    options, rest = build_parser().parse_known_args()
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

    config = launch.read_config(options.config, attention, frontend)
    args = launch.parse(config, rest, options.task)
    folders = launch.Folders(options.train_data, options.valid_data, options.stats_dir)
    if options.collect_stats:
        launch.collect(args, folders, options.allow_unk)
    else:
        args.output_dir = str(options.output_dir)
        launch.train(args, folders, options.allow_unk)


if __name__ == "__main__":
    run(main)
