"""Convert a pretrained Llama to MLA or MTLA, or a recipe's decoder to the reference's.

llama: replace MHA or GQA of a Llama-style checkpoint (llama, mistral, qwen2) by latent
attention. Keys and values are factorised jointly; training on text ("healing") then
recovers quality.

to_reference, from_reference: rename the decoder's weights in a recipe's checkpoint to
those of the reference's (fairseq) decoder, and back. No number changes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.bin.cli import HelpFormatter, command_parser, run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from espnet_mtla.hf.convert.heal import Healing, TextBlocks

log = logging.getLogger(__name__)


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("convert", __doc__)
    conversions = parser.add_subparsers(
        dest="conversion", required=True, metavar="CONVERSION"
    )
    form: dict[str, Any] = {"formatter_class": HelpFormatter}
    _add_llama(conversions.add_parser("llama", help="Llama to MLA or MTLA", **form))
    for name in ("to_reference", "from_reference"):
        summary = f"names of a decoder's weights {name.replace('_', ' ')}"
        add = conversions.add_parser(name, help=summary, **form).add_argument
        add("source", type=Path, help="checkpoint, .pth or .pt")
        add("output", type=Path, help="checkpoint to write")
    return parser


def _add_llama(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="folder or hub name of a Llama-style checkpoint")
    add("output", type=Path, help="folder to write")
    add("--to", choices=("mla", "mtla"), default="mtla", help="attention type")
    add("--down_rate", type=int, help="temporal stride; default: 2 for mtla, 1 for mla")
    add("--kv_lora_rank", type=int, default=0, help="latent width; 0: lossless")
    add(
        "--qk_rope_head_dim",
        type=int,
        default=0,
        help="width of the rotary key; 0: all rotary components",
    )
    add("--text", nargs="*", default=[], help="UTF-8 text files; the end is held out")
    add("--length", type=int, default=512, help="tokens per block of text")
    add("--calibration", type=int, default=64, help="blocks to measure activations on")
    add("--heal_steps", type=int, default=0, help="training steps afterwards")
    add("--batch", type=int, default=8, help="blocks per training step")
    add("--learning_rate", type=float, default=3e-4, help="peak learning rate")
    add(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights"
    )
    add("--device", default="cpu", help="such as cpu or cuda")
    add("--seed", type=int, default=0, help="of training and new weights")


def convert_llama(args: argparse.Namespace) -> None:
    """Convert, heal and save a model; print perplexities and bytes of cache."""
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
    model, energies = convert(source, target, calibration, args.seed)
    after = None if text is None else perplexity(model, text.held_out)
    old_bytes = _cache_bytes_per_token(source)
    del source
    healed = _heal(healing, model, text)
    with atomic_folder(args.output) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    shares = ", ".join(f"{share:.3f}" for share in energies)
    print(f"share of the energy in the latents, by layer: {shares}")
    entry = model.config.kv_lora_rank + model.config.qk_rope_head_dim
    new_bytes = entry * len(energies) * model.dtype.itemsize / rate
    print(f"cache: {old_bytes:.0f} bytes per token before, {new_bytes:.0f} after")
    if text is not None:
        shown = f", {healed:.4f} after healing" if healed is not None else ""
        print(
            f"perplexity of {text.held_out.numel()} held-out tokens: {before:.4f} "
            f"before, {after:.4f} after conversion{shown}"
        )
    print(f"{args.output}: {args.to} at stride {rate}")


def _check(args: argparse.Namespace) -> Healing:
    """Validate the options before anything is loaded; return the training settings."""
    from espnet_mtla.errors import UserError
    from espnet_mtla.hf.convert.heal import Healing

    if args.output.exists():
        raise UserError(f"{args.output}: exists already; name a new folder")
    for name in ("length", "calibration"):
        if getattr(args, name) < 1:
            raise UserError(f"{name}: {getattr(args, name)} given, 1 or more needed")
    if args.heal_steps and not args.text:
        raise UserError(
            f"heal_steps: {args.heal_steps} given, text to train on (--text) is needed"
        )
    return Healing(args.heal_steps, args.batch, args.learning_rate, seed=args.seed)


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
    from espnet_mtla.hf.convert.heal import TextBlocks

    if not args.text or tokenizer is None:
        return None
    return TextBlocks.read(args.text, tokenizer, args.length)


def _heal(
    healing: Healing, model: PreTrainedModel, text: TextBlocks | None
) -> float | None:
    """Train the model; return its perplexity afterwards, None without training."""
    from espnet_mtla.hf.convert.heal import perplexity

    if not healing.steps or text is None:
        return None
    every = max(1, healing.steps // 10)

    def log_progress(step: int, loss: float) -> None:
        if step % every == 0:
            log.info("healing: step %d of %d, loss %.4f", step, healing.steps, loss)

    healing.run(model, text.training, log_progress)
    return perplexity(model, text.held_out)


def _cache_bytes_per_token(model: PreTrainedModel) -> float:
    """Return the bytes of keys and values of one token in all layers."""
    attention = model.model.layers[0].self_attn
    width = attention.k_proj.out_features + attention.v_proj.out_features
    return width * len(model.model.layers) * model.dtype.itemsize


def main() -> None:
    args = get_parser().parse_args()
    if args.conversion == "llama":
        convert_llama(args)
        return

    from espnet_mtla.hf.convert.recipe import from_reference, to_reference

    rename = {"to_reference": to_reference, "from_reference": from_reference}
    count = rename[args.conversion](args.source, args.output)
    print(f"{args.output}: {count} weights")


if __name__ == "__main__":
    run(main)
