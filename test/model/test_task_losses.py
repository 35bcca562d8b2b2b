"""The losses that tasks add, by hand; text as a prompt."""

from __future__ import annotations

import math
from argparse import Namespace

import pytest
import torch
from torch import nn

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.model.base import DecoderOnlyModel
from espnet_mtla.model.build import build_text_model
from espnet_mtla.model.config import ModelConfig, TextProjectorConfig
from espnet_mtla.model.loss import IGNORE, intent_loss
from espnet_mtla.model.projector import TokenConvolution
from espnet_mtla.model.speech import DecoderOnlySpeechModel
from espnet_mtla.model.text import DecoderOnlyTextModel

TOKENS = ["<blank>", "<unk>", *"abcdef", "<sos/eos>"]


def test_intent_loss_by_hand():
    """Two intents of 1 and 2 tokens; later tokens do not matter."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [1 / 3] * 3])
    logits = torch.stack([p.log(), p.flip(0).log()])
    target = torch.tensor([[0, 2, 1], [2, 1, IGNORE]])
    loss, right = intent_loss(logits, target, torch.tensor([1, 2]))
    expected = (-math.log(0.7) - math.log(1 / 3) - math.log(0.6)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert right.item() == 0.5  # of the second, 1/3 each is not a guess of token 2
    logits[0, 1:], logits[1, 2:] = 5.0, -9.0
    assert intent_loss(logits, target, torch.tensor([1, 2]))[0].item() == loss.item()


@pytest.mark.parametrize("mode", ["fixed", "recompute"])
@pytest.mark.parametrize("attention", ["mha", "mtla"])
@pytest.mark.parametrize("kernel", [1, 5])
def test_text_model_is_the_same_alone_and_in_a_batch(mode, attention, kernel):
    torch.manual_seed(0)
    config = DecoderConfig(
        *(len(TOKENS), 16, 2, 2, 24, 0.0, attention), prompt_mode=mode
    )
    decoder = DecoderOnlyTransformer(config)
    projector = TokenConvolution(16, TextProjectorConfig(kernel))
    nn.init.normal_(projector.convolution.weight)
    model = DecoderOnlyTextModel(TOKENS, ModelConfig(ctc_weight=0), decoder, projector)
    model = model.double().eval()
    source = torch.tensor([[2, 3, 4, 5, 6], [7, 2, 3, -1, -1]])
    text = torch.tensor([[3, 4, 5], [6, -1, -1]])
    lengths, text_lengths = torch.tensor([5, 3]), torch.tensor([3, 1])
    loss, stats, weight = model(source, lengths, text, text_lengths)
    assert weight == 2 and set(stats) == {"loss", "loss_att", "acc"}
    alone = [
        model(source[i : i + 1], lengths[i : i + 1], text[i : i + 1, :u], u_lens)[0]
        for i, (u, u_lens) in enumerate(((3, text_lengths[:1]), (1, text_lengths[1:])))
    ]
    torch.testing.assert_close(loss, (alone[0] + alone[1]) / 2)
    changed = source.clone()
    changed[0, 0] = 7
    assert model(changed, lengths, text, text_lengths)[0] != loss
    loss.backward()
    assert decoder.embedding.weight.grad.abs().sum() > 0


def test_ctc_learns_the_words_spoken_and_the_decoder_the_text(build):
    """With a source, CTC's loss is that of the source; the decoder's of the text."""
    model = build()
    generator = torch.Generator().manual_seed(2)
    speech = torch.randn(2, 40, 16, generator=generator, dtype=torch.float64)
    frames, lengths = torch.tensor([40, 31]), torch.tensor([3, 2])
    text = torch.tensor([[2, 3, 4], [5, 2, -1]])
    said, said_lengths = torch.tensor([[4, 5], [3, -1]]), torch.tensor([2, 1])
    intent = torch.tensor([[1], [2]])

    def stats(*texts: torch.Tensor, **more: torch.Tensor) -> dict[str, float]:
        loss, found, _ = model(speech, frames, *texts, **more)
        assert found["loss"] == loss
        return {name: float(value) for name, value in found.items()}

    of_text, of_said = stats(text, lengths), stats(said, said_lengths)
    both = stats(text, lengths, source=said, source_lengths=said_lengths)
    assert both["loss_ctc"] == pytest.approx(of_said["loss_ctc"], rel=1e-12)
    assert both["loss_ctc"] != pytest.approx(of_text["loss_ctc"], rel=1e-3)
    assert both["loss_att"] == pytest.approx(of_text["loss_att"], rel=1e-12)
    with_intent = stats(text, lengths, intent=intent)
    weight = model.config.intent_weight * with_intent["loss_intent"]
    assert with_intent["loss"] == pytest.approx(of_text["loss"] + weight, rel=1e-6)


def test_speech_and_text_models_are_two_children_of_one_base(build):
    """Speech and text models are of different classes with the same interface."""
    decoder = DecoderOnlyTransformer(DecoderConfig(len(TOKENS), 16, 1, 2, 24, 0.0))
    text = DecoderOnlyTextModel(TOKENS, ModelConfig(ctc_weight=0), decoder)
    speech = build()
    assert isinstance(text, DecoderOnlyModel) and isinstance(speech, DecoderOnlyModel)
    assert not isinstance(text, DecoderOnlySpeechModel)
    assert (text.unit, speech.unit) == ("token", "second")
    assert text.frontend is text.encoder is text.ctc is None
    assert {name.split(".")[0] for name in text.state_dict()} == {"decoder"}
    source, lengths = torch.tensor([[2, 3]]), torch.tensor([2])
    known = {"source": source, "source_lengths": lengths, "text": source}
    assert text.collect_feats(**known) == {}
    with pytest.raises(UserError, match="collect_feats: unknown keyword 'speech'"):
        text.collect_feats(**known, speech=source)


def test_a_text_model_refuses_to_keep_encoded_sources(options):
    """Its embeddings are trained: cached ones would be outdated."""
    settings = options().__dict__
    parts = dict.fromkeys(("frontend", "specaug", "normalize", "encoder"))
    settings |= {**parts, "projector_conf": {}, "init": None}
    settings["model_conf"] = {"encoded_cache_mb": 1}
    with pytest.raises(UserError, match=r"model_conf\.encoded_cache_mb: 0 for text"):
        build_text_model(Namespace(**settings))
