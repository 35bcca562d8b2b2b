"""Convert checkpoints: a pretrained Llama to MLA or MTLA, a recipe to the reference.

llama: MHA or GQA of a Llama-style checkpoint (llama, mistral, qwen2) becomes latent
attention by factorising keys and values together, and is healed by training on text.
to_reference, from_reference: the decoder of a recipe's checkpoint under the names of
the reference's (fairseq) decoder, and back. Every number stays what it is.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.bin.cli import run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from espnet_mtla.hf.convert.heal import Healing, TextBlocks

log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    defaults: dict[str, Any] = {
        "formatter_class": argparse.ArgumentDefaultsHelpFormatter
    }
    _add_llama(kinds.add_parser("llama", help="Llama to MLA or MTLA", **defaults))
    for name in ("to_reference", "from_reference"):
        words = name.replace("_", " ")
        add = kinds.add_parser(name, help=f"decoder, {words}", **defaults).add_argument
        add("source", type=Path, help="checkpoint, .pth or .pt")
        add("output", type=Path, help="checkpoint to write")
    return parser


def _add_llama(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="folder or hub name of a Llama-style checkpoint")
    add("output", type=Path, help="folder to write")
    add("--to", choices=("mla", "mtla"), default="mtla", help="kind of attention")
    add("--down_rate", type=int, help="temporal stride; None: 2, for mla 1")
    add("--kv_lora_rank", type=int, default=0, help="latent width; 0: lose nothing")
    add(
        "--qk_rope_head_dim",
        type=int,
        default=0,
        help="width that keeps its rotation; 0: all",
    )
    add("--text", nargs="*", default=[], help="UTF-8 text, the end of it held out")
    add("--length", type=int, default=512, help="tokens of a block of text")
    add("--calibration", type=int, default=64, help="blocks that activations are of")
    add("--heal_steps", type=int, default=0, help="training steps after conversion")
    add("--batch", type=int, default=8, help="blocks of a training step")
    add("--learning_rate", type=float, default=3e-4, help="at its highest")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="weights")
    add("--device", default="cpu", help="where to compute, such as cuda")
    add("--seed", type=int, default=0, help="of the order of training")


def convert_llama(args: argparse.Namespace) -> None:
    """Convert, heal, save; prints perplexities and bytes of cache."""
    import torch

    from espnet_mtla.data.atomic import atomic_folder
    from espnet_mtla.hf.convert.build import Target, convert
    from espnet_mtla.hf.convert.heal import perplexity
    from espnet_mtla.hf.convert.source import load_source

    rate = args.down_rate
    if rate is None:
        rate = 2 if args.to == "mtla" else 1
    healing = _check(args)
    target = Target(
        args.to, rate, args.kv_lora_rank, args.qk_rope_head_dim, args.length
    )
    source = load_source(args.source, getattr(torch, args.dtype)).to(args.device)
    tokenizer = _tokenizer(args)
    text = _text(args, tokenizer)
    calibration = None if text is None else text.training[: args.calibration]
    before = None if text is None else perplexity(source, text.held_out)
    model, kept = convert(source, target, calibration, args.seed)
    after = None if text is None else perplexity(model, text.held_out)
    old_bytes = _bytes_a_token(source)
    del source
    healed = _heal(healing, model, text)
    with atomic_folder(args.output) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    shares = ", ".join(f"{share:.3f}" for share in kept)
    print(f"energy that latents keep, a layer: {shares}")
    entry = model.config.kv_lora_rank + model.config.qk_rope_head_dim
    new_bytes = entry * len(kept) * model.dtype.itemsize / rate
    print(f"cache: {old_bytes:.0f} bytes a token before, {new_bytes:.0f} after")
    if text is not None:
        shown = f", {healed:.4f} after healing" if healed is not None else ""
        print(
            f"perplexity of {text.held_out.numel()} held-out tokens: {before:.4f} "
            f"before, {after:.4f} after conversion{shown}"
        )
    print(f"{args.output}: {args.to} at stride {rate}")


def _check(args: argparse.Namespace) -> Healing:
    """What can be said before anything is loaded; returns how to train."""
    from espnet_mtla.errors import UserError
    from espnet_mtla.hf.convert.heal import Healing

    if args.output.exists():
        raise UserError(f"{args.output}: is there already; name a new folder")
    for name in ("length", "calibration"):
        if getattr(args, name) < 1:
            raise UserError(f"{name}: {getattr(args, name)} given, 1 or more needed")
    if args.heal_steps and not args.text:
        raise UserError(
            f"heal_steps: {args.heal_steps} given, text to train on (--text) is needed"
        )
    return Healing(args.heal_steps, args.batch, args.learning_rate, seed=args.seed)


def _tokenizer(args: argparse.Namespace) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokeniser; needed where there is text."""
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
        log.warning("%s: no tokeniser there, none is written", args.source)
        return None


def _text(
    args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase | None
) -> TextBlocks | None:
    from espnet_mtla.hf.convert.heal import TextBlocks

    if not args.text or tokenizer is None:
        return None
    return TextBlocks.read(args.text, tokenizer, args.length)


def _heal(
    healing: Healing, model: PreTrainedModel, text: TextBlocks | None
) -> float | None:
    """Train; the perplexity afterwards, None where there is no training."""
    from espnet_mtla.hf.convert.heal import perplexity

    if not healing.steps or text is None:
        return None
    every = max(1, healing.steps // 10)

    def report(step: int, loss: float) -> None:
        if step % every == 0:
            log.info("healing: step %d of %d, loss %.4f", step, healing.steps, loss)

    healing.run(model, text.training, report)
    return perplexity(model, text.held_out)


def _bytes_a_token(model: PreTrainedModel) -> float:
    """Bytes that keys and values of one token take in all layers."""
    attention = model.model.layers[0].self_attn
    width = attention.k_proj.out_features + attention.v_proj.out_features
    return width * len(model.model.layers) * model.dtype.itemsize


def main() -> None:
    args = build_parser().parse_args()
    if args.kind == "llama":
        convert_llama(args)
        return

    from espnet_mtla.hf.convert.recipe import from_reference, to_reference

    rename = {"to_reference": to_reference, "from_reference": from_reference}
    count = rename[args.kind](args.source, args.output)
    print(f"{args.output}: {count} weights")


if __name__ == "__main__":
    run(main)
