"""The speech model: losses that no batch changes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from espnet_mtla.errors import UserError
from test.support.tiny_speech import ENCODERS

LENGTHS, TEXTS = [41, 64, 50, 29], [3, 5, 1, 4]


def features(
    lengths: list[int], texts: list[int], width: int = 16
) -> dict[str, Tensor]:
    """Rows of different lengths; padding has large values, so that leaks show."""
    generator = torch.Generator().manual_seed(1)
    size = (len(lengths), max(lengths), width)
    speech = torch.randn(size, generator=generator, dtype=torch.float64)
    text = torch.randint(2, 6, (len(texts), max(texts)), generator=generator)
    for row, (frames, tokens) in enumerate(zip(lengths, texts, strict=True)):
        speech[row, frames:] = 1e3
        text[row, tokens:] = -1
    return {
        "speech": speech,
        "speech_lengths": torch.tensor(lengths),
        "text": text,
        "text_lengths": torch.tensor(texts),
    }


def speech_of(lengths: list[int]) -> tuple[Tensor, Tensor]:
    batch = features(lengths, [1] * len(lengths))
    return batch["speech"], batch["speech_lengths"]


def row_of(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    one = {key: value[row : row + 1] for key, value in batch.items()}
    one["speech"] = one["speech"][:, : int(one["speech_lengths"])]
    one["text"] = one["text"][:, : int(one["text_lengths"])]
    return one


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_encoder_output_of_a_row_is_what_it_gets_alone(build, encoder):
    model, batch = build(encoder), features(LENGTHS, TEXTS)
    together, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    for row, frames in enumerate(lengths.tolist()):
        one = row_of(batch, row)
        alone, alone_length = model.encode(one["speech"], one["speech_lengths"])
        assert alone_length.item() == frames == alone.size(1)
        torch.testing.assert_close(together[row, :frames], alone[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "layer", ["conv2d1", "conv2d2", "conv2d6", "conv2d8", "linear"]
)
def test_every_subsampling_counts_frames_as_for_a_row_alone(build, options, layer):
    conf = {**options("conformer").encoder_conf, "input_layer": layer}
    model, batch = build("conformer", encoder_conf=conf), features(LENGTHS, TEXTS)
    together, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    for row, frames in enumerate(lengths.tolist()):
        one = row_of(batch, row)
        alone, alone_length = model.encode(one["speech"], one["speech_lengths"])
        assert alone_length.item() == frames
        torch.testing.assert_close(together[row, :frames], alone[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_loss_of_a_batch_is_the_mean_of_its_rows_alone(build, encoder):
    model, batch = build(encoder), features(LENGTHS, TEXTS)
    loss, stats, weight = model(**batch)
    alone = [model(**row_of(batch, row)) for row in range(len(LENGTHS))]
    mean = torch.cat([one[1]["loss_att"] for one in alone]).mean(0, keepdim=True)
    torch.testing.assert_close(stats["loss_att"], mean, rtol=1e-10, atol=0)
    # espnet2's CTC works in float32, whatever the model's precision.
    mean = torch.cat([one[1]["loss_ctc"] for one in alone]).mean(0, keepdim=True)
    torch.testing.assert_close(stats["loss_ctc"], mean, rtol=1e-6, atol=0)
    mean = torch.cat([one[0] for one in alone]).mean(0, keepdim=True)
    torch.testing.assert_close(loss, mean, rtol=1e-6, atol=0)
    assert weight.item() == len(LENGTHS)


def test_a_frozen_encoder_is_not_changed_by_training(build):
    model = build("conformer")
    model.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.train()
    loss, _, _ = model(**features(LENGTHS, TEXTS))
    loss.backward()
    after = model.encoder.state_dict()  # with the statistics of batch normalisation
    changed = [name for name, value in before.items() if not value.equal(after[name])]
    assert changed == []
    assert model.decoder.training and not model.encoder.training


def test_an_encoder_that_is_trained_is_in_training_mode(build):
    assert build("conformer").train().encoder.training


@pytest.mark.parametrize("room", [1, 0.5])
def test_kept_encoder_output_gives_the_same_losses(build, room, monkeypatch):
    plain, keeping = (
        build("conformer"),
        build("conformer", model_conf={"ctc_weight": 0.3, "encoded_cache_mb": 1}),
    )
    for model in (plain, keeping):
        model.encoder.requires_grad_(False)
        model.train()
    whole = sum(frames * 8 * 8 for frames in plain.encode(*speech_of(LENGTHS))[1])
    keeping._encoded.capacity = int(whole * room)
    seen = []
    encode = keeping.encode
    monkeypatch.setattr(
        keeping, "encode", lambda *a: (seen.extend(a[2]), encode(*a))[1]
    )
    batch = features(LENGTHS, TEXTS)
    for rows in ([0, 1], [1, 2, 3], [3, 0]):  # utterances meet others than before
        part = {key: value[rows] for key, value in batch.items()}
        names = [f"utt{row}" for row in rows]
        loss, *_ = keeping(**part, utt_id=names)
        torch.testing.assert_close(loss, plain(**part)[0], rtol=1e-10, atol=1e-12)
    assert keeping._encoded.nbytes <= whole * room
    assert (sorted(seen) == ["utt0", "utt1", "utt2", "utt3"]) == (room == 1)


def test_a_name_of_training_and_validation_stands_for_two_sounds(build):
    model = build("conformer", model_conf={"ctc_weight": 0.3, "encoded_cache_mb": 1})
    model.encoder.requires_grad_(False)
    batch = features(LENGTHS, TEXTS)
    other = {**batch, "speech": batch["speech"] + 1.0}
    names = ["a", "b", "c", "d"]
    model.train()(**batch, utt_id=names)
    model.eval()
    kept, *_ = model(**other, utt_id=names)
    model.config = replace(model.config, encoded_cache_mb=0)
    torch.testing.assert_close(kept, model(**other)[0])
    model.config = replace(model.config, encoded_cache_mb=1)
    with pytest.raises(UserError, match="encoded_cache_mb: 0 names in utt_id for 4"):
        model(**other)


@pytest.mark.parametrize("reason", ["trained", "specaug"])
def test_output_that_changes_is_not_kept(build, reason):
    model = build("conformer", model_conf={"ctc_weight": 0.3, "encoded_cache_mb": 1})
    if reason == "specaug":
        model.encoder.requires_grad_(False)
        model.specaug = torch.nn.Identity()
    with pytest.raises(UserError, match=r"encoded_cache_mb.*freeze"):
        model(**features(LENGTHS, TEXTS), utt_id=["a", "b", "c", "d"])


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lengths=st.lists(st.integers(7, 40), min_size=1, max_size=4),
    stack=st.integers(1, 4),
)
def test_the_prompt_of_a_row_is_what_it_gets_alone(build, lengths, stack):
    model = build("conformer", projector_conf={"stack": stack})
    batch = features(lengths, [1] * len(lengths))
    prompt, sizes = model.project(
        *model.encode(batch["speech"], batch["speech_lengths"])
    )
    for row, size in enumerate(sizes.tolist()):
        one = row_of(batch, row)
        alone, _ = model.project(*model.encode(one["speech"], one["speech_lengths"]))
        torch.testing.assert_close(prompt[row, :size], alone[0], rtol=0, atol=1e-10)


def test_sound_in_a_batch_gives_the_features_it_gives_alone(build):
    model = build(
        "conformer", frontend="default", frontend_conf={"n_mels": 16, "n_fft": 128}
    )
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4000, 2531, 3100])
    speech = torch.randn(3, 4000, generator=generator, dtype=torch.float64)
    for row, length in enumerate(lengths.tolist()):
        speech[row, length:] = 0
    together, frames = model.extract_feats(speech, lengths)
    for row, count in enumerate(frames.tolist()):
        one = speech[row : row + 1, : lengths[row]]
        alone, alone_frames = model.extract_feats(one, lengths[row : row + 1])
        assert alone_frames.item() == count == 1 + lengths[row].item() // 128
        # espnet2's STFT works in float32.
        torch.testing.assert_close(together[row, :count], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "has_ctc", "has_decoder"),
    [(1.0, True, False), (0.0, False, True), (0.3, True, True)],
)
def test_the_ctc_weight_decides_which_parts_there_are(
    build, weight, has_ctc, has_decoder
):
    model = build("transformer", model_conf={"ctc_weight": weight})
    assert (model.ctc is not None, model.decoder is not None) == (has_ctc, has_decoder)
    _, stats, _ = model(**features(LENGTHS, TEXTS))
    assert ("loss_ctc" in stats, "acc" in stats) == (has_ctc, has_decoder)
    model.train()
    loss, _, _ = model(**features(LENGTHS, TEXTS))
    loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []  # distributed training stops at a parameter without gradient


def test_an_encoder_alone_has_no_prompt(build):
    model = build("transformer", model_conf={"ctc_weight": 1})
    with pytest.raises(UserError, match="encoder without a decoder"):
        model.project(torch.zeros(1, 4, 8), torch.tensor([4]))


def test_given_features_are_not_changed(build):
    model, batch = build("none", normalize="utterance_mvn"), features(LENGTHS, TEXTS)
    before = batch["speech"].clone()
    model(**batch)
    assert torch.equal(batch["speech"], before)


def test_an_utterance_too_short_for_the_encoder_is_named(build):
    model, batch = build("conformer"), features([40, 6], [2, 2])
    with pytest.raises(UserError, match=r"^short: 6 feature frames are too few"):
        model(**batch, utt_id=["long", "short"])


def test_an_utterance_too_short_for_ctc_counts_as_zero_and_is_told_once(build, caplog):
    model = build("none", model_conf={"ctc_weight": 1.0})
    for _ in range(2):
        _, stats, _ = model(**features([3, 40], [5, 5]), utt_id=["short", "long"])
    assert caplog.text.count("short: CTC needs") == 1
    assert "long: CTC needs" not in caplog.text
    _, alone, _ = model(**row_of(features([3, 40], [5, 5]), 1))
    torch.testing.assert_close(stats["loss_ctc"], alone["loss_ctc"] / 2)


def test_a_loss_that_is_not_finite_names_the_batch(build):
    model, batch = build("none"), features([20, 20], [2, 2])
    batch["speech"][0, 3] = float("nan")
    with pytest.raises(UserError, match=r"the loss became nan on the batch \[u1, u2\]"):
        model(**batch, utt_id=["u1", "u2"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 30), r"needed: features \(utterances, frames, 16\)"),
        ((2, 30, 7), "width 7 given, 16 needed: see input_size"),
    ],
)
def test_features_of_another_width_are_refused(build, shape, message):
    lengths = torch.tensor([30, 30])
    with pytest.raises(UserError, match=message):
        build("none").encode(torch.zeros(shape, dtype=torch.float64), lengths)


@pytest.mark.parametrize("encoder", ["none", "conformer"])
def test_sound_without_a_frame_is_named(build, encoder):
    conf = {"fs": 8000, "n_mels": 20}
    model = build(encoder, frontend="fbank", frontend_conf=conf, input_size=None)
    with pytest.raises(UserError, match=r"^short: 0 feature frames are too few"):
        model.encode(torch.zeros(2, 900), torch.tensor([900, 150]), ["long", "short"])


def test_two_channels_are_refused(build):
    model = build("none", frontend="default", input_size=None)
    with pytest.raises(UserError, match="features of width 2 given, 80 needed"):
        model.encode(torch.zeros(1, 4000, 2), torch.tensor([4000]))


def test_tied_embeddings_are_one_parameter(build, options):
    conf = options().decoder_conf
    plain = build("none", decoder_conf=conf)
    tied = build("none", decoder_conf={**conf, "tie_embeddings": True})
    count = [sum(p.numel() for p in m.parameters()) for m in (plain, tied)]
    assert count[0] - count[1] == 7 * 16


def test_the_model_learns_to_copy_eight_utterances(build, options):
    conf = {"embed_dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64}
    decoder = {**options().decoder_conf, **conf}
    model = build(
        "none", decoder_conf=decoder, model_conf={"ctc_weight": 0.0, "lsm_weight": 0.0}
    ).float()
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([3, 5, 4, 6, 3, 5, 6, 4])
    text = torch.randint(2, 6, (8, 6), generator=generator)
    speech = torch.nn.functional.one_hot(text, 16).float().repeat_interleave(4, dim=1)
    batch = {"speech": speech, "speech_lengths": 4 * lengths}
    batch |= {"text": text, "text_lengths": lengths}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    losses = []
    for _ in range(100):
        loss, stats, _ = model(**batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if stats["acc"] == 1:
            break
    assert losses[-1] < losses[0] / 4
    assert stats["acc"] > 0.95


@pytest.mark.parametrize("made_up", ["made_up", "lengths", "mask"])
def test_a_model_refuses_what_it_does_not_know(build, made_up: str) -> None:
    """Unused keys of a batch are accepted, unknown ones refused."""
    model, batch = build("none"), features(LENGTHS, TEXTS)
    ones = torch.ones(4, dtype=torch.long)
    known = {"intent": ones[:, None], "intent_lengths": ones}
    assert model(**batch, **known)[0].isfinite().all()
    model.collect_feats(**batch, **known)
    for call in (model, model.collect_feats):
        with pytest.raises(UserError, match=f"unknown keyword '{made_up}'"):
            call(**batch, **{made_up: None})
