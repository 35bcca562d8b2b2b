"""Tied embeddings stay tied; changes that would untie them are refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from espnet_mtla.decoder import DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from test.support.tiny_decoder import make, ragged


def tied(value: bool = True) -> DecoderOnlyTransformer:
    return make("mtla_s2", "fixed", tie_embeddings=value)


def assigned(decoder: DecoderOnlyTransformer) -> DecoderOnlyTransformer:
    state = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.load_state_dict(state, assign=True)
    return decoder


def from_meta(decoder: DecoderOnlyTransformer) -> DecoderOnlyTransformer:
    with torch.device("meta"):
        empty = nn.Sequential(DecoderOnlyTransformer(decoder.config))
    return empty.to_empty(device="cpu")[0]


WAYS: dict[str, Callable[[DecoderOnlyTransformer], DecoderOnlyTransformer]] = {
    "assign": assigned,
    "to_empty": from_meta,
    "to": lambda decoder: decoder.to(torch.bfloat16),
    "deepcopy": copy.deepcopy,
    "pickle": lambda decoder: pickle.loads(pickle.dumps(decoder)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_embeddings_are_tied_however_weights_come(way: Callable) -> None:
    decoder = way(tied())
    assert decoder.output.weight is decoder.embedding.weight
    assert way(tied(False)).output.weight is not way(tied(False)).embedding.weight


def test_weights_of_an_untied_decoder_are_refused() -> None:
    """Else the output's would take the place of the embedding's."""
    state = tied(False).state_dict()
    with pytest.raises(UserError, match=r"output.weight: differs from embedding"):
        tied().load_state_dict(state)
    within = {f"0.{name}": value for name, value in state.items()}
    with pytest.raises(UserError, match=r"0\.output\.weight: differs from 0\."):
        nn.Sequential(tied()).load_state_dict(within)
    tied(False).load_state_dict(tied().state_dict())


class Adapted(nn.Module):
    """A layer with something added to its output."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.base(x)


@pytest.mark.parametrize("end", ["embedding", "output"])
def test_adapters_on_tied_ends_are_refused_by_name(end: str) -> None:
    batch = ragged([4, 3], 3)
    for decoder in (tied(), tied(False)):
        plain = decoder(*batch)
        setattr(decoder, end, Adapted(getattr(decoder, end)))
        if decoder.config.tie_embeddings:
            with pytest.raises(UserError, match=r"tie_embeddings: .* leave both out"):
                decoder(*batch)
        else:
            assert not torch.allclose(decoder(*batch), plain)
