"""Training by labels: one pass of the model, and the loss of the logits returned."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from espnet_mtla.errors import UserError
from test.support.tiny_experiment import TOKENS
from test.support.tiny_recipes import RECIPES, noise, tiny

LABELS = torch.tensor([[3, 4, 2, 5], [6, 3, -100, -100]])
TARGETS = ([3, 4, 2, 5, 10], [6, 3, 10])  # with <eos>
DROPOUT = {"decoder_conf": {"dropout": 0.3}, **RECIPES["specaug"]}


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    """-log p of each row's text, mean over rows."""
    rows = []
    for row, target in zip(logits, TARGETS, strict=True):
        chances = row.log_softmax(-1)
        rows.append(-sum(chances[place, token] for place, token in enumerate(target)))
    return sum(rows) / len(rows)


def test_the_loss_is_that_of_the_logits_under_dropout() -> None:
    model = tiny(**DROPOUT, model_conf={"ctc_weight": 0.0, "lsm_weight": 0.0}).train()
    first, second = (model(noise(), labels=LABELS) for _ in range(2))
    assert not torch.allclose(first.logits, second.logits), "no dropout: too easy"
    assert first.logits.shape == (2, 5, len(TOKENS))
    for output in (first, second):
        torch.testing.assert_close(output.loss, cross_entropy(output.logits))


def test_the_loss_of_ctc_is_of_the_same_pass() -> None:
    conf = {"ctc_weight": 0.3, "lsm_weight": 0.0}
    model = tiny(**DROPOUT, model_conf=conf).train()
    encoded = []
    model.speech.encoder.register_forward_hook(
        lambda *call: encoded.append(call[2][:2])
    )
    output = model(noise(), labels=LABELS)
    ((frames, lengths),) = encoded  # one pass
    chances = model.speech.ctc.ctc_lo(frames).log_softmax(-1).transpose(0, 1)
    ctc = F.ctc_loss(
        *(chances, torch.tensor([3, 4, 2, 5, 6, 3]), lengths, torch.tensor([4, 2])),
        reduction="sum",
    )
    wanted = 0.3 * ctc / 2 + 0.7 * cross_entropy(output.logits)
    torch.testing.assert_close(output.loss, wanted)


def test_statistics_of_batches_move_once() -> None:
    model = tiny().train()
    (norm,) = (m for m in model.modules() if hasattr(m, "num_batches_tracked"))
    before = int(norm.num_batches_tracked), norm.running_mean.clone()
    model(noise(), labels=LABELS).loss.backward()
    assert int(norm.num_batches_tracked) == before[0] + 1
    assert not torch.equal(norm.running_mean, before[1])


def test_both_forms_of_tokens_give_the_same_logits() -> None:
    model = tiny()
    by_labels = model(noise(), labels=LABELS).logits
    ids = torch.tensor([[10, 3, 4, 2, 5], [10, 6, 3, 0, 0]])
    by_ids = model(noise(), decoder_input_ids=ids).logits
    torch.testing.assert_close(by_labels[0], by_ids[0])
    torch.testing.assert_close(by_labels[1, :3], by_ids[1, :3])
    loss, logits = model(noise(), labels=LABELS, return_dict=False)
    torch.testing.assert_close(logits, by_labels)
    assert loss.dim() == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[3, -100, 4]], "-100 before a token"),
        ([[3, 10]], r"labels: 10 given, .* 0 to 9; <sos/eos> is put around"),
        ([[3, 11]], "labels: 11 given"),
        ([[3, -1]], "labels: -1 given"),
        ([3, 4], r"labels: token ids of shape \(batch, tokens\)"),
        ([[3.0, 4.0]], "labels: token ids"),
    ],
)
def test_labels_that_are_none(labels, message) -> None:
    with pytest.raises(UserError, match=message):
        tiny()(noise(1), labels=torch.tensor(labels))


def test_labels_or_tokens() -> None:
    with pytest.raises(UserError, match="labels or decoder_input_ids are needed, one"):
        tiny()(noise(), labels=LABELS, decoder_input_ids=LABELS.clamp(min=0))


@pytest.mark.parametrize("recipe", ["scaled_abs_pos", "fbank", "default"])
def test_training_after_generating(recipe) -> None:
    """Training works after ``generate``; training modes are restored."""
    model = tiny(**RECIPES[recipe]).train()
    model.speech.decoder.eval()
    for module in model.modules():
        if hasattr(module, "pe"):
            module.pe = None  # made anew, as after a move to another device
    modes = [module.training for module in model.modules()]
    model.generate(noise())
    assert [module.training for module in model.modules()] == modes
    model(noise(), labels=LABELS).loss.backward()
