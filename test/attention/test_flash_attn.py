"""How we call FlashAttention, checked with stand-ins; the package itself is not run."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from espnet_mtla.attention import EntryLayout, build_attention
from espnet_mtla.attention.decoding.backend import _choose, choose_backend
from espnet_mtla.attention.decoding.backend import flash_attn as calls
from espnet_mtla.attention.decoding.backend.flash_attn import FlashAttnBackend
from espnet_mtla.errors import UserError
from test.support import flash_stand_in
from test.support.kernel_checks import (
    check_attention,
    dense,
    head_layout,
    latent_layout,
    poisoned_case,
    relative_error,
)

CPU = torch.device("cpu")
FLASH = FlashAttnBackend(("cpu",))
PAPER, HEADS = latent_layout(256, 32), head_layout(2, 16)
VISIBLE = [torch.tensor([[5], [0]]), torch.tensor([[3, 0, 5], [0, 0, 0]])]


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    calls._kernel.cache_clear()
    yield
    calls._kernel.cache_clear()


def install_two(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_stand_in.install(
        monkeypatch, "flash_attn", flash_attn_with_kvcache=flash_stand_in.two
    )


def install_mtla(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = SimpleNamespace(fwd_kvcache_mtla=flash_stand_in.mtla)
    flash_stand_in.install(
        monkeypatch,
        "flash_attn",
        flash_attn_with_kvcache=flash_stand_in.two_before_lse,
        flash_attn_with_kvcache_mtla=None,
        flash_attn_interface=SimpleNamespace(flash_attn_cuda=compiled),
    )


def install_three(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_stand_in.install(
        monkeypatch,
        "flash_attn_interface",
        flash_attn_with_kvcache=flash_stand_in.three,
    )


@pytest.mark.parametrize("visible", VISIBLE, ids=["a row's", "a query's"])
@pytest.mark.parametrize(
    ("install", "layout"),
    [
        (install_two, HEADS),
        (install_mtla, PAPER),
        (install_three, HEADS),
        (install_three, PAPER),
        (install_three, latent_layout(512, 64)),
    ],
)
def test_each_kernel_is_called_as_it_demands(
    install, layout: EntryLayout, visible: torch.Tensor, monkeypatch
) -> None:
    install(monkeypatch)
    assert FLASH.unsupported_reason(layout, torch.bfloat16, CPU) is None
    q, entries = poisoned_case(layout, visible, 3, 6, torch.bfloat16)
    result = FLASH.attend(q, entries, layout, visible, 0.2)
    check_attention(result, dense(q, entries, layout, visible, 0.2), torch.bfloat16)


@pytest.mark.parametrize(
    ("install", "layout", "reason"),
    [
        (None, HEADS, "flash_attn is not installed: pip install flash-attn"),
        (None, PAPER, "build https://github.com/D-Keqi/flash-attention"),
        (install_two, PAPER, "this flash-attn has no kernel for latent entries"),
        (install_two, head_layout(1, 20), "a multiple of 8 up to 256: 20"),
        (install_mtla, HEADS, "returns no log-sum-exp: pip install 'flash-attn>=2.7'"),
        (install_mtla, latent_layout(128, 32), "for entries of 256+32, 128+32 given"),
        (install_three, latent_layout(128, 32), "no kernel for entries of 128+32"),
    ],
)
def test_what_to_install_is_said(
    install, layout: EntryLayout, reason: str, monkeypatch
) -> None:
    if install is not None:
        install(monkeypatch)
    assert reason in FLASH.unsupported_reason(layout, torch.float16, CPU)


def test_a_build_for_another_torch_is_named(monkeypatch) -> None:
    install_two(monkeypatch)

    def broken(name: str) -> None:
        raise ImportError(f"{name}.so: undefined symbol: _ZN3c104cuda")

    monkeypatch.setattr(calls, "import_module", broken)
    why = FLASH.unsupported_reason(HEADS, torch.float16, CPU)
    assert "can't be loaded (flash_attn.so: undefined symbol" in why


def test_the_references_flag_decodes_through_it(monkeypatch) -> None:
    """A prompt of two lengths, then single tokens: as by PyTorch's kernels."""
    install_mtla(monkeypatch)
    used = []

    class Counting(FlashAttnBackend):
        def attend(self, *given):
            used.append(given[0].shape)
            return super().attend(*given)

    monkeypatch.setattr(calls, "BACKEND", Counting(("cpu",)))
    _choose.cache_clear()
    torch.manual_seed(0)
    module = build_attention("mtla", 64, 2, conf={"kv_lora_rank": 256}).bfloat16()
    x = torch.randn(2, 7, 64).bfloat16()
    pad = torch.zeros(2, 6).bool()
    pad[1, 3] = True
    outputs = []
    for flash in (False, True):
        state, later = {}, []
        for start, end in ((0, 4), (4, 5), (5, 6)):
            given = {"incremental_state": state, "use_flashattn_infer": flash}
            given["key_padding_mask"] = pad[:, :end]
            with torch.no_grad():
                later.append(module(x[:, start:end], x[:, start:end], **given))
        outputs.append(torch.cat(later, 1))
    assert used
    assert relative_error(outputs[1][~pad], outputs[0][~pad].double()) < 3e-2
    with pytest.raises(UserError, match="differs from the call that began"):
        module(x[:, 6:], x[:, 6:], incremental_state=state)
    _choose.cache_clear()


def test_the_references_flag_says_what_is_missing() -> None:
    module = build_attention("mtla", 64, 2)
    x = torch.randn(1, 3, 64)
    with pytest.raises(UserError, match="use_flashattn_infer=True: backend flash_attn"):
        module(x, x, incremental_state={}, use_flashattn_infer=True)


def test_an_explicit_request_that_cannot_be_met_is_an_error() -> None:
    with pytest.raises(UserError, match="flash_attn: FlashAttention needs a CUDA dev"):
        choose_backend("flash_attn", PAPER, torch.bfloat16, CPU)
    assert "float32 given" in FLASH.unsupported_reason(PAPER, torch.float32, CPU)
