"""Transformers' own trainer trains, evaluates by generated texts, and predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq, MTLASpeechProcessor
from espnet_mtla.hf.speech.options import NO_LIMIT
from test.support.tiny_experiment import FS
from test.support.tiny_recipes import noise

TEXTS = ["ab cd", "a", "fe", "bad cab", "g"]
LENGTHS = [7000, 4000, 5000, 11000, 4500]


@pytest.fixture
def parts(packed):
    doors = MTLAForSpeechSeq2Seq, MTLASpeechProcessor
    return tuple(door.from_packed(packed) for door in doors)


@pytest.fixture
def trainer(parts, tmp_path):
    model, processor = parts
    sounds = [row[:n].numpy() for row, n in zip(noise(5, 11000), LENGTHS, strict=True)]
    rows = [{"sound": s, "text": t} for s, t in zip(sounds, TEXTS, strict=True)]

    def collate(batch):
        sounds, texts = ([row[name] for row in batch] for name in ("sound", "text"))
        return processor(sounds, text=texts, sampling_rate=FS)

    def measure(prediction):
        texts = processor.batch_decode(prediction.predictions)
        return {"texts": texts, "rows": len(prediction.label_ids)}

    def make(**options):
        arguments = Seq2SeqTrainingArguments(
            str(tmp_path / "trained"),
            predict_with_generate=True,
            max_steps=2,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            remove_unused_columns=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **options,
        )
        return Seq2SeqTrainer(
            *(model, arguments, collate, rows, rows), compute_metrics=measure
        )

    return make


def texts_of(parts, trainer, **options) -> list[str]:
    model, processor = parts
    sounds = [row["sound"] for row in trainer.eval_dataset]
    batch = processor(sounds, sampling_rate=FS)
    return processor.batch_decode(model.generate(**batch, **options))


def test_train_evaluate_predict(parts, trainer, tmp_path) -> None:
    model, trainer = parts[0], trainer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    moved = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
    assert "speech.decoder.output.weight" in moved
    found = trainer.evaluate()
    assert found["eval_rows"] == len(TEXTS)
    assert np.isfinite(found["eval_loss"])
    wanted = texts_of(parts, trainer)
    assert len(set(wanted)) > 1
    # The second batch and the second run are decoded as the first ones.
    assert found["eval_texts"] == wanted
    assert trainer.evaluate()["eval_texts"] == wanted
    predicted = trainer.predict(trainer.eval_dataset)
    assert predicted.metrics["test_texts"] == wanted
    assert predicted.predictions.shape[1] <= NO_LIMIT
    trainer.save_model(tmp_path / "saved")
    again = MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "saved")
    assert texts_of((again, parts[1]), trainer) == wanted


def test_the_trainers_own_limits(parts, trainer) -> None:
    trainer = trainer(generation_max_length=4, generation_num_beams=1)
    short = {"num_beams": 1, "max_new_tokens": 3}
    wanted = texts_of(parts, trainer, **short)
    assert wanted != texts_of(parts, trainer)
    assert trainer.evaluate()["eval_texts"] == wanted


def test_a_generation_config_of_the_arguments(parts, trainer) -> None:
    from transformers import GenerationConfig

    before = texts_of(parts, trainer())
    config = GenerationConfig(max_new_tokens=3, num_beams=2)
    trainer = trainer(generation_config=config)
    wanted = texts_of(parts, trainer, num_beams=2, max_new_tokens=3)
    assert wanted != before
    for _ in range(2):
        assert trainer.evaluate()["eval_texts"] == wanted
