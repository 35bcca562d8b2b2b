"""Decoding step by step: seconds and cache, ours beside the reference's."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from espnet_mtla.search.options import CUDA_GRAPHS
from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from espnet_mtla.benchmark.report import BenchmarkReport, Value
    from espnet_mtla.decoder import DecoderOnlyTransformer

ATTENTIONS = ["mtla_s2", "mtla_s3", "mtla_s4", "mla", "mha"]
TOLERANCE = {"float32": 1e-4, "bfloat16": 8e-2, "float16": 2e-2}
LEAST_STEPS = 3
OURS, REFERENCE = "ours", "reference"
NOTHING = "none"
"""In the place of attention: how fast it could be at most."""
PRODUCTS = "products"
"""In the place of ours: a step's matrix products, the limit of latents in this form."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--attention", nargs="+", default=ATTENTIONS, help="names, MTLA with stride")
    add("--prompt", nargs="+", type=count, default=[250, 1000], help="frames")
    add("--steps", type=count, default=60, help="tokens generated")
    add("--utterances", type=count, default=4, help="B")
    add("--beam", nargs="+", type=count, default=[20], help="hypotheses each, K")
    add("--num_layers", type=count, default=9)
    add("--embed_dim", type=count, default=512, help="D")
    add("--num_heads", type=count, default=8, help="H")
    add("--vocab_size", type=count, default=500)
    add("--dtype", choices=list(TOLERANCE), default="float32", help="of the decoder")
    add("--backend", default="auto", help="of our attention over the cache")
    add("--expand_from", type=int, help="queries a head that have latents projected up")
    add("--cuda_graphs", choices=CUDA_GRAPHS, default="auto", help="ours alone")
    add("--copy_prompt", action="store_true", help="ours, too, a copy a hypothesis")
    add("--no_reference", action="store_true", help="time ours alone")


def run(args: argparse.Namespace) -> BenchmarkReport:
    from espnet_mtla.benchmark.report import BenchmarkReport, PlotSpec
    from espnet_mtla.errors import UserError

    if args.steps < LEAST_STEPS:
        raise UserError(
            f"--steps: {args.steps} given, {LEAST_STEPS} or more are needed: the first "
            "is told apart"
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
            "reference MHA: a plain concatenating one, since mtla has none",
            f"attention {NOTHING} (CPU): the same layers without any, the floor",
            f"{PRODUCTS} (CPU): the matrix products of ours with nothing between them, "
            "and none with the hypotheses' own entries: the limit of its arithmetic",
        ],
    )


@dataclass
class _Run:
    """Seconds of the passes of one case; a pass is a prefill and all steps."""

    first: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Seconds of the CPU: what others on a shared machine take does not count."""
    cache: int = 0
    peak: int | None = None

    def columns(self) -> dict[str, Value]:
        low, median, high = statistics.quantiles(self.steps, n=4, method="inclusive")
        return {
            "step ms": median * 1e3,
            "step ms low": low * 1e3,
            "step ms high": high * 1e3,
            "first step ms": statistics.median(self.first) * 1e3,
            "all steps s": statistics.median(self.total),
            "CPU s": statistics.median(self.busy),
            "cache MB": self.cache / 1e6,
            "peak MB": None if self.peak is None else self.peak / 1e6,
            "rounds": len(self.total),
        }


class Decoding(Protocol):
    """One way to decode: what is timed."""

    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``(N, V)`` after one more token ``(N,)``."""

    def reorder(self, rows: Tensor) -> None:
        """Row i continues what row ``rows[i]`` was."""

    @property
    def nbytes(self) -> int:
        """Bytes of the cache."""


class _Ours:
    """Our decoder with the steps of :class:`.decode_peers.ReferenceDecoder`."""

    def __init__(
        self,
        decoder: DecoderOnlyTransformer,
        prompt: Tensor,
        beam: int,
        args: argparse.Namespace,
    ) -> None:
        import torch

        from espnet_mtla.attention import CacheOptions
        from espnet_mtla.decoder.graphs import steps_of

        lengths = torch.full((len(prompt),), prompt.size(1), device=prompt.device)
        with torch.inference_mode():
            self.state = decoder.prefill(
                prompt,
                lengths,
                max_tokens=args.steps,
                beam=beam,
                share_prompt=not args.copy_prompt,
                options=CacheOptions(args.backend, expand_from=args.expand_from),
            )
            self.run = steps_of(decoder, self.state, args.cuda_graphs)

    def step(self, tokens: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            return self.run.step(tokens)

    def reorder(self, rows: Tensor) -> None:
        import torch

        with torch.inference_mode():
            self.run.reorder(rows)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, room for all steps and the spare suffix included."""
        return self.state.nbytes


def _decoder(
    args: argparse.Namespace, name: str, exact: bool = False
) -> DecoderOnlyTransformer:
    import torch

    from espnet_mtla.attention import parse_attention
    from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer

    kind, conf = parse_attention(name)
    torch.manual_seed(0)
    config = DecoderConfig(
        args.vocab_size,
        args.embed_dim,
        args.num_layers,
        args.num_heads,
        ffn_dim=4 * args.embed_dim,
        attention=kind,
        attention_conf=conf,
    )
    decoder = DecoderOnlyTransformer(config).eval()
    dtype = torch.float64 if exact else getattr(torch, args.dtype)
    return decoder.to("cpu" if exact else args.device, dtype)


def _gate(args: argparse.Namespace, name: str) -> str:
    """Steps with reordered beams against the full pass in fp64, and the reference."""
    import torch

    from espnet_mtla.benchmark.decode_peers import ReferenceDecoder, has_reference
    from espnet_mtla.benchmark.gate import check_close

    decoder, exact = _decoder(args, name), _decoder(args, name, exact=True)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(2, 13, args.embed_dim, generator=generator)
    steps, allowed = min(args.steps, 5), TOLERANCE[args.dtype]
    tokens = torch.randint(0, args.vocab_size, (steps, 6), generator=generator)
    given = prompt.to(decoder.output.weight)
    cases: dict[str, Decoding] = {OURS: _Ours(decoder, given, 3, args)}
    if not args.no_reference and has_reference(decoder.config.attention):
        cases[REFERENCE] = ReferenceDecoder(decoder, given, 3)
    history = tokens[:0].t()
    wide = prompt.double().repeat_interleave(3, 0)
    worst = dict.fromkeys(cases, 0.0)
    for new in tokens:
        history = torch.cat((history, new.unsqueeze(1)), 1)
        with torch.no_grad():
            expected = exact(wide, torch.full((6,), 13), history)[:, -1]
        order = torch.tensor([1, 1, 0, 5, 3, 3])
        for who, case in cases.items():
            logits = case.step(new.to(given.device))
            error = check_close(f"{name}, {who}", logits, expected, allowed)
            worst[who] = max(worst[who], error)
            case.reorder(order.to(given.device))
        history = history[order]
    found = ", ".join(f"{who} {error:.1e}" for who, error in worst.items())
    return f"gate: {name} against the full pass in fp64: {found}"


def _measure(
    args: argparse.Namespace, prompt: int, beam: int
) -> list[dict[str, Value]]:
    """Passes of all cases in turn, so that a busy minute hits all of them."""
    import torch

    shape = (args.utterances, prompt, args.embed_dim)
    frames = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    runs: dict[tuple[str, str], _Run] = {}
    ends = time.perf_counter() + args.max_seconds
    for number in range(args.rounds):
        if number > 0 and time.perf_counter() > ends:
            break
        for name in args.attention:
            for case, make in _cases(args, name, frames, beam).items():
                result = runs.setdefault(case, _Run())
                _decode(make, result, args, beam, torch.device(args.device))
    rows: list[dict[str, Value]] = []
    for (name, who), result in runs.items():
        kept: dict[str, Value] = {
            "prompt": prompt,
            "beam": beam,
            "attention": name,
            "who": who,
        }
        rows.append({**kept, **result.columns()})
    return _with_ratios(rows)


def _cases(
    args: argparse.Namespace, name: str, frames: Tensor, beam: int
) -> dict[tuple[str, str], Callable[[], Decoding]]:
    """By attention and by who decodes: how to make what has ``step`` and ``reorder``.

    The floors are for CPUs alone: on a GPU ours are recorded, and they would not be.
    """
    from espnet_mtla.benchmark.decode_peers import (
        ProductsAlone,
        ReferenceDecoder,
        WithoutAttention,
        has_reference,
    )

    decoder, rows = _decoder(args, name), len(frames) * beam
    frames = frames.to(decoder.output.weight)
    cases: dict[tuple[str, str], Callable[[], Decoding]] = {
        (name, OURS): lambda: _Ours(decoder, frames, beam, args)
    }
    if not args.no_reference and has_reference(decoder.config.attention):
        cases[name, REFERENCE] = lambda: ReferenceDecoder(decoder, frames, beam)
    if frames.device.type != "cpu":
        return cases
    if decoder.config.attention in ("mla", "mtla") and not args.copy_prompt:
        cases[name, PRODUCTS] = lambda: ProductsAlone(decoder, frames, beam)
    if name == args.attention[0]:
        cases[NOTHING, OURS] = lambda: WithoutAttention(decoder, rows)
    return cases


def _decode(
    make: Callable[[], Decoding],
    result: _Run,
    args: argparse.Namespace,
    beam: int,
    device: torch.device,
) -> None:
    """One pass; hypotheses go on from random ones of their utterance."""
    from espnet_mtla.benchmark.measure import peak_bytes

    def one_pass() -> None:
        busy = time.process_time()
        _steps(make, result, args, beam, device)
        result.busy.append(time.process_time() - busy)

    result.peak = peak_bytes(one_pass, device)
    if result.peak is None:  # where nobody counts nothing has run
        one_pass()


def _steps(
    make: Callable[[], Decoding],
    result: _Run,
    args: argparse.Namespace,
    beam: int,
    device: torch.device,
) -> None:
    import torch

    from espnet_mtla.benchmark.measure import synchronise

    generator = torch.Generator().manual_seed(3)
    rows = args.utterances * beam
    first = torch.arange(0, rows, beam).unsqueeze(1)
    synchronise(device)
    began = time.perf_counter()
    case = make()
    for step in range(args.steps):
        last = time.perf_counter()
        picks = torch.randint(0, beam, (args.utterances, beam), generator=generator)
        tokens = torch.randint(0, args.vocab_size, (rows,), generator=generator)
        case.step(tokens.to(device))
        if beam > 1:
            case.reorder((first + picks).flatten().to(device))
        synchronise(device)
        now = time.perf_counter()
        if step == 0:
            result.first.append(now - began)
        else:
            result.steps.append(now - last)
    result.total.append(time.perf_counter() - began)
    result.cache = case.nbytes


def _with_ratios(rows: list[dict[str, Value]]) -> list[dict[str, Value]]:
    """How many times faster and smaller ours is than its own reference, and MHA's."""
    from espnet_mtla.benchmark.report import ratio

    found = {(row["attention"], row["who"]): row for row in rows}
    for row in rows:
        for label, key in (
            ("own ref", (row["attention"], REFERENCE)),
            ("ref mha", ("mha", REFERENCE)),
            ("our mha", ("mha", OURS)),
        ):
            other = found.get(key, {})
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
