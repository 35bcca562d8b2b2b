"""Tokens of a Transformers tokenizer, with the ids of the language model it belongs to.

The token list has a line for each row of the model's embedding. A line is the token as
the tokenizer spells it (``Ġthe``), or ``<token N>`` where that is no single word.
Rows that the tokenizer does not use, which pad the embedding, are ``<unused N>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_mtla.errors import UserError

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files of which a folder with a tokenizer has at least one."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class HFTokeniser:
    """Split text by a Transformers tokenizer, with espnet2's interface of a tokeniser.

    Names of special tokens within a text, such as ``</s>``, are split like other text,
    so that no text can end early. After :meth:`follow`, texts are split as after a
    template.

    Args:
        source: folder of a tokenizer, or its name on the hub.
    Raises:
        UserError: there is no tokenizer, or it has no token that ends a text.
    """

    def __init__(self, source: str | Path) -> None:
        self.tokenizer = load_tokenizer(source, split_special_tokens=True)
        self.names = token_names(self.tokenizer)
        self.ids = {name: number for number, name in enumerate(self.names)}
        self.context = self.separator = ""
        # The first call sets up the tokenizer, which is not thread-safe.
        self.text2tokens("")

    @property
    def eos(self) -> str:
        """Name of the token that ends a text."""
        return self.names[self.tokenizer.eos_token_id]

    @property
    def sos(self) -> str:
        """Name of the token that begins a text; :attr:`eos` where there is none."""
        begin = self.tokenizer.bos_token_id
        return self.eos if begin is None else self.names[begin]

    def follow(self, token: int, separator: str) -> None:
        """Split texts from now on as they are split after a template.

        Args:
            token: id of the template's last token.
            separator: white space between the template and a text.
        """
        self.context, self.separator = self.tokenizer.decode([token]), separator

    def text2tokens(self, line: str) -> list[str]:
        """Return the names of the tokens of a text; no token is added.

        Raises:
            UserError: the template's last token would join the text.
        """
        if not self.context or not line:
            ids = self.tokenizer.encode(line, add_special_tokens=False)
            return [self.names[number] for number in ids]
        after = encode_after(self.tokenizer, self.context, self.separator + line)
        if after is None:
            raise UserError(
                f"model_conf.template: its end {self.context!r} and the text "
                f"{line[:40]!r} share a token; let the template end in a line break"
            )
        return [self.names[number] for number in after]

    def tokens2text(self, tokens: Sequence[str]) -> str:
        """Return the text as the tokenizer decodes it, without special tokens.

        Unused rows have no text. White space after a template is no part of a text.
        Control characters and line breaks, which language models write, become spaces:
        a text is one line of a table.
        """
        ids = [self.ids[token] for token in tokens if token in self.ids]
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        text = _CONTROL.sub(" ", text)
        return text.lstrip() if self.separator else text

    def check_list(self, token_list: Sequence[str], where: str) -> None:
        """Require that ``token_list`` is this tokenizer's.

        Raises:
            UserError: it has other tokens; begins with ``where``.
        """
        size = len(self.names)
        unused = [unused_name(number) for number in range(size, len(token_list))]
        if list(token_list) != [*self.names, *unused]:
            raise UserError(
                f"{where}: the tokenizer has {size} tokens, and the token list with "
                f"{len(token_list)} lines is of another one; make the list again "
                "(espnet-mtla tokenise)"
            )


def encode_after(tokenizer: Any, context: str, text: str) -> list[int] | None:
    """Return the token ids of a text as it is tokenised after another.

    Returns:
        The ids; None if a token has characters of both texts.
    """
    before = tokenizer.encode(context, add_special_tokens=False)
    both = tokenizer.encode(context + text, add_special_tokens=False)
    return both[len(before) :] if both[: len(before)] == before else None


def load_tokenizer(source: str | Path, **options: Any) -> Any:
    """Load a Transformers tokenizer; no code from its folder is executed.

    Args:
        source: folder, or name on the hub.
        options: keywords of ``AutoTokenizer.from_pretrained``.
    Raises:
        UserError: there is none, or it has no token that ends a text.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise UserError(
            'token_type hf: Transformers is missing: pip install "espnet-mtla[hf]"'
        ) from None
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in FILES):
        raise UserError(f"{source}: no tokenizer: none of {', '.join(FILES)} is there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), trust_remote_code=False, **options
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{source}: no tokenizer that Transformers can load ({reason}); a folder "
            "or owner/name on the hub is needed"
        ) from None
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{source}: the tokenizer has no eos_token, the token that ends a text; "
            "set it in tokenizer_config.json"
        )
    return tokenizer


def token_names(tokenizer: Any) -> list[str]:
    """Return the names of a tokenizer's tokens by id; each is one word, and unique."""
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    names = [unused_name(number) for number in range(max(tokens) + 1)]
    for number, token in tokens.items():
        is_word = token.split() == [token]
        names[number] = token if is_word else f"<token {number}>"
    if len(set(names)) < len(names):
        raise UserError(f"{tokenizer.name_or_path}: two of its tokens have one name")
    return names


def unused_name(number: int) -> str:
    """Return the name of a row of the embedding that the tokenizer does not use."""
    return f"<unused {number}>"


def model_rows(source: str | Path, names: Sequence[str]) -> int:
    """Return the number of rows of the model's embedding.

    Args:
        source: folder or name on the hub, of a model or of a tokenizer alone.
        names: the tokenizer's tokens: their number is returned for a tokenizer alone.
    Raises:
        UserError: the model has fewer rows than the tokenizer has tokens.
    """
    rows = _configured_rows(source)
    if rows is None:
        return len(names)
    if rows < len(names):
        raise UserError(
            f"{source}: the tokenizer has {len(names)} tokens and the model "
            f"{rows} rows in its embedding: it is the tokenizer of another model"
        )
    return rows


def _configured_rows(source: str | Path) -> int | None:
    """Return ``vocab_size`` of the model's ``config.json``; None: no such file."""
    from transformers import PretrainedConfig

    folder = Path(source)
    if folder.is_dir():
        file = folder / "config.json"
        if not file.is_file():
            return None
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{file}: not JSON") from None
    else:
        try:
            settings, _ = PretrainedConfig.get_config_dict(str(source))
        except OSError:
            return None
    text = settings.get("text_config")
    rows = settings.get("vocab_size", text and text.get("vocab_size"))
    return rows if isinstance(rows, int) else None
