"""A small Llama trained on the text of the licence, shared by tests of conversion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from espnet_mtla.hf.convert.heal import Healing
from espnet_mtla.hf.convert.text import TextBlocks
from test.support.tiny_llama import LLAMA_SIZES

TEXT = Path(__file__).resolve().parents[3] / "LICENSE"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, LlamaForCausalLM, TextBlocks]:
    """The folder of the model with its tokeniser, the model, and the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train(
        [str(TEXT)],
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=alphabet,
            special_tokens=["<s>"],
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    text = TextBlocks.read([TEXT], fast, 32)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA_SIZES, vocab_size=300))
    Healing(150, 8, 1e-2).run(model, text.training)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder, model, text
