"""S3PRL upstreams as front-ends: exact lengths, alike in any batch, clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.s3prl import S3PRLFrontend
from espnet_mtla.frontend.upstream import (
    checkpoint_digest,
    load_upstream,
    upstream_names,
)
from espnet_mtla.model.frames import seconds_per_frame
from espnet_mtla.settings.choices import setting_names
from test.support import tiny_upstreams
from test.support.threads import in_threads

pytest.importorskip("s3prl", reason="the extra ssl is not installed")

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = [16000, 9000, 12345, 801]


@pytest.fixture(params=["wavlm_local", "hf_hubert_custom", "fbank"])
def upstream(request) -> dict[str, str | None]:
    """A name and its checkpoint."""
    fixture = {"wavlm_local": "wavlm", "hf_hubert_custom": "hubert"}.get(request.param)
    path = fixture and str(request.getfixturevalue(fixture))
    return {"upstream": request.param, "path": path}


def noise(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    speech = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    return speech, torch.tensor(lengths)


def test_alone_or_in_a_batch_and_exact_lengths(upstream) -> None:
    frontend = S3PRLFrontend(**upstream).train()
    speech, lengths = noise(LENGTHS)
    features, counts = frontend(speech, lengths)
    assert features.shape == (4, int(counts.max()), frontend.output_size())
    shift, window = (160, 400) if upstream["upstream"] == "fbank" else (320, 400)
    assert counts.tolist() == [1 + (n - window) // shift for n in LENGTHS]
    for row, count in enumerate(counts.tolist()):
        alone, _ = frontend(speech[[row], : LENGTHS[row]], lengths[[row]])
        torch.testing.assert_close(features[row, :count], alone[0])
        assert not features[row, count:].any()


def test_group_normalisation_over_time_does_not_see_padding(tmp_path) -> None:
    """Base models, whose output depends on padding (group norm)."""
    path = tiny_upstreams.make_wavlm(tmp_path / "base.pt", normalize=False)
    frontend = S3PRLFrontend("wavlm_local", str(path))
    speech, lengths = noise([16000, 5000])
    features, counts = frontend(speech, lengths)
    alone, _ = frontend(speech[1:, :5000], lengths[1:])
    torch.testing.assert_close(features[1, : int(counts[1])], alone[0])


def test_a_weighted_sum_of_layers_or_one_of_them(wavlm) -> None:
    states = load_upstream("wavlm_local", str(wavlm)).eval()
    speech, lengths = noise([16000])
    with torch.no_grad():
        wanted = [state[0] for state in states([speech[0]])["hidden_states"]]
    for layer in (0, 1, 2, -1):
        found, _ = S3PRLFrontend("wavlm_local", str(wavlm), layer)(speech, lengths)
        torch.testing.assert_close(found[0], wanted[layer])
    frontend = S3PRLFrontend("wavlm_local", str(wavlm))
    with torch.no_grad():
        frontend.weights.copy_(torch.tensor([0.1, 0.5, 0.4]).log())
    found, _ = frontend(speech, lengths)
    mixed = 0.1 * wanted[0] + 0.5 * wanted[1] + 0.4 * wanted[2]
    torch.testing.assert_close(found[0], mixed)


def test_a_frozen_upstream_learns_nothing_and_is_in_no_checkpoint(wavlm) -> None:
    frontend = S3PRLFrontend("wavlm_local", str(wavlm)).train()
    assert list(frontend.state_dict()) == ["weights"]
    features, _ = frontend(*noise([8000]))
    features.square().sum().backward()
    assert frontend.weights.grad.abs().sum() > 0
    assert not frontend._frozen[0].training
    assert all(p.grad is None for p in frontend._frozen[0].parameters())
    assert frontend.double().weights.dtype == torch.float64
    features, _ = frontend(*noise([8000]))
    assert features.shape == (1, 24, 16)


def test_an_upstream_can_be_tuned(hubert) -> None:
    frontend = S3PRLFrontend("hf_hubert_custom", str(hubert), finetune=True)
    features, _ = frontend(*noise([8000]))
    features.square().sum().backward()
    moved = [n for n, p in frontend.named_parameters() if p.grad is not None]
    assert "upstream.model.encoder.layers.0.attention.k_proj.weight" in moved


def test_what_is_stored_gives_the_same_features(upstream) -> None:
    frontend = S3PRLFrontend(**upstream)
    speech, lengths = noise([9000])
    features, _ = frontend(speech, lengths)
    stored = frontend.to_store(speech[0])
    assert stored.shape == (features.size(1), frontend.layers * frontend.width)
    torch.testing.assert_close(frontend.from_stored(stored[None]), features)
    assert len(frontend.to_store(speech[0, :799])) == 0


def test_bad_upstreams_are_named(wavlm, hubert, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    for settings, message in (
        ({"upstream": "wavlm_lcal"}, "no 'wavlm_lcal'; did you mean wavlm_local"),
        ({"upstream": "wavlm_local"}, "path: upstream wavlm_local needs a checkpoint"),
        ({"upstream": "wavlm_local", "path": "nix.pt"}, r"path: nix\.pt: no such file"),
        (
            {"upstream": "wavlm_local", "path": str(empty)},
            r"empty\.pt: cannot be loaded; is it a checkpoint of another",
        ),
        (
            {"upstream": "hubert_local", "path": str(wavlm)},
            r"upstream hubert_local: path: .*tiny\.pt: cannot be loaded; is it a check",
        ),
        (
            {"upstream": "hf_wav2vec2_custom", "path": str(hubert)},
            "a model of type 'hubert', 'wav2vec2' needed",
        ),
        (
            {"upstream": "hf_hubert_custom", "path": str(tmp_path)},
            r"no config\.json; a Transformers folder needed",
        ),
        ({"upstream": "fbank", "layer": 1}, "layer: 1: fbank has 0 to 0"),
        ({"upstream": "fbank", "fs": 8000}, "fs: 8000: upstreams take 16000 Hz"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            S3PRLFrontend(**settings)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_is_told_from_another(wavlm, hubert, tmp_path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(wavlm.read_bytes())
    assert checkpoint_digest(str(copy)) == checkpoint_digest(str(wavlm))
    copy.write_bytes(wavlm.read_bytes()[:-1] + b"x")
    assert checkpoint_digest(str(copy)) != checkpoint_digest(str(wavlm))
    assert len(checkpoint_digest(str(hubert))) == 64


@pytest.mark.parametrize(
    "name", ["wavlm_large", "hubert_base", "wav2vec2_base", "xlsr"]
)
def test_upstreams_of_the_shipped_configs_exist(name: str) -> None:
    (path,) = (ROOT / "conf" / "frontend").glob(f"{name}*.yaml")
    config = yaml.safe_load(path.read_text())
    assert config["frontend"] == "s3prl"
    assert config["frontend_conf"]["upstream"] in upstream_names()
    assert set(config["frontend_conf"]) <= set(setting_names(S3PRLFrontend))


@pytest.mark.parametrize("layer", [None, 1])
def test_threads_get_the_states_of_their_own_sound(upstream, layer) -> None:
    """An upstream stores the outputs of its hooks as attributes."""
    if upstream["upstream"] == "fbank" and layer:
        pytest.skip("has one layer")
    frontend = S3PRLFrontend(**upstream, layer=layer).eval()
    sounds = [noise([length]) for length in LENGTHS]

    @torch.no_grad()
    def states(place: int) -> torch.Tensor:
        return frontend(*sounds[place])[0]

    alone = [states(place) for place in range(len(sounds))]
    for results in in_threads(states, range(len(sounds)), rounds=3):
        for found, expected in zip(results, alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_frames_a_second_are_those_that_come(upstream) -> None:
    frontend = S3PRLFrontend(**upstream, layer=0).eval()
    _, counts = frontend(*noise([16000, 160000]))
    rate = 1 / seconds_per_frame(16000, frontend)
    assert int(counts[1] - counts[0]) / 9 == pytest.approx(rate, abs=1 / 9)
