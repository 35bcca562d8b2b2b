"""A recipe's model in Transformers gives the recipe's texts, by every interface."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.hf.speech import (
    MTLAForSpeechSeq2Seq,
    MTLASpeechConfig,
    MTLASpeechProcessor,
)
from test.support.tiny_experiment import FS, SECONDS, TOKENS, make_model


@pytest.fixture(scope="module")
def sounds(data):
    names = [data / f"u{number}.wav" for number in range(len(SECONDS))]
    return [soundfile.read(name, dtype="float32")[0] for name in names]


@pytest.fixture(scope="module")
def expected(packed, sounds):
    """As the recipe decodes them."""
    speech2text = Speech2Text.from_pretrained(packed, device="cpu")
    texts = [found.text for found in speech2text(sounds, FS)]
    assert len(set(texts)) > 3, "too easy a test"
    return texts


@pytest.fixture(scope="module")
def wrapped(packed):
    parts = MTLAForSpeechSeq2Seq, MTLASpeechProcessor
    return tuple(part.from_packed(packed) for part in parts)


@pytest.fixture(scope="module")
def saved(wrapped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf_saved")
    for part in wrapped:
        part.save_pretrained(folder)
    return folder


def test_generate_is_the_recipes_decoding(wrapped, sounds, expected):
    model, processor = wrapped
    batch = processor(sounds, sampling_rate=FS)
    assert processor.batch_decode(model.generate(**batch)) == expected
    alone = model.generate(torch.from_numpy(sounds[1])[None])
    assert processor.decode(alone[0]) == expected[1]
    assert model.generate(**batch, num_return_sequences=2).size(0) == 2 * len(sounds)
    short = model.generate(**batch, num_beams=1, max_new_tokens=3, min_length_ratio=0.0)
    assert short.size(1) <= 3


def test_saved_and_loaded_by_the_auto_classes(wrapped, saved, sounds, expected):
    model = AutoModelForSpeechSeq2Seq.from_pretrained(saved)
    processor = AutoProcessor.from_pretrained(saved)
    assert isinstance(model, MTLAForSpeechSeq2Seq)
    for name, value in wrapped[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    batch = processor(sounds, sampling_rate=FS)
    assert processor.batch_decode(model.generate(**batch)) == expected


def test_the_pipeline(saved, sounds, expected):
    recognise = pipeline("automatic-speech-recognition", model=str(saved))
    given = [{"array": sound, "sampling_rate": FS} for sound in sounds[:3]]
    assert [one["text"] for one in recognise(given)] == expected[:3]
    assert recognise(sounds[0])["text"] == expected[0]


def test_statistics_are_weights_here(tmp_path):
    import numpy as np
    import yaml

    folder = make_model(tmp_path / "exp")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    stats = folder / "feats_stats.npz"
    np.savez(stats, count=2, sum=np.ones(20), sum_square=3 * np.ones(20))
    config |= {"normalize": "global_mvn", "normalize_conf": {"stats_file": str(stats)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    from espnet_mtla.model.build import load_model

    trained, _ = load_model(folder / "config.yaml")
    torch.save(trained.state_dict(), folder / "model.pth")
    model = MTLAForSpeechSeq2Seq.from_packed(folder)
    model.save_pretrained(tmp_path / "saved")
    again = MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "saved")
    assert again.speech.normalize.mean.tolist() == [0.5] * 20


def test_training(wrapped, sounds):
    """The loss is the recipe's, padding counts for nothing, and gradients flow."""
    model, processor = wrapped
    texts = ["ab cd", "a"]
    batch = processor(sounds[:2], text=texts, sampling_rate=FS)
    assert batch["labels"].tolist() == [[3, 4, 2, 5, 6], [3, -100, -100, -100, -100]]
    loss = model(**batch).loss
    rows = [
        model(**processor(sounds[i], text=texts[i], sampling_rate=FS)).loss
        for i in (0, 1)
    ]
    assert loss.dim() == 0
    torch.testing.assert_close(loss, sum(rows) / 2, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert model.speech.decoder.output.weight.grad.abs().sum() > 0
    model.zero_grad()
    given = torch.tensor([[10, 3, 4]])
    logits = model(batch["input_values"][:1], decoder_input_ids=given).logits
    assert logits.shape == (1, 3, len(TOKENS))


def test_another_stride_for_trained_weights_is_noticed(saved):
    config = MTLASpeechConfig.from_pretrained(saved)
    assert config.trained_down_rate == config.down_rate == 2
    config.recipe["decoder_conf"]["attention_conf"]["down_rate"] = 3
    with pytest.raises(UserError, match="down_rate: 3 given, the weights were trained"):
        MTLAForSpeechSeq2Seq.from_pretrained(saved, config=config)


def test_what_is_refused(wrapped, tmp_path, model, packed, sounds):
    wrapper, processor = wrapped
    batch = processor(sounds[:2], sampling_rate=FS)
    with pytest.raises(UserError, match="unknown option 'beams'; valid: num_beams, "):
        wrapper.generate(**batch, beams=3)
    with pytest.raises(UserError, match="unknown option 'return_dict_in_generate'"):
        wrapper.generate(**batch, return_dict_in_generate=True)
    wrapper.config.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"bare: no model\.safetensors in this folder"):
        MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="padded on the right alone"):
        wrapper.generate(batch["input_values"], batch["attention_mask"].flip(1))
    with pytest.raises(UserError, match=r"attention_mask: \(2, 9\) given, the \(2, "):
        wrapper.generate(batch["input_values"], batch["attention_mask"][:, :9])
    with pytest.raises(UserError, match="labels or decoder_input_ids are needed"):
        wrapper(**batch)
    with pytest.raises(UserError, match="describes no model; make it from a packed"):
        MTLAForSpeechSeq2Seq(MTLASpeechConfig())
    with pytest.raises(UserError, match=r"no tokens\.txt; pack it"):
        MTLASpeechProcessor.from_packed(model)
    with pytest.raises(ValueError, match="16000"):
        processor(sounds[0], sampling_rate=16000)
    for folder in (model, packed):
        with pytest.raises(UserError, match="a model of a recipe; load it"):
            MTLAForSpeechSeq2Seq.from_pretrained(folder)
    encoder = make_model(tmp_path / "encoder", ctc_weight=1.0)
    with pytest.raises(UserError, match="a model from sound to text is needed"):
        MTLAForSpeechSeq2Seq.from_packed(encoder)


def test_the_processor_scales_integers_and_takes_numpys_rates(wrapped, sounds) -> None:
    model, processor = wrapped
    floats = processor(sounds[:2], sampling_rate=np.int64(FS))
    short = [np.round(np.clip(one, -1, 1) * 32767).astype(np.int16) for one in sounds]
    whole = processor(short[:2], sampling_rate=float(FS))
    torch.testing.assert_close(
        whole["input_values"], floats["input_values"], rtol=0, atol=1e-4
    )
    one = processor(sounds[0].tolist(), sampling_rate=FS)["input_values"]
    torch.testing.assert_close(one[0].numpy(), sounds[0])
    with pytest.raises(UserError, match=r"audio 1: int32 samples reach .* silence"):
        processor([short[0], short[1].astype(np.int32)], sampling_rate=FS)
    with pytest.raises(UserError, match="sampling_rate: rate: True given"):
        processor(sounds[0], sampling_rate=True)
    with pytest.raises(UserError, match=r"audio 0: shape .* samples \(n,\) needed"):
        processor([np.stack([sounds[0]] * 2)], sampling_rate=FS)
    with pytest.raises(UserError, match=r"input_values: torch\.int16 given, floats in"):
        model.generate(torch.from_numpy(short[0])[None])
