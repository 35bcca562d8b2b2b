"""The matrix read from ``wkv_b`` is that of its call, with any adapter or hook."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from espnet_mtla.attention import CacheOptions, MultiheadTemporalLatentAttention
from espnet_mtla.attention.linear import is_plain_linear, linear_matrix
from espnet_mtla.errors import UserError
from test.support.attention_types import WIDTH, make

SAME = {"rtol": 0.0, "atol": 1e-12}
LATENT_TYPES = ["mla", "mtla_s1", "mtla_s2", "mtla_s3"]


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class LowRank(nn.Module):
    """A LoRA as a wrapper module of another type."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, like = base, base.weight
        self.down = nn.Parameter(torch.randn(3, base.in_features).to(like))
        self.up = nn.Parameter(torch.randn(base.out_features, 3).to(like))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.mT @ self.up.mT


def replaced(module: nn.Module) -> None:
    module.wkv_b = LowRank(module.wkv_b)


def hooked(module: nn.Module) -> None:
    module.wkv_b.register_forward_hook(lambda *call: 3 * call[-1])


def patched(module: nn.Module) -> None:
    """Replace ``forward`` of the object, as accelerate does."""
    old = module.wkv_b.forward
    module.wkv_b.forward = lambda x: -2 * old(x)


def pruned(module: nn.Module) -> None:
    prune.random_unstructured(module.wkv_b, "weight", 0.5)
    # An optimiser changes the original; the attribute follows at the next call.
    with torch.no_grad():
        module.wkv_b.weight_orig.mul_(2)


def normed(module: nn.Module) -> None:
    with pytest.warns(FutureWarning):
        weight_norm(module.wkv_b)
    with torch.no_grad():
        module.wkv_b.weight_g.mul_(2)


def parametrized(module: nn.Module) -> None:
    parametrize.register_parametrization(module.wkv_b, "weight", Doubled())


def spectrally_normed(module: nn.Module) -> None:
    parametrizations.spectral_norm(module.wkv_b)


CHANGES = [
    replaced,
    hooked,
    patched,
    pruned,
    normed,
    parametrized,
    spectrally_normed,
]


def plain_twin(module: nn.Module) -> nn.Module:
    """The same attention, whose ``wkv_b`` is a plain layer with the changed matrix."""
    unit = torch.eye(16, dtype=torch.float64)
    with torch.no_grad():
        matrix = torch.stack([module.wkv_b(row) for row in unit], dim=1)
    twin = make_like(module)
    with torch.no_grad():
        twin.wkv_b.weight.copy_(matrix)
    return twin


def make_like(module: nn.Module) -> nn.Module:
    for kind in LATENT_TYPES:
        fresh = make(kind)
        same_type = type(fresh) is type(module)
        if same_type and fresh.layout == module.layout:
            return fresh
    raise AssertionError(module)


def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 13, WIDTH, dtype=torch.float64, generator=generator)


def runs(module: nn.Module) -> list[Tensor]:
    """Training, prefill and steps: few and many queries of one prompt, heads kept."""
    x, lengths = tokens(), torch.tensor([9, 9])
    outputs = [module.attend_all(x)]
    for forms in ({}, {"expand_from": 1}, {"prompt": "heads"}):
        out, cache = module.prefill(x[:, :9], lengths, 4, True, CacheOptions(**forms))
        steps = [module.extend(x[:, t : t + 1], cache) for t in range(9, 12)]
        outputs.append(torch.cat((out, *steps, module.extend(x[:, 12:], cache)), 1))
    return outputs


@pytest.mark.parametrize("kind", LATENT_TYPES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_training_prefill_and_steps_use_what_the_call_does(
    change: Callable[[nn.Module], None], kind: str
) -> None:
    module = make(kind)
    before = module.attend_all(torch.ones(1, 3, WIDTH, dtype=torch.float64))
    change(module)
    after = module.attend_all(torch.ones(1, 3, WIDTH, dtype=torch.float64))
    assert (after - before).abs().max() > 1e-3  # the change does something
    expected = plain_twin(module).attend_all(tokens())
    for out in runs(module):
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_reach_what_the_matrix_is_made_of(bias: bool) -> None:
    """Those of the factors are those of the product, which a plain layer gets."""
    sizes = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
    torch.manual_seed(0)
    module = MultiheadTemporalLatentAttention(
        WIDTH, 4, bias=bias, v_head_dim=6, **sizes
    )
    module = module.double()
    twin = copy.deepcopy(module)
    replaced(module)
    adapter = module.wkv_b
    with torch.no_grad():
        twin.wkv_b.weight.add_(adapter.up @ adapter.down)
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    for each in (module, twin):
        each.attend_all(x).square().sum().backward()
    whole = twin.wkv_b.weight.grad
    torch.testing.assert_close(adapter.up.grad, whole @ adapter.down.mT, **SAME)
    torch.testing.assert_close(adapter.down.grad, adapter.up.mT @ whole, **SAME)
    torch.testing.assert_close(adapter.base.weight.grad, whole, **SAME)


def test_the_bias_is_no_part_of_the_matrix() -> None:
    base = nn.Linear(6, 5).double()
    like = base.weight
    hook = base.register_forward_hook(lambda *call: 2 * call[-1])
    matrix = linear_matrix(base, 6, like, "wkv_b")
    torch.testing.assert_close(matrix, 2 * base.weight, **SAME)
    hook.remove()
    assert linear_matrix(base, 6, like, "wkv_b") is base.weight


def test_weights_of_other_tensor_types_go_through_the_call() -> None:
    """Quantised and distributed weights in a plain ``nn.Linear``."""

    class Quantised(Tensor):
        pass

    linear = nn.Linear(4, 3, bias=False)
    assert is_plain_linear(linear)
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Quantised))
    assert not is_plain_linear(linear)
    matrix = linear_matrix(linear, 4, torch.ones(1), "wkv_b")
    torch.testing.assert_close(
        matrix.as_subclass(Tensor), linear.weight.as_subclass(Tensor)
    )


def test_a_change_is_seen_at_once() -> None:
    """Nothing is kept between calls: steps over one cache, in-place edits, loading."""
    module = make("mtla_s2")
    replaced(module)
    x = torch.randn(1, 8, WIDTH, dtype=torch.float64)
    _, cache = module.prefill(x[:, :4], torch.tensor([4]), 4)
    module.extend(x[:, 4:5], cache)
    state = {name: 1.5 * value for name, value in module.wkv_b.state_dict().items()}
    changes: list[Callable[[], object]] = [
        lambda: module.wkv_b.load_state_dict(state, assign=True),
        lambda: module.wkv_b.up.data.mul_(2),
        lambda: setattr(module, "wkv_b", plain_twin(module).wkv_b),
    ]
    for t, change in enumerate(changes, 5):
        change()
        out = module.extend(x[:, t : t + 1], cache)
        expected = plain_twin(module).attend_all(x[:, : t + 1])[:, -1:]
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


class Gated(nn.Module):
    """Another matrix for every token: an adapter that looks at its input."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * (1 + 0.1 * x.sum(-1, keepdim=True))


class OneForEachRow(nn.Module):
    """An adapter that needs the row indices."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"2 rows expected\nand {len(x)} seen")


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (lambda base: Gated(base), "wkv_b: Gated gives no one matrix for all tokens, "),
        (
            lambda _: OneForEachRow(),
            r"wkv_b: OneForEachRow gives .* \(2 rows expected\); leave wkv_b out of",
        ),
    ],
    ids=["gated", "rows"],
)
@pytest.mark.parametrize("training", [False, True])
def test_what_is_no_matrix_is_refused(
    replacement: Callable[[nn.Module], nn.Module], message: str, training: bool
) -> None:
    module = make("mtla_s2").train(training)
    module.wkv_b = replacement(module.wkv_b)
    with pytest.raises(UserError, match=message):
        module.attend_all(torch.randn(1, 3, WIDTH, dtype=torch.float64))


def test_dropout_in_an_adapter_is_no_reason_to_refuse() -> None:
    module = make("mtla_s2").train()
    module.wkv_b = nn.Sequential(nn.Dropout(0.5), module.wkv_b)
    x = torch.randn(1, 6, WIDTH, dtype=torch.float64)
    assert not torch.equal(module.attend_all(x), module.attend_all(x))


@pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning")
@pytest.mark.parametrize("kind", ["mha", "mla", "mtla_s2"])
def test_dynamically_quantised_layers(kind: str) -> None:
    """Quantised layers have a method instead of a weight; outputs are close."""
    quantization = pytest.importorskip("torch.ao.quantization")
    exact = make(kind, torch.float32)
    rough = quantization.quantize_dynamic(
        copy.deepcopy(exact), {nn.Linear}, dtype=torch.qint8
    )
    x = torch.randn(2, 9, WIDTH)
    for run in (lambda m: m.attend_all(x), lambda m: m(query=x, key=x)):
        with torch.no_grad():
            error = (run(rough) - run(exact)).norm() / run(exact).norm()
        assert 0 < error < 0.05
    with pytest.raises(UserError, match=r"query: torch\.int64 given, a floating type"):
        rough(query=x.long(), key=x)
