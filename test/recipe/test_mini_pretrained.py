"""The mini recipe on a pretrained encoder and language model, small and random."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from test.support.tiny_checkpoints import save_tiny
from test.support.tiny_encoders import make_whisper
from test.support.tiny_tokenizer import byte_level

pytestmark = pytest.mark.recipe

ROWS = 324
OPTIONS = (
    *("--train_config", "conf/llm.yaml", "--encoder_config", ""),
    *("--attention", "mtla_s2", "--token_type", "hf"),
    *("--local_data_opts", "--num_train 12 --num_valid 4 --num_test 4"),
    *("--train_opts", "--max_epoch 1", "--nj", "1", "--nbest", "1"),
)
SETTINGS = {
    "frontend": "transformers",
    "normalize": None,
    "encoder": None,
    "projector_conf": {"stack": 4},
    "decoder": "pretrained",
    "model_conf": {"ctc_weight": 0.0, "template": "<audio> Transcribe the speech:"},
    "lora": {"decoder": {"rank": 2, "targets": ["wq"]}},
    "batch_type": "sorted",
    "batch_size": 4,
    "optim": "adam",
    "optim_conf": {"lr": 0.001},
    "num_workers": 0,
}


def make_language_model(folder: Path) -> Path:
    """A tiny Llama, and a tokenizer of as many tokens."""
    save_tiny(folder, "llama_tied", vocab_size=ROWS)
    config = (folder / "config.json").read_text()
    byte_level(folder, pieces=320)
    (folder / "config.json").write_text(config)
    return folder


def test_the_whole_road_with_tokens_of_a_language_model(make_mini, tmp_path) -> None:
    recipe = make_mini("mini")
    whisper = make_whisper(tmp_path / "whisper")
    model = make_language_model(tmp_path / "lm")
    settings = {
        **SETTINGS,
        "frontend_conf": {"model": str(whisper), "layer": -1},
        "decoder_conf": {"model": str(model)},
    }
    (recipe.folder / "conf" / "llm.yaml").write_text(yaml.safe_dump(settings))
    output = recipe.run(*OPTIONS, "--hf_tokenizer", str(model), timeout=600)
    assert "| mtla_s2 " in output.split("== stage 12 pack ==")[1]
    (exp,) = recipe.folder.glob("exp/asr_*_mtla_s2")
    heard = (exp / "decode_decode" / "test" / "1best_recog" / "text").read_text()
    expected = (recipe.folder / "data" / "test" / "text").read_text()
    assert [line.split()[0] for line in heard.splitlines()] == sorted(
        line.split()[0] for line in expected.splitlines()
    )
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["decoder"] == "transformer" and config["token_type"] == "hf"
    assert config["decoder_conf"]["attention"] == "mtla"
