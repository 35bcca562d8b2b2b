"""The language model: its loss is ESPnet's, and its steps are its full pass."""

import pytest
import torch

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.language import LOSSES, DecoderOnlyLanguageModel
from espnet_mtla.search import DecoderScorer
from test.search.test_decoder_scorer import ATTENTIONS

VOCAB, WIDTH = 9, 32
NAMES = ["<blank>", "<unk>", *"abcdef", "<sos/eos>"]


def make(attention="mha", **settings):
    name, conf = ATTENTIONS[attention]
    torch.manual_seed(3)
    sizes = {"num_layers": 2, "num_heads": 4, "ffn_dim": 48, "dropout": 0.0}
    config = DecoderConfig(
        VOCAB, WIDTH, attention=name, attention_conf=conf, **sizes, **settings
    )
    decoder = DecoderOnlyTransformer(config)
    return DecoderOnlyLanguageModel(NAMES, ModelConfig(**LOSSES), decoder)


def batch():
    """Three texts, and ids in the padding that must have no influence."""
    torch.manual_seed(4)
    return torch.randint(1, VOCAB - 1, (3, 7)), torch.tensor([7, 2, 5])


def test_loss_and_weight_are_those_of_espnets_language_model():
    from espnet2.lm.abs_model import AbsLM
    from espnet2.lm.espnet_model import ESPnetLanguageModel

    ours = make()

    class Same(AbsLM):
        def forward(self, input, hidden):  # noqa: ARG002
            nothing = torch.zeros(len(input), 0, WIDTH)
            none = torch.zeros(len(input), dtype=torch.long)
            return ours.decoder(nothing, none, input), None

        def score(self, y, state, x):
            raise NotImplementedError

        def batch_score(self, ys, states, xs):
            raise NotImplementedError

    text, lengths = batch()
    wanted = ESPnetLanguageModel(Same(), VOCAB)(text, lengths)
    found = ours(text, lengths)
    torch.testing.assert_close(found[0].squeeze(), wanted[0].squeeze())
    assert found[2].item() == wanted[2].item() == 14 + 3


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("mode", ["fixed", "recompute"])
def test_cached_steps_give_the_full_passs_scores_for_all_prefixes(attention, mode):
    model = make(attention, prompt_mode=mode).eval()
    text, lengths = batch()
    prompt, none = model.encode(text, lengths)
    tokens = torch.cat((torch.full((3, 1), model.sos), text), 1)
    with torch.inference_mode():
        full = model.decoder(prompt, none, tokens).log_softmax(-1)
        alone = [
            model.decoder(prompt[:1], none[:1], tokens[:1, : n + 1]) for n in range(8)
        ]
        scorer = DecoderScorer(model.decoder, prompt, none, max_tokens=7, beam=1)
        for step in range(8):
            found = scorer.score(tokens[:, step])
            torch.testing.assert_close(found, full[:, step], atol=2e-5, rtol=1e-4)
            last = alone[step][0, -1].log_softmax(-1)
            torch.testing.assert_close(found[0], last, atol=2e-5, rtol=1e-4)


def test_padding_has_no_influence():
    model = make("mtla_s2").eval()
    text, lengths = batch()
    loss = model(text, lengths)[0]
    parts = [model(text[b : b + 1], lengths[b : b + 1]) for b in range(3)]
    total = sum(part[0] * part[2] for part in parts) / sum(part[2] for part in parts)
    torch.testing.assert_close(loss, total)
