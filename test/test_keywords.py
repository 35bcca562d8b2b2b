"""No function of the package takes keywords that it then drops."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from espnet_mtla.attention.registry import ATTENTIONS, build_attention
from espnet_mtla.attention.temporal import MultiheadTemporalLatentCrossAttention
from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import refuse_unknown

PACKAGE = Path(__file__).resolve().parents[1] / "espnet_mtla"
MADE_UP = ("made_up", "past_key_value", "caches", "mask", "positions")


def dropped_keywords(tree: ast.Module) -> Iterator[str]:
    """Functions whose ``**keywords`` are never read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []  # declarations, without a body of their own
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.args.kwarg is None:
            continue
        if node.name == "__new__" or isinstance(node.body[-1], ast.Raise):
            continue  # __init__ gets the same; whatever comes is an error
        if ast.unparse(node.body[-1]) == "...":
            continue  # says types alone
        name = node.args.kwarg.arg
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name]
        if not any(isinstance(n.ctx, ast.Load) for n in names):
            yield f"line {node.lineno}: {node.name}(**{name})"


def test_no_function_drops_its_keywords() -> None:
    dropped = [
        f"{path.relative_to(PACKAGE)}, {where}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for where in dropped_keywords(ast.parse(path.read_text("utf-8")))
    ]
    assert not dropped, dropped


@pytest.mark.parametrize("body", ["del others", "pass", "others = {}"])
def test_the_rule_sees_what_it_is_for(body: str) -> None:
    tree = ast.parse(f"def forward(x, **others):\n    {body}\n    return x")
    assert [*dropped_keywords(tree)] == ["line 1: forward(**others)"]


def test_an_unknown_keyword_is_named_with_the_known_ones() -> None:
    def call(x: int, *, size: int = 1, **others: object) -> None:
        refuse_unknown(call, others, ("speed",))
        assert (x, size) == (1, 2)

    call(1, size=2, speed=None)
    for value in (1, None, False):  # the name is wrong, whatever its value
        with pytest.raises(UserError, match=r"'made_up'; known: x, size, speed$") as e:
            call(1, made_up=value)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", [*ATTENTIONS, "cross"])
@pytest.mark.parametrize("made_up", MADE_UP)
def test_an_attention_refuses_what_it_does_not_know(name: str, made_up: str) -> None:
    if name == "cross":
        attention = MultiheadTemporalLatentCrossAttention(16, 2, kv_lora_rank=8)
    else:
        attention = build_attention(name, 16, 2)
    x = torch.zeros(1, 3, 16)
    with pytest.raises((UserError, TypeError), match=made_up):
        attention(query=x, key=x, value=x, **{made_up: None})
    with pytest.raises((UserError, TypeError), match=made_up):
        type(attention)(16, 2, **{made_up: None})


@pytest.mark.parametrize("made_up", MADE_UP)
def test_a_decoder_refuses_what_it_does_not_know(made_up: str) -> None:
    config = {"embed_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 8}
    decoder = DecoderOnlyTransformer(DecoderConfig(9, **config)).eval()
    prompt, lengths = torch.zeros(1, 4, 16), torch.tensor([4])
    tokens = torch.zeros(1, 2, dtype=torch.long)
    state = decoder.prefill(prompt, lengths, max_tokens=3)
    calls = {
        decoder: (prompt, lengths, tokens),
        decoder.prefill: (prompt, lengths, 3),
        decoder.step: (tokens[:, 0], state),
    }
    for call, arguments in calls.items():
        with pytest.raises((UserError, TypeError), match=made_up):
            call(*arguments, **{made_up: None})
