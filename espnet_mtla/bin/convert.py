"""Convert a pretrained Llama to MLA or MTLA, or a recipe's decoder to the reference's.

llama: replace MHA or GQA of a Llama-style checkpoint (llama, mistral, qwen2) by latent
attention. Keys and values are factorised jointly; training on text, or to reproduce the
original ("healing"), then recovers quality.

curve: convert to several attention types and latent widths; write a table and a plot of
perplexity against bytes of cache. An interrupted command resumes.

to_reference, from_reference: rename the decoder's weights in a recipe's checkpoint to
those of the reference's (fairseq) decoder, and back. No number changes. from_fairseq:
write a folder with decoder, projector, token list and YAML of its speech models.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.bin.cli import HelpFormatter, command_parser, run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from espnet_mtla.hf.convert.build import Target
    from espnet_mtla.hf.convert.heal import Healing
    from espnet_mtla.hf.convert.text import TextBlocks

log = logging.getLogger(__name__)


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("convert", __doc__)
    conversions = parser.add_subparsers(
        dest="conversion", required=True, metavar="CONVERSION"
    )
    form: dict[str, Any] = {"formatter_class": HelpFormatter}
    _add_llama(conversions.add_parser("llama", help="Llama to MLA or MTLA", **form))
    _add_curve(conversions.add_parser("curve", help="perplexity by cache", **form))
    for name in ("to_reference", "from_reference", "from_fairseq"):
        summary = f"weights {name.replace('_', ' ')}'s names"
        add = conversions.add_parser(name, help=summary, **form).add_argument
        add("source", type=Path, help="checkpoint, .pth or .pt")
        add("output", type=Path, help="checkpoint (from_fairseq: folder) to write")
    add("--dict", type=Path, required=True, help="dict.txt of its training data")
    return parser


def _add_llama(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="folder or hub name of a Llama-style checkpoint")
    add("output", type=Path, help="folder to write")
    add("--to", choices=("mla", "mtla"), default="mtla", help="attention type")
    add("--down_rate", type=int, help="temporal stride; default: 2 for mtla, 1 for mla")
    add("--raw_window", type=int, default=0, help="newest tokens left unmerged")
    add("--kv_lora_rank", type=int, default=0, help="latent width; 0: lossless")
    add(
        "--qk_rope_head_dim",
        type=int,
        default=0,
        help="width of the rotary key; 0: all rotary components",
    )
    add("--text", nargs="*", default=[], help="UTF-8 text files; the end is held out")
    _add_training(parser, heal_steps=0, batch=8, distil=0.0)
    add(
        "--prompts",
        nargs="+",
        default=[],
        help="print greedy continuations of these texts: original, converted, healed",
    )
    add("--prompt_tokens", type=int, default=30, help="tokens of a continuation")


def _add_curve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="folder or hub name of a Llama-style checkpoint")
    add("output", type=Path, help="folder of the results")
    add(
        "--text",
        nargs="+",
        required=True,
        metavar="NAME=FILE",
        help="UTF-8 texts with the names of their columns; training uses all of them, "
        "and the end of each is held out",
    )
    names = ["mla", "mtla_s2", "mtla_s4"]
    add("--attention", nargs="+", default=names, help="mla, mtla_sN or mtla_sN_wM")
    ranks = [192, 128, 64]
    add("--kv_lora_rank", nargs="+", type=int, default=ranks, help="latent widths")
    add("--qk_rope_head_dim", type=int, default=64, help="width of the rotary key")
    _add_training(parser, heal_steps=300, batch=8, distil=1.0)


def _add_training(
    parser: argparse.ArgumentParser, heal_steps: int, batch: int, distil: float
) -> None:
    """Add the options of calibration, healing and evaluation."""
    add = parser.add_argument
    add("--length", type=int, default=512, help="tokens per block of text")
    add(
        "--calibration",
        type=int,
        default=16,  # 32 did no better than 8, with a model of 135 million weights
        help="blocks of training text to measure activations on",
    )
    add("--held_out", type=int, default=64, help="blocks held out of a text, at most")
    add("--heal_steps", type=int, default=heal_steps, help="training steps afterwards")
    add("--batch", type=int, default=batch, help="blocks per training step")
    add("--learning_rate", type=float, default=3e-4, help="peak learning rate")
    add(
        "--distil",
        type=float,
        nargs="?",
        const=1.0,
        default=distil,
        metavar="WEIGHT",
        help="weight of the divergence from the original in the loss of healing; the "
        "text has the rest. Without a value: 1",
    )
    add(
        "--train",
        choices=("all", "attention"),
        default="all",
        help="weights that healing trains",
    )
    add(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights"
    )
    add("--device", default="cpu", help="such as cpu or cuda")
    add("--seed", type=int, default=0, help="of training and new weights")


def convert_llama(args: argparse.Namespace) -> None:
    """Convert, heal and save a model; print perplexities and bytes of cache."""
    import torch

    from espnet_mtla.data.atomic import atomic_folder
    from espnet_mtla.hf.convert.build import cache_summary, convert
    from espnet_mtla.hf.convert.original import Original
    from espnet_mtla.hf.convert.progress import phase, step_log
    from espnet_mtla.hf.convert.source import (
        load_config,
        load_source,
        source_cache_bytes,
    )
    from espnet_mtla.hf.convert.stages import Stages
    from espnet_mtla.hf.convert.text import spread

    healing, target = _check(args), _target(args)
    load_config(args.source)  # before the text: it takes longer
    tokenizer = _tokenizer(args)
    text = _text(args, tokenizer)
    stages = Stages(text, tokenizer, args.prompts, args.prompt_tokens)
    with phase("loading"):
        dtype = getattr(torch, args.dtype)
        source = load_source(args.source, dtype).to(args.device)
    stages.measure("before", source)
    with phase("conversion"):
        blocks = None if text is None else spread(text.training, args.calibration)
        model, energies = convert(source, target, blocks, args.seed)
    stages.measure("after conversion", model)
    old_bytes = source_cache_bytes(source)
    original = None
    if text is not None and healing.steps and healing.distil:
        original = Original(source, text.training)
    del source
    if text is not None and healing.steps:
        with phase("healing"):
            report = step_log("healing", healing.steps)
            healing.run(model, text.training, original, report)
        del original
        stages.measure("after healing", model)
    with phase("saving"), atomic_folder(args.output) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    shares = ", ".join(f"{share:.3f}" for share in energies)
    print(f"share of the energy in the latents, by layer: {shares}")
    print(cache_summary(old_bytes, model))
    for line in stages.lines():
        print(line)
    print(f"{args.output}: {target.attention} at stride {target.down_rate}")


def measure_curve(args: argparse.Namespace) -> None:
    """Measure several conversions; write a table and a plot after each of them."""
    import torch

    from espnet_mtla.hf.convert.curve import Curve, parse_targets, read_texts
    from espnet_mtla.hf.convert.progress import phase
    from espnet_mtla.hf.convert.source import load_config, load_source

    healing = _healing(args)
    rope = args.qk_rope_head_dim
    targets = parse_targets(args.attention, args.kv_lora_rank, rope, args.length)
    load_config(args.source)
    tokenizer = _tokenizer(args)
    assert tokenizer is not None, "the text is required, and so is the tokeniser"
    texts = read_texts(args.text, tokenizer, args.length, args.held_out)
    with phase("loading"):
        dtype = getattr(torch, args.dtype)
        source = load_source(args.source, dtype).to(args.device)
    curve = Curve(source, texts, healing, args.calibration, args.output, _budget(args))
    rows: list[dict[str, Any]] = []
    for row in curve.rows(targets):
        rows.append(row)
        _write_curve(args, rows, curve.notes())


def _write_curve(
    args: argparse.Namespace, rows: list[dict[str, Any]], notes: list[str]
) -> None:
    """Write the rows measured so far as JSON, table and plot; print the table."""
    from importlib.metadata import version
    from importlib.util import find_spec

    from espnet_mtla.benchmark.report import BenchmarkReport, PlotSpec, conditions

    names = [text.partition("=")[0] for text in args.text]
    column = "healed" if args.heal_steps else "converted"
    report = BenchmarkReport(
        "conversion",
        f"Conversion of {Path(args.source).name}",
        rows,
        plots=[PlotSpec("bytes/token", f"{n} {column}", "attention") for n in names],
        notes=notes,
        conditions={
            **conditions(args.device, sys.argv[1:], "espnet-mtla convert"),
            "transformers": version("transformers"),
        },
    )
    stem = args.output / "curve"
    report.write(stem)
    if find_spec("matplotlib") is not None:
        from espnet_mtla.plot.measurements import draw_measurements

        draw_measurements(report, stem.with_suffix(".png"))
    print(report.table(), flush=True)


def _budget(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a row depends on, besides its own attention and width."""
    own = ("conversion", "output", "attention", "kv_lora_rank", "device")
    return {name: value for name, value in vars(args).items() if name not in own}


def _target(args: argparse.Namespace) -> Target:
    """Return the attention type and sizes to convert to."""
    from espnet_mtla.hf.convert.build import Target

    rate = args.down_rate
    if rate is None:
        rate = 2 if args.to == "mtla" else 1
    widths = args.kv_lora_rank, args.qk_rope_head_dim
    return Target(args.to, rate, *widths, args.length, args.raw_window)


def _check(args: argparse.Namespace) -> Healing:
    """Validate the options before anything is loaded; return the training settings."""
    from espnet_mtla.errors import UserError

    if args.output.exists():
        raise UserError(f"{args.output}: exists already; name a new folder")
    if args.heal_steps and not args.text:
        raise UserError(
            f"heal_steps: {args.heal_steps} given, text to train on (--text) is needed"
        )
    if args.distil and not args.heal_steps:
        raise UserError(
            f"distil: {args.distil} given, training (--heal_steps) is needed"
        )
    if not all(args.prompts):
        raise UserError("prompts: an empty one given, text to continue is needed")
    return _healing(args)


def _healing(args: argparse.Namespace) -> Healing:
    """Validate the options of texts and training; return the training settings."""
    from espnet_mtla.errors import UserError
    from espnet_mtla.hf.convert.heal import Healing

    for name in ("length", "calibration", "held_out"):
        if getattr(args, name) < 1:
            raise UserError(f"{name}: {getattr(args, name)} given, 1 or more needed")
    return Healing(
        args.heal_steps,
        args.batch,
        args.learning_rate,
        args.distil,
        args.train,
        seed=args.seed,
    )


def _tokenizer(args: argparse.Namespace) -> PreTrainedTokenizerBase | None:
    """Load the checkpoint's tokeniser; it may be missing only if no text is read."""
    from transformers import AutoTokenizer

    from espnet_mtla.errors import UserError

    try:
        return AutoTokenizer.from_pretrained(args.source, trust_remote_code=False)
    # TypeError: sentencepiece before 0.2.3, where the checkpoint has no tokeniser.
    except (OSError, ValueError, ImportError, TypeError) as error:
        if args.text:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{args.source}: no tokeniser to read the text with ({reason})"
            ) from error
        log.warning("%s: has no tokeniser; none is written", args.source)
        return None


def _text(
    args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase | None
) -> TextBlocks | None:
    """Read the text files in blocks of tokens; None without ``--text``."""
    from espnet_mtla.hf.convert.text import TextBlocks

    if not args.text or tokenizer is None:
        return None
    return TextBlocks.read(args.text, tokenizer, args.length, most=args.held_out)


def main() -> None:
    args = get_parser().parse_args()
    if args.conversion == "llama":
        convert_llama(args)
    elif args.conversion == "curve":
        measure_curve(args)
    else:
        rename_weights(args)


def rename_weights(args: argparse.Namespace) -> None:
    """Convert a checkpoint to another project's names, or from them."""
    from espnet_mtla.hf.convert import fairseq, recipe

    if args.conversion == "from_fairseq":
        count = fairseq.from_fairseq(args.source, args.dict, args.output)
    else:
        count = getattr(recipe, args.conversion)(args.source, args.output)
    print(f"{args.output}: {count} weights")


if __name__ == "__main__":
    run(main)
