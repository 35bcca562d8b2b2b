"""Training by Transformers' Trainer and by LoRA adapters, on real text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainingArguments

from espnet_mtla.hf import LlamaMTLAForCausalLM
from test.support.tiny_llama import tiny, tokens

TEXT = Path(__file__).resolve().parents[3] / "LICENSE"


@pytest.fixture(autouse=True)
def own_precision():
    """Restore a setting of the process after each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, torch.Tensor]]:
    """Bytes of the licence in rows of different lengths."""
    data = torch.tensor(list(TEXT.read_bytes()[:8000]))
    cut = [row[: 24 + index % 9] for index, row in enumerate(data.split(32)[:-1])]
    return [{"input_ids": row} for row in cut]


def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Right padding, as trainers do; its labels are ignored."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [row["input_ids"] for row in batch]
    mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
    labels = pad(ids, batch_first=True, padding_value=-100)
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": mask,
        "labels": labels,
    }


def train(model, rows, folder: Path, **settings) -> list[float]:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=10,
        report_to=[],
        use_cpu=True,
        seed=0,
        disable_tqdm=True,
        **settings,
    )
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=rows)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_trainer_learns_saves_and_goes_on(rows, tmp_path) -> None:
    settings = {"vocab_size": 256, "initializer_range": 0.02, "pad_token_id": 0}
    model = tiny(2, dtype=torch.float32, **settings).train()
    losses = train(model, rows, tmp_path, max_steps=30, save_steps=30, bf16=True)
    assert losses[-1] < 0.75 * losses[0]
    again = LlamaMTLAForCausalLM.from_pretrained(tmp_path / "checkpoint-30")
    weights = model.state_dict()
    assert all(torch.equal(w, weights[k]) for k, w in again.state_dict().items())
    prompt = rows[0]["input_ids"][None, :8]
    shown = again.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=0)
    assert shown.shape == (1, 20)


def test_the_trainers_label_smoothing_knows_what_a_label_is(rows, tmp_path) -> None:
    """The label smoother shifts labels only for registered model names."""
    model = tiny(2, dtype=torch.float32, vocab_size=256).train()
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to=[]
    )
    loss = Trainer(model, arguments).compute_loss(model, collate(rows[:2]))
    batch = collate(rows[:2])
    labels = batch.pop("labels")[:, 1:].flatten()
    logits = model(**batch).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


# PEFT asks by the old name, and the Trainer's own settings do, too.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing")
def test_lora_trains_adapters_alone_and_merges(rows, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    settings = {"vocab_size": 256, "initializer_range": 0.1}
    base = tiny(3, dtype=torch.float32, **settings)
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=4, target_modules=["wq", "wkv_a", "wo"], task_type="CAUSAL_LM"
        ),
    )
    losses = train(
        model,
        rows,
        tmp_path,
        max_steps=20,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_steps=99,
    )
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            original = name.removeprefix("base_model.model.")
            original = original.replace(".base_layer", "")
            assert torch.equal(parameter, before[original])
    batch = tokens(2, 9)
    adapted = model.eval()(batch).logits
    greedy = model.generate(input_ids=batch, max_new_tokens=5, do_sample=False)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(batch).logits, adapted, rtol=0, atol=1e-4)
    assert torch.equal(
        merged.generate(batch, max_new_tokens=5, do_sample=False), greedy
    )
