"""S3PRL's models as front-ends: their widths, their files, and parts of others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from espnet_mtla.errors import UserError
from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq
from espnet_mtla.model.build import load_model
from espnet_mtla.model.components import FRONTEND
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from test.support import tiny_upstreams
from test.support.all_tensors import poison
from test.support.tiny_experiment import make_model
from test.support.tiny_recipes import check_same, noise, tiny

UPSTREAMS = {"fbank": 240, "wavlm_local": 16, "hf_hubert_custom": 16}
"""Names, and features a frame."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstreams")
    return {
        "fbank": None,
        "wavlm_local": str(tiny_upstreams.make_wavlm(folder / "tiny.pt")),
        "hf_hubert_custom": str(tiny_upstreams.make_transformers(folder / "hubert")),
    }


@pytest.fixture(autouse=True)
def _needs_s3prl():
    pytest.importorskip("s3prl", reason="the extra ssl is not installed")


def conf(checkpoints, upstream: str, finetune: bool) -> dict[str, object]:
    settings = {"upstream": upstream, "path": checkpoints[upstream]}
    return {"frontend_conf": {**settings, "finetune": finetune}}


@pytest.mark.parametrize("finetune", [False, True], ids=["frozen", "tuned"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded(
    upstream, finetune, dtype, checkpoints, tmp_path, monkeypatch
) -> None:
    if upstream == "fbank" and finetune:
        pytest.skip("nothing in it can be tuned")
    settings = conf(checkpoints, upstream, finetune)
    model = tiny("s3prl", normalize="global_mvn", **settings)
    assert model.speech.normalize.mean.numel() == UPSTREAMS[upstream]
    if dtype != torch.float32:
        model.to(dtype)
    model.save_pretrained(tmp_path / "saved")
    # Neither the folder nor the checkpoint is where it was.
    moved = shutil.move(tmp_path / "saved", tmp_path / "moved")
    for file in (tmp_path, tmp_path.parent):
        assert not (file / "upstream.pt").exists()
    poison(monkeypatch)
    check_same(MTLAForSpeechSeq2Seq.from_pretrained(moved), model)
    wider = MTLAForSpeechSeq2Seq.from_pretrained(moved, dtype=torch.float32)
    assert wider.decoder_dtype() == "float32"


def test_packed_with_its_checkpoint(checkpoints, tmp_path) -> None:
    """Statistics of the front-end's width, and the checkpoint, from a packed folder."""
    folder = make_model(tmp_path / "exp")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    stats = folder / "feats_stats.npz"
    np.savez(stats, count=2, sum=np.ones(16), sum_square=3 * np.ones(16))
    config |= {"frontend": "s3prl", **conf(checkpoints, "wavlm_local", False)}
    config |= {"normalize": "global_mvn", "normalize_conf": {"stats_file": str(stats)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    trained, _ = load_model(folder / "config.yaml")
    torch.save(trained.state_dict(), folder / "model.pth")
    pack(folder, tmp_path / "packed", DecodeOptions(beam_size=2), Card("me/tiny"))
    shutil.rmtree(folder)
    model = MTLAForSpeechSeq2Seq.from_packed(tmp_path / "packed")
    lengths = torch.tensor([20000, 20000])
    sound = noise(samples=20000)
    with torch.no_grad():
        wanted = trained.eval().encode(sound, lengths)[0]
        again = MTLAForSpeechSeq2Seq.from_packed(tmp_path / "packed")
        found = again.speech.encode(sound, lengths)[0]
    torch.testing.assert_close(found, wanted)
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "packed")
    check_same(MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "saved"), model)
    (tmp_path / "saved" / "upstream.pt").unlink()
    with pytest.raises(UserError, match=r"upstream\.pt: no such file, the front-end"):
        MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "saved")


def test_a_frozen_upstream_follows_the_sound(checkpoints) -> None:
    """A loader places parameters one by one; the upstream is not among them."""
    model = tiny("s3prl", **conf(checkpoints, "wavlm_local", False))
    frontend = model.speech.frontend
    frontend._device = torch.device("cuda", 0)  # as if it had been left elsewhere
    model(noise(samples=20000), decoder_input_ids=torch.tensor([[10, 3], [10, 4]]))
    assert frontend._device == torch.device("cpu")


class Halving(nn.Module):
    """A third-party module with a buffer that checkpoints do not contain."""

    def __init__(self, fs: int = 8000) -> None:
        super().__init__()
        self.fs = fs
        self.register_buffer("table", torch.full((20,), 0.5), persistent=False)
        self.hop_length = 80

    def output_size(self) -> int:
        return 20

    def forward(self, speech, lengths):
        frames = speech.unfold(1, 80, 80)[..., :20] * self.table
        return frames, lengths // 80


def test_buffers_of_others_are_filled_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(FRONTEND.paths, "halving", f"{__name__}:Halving")
    model = tiny("halving", frontend_conf={})
    model.save_pretrained(tmp_path)
    poison(monkeypatch)
    loaded = MTLAForSpeechSeq2Seq.from_pretrained(tmp_path)
    assert torch.equal(loaded.speech.frontend.table, torch.full((20,), 0.5))
    check_same(loaded, model)
