"""Training that begins from a language model: YAML to a folder that stands alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from espnet_mtla.errors import UserError
from espnet_mtla.model.build import load_model
from espnet_mtla.task import launch
from espnet_mtla.task.tasks import task_class
from test.support.tiny_checkpoints import save_tiny
from test.support.toy_corpus import SETTINGS, Toy

VOCABULARY = 6  # of the toy corpus
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = Toy(tmp_path_factory.mktemp("toy"))
    toy("--collect_stats")
    return toy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny(folder, "llama", vocab_size=VOCABULARY)
    return folder


def pretrained(checkpoint: Path, **conf: object) -> dict[str, object]:
    """Changes of a training YAML: its decoder begins from ``checkpoint``."""
    settings = {"model": str(checkpoint), **conf}
    return {"decoder": "pretrained", "decoder_conf": settings}


@pytest.mark.parametrize("attention", [None, "mtla"])
def test_a_trained_folder_does_not_need_the_checkpoint(
    toy: Toy, checkpoint: Path, attention: str | None, tmp_path: Path
) -> None:
    copy, output = tmp_path / "checkpoint", tmp_path / "exp"
    shutil.copytree(checkpoint, copy)
    changes = pretrained(copy, attention=attention)
    toy("--output_dir", output, "--max_epoch", 1, **changes)
    toy("--output_dir", output, "--max_epoch", 2, **changes)  # resumed
    assert (output / "2epoch.pth").is_file()
    shutil.rmtree(copy)
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["decoder"] == "transformer"
    assert config["decoder_base_model"] == str(copy)
    assert config["decoder_conf"]["feed_forward"] == "swiglu"
    assert config["decoder_conf"]["attention"] == (attention or "gqa")
    model, _ = load_model(output / "config.yaml", output / "2epoch.pth")
    assert model.decoder is not None
    assert model.decoder.config.norm == "rmsnorm"


def parse(toy: Toy, *fragments: Path, **changes: object):
    file = toy.config(**{"normalize": "utterance_mvn", **changes})
    options = ["--token_list", str(toy.tokens), "--output_dir", str(toy.folder)]
    return launch.parse(launch.read_config(file, *fragments), options)


def test_training_begins_from_the_checkpoints_weights(
    toy: Toy, checkpoint: Path
) -> None:
    """Also with an initialisation of the other parts."""
    args = parse(toy, init="xavier_uniform", **pretrained(checkpoint))
    model = task_class("asr").build_model(args)
    source = save_tiny(checkpoint, "llama", vocab_size=VOCABULARY)
    ours = model.decoder.layers[1].ffn.down.weight
    torch.testing.assert_close(ours, source.model.layers[1].mlp.down_proj.weight)


@pytest.mark.parametrize("name", ["mla", "mtla_s2", "mtla_s3"])
def test_an_attention_file_laid_over_it_means_conversion(
    name: str, toy: Toy, checkpoint: Path
) -> None:
    fragment = ROOT / "conf" / "attention" / f"{name}.yaml"
    args = parse(toy, fragment, **pretrained(checkpoint))
    decoder = task_class("asr").build_model(args).decoder
    stride = int(name[-1]) if "_s" in name else 1
    attention = decoder.layers[0].attention
    assert attention.layout.stride == stride
    # Two key-value heads of width 8: latents of 16, a rotary key of 8.
    assert attention.layout.width == 16 + 8
    assert attention.settings.kv_norm == "none"


def test_a_checkpoint_keeps_the_attention_that_it_has(
    toy: Toy, checkpoint: Path
) -> None:
    conf = ROOT / "conf" / "attention"
    args = parse(toy, conf / "gqa.yaml", **pretrained(checkpoint))
    decoder = task_class("asr").build_model(args).decoder
    assert decoder.config.attention_conf["num_kv_heads"] == 2
    args = parse(toy, conf / "mha.yaml", **pretrained(checkpoint))
    with pytest.raises(UserError, match=r"attention: mha given, .* has gqa; leave it"):
        task_class("asr").build_model(args)


BAD: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "no model": (lambda _: {}, r"decoder_conf\.model: '' given"),
    "a size": (
        lambda folder: {"model": str(folder), "num_layers": 3},
        r"decoder_conf\.num_layers: unknown key",
    ),
    "a size of another attention": (
        lambda folder: {"model": str(folder), "attention_conf": {"down_rate": 2}},
        r"decoder_conf\.attention_conf\.down_rate: unknown key; valid: none",
    ),
    "a width that the checkpoint sets": (
        lambda folder: {
            **{"model": str(folder), "attention": "mla"},
            "attention_conf": {"v_head_dim": 2},
        },
        r"v_head_dim: unknown key; .* valid: kv_lora_rank, qk_rope_head_dim",
    ),
    "an unknown attention": (
        lambda folder: {"model": str(folder), "attention": "flash"},
        r"decoder_conf\.attention: 'flash' given, one of null, mha",
    ),
    "a text that is not read": (
        lambda folder: {"model": str(folder), "calibration": "text"},
        r"decoder_conf\.calibration: only conversion",
    ),
}


@pytest.mark.parametrize(("conf", "message"), BAD.values(), ids=BAD)
def test_bad_settings_are_refused_before_anything_is_loaded(
    conf: Callable, message: str, toy: Toy, checkpoint: Path
) -> None:
    with pytest.raises(UserError, match=message):
        parse(toy, decoder="pretrained", decoder_conf=conf(checkpoint))


def test_no_decoder_is_for_training_an_encoder(toy: Toy) -> None:
    args = parse(toy, decoder=None, decoder_conf={})
    with pytest.raises(UserError, match=r"decoder: none given; to train an encoder"):
        task_class("asr").build_model(args)
    args.model_conf = {"ctc_weight": 1.0}
    assert task_class("asr").build_model(args).decoder is None


def test_another_vocabulary_is_refused(toy: Toy, tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    args = parse(toy, **pretrained(tmp_path))
    with pytest.raises(UserError, match=r"vocabulary of 60 tokens, .* list has 6"):
        task_class("asr").build_model(args)


def test_the_default_is_a_decoder_from_nothing(toy: Toy) -> None:
    args = parse(toy)
    assert args.decoder == "transformer"
    assert args.decoder_conf == SETTINGS["decoder_conf"]
