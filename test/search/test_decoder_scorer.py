import pytest
import torch

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.search import (
    DecodeOptions,
    DecoderScorer,
    Symbols,
    beam_search,
    length_limits,
)
from test.support.plain_models import rescore
from test.support.tiny_decoder import LLAMA_LAYERS

LATENT = {
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
ATTENTIONS = {
    "mha": ("mha", {}),
    "mqa": ("mqa", {}),
    "gqa": ("gqa", {"num_kv_heads": 2}),
    "mla": ("mla", LATENT),
    "mtla_s2": ("mtla", {**LATENT, "down_rate": 2}),
    "mtla_s3": ("mtla", {**LATENT, "down_rate": 3}),
    "mtla_s4": ("mtla", {**LATENT, "down_rate": 4}),
    "mtla_s2_w5_phase": (
        "mtla",
        {**LATENT, "down_rate": 2, "raw_window": 5, "phase": True},
    ),
    "llama": ("gqa", {"num_kv_heads": 2, "qk_norm": True, "head_dim": 6}),
    "llama_mtla_s2": ("mtla", {**LATENT, "down_rate": 2, "kv_norm": "none"}),
}
VOCAB, WIDTH = 12, 32
SYMBOLS = Symbols(sos=VOCAB - 1, eos=VOCAB - 1)
LENGTHS = [9, 3, 7, 12, 5]


def make(name, prompt_mode):
    attention, conf = ATTENTIONS[name]
    torch.manual_seed(1)
    config = DecoderConfig(
        *(VOCAB, WIDTH, 2, 4, 64, 0.1, attention, conf),
        prompt_mode=prompt_mode,
        **(LLAMA_LAYERS if name.startswith("llama") else {}),
    )
    decoder = DecoderOnlyTransformer(config).eval()
    with torch.no_grad():
        decoder.output.weight.mul_(4.0)  # sharp enough for hypotheses to differ
    return decoder


def make_prompts():
    generator = torch.Generator().manual_seed(2)
    prompt = torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, generator=generator)
    lengths = torch.tensor(LENGTHS)
    for row, length in zip(prompt, LENGTHS, strict=True):
        row[length:] = float("nan")
    return prompt, lengths


@torch.inference_mode()
def decode(decoder, prompt, lengths, options, share_prompt=True):
    limits = length_limits(lengths, options)
    scorer = DecoderScorer(
        decoder,
        prompt,
        lengths,
        int(limits[1].max()),
        options.beam_size,
        share_prompt=share_prompt,
    )
    found = beam_search([(scorer, 1.0)], limits, SYMBOLS, options)
    measured, formula = scorer.peak_bytes()
    assert measured == formula and 0 < measured <= scorer.allocated_bytes
    return found


OPTIONS = DecodeOptions(beam_size=4, nbest=4)
each_model = pytest.mark.parametrize("name", ATTENTIONS)
each_mode = pytest.mark.parametrize("prompt_mode", ["fixed", "recompute"])


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        scores = [h.score for h in theirs]
        assert [h.score for h in ours] == pytest.approx(scores, rel=1e-4)


@each_model
@each_mode
@pytest.mark.parametrize("share_prompt", [True, False])
def test_alone_as_in_a_batch(name, prompt_mode, share_prompt):
    decoder = make(name, prompt_mode)
    prompt, lengths = make_prompts()
    together = decode(decoder, prompt, lengths, OPTIONS, share_prompt)
    alone = [
        decode(decoder, prompt[b : b + 1, :n], lengths[b : b + 1], OPTIONS)[0]
        for b, n in enumerate(LENGTHS)
    ]
    assert_same(together, alone)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = decode(decoder, prompt[order], lengths[order], OPTIONS, share_prompt)
    assert_same(moved, [together[b] for b in order])
    assert len({len(h.tokens) for nbest in together for h in nbest}) > 2


class Uncached:
    """The full forward pass over all of the history at each step, without a cache."""

    def __init__(self, decoder, prompt, lengths, beam):
        self.decoder, self.beam = decoder, beam
        self.prompt = prompt.repeat_interleave(beam, dim=0)
        self.lengths = lengths.repeat_interleave(beam)
        self.history = torch.empty(len(self.lengths), 0, dtype=torch.long)

    def score(self, tokens):
        self.history = torch.cat((self.history, tokens.unsqueeze(1)), 1)
        logits = self.decoder(self.prompt, self.lengths, self.history)
        return logits[:, -1].log_softmax(-1)

    def reorder(self, rows):
        self.history = self.history[rows]

    def select(self, utterances):
        rows = torch.arange(len(self.lengths)).view(-1, self.beam)[utterances].flatten()
        self.prompt, self.lengths = self.prompt[rows], self.lengths[rows]
        self.history = self.history[rows]


@each_model
@each_mode
@torch.inference_mode()
def test_the_cache_finds_what_the_full_forward_pass_finds(name, prompt_mode):
    decoder = make(name, prompt_mode)
    prompt, lengths = make_prompts()
    uncached = Uncached(decoder, prompt, lengths, OPTIONS.beam_size)
    limits = length_limits(lengths, OPTIONS)
    expected = beam_search([(uncached, 1.0)], limits, SYMBOLS, OPTIONS)
    assert_same(decode(decoder, prompt, lengths, OPTIONS), expected)
    for b, nbest in enumerate(expected):
        for hypothesis in nbest:
            one = slice(b, b + 1)
            fresh = Uncached(decoder, prompt[one], lengths[one], 1)
            score = rescore(fresh, hypothesis.tokens, sos_eos=SYMBOLS.eos)
            assert hypothesis.score == pytest.approx(score, rel=1e-4)


@each_model
def test_half_precision_sums_are_float32(name):
    decoder = make(name, "fixed").to(torch.bfloat16)
    prompt, lengths = make_prompts()
    state_scorer = DecoderScorer(decoder, prompt.bfloat16(), lengths, 4, 1)
    with torch.inference_mode():
        scores = state_scorer.score(torch.full((len(lengths),), SYMBOLS.sos))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(lengths)))
