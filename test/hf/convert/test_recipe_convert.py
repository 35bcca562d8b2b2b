"""A recipe's decoder under the reference's names, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from espnet_mtla.errors import UserError
from test.support.attention_types import HEADS, LATENT, WIDTH
from test.support.reference_package import load_peer
from test.support.tiny_llama import run_convert as run


def test_a_recipes_decoder_under_the_references_names_and_back(
    tmp_path, monkeypatch
) -> None:
    from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer

    torch.manual_seed(0)
    decoder = DecoderOnlyTransformer(
        DecoderConfig(20, embed_dim=32, num_layers=2, num_heads=4, ffn_dim=48)
    )
    weights = {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    torch.save({**weights, "encoder.x": torch.ones(1)}, tmp_path / "a.pth")
    run(monkeypatch, "to_reference", tmp_path / "a.pth", tmp_path / "b.pt")
    reference = torch.load(tmp_path / "b.pt", weights_only=True)["model"]
    for name in ("self_attn.wkv_b", "self_attn_layer_norm", "fc1", "fc2"):
        assert f"decoder.layers.1.{name}.weight" in reference
    assert "decoder.output_projection.weight" in reference
    run(monkeypatch, "from_reference", tmp_path / "b.pt", tmp_path / "c.pth")
    again = torch.load(tmp_path / "c.pth", weights_only=True)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], weights[key]) for key in weights)

    torch.save({"model": {"decoder.layers.0.encoder_attn.k": 1}}, tmp_path / "d.pt")
    with pytest.raises(UserError, match=r"encoder_attn\.k has no counterpart"):
        run(monkeypatch, "from_reference", tmp_path / "d.pt", tmp_path / "e.pth")
    torch.save(Path("x"), tmp_path / "f.pt")
    with pytest.raises(UserError, match="not a checkpoint of weights alone"):
        run(monkeypatch, "from_reference", tmp_path / "f.pt", tmp_path / "e.pth")
    assert not (tmp_path / "e.pth").exists()


class ReferenceLayer(torch.nn.Module):
    """A pre-norm layer as fairseq names it, around the public package's attention."""

    def __init__(self) -> None:
        super().__init__()
        attention = load_peer("mtla/MTLA.py").MultiheadTemporalLatentAttention
        self.self_attn = attention(WIDTH, HEADS, down_rate=3, **LATENT)
        self.self_attn_layer_norm = torch.nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = torch.nn.Linear(WIDTH, 48), torch.nn.Linear(48, WIDTH)
        self.final_layer_norm = torch.nn.LayerNorm(WIDTH)

    def forward(self, prompt: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """The text ``(1, U, D)`` behind a prompt that stays as it is."""
        keys = self.self_attn_layer_norm(torch.cat((prompt, text), 1))
        asking = keys[:, prompt.size(1) :]
        place = torch.arange(keys.size(1)).float()[None]
        text = text + self.self_attn(query=asking, key=keys, value=keys, position=place)
        hidden = self.fc1(self.final_layer_norm(text)).relu()
        return text + self.fc2(hidden)


def test_a_decoder_of_the_reference_computes_the_same_here(
    tmp_path, monkeypatch
) -> None:
    from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer

    torch.manual_seed(2)
    theirs = torch.nn.Module()
    theirs.embed_tokens = torch.nn.Embedding(20, WIDTH)
    theirs.layers = torch.nn.ModuleList(ReferenceLayer() for _ in range(2))
    theirs.layer_norm = torch.nn.LayerNorm(WIDTH)
    theirs.output_projection = torch.nn.Linear(WIDTH, 20, bias=False)
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    weights = {f"decoder.{k}": v for k, v in theirs.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "theirs.pt")
    run(monkeypatch, "from_reference", tmp_path / "theirs.pt", tmp_path / "ours.pth")
    conf = {"down_rate": 3, **LATENT}
    sizes = {"num_layers": 2, "num_heads": HEADS, "ffn_dim": 48}
    ours = DecoderOnlyTransformer(
        DecoderConfig(20, WIDTH, attention_conf=conf, **sizes)
    )
    converted = torch.load(tmp_path / "ours.pth", weights_only=True)
    names = {key.removeprefix("decoder."): value for key, value in converted.items()}
    ours.eval().load_state_dict(names)
    prompt, ids = torch.randn(1, 7, WIDTH), torch.randint(20, (1, 6))
    text = theirs.embed_tokens(ids) * WIDTH**0.5
    for layer in theirs.eval().layers:
        text = layer(prompt, text)
    expected = theirs.output_projection(theirs.layer_norm(text))
    got = ours(prompt, torch.tensor([7]), ids)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
