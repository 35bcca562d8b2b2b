"""The fused write is not used where a subclass or a hook changes what it computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from espnet_mtla.attention import (
    KVCache,
    MultiheadLatentAttention,
    MultiheadTemporalLatentAttention,
)
from espnet_mtla.attention.decoding.backend.torch import BACKEND
from espnet_mtla.attention.decoding.backend.triton import TritonBackend
from espnet_mtla.attention.latent import FUSED_CACHE_METHODS
from espnet_mtla.attention.merge import HyperNetwork
from test.support.attention_types import WIDTH, make

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRITON = TritonBackend((DEVICE.type,))


class WithFusedWrite:
    """PyTorch's back-end, and Triton's fused write, which is counted."""

    name = "with_fused_write"

    def __init__(self) -> None:
        self.attend, self.merge = BACKEND.attend, BACKEND.merge
        self.writes = 0

    def token_writer(self, *arguments: object) -> None:
        self.writes += 1
        TRITON.write_token(*arguments)


@torch.no_grad()
def steps(module: nn.Module, fused: bool, **changes: object) -> tuple[Tensor, int]:
    """Outputs of three steps behind a prompt, and how many writes were fused."""
    x = torch.randn(2, 8, WIDTH, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    _, cache = module.prefill(x[:, :5], torch.tensor([5, 4], device=DEVICE), 3, False)
    cache.backend = WithFusedWrite() if fused else BACKEND
    for name, value in changes.items():
        setattr(cache, name, value)
    out = [module.extend(x[:, t : t + 1], cache) for t in range(5, 8)]
    return torch.cat(out, 1), cache.backend.writes if fused else 0


def build(kind: str, cls: type[nn.Module] | None = None) -> nn.Module:
    module = make(kind, torch.float32).to(DEVICE)
    if cls is not None:
        module.__class__ = cls
    return module


CLASSES = {"mla": MultiheadLatentAttention, "mtla_s2": MultiheadTemporalLatentAttention}


@pytest.mark.parametrize("kind", CLASSES)
def test_an_unchanged_module_writes_in_one_launch(kind: str) -> None:
    module = build(kind)
    fused, writes = steps(module, fused=True)
    assert writes == 3
    torch.testing.assert_close(fused, steps(module, fused=False)[0], rtol=0, atol=1e-5)


def changed(result: object) -> object:
    """Return a changed tensor of the same shape."""
    if isinstance(result, tuple):
        return tuple(map(changed, result))
    return None if result is None else 1.5 * result


def override(cls: type, name: str) -> Callable:
    method = getattr(cls, name)

    def other(self: object, *arguments: object) -> object:
        return changed(method(self, *arguments))

    return other


HOOKS = [(kind, name) for kind, cls in CLASSES.items() for name in cls.fused_methods]


def differs_from_unchanged(module: nn.Module, **changes: object) -> None:
    """Check that no write is fused and that the outputs are those of the hooks."""
    out, writes = steps(module, True, **changes)
    assert writes == 0
    expected, _ = steps(module, False, **changes)
    assert torch.equal(out, expected)


@pytest.mark.parametrize(("kind", "hook"), HOOKS)
def test_a_subclass_that_overrides_a_hook_is_asked(kind: str, hook: str) -> None:
    """Without the rule its hook would run in prefill, and not in a step on a GPU."""
    parent = CLASSES[kind]
    sub = type("Sub", (parent,), {hook: override(parent, hook)})
    module = build(kind, sub)
    differs_from_unchanged(module)
    if hook != "_write":  # what it returns is read where several tokens are written
        plain, _ = steps(build(kind), False)
        assert not torch.allclose(steps(module, True)[0], plain)


@pytest.mark.parametrize(("kind", "hook"), HOOKS)
def test_a_hook_that_is_replaced_on_the_object_is_asked(kind: str, hook: str) -> None:
    module = build(kind)
    method = override(CLASSES[kind], hook)
    setattr(module, hook, lambda *arguments: method(module, *arguments))
    differs_from_unchanged(module)


def test_a_subclass_that_overrides_other_methods_keeps_the_fused_write() -> None:
    sub = type(
        "Sub",
        (MultiheadTemporalLatentAttention,),
        {"project_out": override(MultiheadTemporalLatentAttention, "project_out")},
    )
    assert steps(build("mtla_s2", sub), True)[1] == 3


@pytest.mark.parametrize("method", FUSED_CACHE_METHODS)
def test_a_cache_that_writes_in_its_own_way_is_asked(
    method: str,
) -> None:
    """``RowsCache`` of Transformers' classes is one: it records what it is given."""
    own = getattr(KVCache, method)
    calls = []

    class Recording(KVCache):
        pass

    def recording(self: KVCache, *arguments: object) -> object:
        calls.append(method)
        return own(self, *arguments)

    setattr(Recording, method, recording)
    differs_from_unchanged(build("mtla_s2"), __class__=Recording)
    assert calls


class Scaled(nn.Module):
    """A norm other than LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


class Halved(HyperNetwork):
    """Merge weights by another formula."""

    def weigh(self, latents: Tensor, chunk_encodings: Tensor) -> Tensor:
        return 0.5 * super().weigh(latents, chunk_encodings)


def another_norm(module: nn.Module) -> None:
    module.kv_norm = Scaled()


def norm_without_shift(module: nn.Module) -> None:
    module.kv_norm = nn.LayerNorm(16, bias=False).to(DEVICE)


def norm_without_parameters(module: nn.Module) -> None:
    module.kv_norm = nn.LayerNorm(16, elementwise_affine=False)


def hooked_norm(module: nn.Module) -> None:
    module.kv_norm.register_forward_hook(lambda *call: 2 * call[-1])


def another_network(module: nn.Module) -> None:
    module.hypernet_down.__class__ = Halved


def replaced_weigh(module: nn.Module) -> None:
    weigh = module.hypernet_down.weigh
    module.hypernet_down.weigh = lambda *arguments: 0.5 * weigh(*arguments)


def pruned_network(module: nn.Module) -> None:
    prune.random_unstructured(module.hypernet_down.fc_p, "weight", 0.5)
    with torch.no_grad():
        module.hypernet_down.fc_p.weight_orig.mul_(2)


def adapted_network(module: nn.Module) -> None:
    module.hypernet_down.fc_c = nn.Sequential(module.hypernet_down.fc_c, Scaled())


def network_without_bias(module: nn.Module) -> None:
    module.hypernet_down.fc_c = nn.Linear(16, 4, bias=False).to(DEVICE)


PARTS = [
    another_norm,
    norm_without_shift,
    norm_without_parameters,
    hooked_norm,
    another_network,
    replaced_weigh,
    pruned_network,
    adapted_network,
    network_without_bias,
]


@pytest.mark.parametrize("change", PARTS, ids=lambda change: change.__name__)
def test_parts_whose_parameters_the_kernel_reads(
    change: Callable[[nn.Module], None],
) -> None:
    module = build("mtla_s2")
    plain, _ = steps(module, False)
    change(module)
    differs_from_unchanged(module)
    same_numbers = change in (norm_without_shift, norm_without_parameters)
    assert torch.allclose(steps(module, True)[0], plain) == same_numbers


def test_a_missing_network_is_not_a_mla() -> None:
    """An MTLA without its hyper-network cannot merge, with or without a kernel."""
    module = build("mtla_s2")
    module.hypernet_down = None
    for fused in (True, False):
        with pytest.raises(TypeError):
            steps(module, fused)
