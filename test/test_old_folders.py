"""Folders written by version 0.2.0 load, and answer as they did then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "fixtures" / "packed_by_0_2_0"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def sound():
    import soundfile

    samples, rate = soundfile.read(FOLDER / "noise.flac", dtype="float32")
    return {"array": samples, "sampling_rate": rate}


def check_transcript(recogniser):
    heard = sound()
    transcript = recogniser(heard["array"], rate=heard["sampling_rate"])
    assert str(transcript) == EXPECTED["text"]
    assert transcript.score == pytest.approx(EXPECTED["score"], abs=1e-3)


def test_a_packed_folder() -> None:
    from espnet_mtla import Speech2Text

    check_transcript(Speech2Text.from_pretrained(str(FOLDER / "speech")))


def test_a_trained_folder() -> None:
    from espnet_mtla import Speech2Text

    check_transcript(Speech2Text.from_pretrained(FOLDER / "trained", beam_size=3))


@pytest.mark.parametrize("saved", [True, False], ids=["save_pretrained", "from_packed"])
def test_a_speech_model_of_transformers(saved: bool) -> None:
    from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq, MTLASpeechProcessor

    name = str(FOLDER / ("hf_speech" if saved else "speech"))
    load = "from_pretrained" if saved else "from_packed"
    model = getattr(MTLAForSpeechSeq2Seq, load)(name).eval()
    processor = getattr(MTLASpeechProcessor, load)(name)
    inputs = processor(sound()["array"], sampling_rate=8000, return_tensors="pt")
    output = model.generate(**inputs, num_beams=3)
    assert processor.batch_decode(output, skip_special_tokens=True)


def test_a_language_model() -> None:
    import torch

    from espnet_mtla.hf import LlamaMTLAForCausalLM

    model = LlamaMTLAForCausalLM.from_pretrained(FOLDER / "llama").eval()
    prompt = torch.tensor([EXPECTED["llama_prompt"]])
    with torch.no_grad():
        logits = model(prompt).logits[0, -1, :8]
    assert logits.tolist() == pytest.approx(EXPECTED["llama_logits"], abs=1e-3)
    output = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert output[0].tolist() == EXPECTED["llama_output"]
