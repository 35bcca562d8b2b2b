"""Pretrained encoders of Transformers: output, in any batch, and exact lengths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.frontend.encoder_folder import load_encoder
from espnet_mtla.frontend.pretrained import TransformersFrontend, batches
from espnet_mtla.lora import LoraSettings
from espnet_mtla.model.frames import seconds_per_frame
from espnet_mtla.settings.choices import setting_names
from test.support.real_weights import real_weights
from test.support.threads import in_threads
from test.support.tiny_encoders import NAMES, WINDOW, make_encoder, make_whisper, noise

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
LENGTHS = [16000, 9000, 12345, 801, 400, 399, 25000]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: make_encoder(root / name, name) for name in NAMES}


def expected_frames(name: str, samples: int) -> int:
    """Frames of a row, counted from the definitions of the models."""
    if name == "whisper":
        whole, rest = divmod(samples, WINDOW * RATE)
        last = 0 if rest < 400 else -(-(rest // 160) // 2)
        return whole * WINDOW * 50 + last
    if name.startswith("w2v_bert"):
        return (1 + (samples - 400) // 160) // 2 if samples >= 400 else 0
    return 1 + (samples - 400) // 320 if samples >= 400 else 0


def transformers_states(folder: Path, samples: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states by Transformers' own extractor and model, for one row alone."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(samples.numpy(), sampling_rate=RATE, return_tensors="pt")
    if model.config.model_type == "whisper":
        model = model.get_encoder()
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    return [
        state[0] for state in (*output.hidden_states[:-1], output.last_hidden_state)
    ]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_alone_or_in_a_batch_and_exact_lengths(name: str, folders) -> None:
    """The padding of the input is NaN."""
    frontend = TransformersFrontend(str(folders[name])).train()
    speech, lengths = noise(LENGTHS)
    features, counts = frontend(speech, lengths)
    assert features.shape == (len(LENGTHS), int(counts.max()), frontend.output_size())
    assert counts.tolist() == [expected_frames(name, n) for n in LENGTHS]
    for row, count in enumerate(counts.tolist()):
        alone, _ = frontend(speech[[row], : LENGTHS[row]], lengths[[row]])
        torch.testing.assert_close(features[row, :count], alone[0], rtol=0, atol=0)
        assert not features[row, count:].any()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_padded_batch_of_an_encoder_equals_its_rows(name: str, folders) -> None:
    """Rows of different lengths share a batch, as on a GPU."""
    encoder = load_encoder(folders[name])
    speech, _ = noise(LENGTHS)
    lengths = [n for n in LENGTHS if encoder.frames(n)]
    rows = [row[:n] for row, n in zip(speech, LENGTHS, strict=True) if n in lengths]
    for batch in batches(lengths, encoder, alone=False):
        states, counts = encoder.states([rows[index] for index in batch])
        for place, index in enumerate(batch):
            assert counts[place] == expected_frames(name, lengths[index])
            for state, alone in zip(
                states, encoder.states([rows[index]])[0], strict=True
            ):
                torch.testing.assert_close(
                    state[place, : counts[place]], alone[0], rtol=1e-5, atol=2e-6
                )


def test_batches_hold_rows_of_similar_lengths(folders) -> None:
    encoder = load_encoder(folders["whisper"])
    lengths = [100, 79, 1000, 900, 81, 100, 799]
    assert list(batches(lengths, encoder, alone=False)) == [[2, 3], [6], [0, 5, 4], [1]]
    assert list(batches(lengths[:2], encoder, alone=True)) == [[0], [1]]
    long = [30 * RATE] * 9
    assert list(map(len, batches(long, encoder, alone=False))) == [8, 1]
    exact = load_encoder(folders["hubert_batch_norm"])
    assert list(batches([100, 99, 100], exact, alone=False)) == [[0, 2], [1]]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(name: str, folders) -> None:
    """Whisper pads to its window there, and here with ``keep_padding``."""
    whisper = name == "whisper"
    samples = noise([RATE + 77])[0][0]
    expected = transformers_states(folders[name], samples)
    for layer in (0, 1, 2, -1):
        frontend = TransformersFrontend(str(folders[name]), layer, keep_padding=whisper)
        features = frontend.to_store(samples)
        if not whisper:
            assert len(features) == expected_frames(name, len(samples))
        # Transformers normalises w2v-BERT's features with NumPy, which sums in order.
        atol = 3e-5 if name.startswith("w2v_bert") else 1e-5
        torch.testing.assert_close(
            features, expected[layer][: len(features)], rtol=0, atol=atol
        )
        assert len(features) == len(expected[layer]) or name.startswith("w2v_bert")
    frontend = TransformersFrontend(str(folders[name]), keep_padding=whisper)
    frontend.weights.copy_(torch.tensor([0.1, 0.5, 0.4]).log())
    mixed = 0.1 * expected[0] + 0.5 * expected[1] + 0.4 * expected[2]
    found, _ = frontend(samples[None], torch.tensor([len(samples)]))
    torch.testing.assert_close(found[0], mixed[: found.size(1)], rtol=0, atol=atol)


def zero_after(length: int):
    def hook(_module, _inputs, output: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(
            output[..., :length], (0, output.size(2) - length)
        )

    return hook


@torch.no_grad()
def unpadded_whisper(folder: Path, samples: torch.Tensor) -> torch.Tensor:
    """Whisper's last state of a row's own length, by Transformers' modules alone."""
    model = transformers.WhisperModel.from_pretrained(folder).eval().encoder
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    mel = extractor(
        samples.numpy(), sampling_rate=RATE, padding=False, return_tensors="pt"
    )["input_features"]
    frames = -(-mel.size(2) // 2)
    # forward() requires twice as many mel frames as positions. One more is the zero
    # padding of the second convolution, if the first one's output for it is zero.
    model.conv1.register_forward_hook(zero_after(mel.size(2)))
    mel = torch.nn.functional.pad(mel, (0, mel.size(2) % 2))
    model.config.max_source_positions = frames
    model.embed_positions = torch.nn.Embedding.from_pretrained(
        model.embed_positions.weight[:frames]
    )
    return model(mel).last_hidden_state[0]


@pytest.mark.parametrize("samples", [400, 480, 7777, 16160, 2 * RATE])
def test_whisper_without_padding(samples: int, folders) -> None:
    frontend = TransformersFrontend(str(folders["whisper"]), -1)
    row = noise([samples])[0][0]
    expected = unpadded_whisper(folders["whisper"], row)
    torch.testing.assert_close(frontend.to_store(row), expected, rtol=0, atol=1e-5)


def test_long_audio_is_encoded_in_windows(folders) -> None:
    """Each window is encoded as an utterance of its own, and the results are joined."""
    frontend = TransformersFrontend(str(folders["whisper"]), -1)
    window = WINDOW * RATE
    for rest, frames in ((0, 0), (399, 0), (400, 1), (5000, 16)):
        row = noise([2 * window + rest])[0][0]
        parts = [frontend.to_store(part) for part in row.split(window)]
        joined = frontend.to_store(row)
        assert len(joined) == 2 * WINDOW * 50 + frames
        torch.testing.assert_close(joined, torch.cat(parts), rtol=0, atol=0)
    padded = TransformersFrontend(str(folders["whisper"]), -1, keep_padding=True)
    assert len(padded.to_store(noise([window + 1])[0][0])) == 2 * WINDOW * 50


@given(st.sampled_from(NAMES), st.integers(0, 700), st.integers(-3, 3))
def test_frames_around_edges(folders, name: str, step: int, offset: int) -> None:
    samples = max(0, 400 + 80 * step + offset)
    frames = load_encoder_once(folders[name]).frames
    whole, rest = divmod(samples, WINDOW * RATE)
    if name != "whisper":
        whole, rest = 0, samples
    assert whole * WINDOW * 50 + frames(rest) == expected_frames(name, samples)
    if rest >= 400:
        assert frames(rest + 320) == frames(rest) + 1


ENCODERS: dict[Path, object] = {}


def load_encoder_once(folder: Path):
    if folder not in ENCODERS:
        ENCODERS[folder] = load_encoder(folder)
    return ENCODERS[folder]


def test_a_frozen_encoder_learns_nothing_and_is_in_no_checkpoint(folders) -> None:
    frontend = TransformersFrontend(str(folders["wavlm_base"])).train()
    assert list(frontend.state_dict()) == ["weights"]
    features, _ = frontend(*noise([8000]))
    features.square().sum().backward()
    assert frontend.weights.grad.abs().sum() > 0
    assert not frontend._frozen[0].training
    assert all(p.grad is None for p in frontend._frozen[0].parameters())
    assert frontend.double().weights.dtype == torch.float64
    features, _ = frontend(*noise([8000]))
    assert features.shape == (1, 24, 16)


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_can_be_tuned(name: str, folders) -> None:
    frontend = TransformersFrontend(str(folders[name]), finetune=True).train()
    features, _ = frontend(*noise([8000, 6000]))
    features.square().sum().backward()
    without = {n for n, p in frontend.named_parameters() if p.grad is None}
    # Whisper's positions are constants.
    assert without <= {"encoder.model.embed_positions.weight"}
    assert len(frontend.state_dict()) > 10


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_gives_the_same_features(name: str, folders) -> None:
    frontend = TransformersFrontend(str(folders[name]))
    speech, lengths = noise([9000])
    features, _ = frontend(speech, lengths)
    stored = frontend.to_store(speech[0])
    assert stored.shape == (features.size(1), frontend.layers * frontend.width)
    torch.testing.assert_close(frontend.from_stored(stored[None]), features)
    assert len(frontend.to_store(speech[0, :399])) == 0


def test_building_leaves_random_numbers_as_they_are(folders) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    TransformersFrontend(str(folders["wavlm_base"]))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("name", ["wavlm_base", "w2v_bert_rotary"])
def test_threads_get_the_states_of_their_own_sound(name: str, folders) -> None:
    frontend = TransformersFrontend(str(folders[name])).eval()
    sounds = [noise([length]) for length in LENGTHS]

    @torch.no_grad()
    def states(place: int) -> torch.Tensor:
        return frontend(*sounds[place])[0]

    alone = [states(place) for place in range(len(sounds))]
    for results in in_threads(states, range(len(sounds)), rounds=3):
        for found, expected in zip(results, alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_frames_a_second_are_those_that_come(name: str, folders) -> None:
    frontend = TransformersFrontend(str(folders[name]), layer=0).eval()
    _, counts = frontend(*noise([16000, 80000]))
    rate = 1 / seconds_per_frame(16000, frontend)
    assert int(counts[1] - counts[0]) / 4 == pytest.approx(rate, abs=1 / 4)


WITHOUT = """
import sys
sys.modules.update(torchaudio=None, s3prl=None)
import torch
from espnet_mtla.lora import LoraSettings
from espnet_mtla.frontend.pretrained import TransformersFrontend
frontend = TransformersFrontend(sys.argv[1])
features, _ = frontend(torch.zeros(1, 8000), torch.tensor([8000]))
print(tuple(features.shape))
"""


@pytest.mark.parametrize("name", ["whisper", "w2v_bert"])
def test_neither_torchaudio_nor_s3prl_is_needed(name: str, folders) -> None:
    command = [sys.executable, "-c", WITHOUT, str(folders[name])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("(1, "), done.stderr


def test_128_mels(tmp_path: Path) -> None:
    folder = make_whisper(tmp_path, mels=128)
    frontend = TransformersFrontend(str(folder), -1)
    row = noise([9000])[0][0]
    expected = unpadded_whisper(folder, row)
    torch.testing.assert_close(frontend.to_store(row), expected, rtol=0, atol=1e-5)


def test_shipped_configurations() -> None:
    """Known keys, and known settings of adapters."""
    configs = {
        path.stem: yaml.safe_load(path.read_text())
        for path in (ROOT / "conf" / "frontend").glob("*.yaml")
    }
    ours = {n: c for n, c in configs.items() if c["frontend"] == "transformers"}
    assert {"whisper_base", "hf_wavlm_large", "w2v_bert"} <= set(ours)
    for config in ours.values():
        settings = config["frontend_conf"]
        assert set(settings) <= set(setting_names(TransformersFrontend))
        assert settings["model"].count("/") == 1
        LoraSettings.parse(settings.get("lora") or {}, "lora")


@pytest.mark.real_weights
@torch.no_grad()
def test_whisper_base_equals_transformers() -> None:
    """The sound is a tone in noise."""
    whisper = Path(real_weights("whisper-base"))
    time = torch.arange(5 * RATE) / RATE
    sound = (
        0.3 * torch.sin(2 * torch.pi * 200 * time * (1 + time))
        + noise([5 * RATE])[0][0]
    )
    padded = TransformersFrontend(str(whisper), -1, keep_padding=True)
    expected = transformers_states(whisper, sound)[-1]
    torch.testing.assert_close(padded.to_store(sound), expected, rtol=0, atol=1e-5)
    cut = TransformersFrontend(str(whisper), -1)
    expected = unpadded_whisper(whisper, sound)
    torch.testing.assert_close(cut.to_store(sound), expected, rtol=0, atol=1e-5)
    features, counts = cut(*noise([RATE, 3000, 20000]))
    assert counts.tolist() == [50, 9, 63]
    assert torch.isfinite(features).all()
