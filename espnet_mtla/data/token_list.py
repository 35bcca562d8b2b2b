"""Token lists, tokenisers and counts of unknown tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.data.tokens import BLANK, SOS_EOS, TOKEN_TYPES, UNK
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.text_files import read_text

if TYPE_CHECKING:
    from espnet2.text.abs_tokenizer import AbsTokenizer


def read_token_list(
    source: str | Path | Sequence[str], token_type: str | None = None
) -> list[str]:
    """Return the tokens in order of ids, from a file (one per line) or a sequence.

    Args:
        source: file or sequence.
        token_type: of ``hf``, the special tokens are those of its tokenizer.
    Raises:
        UserError: the file is missing, a token is duplicate, or a special token is
            missing or in the wrong position.
    """
    if isinstance(source, str | Path):
        text = read_text(source, "token_list: ")
        # Not splitlines(): a token may be any character, line separators too.
        tokens, name = text.rstrip("\n").split("\n"), str(source)
    else:
        name = "token_list"
        if not isinstance(source, Sequence) or not all(
            isinstance(token, str) for token in source
        ):
            raise UserError(f"{name}: a list of texts, or a file's name, is needed")
        tokens = list(source)
    duplicates = [token for token, count in Counter(tokens).items() if count > 1]
    if duplicates:
        raise UserError(f"{name}: token {duplicates[0]!r} occurs twice")
    if token_type == "hf":
        return tokens
    if len(tokens) < 4 or tokens[0] != BLANK or tokens[-1] != SOS_EOS:
        raise UserError(
            f"{name}: {BLANK} must come first and {SOS_EOS} last, with tokens between"
        )
    if UNK not in tokens:
        raise UserError(f"{name}: {UNK} is missing")
    return tokens


def build_tokeniser(
    token_type: str,
    bpemodel: str | Path | None,
    non_linguistic_symbols: str | Path | None = None,
) -> AbsTokenizer | HFTokeniser:
    """Build the tokeniser, which converts text to tokens and back.

    Args:
        token_type: one of ``TOKEN_TYPES``.
        bpemodel: sentencepiece model, needed for ``bpe`` and ``unigram``; for ``hf``
            folder or hub name of a Transformers tokenizer.
        non_linguistic_symbols: file of symbols, for ``char``.
    Raises:
        UserError: the type is unknown, or a file is missing or no model.
    """
    if token_type not in TOKEN_TYPES:
        raise UserError(
            f"token_type: {token_type!r} given, one of {', '.join(TOKEN_TYPES)} needed"
        )
    if token_type == "hf":
        if bpemodel is None:
            raise UserError("token_type hf needs --bpemodel, a Transformers tokenizer")
        return HFTokeniser(bpemodel)
    for option, path in (
        ("bpemodel", bpemodel),
        ("non_linguistic_symbols", non_linguistic_symbols),
    ):
        if path is not None and not Path(path).is_file():
            raise UserError(f"{option}: {path}: {no_file(path)}")
    if token_type in ("bpe", "unigram"):
        if bpemodel is None:
            raise UserError(f"token_type {token_type} needs --bpemodel")
        from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer

        pieces = SentencepiecesTokenizer(bpemodel)
        try:
            # It loads its model at the first call, which is not thread-safe.
            pieces.text2tokens("")
        except RuntimeError as error:
            raise UserError(
                f"bpemodel: {bpemodel}: no model of sentencepiece ({error})"
            ) from error
        return pieces
    if token_type == "char":
        from espnet2.text.char_tokenizer import CharTokenizer

        return CharTokenizer(non_linguistic_symbols=non_linguistic_symbols)
    from espnet2.text.word_tokenizer import WordTokenizer

    return WordTokenizer()


def word_starts(token_list: Sequence[str], token_type: str) -> list[bool]:
    """Return, per token, whether it begins a word or is a space.

    >>> word_starts(["▁a", "b"], "bpe")
    [True, False]
    """
    if token_type in ("bpe", "unigram"):
        return [token.startswith("▁") for token in token_list]
    if token_type == "hf":
        return [token.startswith(("Ġ", "▁")) for token in token_list]
    return [token_type == "word" or token == "<space>" for token in token_list]


@dataclass
class UnknownSymbols:
    """Counts of tokens that are not in a token list, and the first of them."""

    counts: Counter[str] = field(default_factory=Counter)
    first_symbol: str = ""
    first_utterance: str = ""

    @property
    def total(self) -> int:
        """Return the number of occurrences of unknown tokens."""
        return self.counts.total()


def find_unknown(
    texts: Mapping[str, str],
    tokeniser: AbsTokenizer | HFTokeniser,
    token_list: Sequence[str],
) -> UnknownSymbols:
    """Tokenise texts (by utterance) and count the tokens that are not in the list."""
    known, unknown = set(token_list), UnknownSymbols()
    for utterance, text in texts.items():
        for token in tokeniser.text2tokens(text):
            if token in known:
                continue
            if not unknown.counts:
                unknown.first_symbol, unknown.first_utterance = token, utterance
            unknown.counts[token] += 1
    return unknown
