"""Templates: the decoder reads what a language model would, row by row."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.errors import UserError
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.errors import config_errors
from espnet_mtla.model.template import PromptTemplates, set_templates, task_ids
from test.support.tiny_tokenizer import byte_level

TASKS = {"asr": ([7, 8], [9]), "st": ([], [5, 6, 4]), "bare": ([], [])}


@pytest.mark.parametrize("names", [["asr", "st", "bare"], ["st", "st", "asr"]])
def test_rows_are_before_sound_after(names: list[str]) -> None:
    """Against rows put together one by one; padding of the sound holds NaN."""
    templates, embedding = PromptTemplates(TASKS), nn.Embedding(10, 3)
    lengths = torch.tensor([4, 1, 2])
    sound = torch.randn(3, 4, 3)
    for row, length in enumerate(lengths):
        sound[row, length:] = torch.nan
    tasks = torch.tensor([list(TASKS).index(name) for name in names])
    prompt, total = templates(sound, lengths, tasks, embedding)
    for row, (name, length) in enumerate(zip(names, lengths.tolist(), strict=True)):
        before, after = (embedding(torch.tensor(ids).long()) for ids in TASKS[name])
        wanted = torch.cat((before, sound[row, :length], after))
        assert total[row] == len(wanted)
        assert torch.equal(prompt[row, : len(wanted)], wanted)
        alone = templates(
            sound[row : row + 1, :length],
            lengths[row : row + 1],
            tasks[row : row + 1],
            embedding,
        )
        assert torch.equal(alone[0][0], wanted) and alone[1] == len(wanted)
    assert prompt.size(1) == total.max()
    assert torch.equal(total - templates.positions(tasks, total), lengths)


def test_texts_are_trained_with_the_embedding() -> None:
    templates, embedding = PromptTemplates({"": TASKS["asr"]}), nn.Embedding(10, 3)
    prompt, _ = templates(torch.zeros(1, 2, 3), torch.tensor([2]), None, embedding)
    prompt.sum().backward()
    assert embedding.weight.grad.sum(1).nonzero().flatten().tolist() == [7, 8, 9]


def with_templates(folder: Path, **settings: object):
    """A stand-in for a model, with the templates of these settings."""
    tokeniser = HFTokeniser(folder)
    args = Namespace(
        **{"token_list": tokeniser.names, "token_type": "hf", "bpemodel": str(folder)},
        **{"non_linguistic_symbols": None, "model_conf": settings},
    )
    model = Namespace(
        config=ModelConfig(ctc_weight=0.0, **settings),
        decoder=object(),
        templates=None,
        sos=tokeniser.names.index(tokeniser.sos),
    )
    set_templates(model, args)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return byte_level(tmp_path / "model")


def read_by_decoder(model, task: int = 0) -> tuple[list[int], list[int]]:
    """Token ids before and after the sound, the token that the decoder begins with."""
    sizes = model.templates.sizes[task].tolist()
    before = model.templates.before[task, : sizes[0]].tolist()
    return before, [*model.templates.after[task, : sizes[1]].tolist(), model.sos]


@pytest.mark.parametrize(
    "text",
    ["<audio> Transcribe the speech:", "user: <audio>\nTranslate", "<audio> it."],
)
def test_the_decoder_reads_the_tokens_of_the_text(folder: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = with_templates(folder, template=text)
    before, after = text.split("<audio>")
    wanted = [tokenizer.encode(side) for side in (before, after)]
    assert list(read_by_decoder(model)) == wanted


def test_nothing_after_the_sound_leaves_the_tokenizers_beginning(folder: Path) -> None:
    model = with_templates(folder, template="speech: <audio>")
    assert read_by_decoder(model)[1] == [HFTokeniser(folder).ids["<|endoftext|>"]]


def test_a_named_beginning_follows_the_whole_text(folder: Path) -> None:
    names = HFTokeniser(folder).ids
    model = with_templates(folder, template="<audio> low:", sym_sos="<|im_start|>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert read_by_decoder(model)[1][:-1] == tokenizer.encode(" low:")
    assert names["<|im_start|>"] not in read_by_decoder(model)[1][:-1]


def test_a_chat_is_the_tokenizers_own(folder: Path) -> None:
    """With the sound's place replaced by a text, they are the same tokens."""
    model = with_templates(folder, template="<audio> Transcribe it.", chat=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = read_by_decoder(model)
    text = tokenizer.decode([*before, *tokenizer.encode("low mid"), *after])
    assert text == (
        "<|im_start|>user\nlow mid Transcribe it.<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = HFTokeniser(folder).ids
    assert before[0] == ids["<|im_start|>"] and ids["<|im_end|>"] in after


def test_several_tasks_and_their_names(folder: Path) -> None:
    texts = {"asr": "<audio> Transcribe it:", "st": "low <audio> Translate:"}
    model = with_templates(folder, templates=texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for index, text in enumerate(texts.values()):
        wanted = [tokenizer.encode(side) for side in text.split("<audio>")]
        assert list(read_by_decoder(model, index)) == wanted
    assert task_ids(model, ["st", "asr"], None).tolist() == [1, 0]
    assert task_ids(model, ["st", None], "asr").tolist() == [0, 0]
    for names, chosen, words in (
        (
            ["asr", None],
            None,
            r"several tasks \(asr, st\): name one, by --task_template",
        ),
        (
            ["asr", "slu"],
            None,
            "utt2task: 'slu' is no task of this model; it has asr, st",
        ),
        (["asr"], "mt", "task_template: 'mt' is no task"),
    ):
        with pytest.raises(UserError, match=words):
            task_ids(model, names, chosen)


def test_one_task_needs_no_name(folder: Path) -> None:
    model = with_templates(folder, template="<audio> low")
    assert task_ids(model, ["anything", None], None) is None
    with pytest.raises(UserError, match="task_template: 'st' given, and the model has"):
        task_ids(model, [None], "st")


AUDIO_COUNT = "has <audio>, the place of the sound, {} times; once is needed"
BAD = {
    "no place": ({"template": "Transcribe:"}, AUDIO_COUNT.format(0)),
    "two places": ({"template": "<audio> and <audio>"}, AUDIO_COUNT.format(2)),
    "one of several": (
        {"templates": {"asr": "<audio>:", "st": "it:"}},
        r"model_conf\.templates\.st: 'it:' " + AUDIO_COUNT.format(0),
    ),
    "no text": ({"template": 3}, AUDIO_COUNT.format(0)),
    "both": ({"template": "<audio>", "templates": {"a": "<audio>"}}, "choose one"),
    "a chat about nothing": ({"chat": True}, r"model_conf\.chat: needs template"),
    "other ends": (
        {"templates": {"a": "<audio> low", "b": "<audio> mid"}},
        "must end in the same token",
    ),
    "an end and none": ({"templates": {"a": "<audio> low", "b": "<audio>"}}, "same"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_templates_are_refused(folder: Path, what: str) -> None:
    settings, words = BAD[what]
    with pytest.raises(UserError, match=re.sub(r"\s+", r"\\s+", words)):
        with_templates(folder, **settings)


def test_messages_name_a_section_once() -> None:
    for text in ("model_conf.chat: x", "model_conf: x", "chat: x"):
        with pytest.raises(UserError) as caught, config_errors("model_conf"):
            raise UserError(text)
        assert str(caught.value).count("model_conf") == 1


def test_a_tokenizer_without_a_chat_is_refused(folder: Path) -> None:
    for file in folder.glob("chat_template*"):
        file.unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not tokenizer.chat_template
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        with_templates(folder, template="<audio>", chat=True)
