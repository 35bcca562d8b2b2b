"""Stands for every command of the pipeline: quick, deterministic, killable.

Each output is a hash of the inputs that the real command would read, so that two runs
are equal when they did the same things in the same order. The environment steers it:
``STUB_CALLS`` is a file that gets a line a call, ``STUB_HANG`` names the command that
stops half-way (it makes ``STUB_CALLS.hang``, and goes on when that is removed),
``STUB_FAIL`` the one that fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

EPOCHS = 3


def digest(*parts: str | Path) -> str:
    """Of texts, and of what stands in files."""
    content = [p.read_text() if isinstance(p, Path) else p for p in parts]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:12]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def maybe_stop(name: str) -> None:
    """Hang or fail here if the environment says so."""
    calls = os.environ["STUB_CALLS"]
    if os.environ.get("STUB_FAIL") == name:
        for number in range(30):
            print(f"line {number}", file=sys.stderr)
        sys.exit("error: train/utt7: the reason")
    hang = Path(f"{calls}.hang")
    if os.environ.get("STUB_HANG") == name:
        hang.write_text(str(os.getpid()))
        while hang.exists():
            time.sleep(0.02)


def copy_folder(name: str, args: list[str]) -> None:
    source, target = Path(args[0]), Path(args[1])
    maybe_stop(name)
    settings = [a for a in args[2:] if a not in ("--nj", "--ngpu")]
    write(target / "text", digest(name, source / "text", *settings))
    write(target / "wav.scp", digest(name, source / "wav.scp"))


def train(options: dict[str, str]) -> None:
    data = [Path(options[f"{part}_data"]) / "text" for part in ("train", "valid")]
    config = Path(options["config"])
    if "collect_stats" in options:
        maybe_stop("collect_stats")
        for part in ("train", "valid"):
            write(Path(options["stats_dir"]) / part / "shape", digest(*data))
        return
    output = Path(options["output_dir"])
    last = options.get("init_param", "") + options.get("attention", "")
    for epoch in range(1, EPOCHS + 1):
        path = output / f"{epoch}epoch.pth"
        if path.exists():
            print(f"epoch {epoch} is there")
        else:
            write(path, digest(last, config, *data))
        last = path.read_text()
        if epoch == 2:
            maybe_stop("train")
    write(output / "config.yaml", "stub: true")


def main() -> None:
    name = Path(sys.argv[0]).stem
    args = sys.argv[1:]
    with open(os.environ["STUB_CALLS"], "a") as stream:
        print(name, *args, file=stream)
    options = {
        key[2:]: "" if value.startswith("--") else value
        for key, value in pairwise([*args, "--end"])
        if key.startswith("--")
    }
    if name in ("perturb_speed", "format_audio", "filter_data", "dump_features"):
        copy_folder(name, args)
    elif name == "train":
        train(options)
    else:
        maybe_stop(name)
        finish(name, options)
    print(f"{name} has finished")


def finish(name: str, options: dict[str, str]) -> None:
    """The commands that write a few files at their end."""
    output = Path(options.get("output_dir", "."))
    if name == "tokenise":
        write(output / "tokens.txt", digest(Path(options["text"])))
        if "hf_tokenizer" in options:
            write(output / "tokenizer" / "tokenizer.json", options["hf_tokenizer"])
        write(output / "bpe.model", "stub")
    elif name == "average":
        folder = Path(options["exp_dir"])
        epochs = [folder / f"{epoch}epoch.pth" for epoch in range(1, EPOCHS + 1)]
        write(folder / "model.pth", digest(options["nbest"], *epochs))
    elif name == "inference":
        model = Path(options["model_dir"]) / "model.pth"
        data, config = Path(options["data"]) / "text", Path(options["config"])
        write(output / "1best_recog" / "text", digest(model, data, config))
        write(output / "efficiency.json", "{}")
    elif name == "score":
        hypotheses = Path(options["hyp"])
        write(output / "score.json", json.dumps(digest(hypotheses)))
    elif name == "pack":
        model = Path(options["model_dir"]) / "model.pth"
        write(output / "model.safetensors", digest(model, Path(options["config"])))
        write(output / "README.md", options["name"])
    elif name == "results":
        write(
            Path(options["output"]), "| attention | WER |\n| --- | --- |\n| mha | 1 |"
        )


if __name__ == "__main__":
    main()
