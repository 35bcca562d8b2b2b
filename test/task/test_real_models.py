"""A real language model behind a sound: its tokens, its chat, its own numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from espnet_mtla import Speech2Text
from espnet_mtla.data.tokens import TokenOptions, read_lines, tokenise
from espnet_mtla.model.build import load_model
from espnet_mtla.task.average import Criterion, average
from test.support.real_weights import real_weights
from test.support.toy_corpus import Toy

pytestmark = pytest.mark.real_weights
CHAT = {"template": "<audio>\nTranscribe the speech.", "chat": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with adapters, trained for an epoch on tones."""
    toy, source = (
        Toy(tmp_path_factory.mktemp("toy")),
        Path(real_weights("smollm2-135m")),
    )
    options = TokenOptions("hf", hf_tokenizer=str(source))
    tokenise(read_lines([toy.train / "text"]), toy.folder / "tokens", options)
    toy.tokens = toy.folder / "tokens" / "tokens.txt"
    words = ("--token_type", "hf", "--bpemodel", toy.folder / "tokens" / "tokenizer")
    settings = {
        "decoder": "pretrained",
        "decoder_conf": {"model": str(source)},
        "normalize": None,
        "model_conf": {"ctc_weight": 0.0, **CHAT},
        "lora": {"decoder": {"rank": 4, "targets": ["wq", "wv"]}},
        "lr_scale": {"decoder": 0.1},
    }
    output = toy.folder / "exp"
    toy("--collect_stats", *words, **settings)
    toy("--output_dir", output, "--max_epoch", 1, *words, **settings)
    average(output, Criterion.parse("valid.acc.max"), 1)
    return output


def test_the_decoder_computes_what_the_language_model_does(trained: Path) -> None:
    """A text in the sound's place: the chat that Transformers makes of it."""
    source = Path(real_weights("smollm2-135m"))
    model, args = load_model(trained / "config.yaml")  # as at the beginning
    assert args.token_type == "hf" and len(model.token_list) == 49152
    whole, _ = load_model(trained / "config.yaml", trained / "model.pth")
    tokenizer = AutoTokenizer.from_pretrained(source)
    lm = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    before = torch.load(trained / "frozen.pth", weights_only=True)
    plain = {
        name.removeprefix("decoder.").replace(".base_layer", ""): value
        for name, value in before.items()
        if name.startswith("decoder.")
    }
    model.decoder.load_state_dict(plain)
    said, answer = "hello there", "hello there friend"
    heard = tokenizer.encode(said)
    with torch.no_grad():
        vectors = lm.get_input_embeddings()(torch.tensor([heard]))
        lengths = torch.tensor([len(heard)])
        assert model.templates is not None
        prompt, total = model.eval().templates(
            vectors, lengths, None, model.decoder.embed
        )
        ids = tokenizer.encode(answer)
        ours = model.decoder(prompt, total, torch.tensor([[model.sos, *ids]]))
        content = CHAT["template"].replace("<audio>", said)
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )
        start = tokenizer.encode(chat)
        theirs = lm(torch.tensor([[*start, *ids]])).logits[:, len(start) - 1 :]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
    assert whole.token_list[whole.eos] == "<|im_end|>"


def test_epochs_are_small_and_the_model_decodes(trained: Path) -> None:
    sizes = {
        name: (trained / name).stat().st_size for name in ("1epoch.pth", "frozen.pth")
    }
    assert sizes["1epoch.pth"] < 20e6 < 400e6 < sizes["frozen.pth"]
    sound = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    options = {"beam_size": 2, "max_length_ratio": -5.0}
    speech2text = Speech2Text.from_pretrained(trained, device="cpu", **options)
    (result,) = speech2text(sound, rate=8000)
    text, tokens, ids, _ = result
    theirs = AutoTokenizer.from_pretrained(Path(real_weights("smollm2-135m")))
    assert text == theirs.decode(ids, skip_special_tokens=True)
    assert len(tokens) == len(ids) <= 5
