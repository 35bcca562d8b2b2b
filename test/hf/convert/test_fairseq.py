"""A speech model of the paper's code, in fairseq's layout, as a recipe's."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.model.config import ProjectorConfig
from espnet_mtla.model.projector import FrameStackProjector
from test.hf.convert.test_recipe_convert import ReferenceLayer
from test.support.attention_types import HEADS, LATENT, WIDTH
from test.support.tiny_llama import run_convert as run

WORDS = ["▁a", "▁b", "c", "▁d", "madeupword0000"]
ROWS, ENCODER, STACK = 4 + len(WORDS), 12, 2


class ReferenceDecoder(nn.Module):
    """Embedding, projector, layers and output as the paper's code names them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("version", torch.tensor([3.0]))
        self.embed_tokens = nn.Embedding(ROWS, WIDTH, padding_idx=1)
        self.layers = nn.ModuleList(ReferenceLayer() for _ in range(2))
        self.layer_norm = nn.LayerNorm(WIDTH)
        self.output_projection = nn.Linear(WIDTH, ROWS, bias=False)
        self.projector = nn.Module()
        self.projector.linear1 = nn.Linear(ENCODER * STACK, WIDTH // 2)
        self.projector.linear2 = nn.Linear(WIDTH // 2, WIDTH)

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        """Logits (1, U, rows) of ids (1, U) behind encoder output (1, T, ENCODER)."""
        stacked = frames.reshape(1, -1, ENCODER * STACK)
        prompt = self.projector.linear2(self.projector.linear1(stacked).relu())
        text = self.embed_tokens(ids) * WIDTH**0.5
        for layer in self.layers:
            text = layer(prompt, text)
        return self.output_projection(self.layer_norm(text))


def options(**changes: object) -> dict[str, object]:
    latent = {f"decoder_{name}": value for name, value in LATENT.items()}
    return {
        "arch": "s2t_decoder_only_MTLA_cross_xm",
        **{"decoder_type": "MTLA", "decoder_attention_heads": HEADS},
        **{"decoder_down_rate": 3, "decoder_q_lora_rank": 0, **latent},
        **{"encoder_projector_ds_rate": STACK, "decoder_normalize_before": True},
        **changes,
    }


def write(folder: Path, form: str = "cfg", **changes: object) -> ReferenceDecoder:
    """Write checkpoint.pt and dict.txt as training does."""
    torch.manual_seed(4)
    model = ReferenceDecoder().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    states = {f"decoder.{key}": value for key, value in model.state_dict().items()}
    states["encoder.layer_norm.weight"] = torch.ones(ENCODER)
    args = Namespace(**options(**changes))
    saved = {"args": None, "cfg": {"model": args, "task": {"data": "x"}}}
    if form == "args":
        saved = {"args": args, "cfg": None}
    saved |= {"model": states, "optimizer_history": [{"num_updates": 3}]}
    torch.save(saved, folder / "checkpoint.pt")
    (folder / "dict.txt").write_text("".join(f"{word} 7\n" for word in WORDS))
    return model


def convert(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    words = (folder / "checkpoint.pt", folder / "out", "--dict", folder / "dict.txt")
    run(monkeypatch, "from_fairseq", *words)
    return folder / "out"


@pytest.mark.parametrize("form", ["cfg", "args"])
def test_the_converted_model_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    theirs = write(tmp_path, form)
    out = convert(tmp_path, monkeypatch)
    tokens = (out / "tokens.txt").read_text().split("\n")[:-1]
    assert tokens == ["<blank>", "<unk>", *WORDS, "<sos/eos>"]
    config = yaml.safe_load((out / "config.yaml").read_text())
    decoder = DecoderOnlyTransformer(
        DecoderConfig(len(tokens), **config["decoder_conf"])
    )
    projector = FrameStackProjector(
        ENCODER, WIDTH, ProjectorConfig(**config["projector_conf"])
    )
    weights = torch.load(out / "model.pth", weights_only=True)
    for name, part in (("decoder", decoder), ("projector", projector)):
        part.eval().load_state_dict(
            {
                key.removeprefix(f"{name}."): value
                for key, value in weights.items()
                if key.startswith(f"{name}.")
            }
        )
    assert len(weights) == len(decoder.state_dict()) + len(projector.state_dict())
    names = ["<blank>", "<pad>", "<sos/eos>", "<unk>", *WORDS]  # fairseq's rows
    row = [names.index(token) for token in tokens]
    text = ["<sos/eos>", "▁a", "c", "<unk>", "madeupword0000", "▁d"]
    frames = torch.randn(1, 10, ENCODER)
    with torch.no_grad():
        expected = theirs(frames, torch.tensor([[names.index(t) for t in text]]))
        prompt, lengths = projector(frames, torch.tensor([10]))
        ours = decoder(prompt, lengths, torch.tensor([[tokens.index(t) for t in text]]))
    torch.testing.assert_close(ours, expected[..., row], rtol=0, atol=1e-5)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        ({"decoder_type": "roformer"}, "decoder_type 'roformer': MTLA and MLA are"),
        ({"activation_fn": "gelu"}, "activation_fn 'gelu' is not converted"),
        ({"decoder_normalize_before": False}, "decoder_normalize_before False is not"),
    ]
    for changes, words in cases:
        write(tmp_path, **changes)
        with pytest.raises(UserError, match=words):
            convert(tmp_path, monkeypatch)
    write(tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    del saved["cfg"]["model"].decoder_v_head_dim
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="its options have no decoder_v_head_dim"):
        convert(tmp_path, monkeypatch)
    write(tmp_path)
    (tmp_path / "dict.txt").write_text("▁a 3\n")
    with pytest.raises(UserError, match=r"dict\.txt: 1 tokens, and .* has 5"):
        convert(tmp_path, monkeypatch)
    (tmp_path / "dict.txt").write_text("▁a\n")
    with pytest.raises(UserError, match=r"dict\.txt:1: 'token count' needed"):
        convert(tmp_path, monkeypatch)
    torch.save({"model": Path("x")}, tmp_path / "checkpoint.pt")  # executes code
    with pytest.raises(UserError, match="not a checkpoint of weights alone"):
        convert(tmp_path, monkeypatch)
    torch.save({"decoder.x": torch.ones(1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="no fairseq checkpoint: it has no 'model'"):
        convert(tmp_path, monkeypatch)
    assert not (tmp_path / "out").exists()
