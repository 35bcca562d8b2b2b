"""Compute the features of a data folder, with the front-end of a training YAML.

OUTPUT is a copy of the folder with feats.scp in place of wav.scp. Training with the
same YAML, and decoding, accept both folders. A pretrained encoder (`frontend:
transformers` or `s3prl`) then runs once instead of in every epoch. The disk space
needed is estimated first. An interrupted run resumes when it is started again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("dump_features", __doc__)
    add = parser.add_argument
    add("input", type=Path, help="formatted data folder (wav.scp)")
    add("output", type=Path, help="data folder to write (feats.scp)")
    add("--config", type=Path, required=True, help="YAML with frontend, frontend_conf")
    add(
        "--frontend_config",
        help="front-end YAML that overrides it: a name in conf/frontend, or a path",
    )
    add(
        "--frontend_model",
        help="pretrained model, overrides frontend_conf.model: a name on the hub, or a"
        " folder",
    )
    add(
        "--archive",
        choices=("zip", "ark"),
        default="zip",
        help="uncompressed zip with byte offsets, or Kaldi ark",
    )
    add(
        "--dtype", choices=("float32", "float16"), default="float32", help="of features"
    )
    add("--shard", type=int, default=1000, help="utterances per archive")
    add(
        "--nj",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="processes on the CPU",
    )
    add("--ngpu", type=int, choices=(0, 1), default=0, help="1: one process on a GPU")
    return parser


def main() -> None:
    options = get_parser().parse_args()
    if options.shard < 1:
        raise UserError(f"--shard {options.shard}: at least 1 is needed")

    from espnet_mtla.bin.train import find_fragment
    from espnet_mtla.recognise.load import choose_device
    from espnet_mtla.task.dump import Storage, dump_features
    from espnet_mtla.task.feature_maker import read_frontend

    fragment = find_fragment("frontend_config", options.frontend_config)
    args = read_frontend(options.config, fragment, options.frontend_model)
    storage = Storage(options.archive, options.dtype, options.shard)
    device = str(choose_device(options.ngpu))
    nj = 1 if options.ngpu else options.nj
    dump_features(options.input, options.output, args, storage, nj, device)


if __name__ == "__main__":
    run(main)
