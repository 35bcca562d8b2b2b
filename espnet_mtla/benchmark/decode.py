"""Time decoding step by step, and count cache bytes, of ours and the reference."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from espnet_mtla.search.options import CUDA_GRAPHS
from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from espnet_mtla.benchmark.decoders import StepDecoder
    from espnet_mtla.benchmark.report import BenchmarkReport, Value
    from espnet_mtla.decoder import DecoderOnlyTransformer

ATTENTIONS = ["mtla_s2", "mtla_s3", "mtla_s4", "mla", "mha"]
TOLERANCE = {"float32": 1e-4, "bfloat16": 8e-2, "float16": 2e-2}
LEAST_STEPS = 3
OURS, REFERENCE = "ours", "reference"
NOTHING = "none"
"""Attention type of the layers without attention, a lower bound."""
PRODUCTS = "products"
"""Name of the matrix products of a step, a lower bound for latents."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add = parser.add_argument
    names = "attention types, such as mtla_s2"
    add("--attention", nargs="+", default=ATTENTIONS, help=names)
    add("--prompt", nargs="+", type=count, default=[250, 1000], help="prompt frames P")
    add("--steps", type=count, default=60, help="tokens to generate")
    add("--utterances", type=count, default=4, help="utterances B")
    add("--beam", nargs="+", type=count, default=[20], help="hypotheses per utterance")
    add("--num_layers", type=count, default=9, help="decoder layers")
    add("--embed_dim", type=count, default=512, help="model width D")
    add("--num_heads", type=count, default=8, help="attention heads H")
    add("--vocab_size", type=count, default=500, help="symbols V")
    add("--dtype", choices=list(TOLERANCE), default="float32", help="of the decoder")
    add("--backend", default="auto", help="decode-attention back-end of ours")
    expand = "project latents up from this many queries per head on"
    add("--expand_from", type=int, help=expand)
    graphs = "record our steps as CUDA graphs"
    add("--cuda_graphs", choices=CUDA_GRAPHS, default="auto", help=graphs)
    copies = "store the prompt for each hypothesis in ours too"
    add("--copy_prompt", action="store_true", help=copies)
    add("--no_reference", action="store_true", help="do not time the reference")


def run(args: argparse.Namespace) -> BenchmarkReport:
    """Check all attention types, then time them for each prompt length and beam."""
    from espnet_mtla.benchmark.report import BenchmarkReport, PlotSpec
    from espnet_mtla.errors import UserError

    if args.steps < LEAST_STEPS:
        raise UserError(
            f"--steps: {args.steps} given, {LEAST_STEPS} or more are needed: the first "
            "one, with the prefill, is reported apart"
        )
    notes = [_gate(args, name) for name in args.attention]
    rows: list[dict[str, Value]] = []
    for prompt in args.prompt:
        for beam in args.beam:
            rows += _measure(args, prompt, beam)
    return BenchmarkReport(
        part="decode",
        title=f"Decoding {args.steps} tokens, {args.utterances} utterances",
        rows=rows,
        plots=[
            PlotSpec("prompt", "step ms", "who"),
            PlotSpec("prompt", "cache MB", "who"),
        ],
        hidden=["step ms low", "step ms high", "rounds"],
        notes=[
            *notes,
            "reference MHA: a cache that grows by concatenation; mtla has no MHA",
            f"attention {NOTHING} (CPU): the same layers without attention, a lower "
            "bound",
            f"{PRODUCTS} (CPU): the matrix products of our step alone, without those "
            "of the text's entries, a lower bound",
        ],
    )


@dataclass
class _Passes:
    """Seconds of the passes of one case; a pass is a prefill and all steps.

    Attributes:
        first: prefill and first step, by pass.
        steps: each further step of each pass.
        total: the whole pass.
        cpu: the whole pass in CPU time, which excludes other work on the machine.
        cache: bytes of the cache at the end.
        peak: peak bytes of a GPU; None on a CPU.
    """

    first: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cache: int = 0
    peak: int | None = None

    def columns(self) -> dict[str, Value]:
        """Return the columns of a report's row: medians over all passes."""
        low, median, high = statistics.quantiles(self.steps, n=4, method="inclusive")
        return {
            "step ms": median * 1e3,
            "step ms low": low * 1e3,
            "step ms high": high * 1e3,
            "first step ms": statistics.median(self.first) * 1e3,
            "all steps s": statistics.median(self.total),
            "CPU s": statistics.median(self.cpu),
            "cache MB": self.cache / 1e6,
            "peak MB": None if self.peak is None else self.peak / 1e6,
            "rounds": len(self.total),
        }


def _decoder(
    args: argparse.Namespace, name: str, exact: bool = False
) -> DecoderOnlyTransformer:
    """Return a decoder with random weights, the same in each call.

    Args:
        args: sizes, dtype and device.
        name: attention type, such as ``mtla_s2``.
        exact: in float64 on the CPU.
    """
    import torch

    from espnet_mtla.attention import parse_attention
    from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer

    attention, conf = parse_attention(name)
    torch.manual_seed(0)
    config = DecoderConfig(
        args.vocab_size,
        args.embed_dim,
        args.num_layers,
        args.num_heads,
        ffn_dim=4 * args.embed_dim,
        attention=attention,
        attention_conf=conf,
    )
    decoder = DecoderOnlyTransformer(config).eval()
    dtype = torch.float64 if exact else getattr(torch, args.dtype)
    return decoder.to("cpu" if exact else args.device, dtype)


def _gate(args: argparse.Namespace, name: str) -> str:
    """Check steps with reordered beams against the full pass in float64.

    The reference's steps are checked in the same way. Returns a note.
    """
    import torch

    from espnet_mtla.benchmark.decoders import (
        OwnDecoder,
        ReferenceDecoder,
        has_reference,
    )
    from espnet_mtla.benchmark.gate import check_close

    decoder, exact = _decoder(args, name), _decoder(args, name, exact=True)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(2, 13, args.embed_dim, generator=generator)
    steps, allowed = min(args.steps, 5), TOLERANCE[args.dtype]
    tokens = torch.randint(0, args.vocab_size, (steps, 6), generator=generator)
    frames = prompt.to(decoder.output.weight)
    cases: dict[str, StepDecoder] = {OURS: OwnDecoder(decoder, frames, 3, args)}
    if not args.no_reference and has_reference(decoder.layers[-1].attention):
        cases[REFERENCE] = ReferenceDecoder(decoder, frames, 3)
    history = tokens[:0].t()
    wide = prompt.double().repeat_interleave(3, 0)
    worst = dict.fromkeys(cases, 0.0)
    for new in tokens:
        history = torch.cat((history, new.unsqueeze(1)), 1)
        with torch.no_grad():
            expected = exact(wide, torch.full((6,), 13), history)[:, -1]
        order = torch.tensor([1, 1, 0, 5, 3, 3])
        for who, case in cases.items():
            logits = case.step(new.to(frames.device))
            error = check_close(f"{name}, {who}", logits, expected, allowed)
            worst[who] = max(worst[who], error)
            case.reorder(order.to(frames.device))
        history = history[order]
    errors = ", ".join(f"{who} {error:.1e}" for who, error in worst.items())
    return f"gate: {name} against the full pass in fp64: {errors}"


def _measure(
    args: argparse.Namespace, prompt: int, beam: int
) -> list[dict[str, Value]]:
    """Time the passes of all cases in turn, and return their rows."""
    import torch

    from espnet_mtla.benchmark.measure import deadline

    shape = (args.utterances, prompt, args.embed_dim)
    frames = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    runs: dict[tuple[str, str], _Passes] = {}
    time_is_up = deadline(args.max_seconds)
    for number in range(args.rounds):
        if number > 0 and time_is_up():
            break
        for name in args.attention:
            for case, make in _cases(args, name, frames, beam).items():
                result = runs.setdefault(case, _Passes())
                _decode(make, result, args, beam, torch.device(args.device))
    rows: list[dict[str, Value]] = []
    for (name, who), result in runs.items():
        case_columns: dict[str, Value] = {
            "prompt": prompt,
            "beam": beam,
            "attention": name,
            "who": who,
        }
        rows.append({**case_columns, **result.columns()})
    return _with_ratios(rows)


def _cases(
    args: argparse.Namespace, name: str, frames: Tensor, beam: int
) -> dict[tuple[str, str], Callable[[], StepDecoder]]:
    """Return how to make each decoder, by attention type and name of the decoder.

    The lower bounds run on CPUs alone: on a GPU our steps are recorded as CUDA graphs,
    and those would not be.
    """
    from espnet_mtla.benchmark.decoders import (
        OwnDecoder,
        ProductsAlone,
        ReferenceDecoder,
        WithoutAttention,
        has_reference,
    )

    decoder, rows = _decoder(args, name), len(frames) * beam
    frames = frames.to(decoder.output.weight)
    cases: dict[tuple[str, str], Callable[[], StepDecoder]] = {
        (name, OURS): lambda: OwnDecoder(decoder, frames, beam, args)
    }
    if not args.no_reference and has_reference(decoder.layers[-1].attention):
        cases[name, REFERENCE] = lambda: ReferenceDecoder(decoder, frames, beam)
    if frames.device.type != "cpu":
        return cases
    if decoder.config.attention in ("mla", "mtla") and not args.copy_prompt:
        cases[name, PRODUCTS] = lambda: ProductsAlone(decoder, frames, beam)
    if name == args.attention[0]:
        cases[NOTHING, OURS] = lambda: WithoutAttention(decoder, rows)
    return cases


def _decode(
    make: Callable[[], StepDecoder],
    result: _Passes,
    args: argparse.Namespace,
    beam: int,
    device: torch.device,
) -> None:
    """Time one pass, and its peak memory on a GPU."""
    from espnet_mtla.benchmark.measure import peak_bytes, stopwatch

    def one_pass() -> None:
        with stopwatch(device) as watch:
            _steps(make, result, args, beam, device)
        result.total.append(watch.wall)
        result.cpu.append(watch.cpu)

    result.peak = peak_bytes(one_pass, device)
    if result.peak is None:  # a CPU: peak_bytes has called nothing
        one_pass()


def _steps(
    make: Callable[[], StepDecoder],
    result: _Passes,
    args: argparse.Namespace,
    beam: int,
    device: torch.device,
) -> None:
    """Prefill and decode; each hypothesis continues a random one of its utterance."""
    import torch

    from espnet_mtla.benchmark.measure import now

    generator = torch.Generator().manual_seed(3)
    rows = args.utterances * beam
    first = torch.arange(0, rows, beam).unsqueeze(1)
    start = now(device)
    case = make()
    for step in range(args.steps):
        last = start if step == 0 else now(device)
        picks = torch.randint(0, beam, (args.utterances, beam), generator=generator)
        tokens = torch.randint(0, args.vocab_size, (rows,), generator=generator)
        case.step(tokens.to(device))
        if beam > 1:
            case.reorder((first + picks).flatten().to(device))
        seconds = result.first if step == 0 else result.steps
        seconds.append(now(device) - last)
    result.cache = case.nbytes


def _with_ratios(rows: list[dict[str, Value]]) -> list[dict[str, Value]]:
    """Add how many times faster and smaller each row is than three other rows.

    They are the reference of the same attention type, the reference's MHA, our MHA.
    """
    from espnet_mtla.benchmark.report import ratio

    by_case = {(row["attention"], row["who"]): row for row in rows}
    for row in rows:
        for label, key in (
            ("own ref", (row["attention"], REFERENCE)),
            ("ref mha", ("mha", REFERENCE)),
            ("our mha", ("mha", OURS)),
        ):
            other = by_case.get(key, {})
            for column, short in (
                ("all steps s", "time"),
                ("CPU s", "CPU"),
                ("cache MB", "cache"),
                ("peak MB", "peak"),
            ):
                times = ratio(other.get(column), row[column])
                if times:
                    row[f"{short} x, {label}"] = times
    return rows
