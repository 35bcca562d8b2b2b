"""Texts after templates have the tokens that they have in the whole sentence."""

from __future__ import annotations

import pickle
from argparse import Namespace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from espnet_mtla.errors import UserError
from espnet_mtla.model.batch import Preprocess
from espnet_mtla.model.config import ModelConfig
from espnet_mtla.model.template_text import read_templates
from test.support.real_weights import real_weights
from test.support.tiny_tokenizer import byte_level, word_marks

SENTENCES = {
    "<audio> Transcribe the speech:": "mid Transcribe the speech: {}",
    "<audio>\nTranslate it:\n": "mid\nTranslate it:\n{}",
    "<audio> low: ": "mid low: {}",
    "<audio> low:  ": "mid low:  {}",
    "<audio> it is high": "mid it is high {}",
}
"""Templates, and the sentences that they form with "mid" as the sound and a text."""
TEXTS = ["low mid", "it's high, and low", "Zürich 你好 ☃", "</s> is no end", "high"]
MAKERS = {"byte_level": byte_level, "word_marks": word_marks}


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return MAKERS[request.param](tmp_path / "model")


def options(folder: Path, **model_conf: object) -> Namespace:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    names = {n: name if name.split() == [name] else f"<token {n}>" for n, name in
             names.items()}  # fmt: skip
    return Namespace(
        token_list=[names[number] for number in range(len(names))],
        token_type="hf",
        bpemodel=str(folder),
        non_linguistic_symbols=None,
        model_conf={"ctc_weight": 0.0, **model_conf},
    )


def check_sentence(folder: Path, template: str, texts: list[str]) -> None:
    """Compare with the tokens that Transformers gives for the whole sentence."""
    args = options(folder, template=template)
    prepare = Preprocess(args)
    after = read_templates(args, ModelConfig(**args.model_conf))[""].after
    plain = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    sound = plain.encode("mid", add_special_tokens=False)
    for text in texts:
        sentence = SENTENCES[template].format(text)
        whole = plain.encode(sentence, add_special_tokens=False)
        assert [*sound, *after, *prepare.token_ids(text)] == whole
        tokens = prepare.tokeniser.text2tokens(text)
        assert prepare.tokeniser.tokens2text(tokens) == text


@pytest.mark.parametrize("template", SENTENCES)
def test_tokens_are_those_of_the_whole_sentence(folder: Path, template: str) -> None:
    check_sentence(folder, template, TEXTS)


def test_a_text_begins_with_a_space(tmp_path: Path) -> None:
    """Counted by hand; a text that stands by itself has none."""
    folder = byte_level(tmp_path)
    after = Preprocess(options(folder, template="<audio> low:")).tokeniser
    assert after.text2tokens("low mid")[0] == "Ġlow"
    assert after.text2tokens("") == []
    assert pickle.loads(pickle.dumps(after)).text2tokens("low")[0] == "Ġlow"
    alone = Preprocess(options(folder)).tokeniser
    assert "".join(alone.text2tokens("low mid")) == "lowĠmid"
    for settings in ({"template": "<audio>"}, {"template": "low: <audio> "},
                     {"template": "<audio> low:", "sym_sos": "Ġ"}):  # fmt: skip
        tokens = Preprocess(options(folder, **settings)).tokeniser.text2tokens("low")
        assert "".join(tokens) == "low"


def test_an_intent_is_counted_in_the_same_tokens(tmp_path: Path) -> None:
    """The first word of a text, with the space before it."""
    args = options(byte_level(tmp_path), template="<audio> low:")
    out = Preprocess(args, intents=True)("u1", {"text": "high low mid"})
    prepare = Preprocess(args)
    count = int(out["intent"][0])
    assert out["text"][:count].tolist() == prepare.token_ids("high")


CHATS: dict[str, tuple[str, str]] = {
    "a line": ("{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n", "assistant\n"),
    "a space": (
        "{% if m['role'] == 'user' %}{{ m['content'] }} mid"
        "{% else %} {{ m['content'] }}{% endif %}",
        "",
    ),
}
"""Chat templates: of a message, and what begins the answer."""


@pytest.mark.parametrize("chat", CHATS)
def test_answers_are_those_of_the_chat(tmp_path: Path, chat: str) -> None:
    folder = byte_level(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    message, begin = CHATS[chat]
    tokenizer.chat_template = (
        "{% for m in messages %}" + message + "{% endfor %}"
        "{% if add_generation_prompt %}" + begin + "{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    check_chat(folder, TEXTS[:3], "mid")


def check_chat(folder: Path, texts: list[str], sound: str) -> None:
    """Compare with the chat of a text in the sound's place, and an answer to it."""
    args = options(folder, template="<audio> Transcribe it.", chat=True)
    chat = read_templates(args, ModelConfig(**args.model_conf))[""]
    prepare, tokenizer = Preprocess(args), AutoTokenizer.from_pretrained(folder)
    heard = tokenizer.encode(sound, add_special_tokens=False)
    for text in texts:
        whole = tokenizer.apply_chat_template(
            [
                {"role": "user", "content": f"{sound} Transcribe it."},
                {"role": "assistant", "content": text},
            ],
            tokenize=False,
        )
        expected = tokenizer.encode(whole, add_special_tokens=False)
        ids = [*chat.before, *heard, *chat.after, *prepare.token_ids(text)]
        assert expected[: len(ids)] == ids


def test_a_template_that_shares_a_token_with_the_text(tmp_path: Path) -> None:
    """A chat may put the answer right after letters: "lo" and "w" are one piece."""
    folder = byte_level(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    prepare = Preprocess(options(folder, template="<audio> lo", chat=True))
    with pytest.raises(UserError, match=r"template: its end .* share a token; let the"):
        prepare.token_ids("w mid")


def test_tasks_that_end_in_different_white_space(tmp_path: Path) -> None:
    texts = {"a": "<audio> low:", "b": "<audio> mid:  "}
    with pytest.raises(UserError, match="same token and the same white space"):
        Preprocess(options(byte_level(tmp_path), templates=texts))


@pytest.mark.real_weights
def test_smollm2() -> None:
    folder = Path(real_weights("smollm2-135m"))
    texts = ["hello there", "Please enter the extension.", "dobrý den, 42"]
    check_sentence(folder, "<audio> Transcribe the speech:", texts)
    check_chat(folder, texts, "hello there")
