"""Templates as texts of a Transformers tokenizer: their tokens, and what follows them.

A transcript is tokenised as it would be in the sentence that template and transcript
form together: ``Transcribe the speech: hello`` has the token `` hello`` and not
``hello``. The language model was trained on such sentences.

A template that ends in white space is followed by the transcript at once; between any
other template and the transcript is a space. A chat decides by its chat template.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from espnet_mtla.data.hf_tokens import encode_after, load_tokenizer
from espnet_mtla.errors import UserError
from espnet_mtla.model.config import AUDIO, ModelConfig

Ids = list[int]
_WORD = "a"
"""Stands for the sound where a text after it is tokenised."""


@dataclass(frozen=True)
class TemplateText:
    """A template in tokens.

    Attributes:
        before: token ids before the sound.
        after: token ids after it.
        separator: white space between the template and the transcript.
    """

    before: Ids
    after: Ids
    separator: str


def read_templates(args: Namespace, config: ModelConfig) -> dict[str, TemplateText]:
    """Return the templates of ``config`` by task, in tokens of ``args.bpemodel``.

    Raises:
        UserError: there is no tokenizer, or it has no chat template.
    """
    tokenizer, where = load_tokenizer(args.bpemodel), str(args.bpemodel)
    read = _read_chat if config.chat else _read_plain
    return {
        name: read(text, tokenizer, where)
        for name, text in config.all_templates.items()
    }


def template_end(templates: Iterable[TemplateText]) -> tuple[int, str] | None:
    """Return the token that transcripts follow, and the white space between them.

    Returns:
        None if the transcripts follow the sound.

    Raises:
        UserError: the templates of several tasks end differently.
    """
    ends = {(t.after[-1], t.separator) if t.after else None for t in templates}
    if len(ends) > 1:
        raise UserError(
            "model_conf.templates: the texts after the sound must end in the same "
            "token and the same white space; or name what the decoder reads after "
            "them: model_conf.sym_sos"
        )
    return ends.pop()


def transcripts_follow(args: Namespace) -> tuple[int, str] | None:
    """Return what :func:`template_end` returns for the options of a model.

    Transcripts follow no template where there is none, or after ``sym_sos``.
    """
    settings = getattr(args, "model_conf", {})
    if not (settings.get("template") or settings.get("templates")):
        return None
    config = ModelConfig(**settings)
    if config.sym_sos is not None or not config.uses_decoder:
        return None
    return template_end(read_templates(args, config).values())


def _read_plain(text: str, tokenizer: Any, where: str) -> TemplateText:
    del where
    before, after = text.split(AUDIO)
    stem = after.rstrip(" ")
    separator = "" if not stem or stem[-1].isspace() else after[len(stem) :] or " "
    ids = tokenizer.encode(before, add_special_tokens=False)
    return TemplateText(
        [*_begin(tokenizer), *ids], _after_sound(stem, tokenizer), separator
    )


def _read_chat(text: str, tokenizer: Any, where: str) -> TemplateText:
    """Read a template as the user's message, up to where the answer begins."""
    if not tokenizer.chat_template:
        raise UserError(f"model_conf.chat: {where}: the tokenizer has no chat template")
    question = {"role": "user", "content": text}
    chat: str = tokenizer.apply_chat_template(
        [question], tokenize=False, add_generation_prompt=True
    )
    if chat.count(AUDIO) != 1:
        raise UserError(f"model_conf.chat: {where}: its chat template drops {AUDIO}")
    answered: str = tokenizer.apply_chat_template(
        [question, {"role": "assistant", "content": _WORD}], tokenize=False
    )
    separator = ""
    if answered.startswith(chat):  # some templates write past answers otherwise
        separator = answered[len(chat) :].partition(_WORD)[0]
    before, after = chat.split(AUDIO)
    return TemplateText(
        tokenizer.encode(before, add_special_tokens=False),
        _after_sound(after, tokenizer),
        separator if separator.isspace() else "",
    )


def _after_sound(text: str, tokenizer: Any) -> Ids:
    """Return the tokens of a text as after a word.

    Tokenizers like Llama's mark the beginning of every text as that of a word, also
    where a space or a line break begins it.
    """
    plain: Ids = tokenizer.encode(text, add_special_tokens=False)
    if not text[:1].isspace():
        return plain
    return encode_after(tokenizer, _WORD, text) or plain


def _begin(tokenizer: Any) -> Ids:
    """Return the tokens that the tokenizer puts before every text."""
    begin = tokenizer.bos_token_id
    return [begin] if begin in tokenizer.encode("", add_special_tokens=True)[:1] else []
