"""A language model that hears: from YAML to a packed folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_mtla import Speech2Text
from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.data.tokens import TokenOptions, read_lines, tokenise
from espnet_mtla.diagnose.prove import Prover
from espnet_mtla.errors import UserError
from espnet_mtla.model import checkpoint
from espnet_mtla.model.build import load_model
from espnet_mtla.recognise.inputs import list_inputs, load_input
from espnet_mtla.recognise.load import TrainedModel
from espnet_mtla.recognise.options import DecodeOptions
from espnet_mtla.recognise.recogniser import Recogniser
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from espnet_mtla.task.average import Criterion, average
from test.support.tiny_checkpoints import save_tiny
from test.support.tiny_tokenizer import byte_level
from test.support.toy_corpus import Toy

ROWS = 324
TEMPLATES = {"asr": "<audio> Transcribe the speech:", "st": "low <audio> Translate it:"}
DECODE = {"beam_size": 3, "min_length_ratio": 0.2, "max_length_ratio": 0.5}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A corpus of two tasks, and tiny checkpoints in its folder ``hub``."""
    toy = Toy(tmp_path_factory.mktemp("toy"))
    for folder in (toy.train, toy.valid):
        keys = [line.split()[0] for line in (folder / "text").read_text().splitlines()]
        tasks = [f"{key} {('asr', 'st')[i % 2]}\n" for i, key in enumerate(keys)]
        (folder / "utt2task").write_text("".join(tasks))
    hub = toy.folder / "hub"
    save_tiny(hub / "lm", "llama_tied", vocab_size=ROWS)
    config = (hub / "lm" / "config.json").read_text()
    byte_level(hub / "lm", pieces=320)
    (hub / "lm" / "config.json").write_text(config)
    options = TokenOptions("hf", hf_tokenizer=str(hub / "lm"))
    tokenise(read_lines([toy.train / "text"]), toy.folder / "tokens", options)
    toy.tokens = toy.folder / "tokens" / "tokens.txt"
    return toy


def settings(toy: Toy, **changes: object) -> dict[str, object]:
    return {
        "decoder": "pretrained",
        "decoder_conf": {"model": str(toy.folder / "hub" / "lm"), "attention": "mtla"},
        "normalize": None,
        "model_conf": {"ctc_weight": 0.0, "templates": TEMPLATES},
        "lora": {"decoder": {"rank": 2, "targets": ["wq", "ffn.up"]}},
        "freeze_param": ["encoder"],
        **changes,
    }


def train(toy: Toy, output: Path, **changes: object) -> Path:
    """Train for an epoch, and average."""
    options = ("--token_type", "hf", "--bpemodel", toy.tokens.parent / "tokenizer")
    conf = settings(toy, **changes)
    toy("--collect_stats", *options, **conf)
    toy("--output_dir", output, "--max_epoch", 1, *options, **conf)
    average(output, Criterion.parse("valid.acc.max"), 1)
    return output


@pytest.fixture(scope="module")
def trained(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(toy, tmp_path_factory.mktemp("exp") / "asr_llm")


def recogniser(folder: Path, **options: object) -> Recogniser:
    chosen = DecodeOptions(**{**DECODE, **options})
    device = torch.device("cpu")
    return Recogniser(TrainedModel.from_folder(folder, device, chosen), chosen)


def test_a_batch_of_two_tasks_is_each_utterance_alone(toy: Toy, trained: Path) -> None:
    decode = recogniser(trained)
    inputs = list_inputs(toy.train, decode.trained)
    assert [item.task for item in inputs[:3]] == ["asr", "st", "asr"]
    sounds = [load_input(item, decode.trained) for item in inputs]
    together = decode(sounds)
    for sound, result in zip(sounds, together, strict=True):
        (alone,) = decode([sound])
        assert alone.nbest[0].tokens == result.nbest[0].tokens
        assert alone.nbest[0].score == pytest.approx(result.nbest[0].score, abs=1e-4)
        assert alone.prompt_frames == result.prompt_frames
    texts = {name: HFTokeniser(toy.tokens.parent / "tokenizer") for name in TEMPLATES}
    extra = {
        name: sum(len(t.text2tokens(side)) for side in TEMPLATES[name].split("<audio>"))
        for name, t in texts.items()
    }
    for item, result in zip(inputs, together, strict=True):
        sound_frames = -(-result.encoder_frames // 2)
        # The decoder reads the last token of the template as the first of the text.
        assert result.prompt_frames == sound_frames + extra[item.task] - 1


def test_the_task_changes_the_text_and_an_option_chooses_it(trained: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    scores = {
        task: Speech2Text.from_pretrained(
            trained, device="cpu", task_template=task, **DECODE
        )(sound, rate=8000).score
        for task in TEMPLATES
    }
    assert scores["asr"] != scores["st"]
    with pytest.raises(UserError, match=r"several tasks .*: name one, by --task"):
        Speech2Text.from_pretrained(trained, device="cpu")(sound, rate=8000)


def test_what_decoding_promises_holds_with_templates(toy: Toy, trained: Path) -> None:
    decode = recogniser(trained)
    inputs = list_inputs(toy.valid, decode.trained)
    sounds = [load_input(item, decode.trained) for item in inputs]
    results = list(
        Prover(decode.trained, decode.options, sounds, batch_size=3).results()
    )
    compared = [one.check for one in results if one.difference is not None]
    assert {"batch = single", "cached = uncached", "beam 1 = greedy"} <= set(compared)
    assert not [result for result in results if result.fails]


def test_packed_and_moved_with_the_originals_gone(
    toy: Toy, trained: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    shutil.copytree(toy.folder, here / "toy")
    config = (trained / "config.yaml").read_text()
    shutil.copytree(trained, here / "exp")
    (here / "exp" / "config.yaml").write_text(
        config.replace(str(toy.folder), "/nowhere")
    )
    inputs = list_inputs(toy.valid, recogniser(trained).trained)
    sounds = [load_input(item, recogniser(trained).trained) for item in inputs]
    before = recogniser(trained)(sounds)
    pack(here / "exp", tmp_path / "packed", DecodeOptions(**DECODE), Card("me/it"))
    shutil.rmtree(here)
    after = recogniser(shutil.move(tmp_path / "packed", tmp_path / "moved"))(sounds)
    assert [r.nbest[0].tokens for r in before] == [r.nbest[0].tokens for r in after]
    assert [r.nbest[0].score for r in before] == [r.nbest[0].score for r in after]
    files = {path.name for path in (tmp_path / "moved").iterdir()}
    assert {"model.safetensors", "tokenizer", "tokens.txt"} <= files
    saved = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())
    assert saved["model_conf"]["templates"] == TEMPLATES and saved["lora"] == {}
    assert saved["decoder"] == "transformer"


def test_checkpoints_hold_no_weight_of_the_language_model(trained: Path) -> None:
    kept = checkpoint.load(trained / "1epoch.pth")
    own = [name for name in kept if name.startswith("decoder.")]
    assert own and all("lora_" in name for name in own)
    frozen = checkpoint.load(trained / "frozen.pth")
    assert "decoder.embedding.weight" in frozen and "decoder.output.weight" in frozen


def test_a_tokenizer_of_another_model_is_refused(toy: Toy, tmp_path: Path) -> None:
    save_tiny(tmp_path / "other", "llama", vocab_size=ROWS + 6)
    conf = {"model": str(tmp_path / "other")}
    with pytest.raises(
        UserError, match=rf"vocabulary of {ROWS + 6} tokens, and .*{ROWS}"
    ):
        train(toy, tmp_path / "exp", decoder_conf=conf)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "utt2task: no such file; it names a task of model_conf.templates"),
        ("mt", "utt2task: valid-00: 'mt' is none of model_conf.templates, asr, st"),
    ],
)
def test_tables_of_tasks_that_do_not_fit(
    toy: Toy, tmp_path: Path, table: str | None, words: str
) -> None:
    file = toy.valid / "utt2task"
    text = file.read_text()
    try:
        if table is None:
            file.unlink()
        else:
            file.write_text(text.replace("asr", table))
        with pytest.raises(UserError, match=words):
            train(toy, tmp_path / "exp")
    finally:
        file.write_text(text)


def test_a_template_for_all_needs_no_table(toy: Toy, tmp_path: Path) -> None:
    model_conf = {"ctc_weight": 0.0, "template": "<audio> low", "chat": True}
    out = train(toy, tmp_path / "exp", model_conf=model_conf, lora={})
    model, _ = load_model(out / "config.yaml", out / "model.pth")
    assert model.templates is not None and model.templates.names == [""]
    assert not any("templates" in name for name in model.state_dict())
