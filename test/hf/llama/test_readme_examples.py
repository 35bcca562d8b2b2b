"""The examples of the reference's README, with our names in place of its own."""

from __future__ import annotations

import re
import textwrap
from importlib.metadata import distribution
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from espnet_mtla.errors import UserError
from espnet_mtla.hf import LlamaMTLAForCausalLM
from test.support.tiny_llama import SIZES, tiny, tokens

OUR_NAMES = {
    "from mtla import Multi": "from espnet_mtla.attention import Multi",
    "from mtla import Llama": "from espnet_mtla.hf import Llama",
    "import mtla\n": "import espnet_mtla.hf\n",
}


def example(containing: str, **changes: str) -> str:
    """Return the Python block that contains these words, with our names."""
    text = distribution("mtla").read_text("METADATA")
    blocks = re.findall(r"``` ?python\n(.*?)```", text, re.DOTALL)
    (block,) = (block for block in blocks if containing in block)
    block = textwrap.dedent(block)
    for theirs, ours in {**OUR_NAMES, **changes}.items():
        block = block.replace(theirs, ours)
    assert "from mtla" not in block and "import mtla" not in block
    return block


def test_the_attention() -> None:
    found: dict = {}
    exec(example("assert y.shape == x.shape"), found)
    assert found["y"].shape == (2, 64, 512)


def test_incremental_decoding(capsys) -> None:
    """FlashAttention is requested on a GPU; if it cannot run, the error says why."""
    block = example("use_flashattn_infer").replace('"cuda"', '"cpu"')
    with pytest.raises(UserError, match="use_flashattn_infer=True: "):
        exec(block, {})
    exec(block.replace("infer=True", "infer=False"), {})
    assert "Output shape: torch.Size([2, 16, 512])" in capsys.readouterr().out


def test_transformers(tmp_path: Path) -> None:
    shape = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    sizes = {name: SIZES[name] for name in (*shape, "num_attention_heads")}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2))
    llama.save_pretrained(tmp_path / "llama")
    tiny(3).float().save_pretrained(tmp_path / "mtla")
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.save_pretrained(tmp_path / "mtla")
    found: dict = {}
    block = example("vars(base_config)")
    block = block.replace("meta-llama/Meta-Llama-3-8B", str(tmp_path / "llama"))
    exec(block.replace("mtla/model/path", str(tmp_path / "mtla")), found)
    built, model = LlamaMTLAForCausalLM(found["config"]), found["model"]
    assert built.config.down_rate == 2 and built.config.hidden_size == 32
    assert type(model) is LlamaMTLAForCausalLM and model.config.down_rate == 3
    assert model.generate(tokens(1, 4), max_new_tokens=3).shape == (1, 7)
    assert len(found["tokenizer"]) == 2
