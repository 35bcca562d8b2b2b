"""Parts of the model against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.lengths import reflect_tail
from espnet_mtla.frontend.normalise import UtteranceMVN
from espnet_mtla.model.config import ModelConfig, ProjectorConfig, TextProjectorConfig
from espnet_mtla.model.loss import IGNORE, TokenLoss, frames_for_ctc, shifted
from espnet_mtla.model.projector import FrameStackProjector, TokenConvolution
from test.support.espnet_nets import espnet_nets


def test_the_last_stack_is_filled_with_zeros():
    projector = FrameStackProjector(2, 3, ProjectorConfig(stack=2)).double()
    frames = torch.full((1, 4, 2), 7.0, dtype=torch.float64)
    prompt, lengths = projector(frames, torch.tensor([3]))
    last = projector.layers(torch.tensor([7.0, 7, 0, 0], dtype=torch.float64))
    assert lengths.tolist() == [2]
    torch.testing.assert_close(prompt[0, 1], last)


@pytest.mark.parametrize(
    ("frames", "stack", "positions"), [(1, 4, 1), (4, 4, 1), (5, 4, 2)]
)
def test_positions_are_frames_over_stack_rounded_up(frames, stack, positions):
    projector = FrameStackProjector(2, 3, ProjectorConfig(stack=stack))
    prompt, lengths = projector(torch.zeros(1, frames, 2), torch.tensor([frames]))
    assert (prompt.size(1), lengths.item()) == (positions, positions)


def test_input_and_target_are_shifted_by_one():
    text = torch.tensor([[4, 5, 3], [2, -1, -1]])
    given, wanted = shifted(text, torch.tensor([3, 1]), sos=8, eos=9)
    assert given.tolist() == [[8, 4, 5, 3], [8, 2, 9, 9]]
    assert wanted.tolist() == [[4, 5, 3, 9], [2, 9, IGNORE, IGNORE]]


def test_without_smoothing_the_loss_is_cross_entropy_over_utterances():
    logits, target = (
        torch.randn(2, 3, 5),
        torch.tensor([[1, 2, 3], [4, IGNORE, IGNORE]]),
    )
    loss, accuracy = TokenLoss(5, ModelConfig(lsm_weight=0.0))(logits, target)
    flat, wanted = logits.flatten(0, 1), target.flatten()
    plain = torch.nn.functional.cross_entropy(
        flat, wanted, ignore_index=IGNORE, reduction="sum"
    )
    torch.testing.assert_close(loss, plain / 2)
    inside = wanted != IGNORE
    right = (flat.argmax(-1) == wanted)[inside].float().mean()
    assert accuracy == pytest.approx(right.item())


@pytest.mark.parametrize("by_tokens", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_loss_is_that_of_espnet(smoothing, by_tokens):
    """Value and gradient, with padding at the end and a row of nothing else."""
    logits = torch.randn(3, 4, 7, dtype=torch.float64)
    target = torch.tensor([[1, 2, 3, 0], [4, 6, IGNORE, IGNORE], [IGNORE] * 4])
    config = ModelConfig(lsm_weight=smoothing, length_normalized_loss=by_tokens)
    module = espnet_nets("pytorch_backend.transformer.label_smoothing_loss")
    theirs = module.LabelSmoothingLoss(7, IGNORE, smoothing, by_tokens)
    given, other = (logits.clone().requires_grad_() for _ in range(2))
    loss, _ = TokenLoss(7, config)(given, target)
    expected = theirs(other, target)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(given.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_smoothing_beyond_uniform_is_refused_by_name():
    with pytest.raises(UserError, match=r"lsm_weight: 0.9 given, at most 1 - 1 / 5"):
        TokenLoss(5, ModelConfig(lsm_weight=0.9))


def test_normalising_by_length_divides_by_tokens():
    logits, target = (
        torch.randn(2, 3, 5),
        torch.tensor([[1, 2, 3], [4, IGNORE, IGNORE]]),
    )
    plain, _ = TokenLoss(5, ModelConfig())(logits, target)
    by_tokens, _ = TokenLoss(5, ModelConfig(length_normalized_loss=True))(
        logits, target
    )
    torch.testing.assert_close(by_tokens * 4, plain * 2)


@pytest.mark.parametrize(
    ("text", "needed"), [([1, 2, 3], 3), ([1, 1, 2], 4), ([5, 5, 5], 5), ([7], 1)]
)
def test_ctc_needs_a_blank_between_repeats(text, needed):
    padded = torch.tensor([[*text, -1, -1]])
    assert frames_for_ctc(padded, torch.tensor([len(text)])).item() == needed


def test_a_row_is_mirrored_at_its_own_end():
    speech = torch.tensor([[1.0, 2, 3, 4], [5, 6, 0, 0]])
    out = reflect_tail(speech, torch.tensor([4, 2]), 2)
    assert out.tolist() == [[1, 2, 3, 4, 3, 2], [5, 6, 5, 5, 5, 5]]


@pytest.mark.parametrize("norm_vars", [False, True])
@pytest.mark.parametrize("norm_means", [False, True])
def test_utterance_normalisation_ignores_padding(norm_means, norm_vars):
    layer = UtteranceMVN(norm_means, norm_vars)
    x = torch.randn(2, 9, 4, dtype=torch.float64) + 3
    lengths = torch.tensor([9, 5])
    out, _ = layer(x, lengths)
    alone, _ = layer(x[1:, :5], lengths[1:])
    torch.testing.assert_close(out[1, :5], alone[0])
    assert (out[1, 5:] == 0).all()
    rows = x[0]
    wanted = rows - rows.mean(0) if norm_means else rows
    wanted = wanted / rows.std(0, correction=0) if norm_vars else wanted
    torch.testing.assert_close(out[0], wanted)
    nothing, _ = layer(x, torch.tensor([9, 0]))  # too short for a single frame
    assert (nothing[1] == 0).all()


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("field", ["stack", "hidden_size"])
def test_a_wrong_projector_setting_is_named(field, value):
    with pytest.raises(UserError, match=rf"projector_conf\.{field}"):
        ProjectorConfig(**{field: value})


@pytest.mark.parametrize("value", [0, 2, -1, 1.5, "3", True])
def test_a_wrong_kernel_of_a_text_projector_is_named(value):
    with pytest.raises(UserError, match=r"projector_conf\.kernel"):
        TextProjectorConfig(kernel=value)


def test_tokens_are_told_their_neighbours_and_nothing_of_padding():
    """By hand: each token plus the one before it; at first, the token alone."""
    layer = TokenConvolution(2, TextProjectorConfig(kernel=3))
    tokens, lengths = torch.randn(2, 4, 2), torch.tensor([4, 2])
    tokens[1, 2:] = torch.nan
    clean = tokens.nan_to_num(0.0)
    torch.testing.assert_close(layer(tokens, lengths)[0], clean)
    layer.convolution.weight.data[:, :, 0] = torch.eye(2)
    out, same = layer(tokens, lengths)
    before = torch.nn.functional.pad(clean, (0, 0, 1, -1))
    torch.testing.assert_close(out[0], tokens[0] + before[0])
    torch.testing.assert_close(out[1, :2], tokens[1, :2] + before[1, :2])
    assert same is lengths


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ctc_weight", 1.5),
        ("ctc_weight", "0.3"),
        ("lsm_weight", 1),
        ("lsm_weight", -0.1),
        ("intent_weight", float("nan")),
        ("encoded_cache_mb", -1),
        ("length_normalized_loss", "yes"),
    ],
)
def test_a_wrong_loss_setting_is_named(field, value):
    with pytest.raises(UserError, match=rf"model_conf\.{field}"):
        ModelConfig(**{field: value})


def test_init_draws_weights_as_espnet_does_and_leaves_embeddings(build) -> None:
    plain, drawn = build("conformer"), build("conformer", init="xavier_uniform")
    for part in (drawn.encoder, drawn.projector, drawn.ctc, drawn.decoder.layers):
        for name, weight in part.named_parameters():
            if weight.dim() == 2 and not name.endswith(("pos_bias_u", "pos_bias_v")):
                bound = (6 / sum(weight.shape)) ** 0.5
                assert 0.8 * bound < weight.abs().max() <= bound, name
            if name.endswith(".bias"):
                assert not weight.any(), name
    kept = "embedding.weight"
    assert drawn.decoder.state_dict()[kept].equal(plain.decoder.state_dict()[kept])
