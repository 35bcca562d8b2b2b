"""Time and saved bytes of one attention layer, forward and backward, against SDPA."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    from torch import Tensor, nn

    from espnet_mtla.attention import CausalAttention
    from espnet_mtla.benchmark.report import BenchmarkReport, Value

    Part = TypeVar("Part", bound=nn.Module)

BASE = "sdpa mha"
"""The case that all others are divided by."""
ATTENTIONS = ["mha", "gqa", "mqa", "mla", "mtla_s2", "mtla_s3", "mtla_s4"]
GATE_TOKENS = 53
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add = parser.add_argument
    names = "attention types, such as mtla_s2"
    add("--attention", nargs="+", default=ATTENTIONS, help=names)
    lengths = "row lengths T; default: 1k to 8k, and 16k on a GPU"
    add("--tokens", nargs="+", type=count, help=lengths)
    add("--batch_size", type=count, default=1, help="rows per batch")
    add("--embed_dim", type=count, default=512, help="model width D")
    add("--num_heads", type=count, default=8, help="attention heads H")
    dtypes = ["auto", *TOLERANCE]
    add(
        "--dtype",
        choices=dtypes,
        default="auto",
        help="auto: bfloat16 on a GPU, else float32",
    )
    add("--kernels", nargs="+", default=["auto"], help="flash kernels to time")
    add("--dropout", type=float, default=0.0, help="on attention weights")
    add(
        "--peer_tokens",
        type=int,
        default=4096,
        help="longest row that `mtla` is timed on",
    )


def run(args: argparse.Namespace) -> BenchmarkReport:
    """Check all attention types, then time them on each row length."""
    from espnet_mtla.benchmark.report import BenchmarkReport, PlotSpec

    on_gpu = args.device != "cpu"
    if args.dtype == "auto":
        args.dtype = "bfloat16" if on_gpu else "float32"
    args.tokens = args.tokens or [1024, 2048, 4096, 8192, *[16384] * on_gpu]
    layers, notes = _layers(args)
    notes += _gate(args)
    rows: list[dict[str, Value]] = []
    for tokens in args.tokens:
        rows += _measure(args, layers, tokens)
    by_time = PlotSpec("T", "ms", "attention")
    return BenchmarkReport(
        part="train",
        title="One attention layer, forward and backward",
        rows=rows,
        plots=[by_time, PlotSpec("T", "kept MB", "attention")],
        hidden=["ms low", "ms high", "first ms"],
        notes=notes,
    )


class _Layer:
    """An attention module and how it is called.

    Args:
        module: whose parameters get gradients.
        call: computes the output for rows ``(B, T, D)``.
        longest: largest T that it is timed on.
        kernel: flash kernel to use; ``auto``: the fastest one that supports the case.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[[Tensor], Tensor],
        longest: int,
        kernel: str = "auto",
    ) -> None:
        self.module, self.call = module, call
        self.longest, self.kernel = longest, kernel

    def forward(self, x: Tensor) -> Tensor:
        from espnet_mtla.attention.training.kernel_choice import training_kernel

        with training_kernel(self.kernel):
            return self.call(x)

    def step(self, x: Tensor, direction: Tensor) -> Callable[[], object]:
        """Return a function that runs forward, and backward to input and parameters."""
        import torch

        leaves = [x, *self.module.parameters()]
        return lambda: torch.autograd.grad(
            self.forward(x), leaves, direction, allow_unused=True
        )


def _layers(args: argparse.Namespace) -> tuple[dict[str, _Layer], list[str]]:
    """Build all layers, by the name of their row; and notes on what is missing."""
    import torch

    from espnet_mtla.benchmark.references import SdpaMultihead, mtla_attention, run_mtla

    dtype, notes = getattr(torch, args.dtype), []
    longest = max(args.tokens)
    sizes = (args.embed_dim, args.num_heads)

    def ready(module: Part) -> Part:
        return module.to(args.device, dtype).train()

    base = ready(SdpaMultihead(*sizes))
    layers = {BASE: _Layer(base, base, longest)}
    for name in args.attention:
        module = ready(_build(name, *sizes, args.dropout))
        for kernel in args.kernels:
            shown = name if kernel == "auto" else f"{name}, {kernel}"
            layers[shown] = _Layer(module, module.attend_all, longest, kernel)
        if not name.startswith("mtla"):
            continue
        if module.layout.window > 0:
            notes.append(f"reference of {name} left out: it has no raw window")
            continue
        reference = mtla_attention(*sizes, stride=module.layout.stride)
        if reference is None:
            notes.append(f"reference of {name} left out: `mtla` is not installed")
            continue
        reference = ready(reference)
        forward = partial(run_mtla, reference)
        rows = _Layer(reference, forward, args.peer_tokens)
        layers[f"{name}, reference"] = rows
    return layers, notes


def _build(
    name: str, embed_dim: int, num_heads: int, dropout: float = 0.0
) -> CausalAttention:
    from espnet_mtla.attention import build_attention, parse_attention

    attention, conf = parse_attention(name)
    return build_attention(attention, embed_dim, num_heads, dropout, conf)


def _gate(args: argparse.Namespace) -> list[str]:
    """Check training in the timed dtype against decoding token by token in float64.

    Decoding shares neither kernels nor formulas with training.
    """
    import torch

    from espnet_mtla.benchmark.gate import check_close

    worst, tolerance = 0.0, TOLERANCE[args.dtype]
    for name, kernel in product(args.attention, args.kernels):
        torch.manual_seed(0)
        exact = _build(name, args.embed_dim, args.num_heads).double().eval()
        x = torch.randn(1, GATE_TOKENS, args.embed_dim, dtype=torch.float64)
        with torch.no_grad():
            _, cache = exact.prefill(x[:, :1], torch.ones(1).long(), GATE_TOKENS)
            first = exact.attend_all(x[:, :1])
            later = [exact.extend(token, cache) for token in x[:, 1:].split(1, 1)]
            fast = exact.to(args.device, getattr(torch, args.dtype))
            layer = _Layer(fast, fast.attend_all, GATE_TOKENS, kernel)
            result = layer.forward(x.to(args.device, getattr(torch, args.dtype)))
        expected = torch.cat([first, *later], dim=1)
        worst = max(worst, check_close(name, result, expected, tolerance))
    return [f"gate: training equals fp64 decoding, largest difference {worst:.1e}"]


def _measure(
    args: argparse.Namespace, layers: dict[str, _Layer], tokens: int
) -> list[dict[str, Value]]:
    """Return a row per layer for rows of ``tokens``: seconds, saved and peak bytes."""
    import torch

    from espnet_mtla.benchmark.measure import interleaved, peak_bytes, saved_bytes
    from espnet_mtla.benchmark.report import ratio

    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    shape = (args.batch_size, tokens, args.embed_dim)
    x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    fitting = {k: layer for k, layer in layers.items() if tokens <= layer.longest}
    direction = torch.randn_like(x)
    cases = {name: layer.step(x, direction) for name, layer in fitting.items()}
    timings = interleaved(cases, device, args.rounds, args.warmup, args.max_seconds)
    rows: list[dict[str, Value]] = []
    for name, layer in fitting.items():
        inputs = (x, *layer.module.parameters())
        saved = saved_bytes(partial(layer.forward, x), *inputs)
        peak = peak_bytes(cases[name], device)
        rows.append(
            {
                "T": tokens,
                "attention": name,
                **timings[name].columns(),
                "time ratio": timings[name].median / timings[BASE].median,
                "kept MB": saved / 1e6,
                "peak MB": None if peak is None else peak / 1e6,
            }
        )
    for row in rows:
        row["kept ratio"] = ratio(row["kept MB"], rows[0]["kept MB"])
    return rows
