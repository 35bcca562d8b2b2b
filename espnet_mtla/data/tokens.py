"""Token lists in ESPnet's layout: ``<blank>``, ``<unk>``, the tokens, ``<sos/eos>``.

Training and decoding split text with espnet2's tokenizers. A list contains every token
that these return for the text from which it was built, except those left to ``<unk>``.
Of ``hf`` it has instead the tokens of a Transformers tokenizer, whatever the text.
"""

from __future__ import annotations

import io
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file, atomic_folder
from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError
from espnet_mtla.settings.names import TOKENISER, TOKENIZER, TOKENS
from espnet_mtla.text_files import read_text

BLANK, UNK, SOS_EOS, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
RESERVED = (BLANK, UNK, SOS_EOS)
TOKEN_TYPES = ("bpe", "unigram", "char", "word", "hf")
TYPE_ALIASES = {"hugging_face": "hf"}
"""ESPnet's names of token types, and ours."""
# Fixed, because the piece scores depend in their last bits on the number of threads.
_THREADS = 4


@dataclass(frozen=True)
class TokenOptions:
    """Type and number of tokens.

    ``vocab_size`` counts every line of ``tokens.txt``. For ``bpe`` and ``unigram`` it
    is required and exact; for ``char`` and ``word`` it is the maximum (None: none).
    ``min_count`` (``char`` and ``word``) replaces rarer tokens by ``<unk>``.
    ``symbols`` are non-linguistic symbols, see :func:`read_symbols`. ``hf_tokenizer``,
    for ``hf``, is the folder of a tokenizer or of its model, or the name on the hub.
    """

    token_type: str = "bpe"
    vocab_size: int | None = None
    min_count: int = 1
    symbols: tuple[str, ...] = ()
    hf_tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.token_type not in TOKEN_TYPES:
            raise UserError(
                f"--token_type {self.token_type}: choose from {TOKEN_TYPES}"
            )
        if (self.token_type == "hf") != (self.hf_tokenizer is not None):
            raise UserError(
                "--token_type hf and --hf_tokenizer NAME belong together: the name on "
                "the hub, or the folder, of a Transformers tokenizer"
            )
        chosen = (self.vocab_size, self.min_count, self.symbols)
        if self.token_type == "hf" and chosen != (None, 1, ()):
            raise UserError(
                "--token_type hf: the tokenizer decides on the tokens; leave out "
                "--vocab_size, --min_count and --non_linguistic_symbols"
            )
        if self.vocab_size is None and self.uses_pieces:
            raise UserError(f"--token_type {self.token_type} needs --vocab_size")
        if self.vocab_size is not None and self.vocab_size <= len(RESERVED):
            raise UserError(
                f"--vocab_size {self.vocab_size}: must be above {len(RESERVED)}, "
                f"which {', '.join(RESERVED)} take"
            )
        if self.min_count < 1:
            raise UserError(f"--min_count {self.min_count}: must be at least 1")

    @property
    def uses_pieces(self) -> bool:
        """Return True if a sentencepiece model splits the text."""
        return self.token_type in ("bpe", "unigram")


def read_symbols(path: str | Path) -> tuple[str, ...]:
    """Read non-linguistic symbols, one per line; each is always a single token."""
    path = Path(path)
    symbols = read_text(path).splitlines()
    for number, symbol in enumerate(symbols, 1):
        place = f"{path}:{number}"
        if not symbol or symbol.split() != [symbol]:
            raise UserError(f"{place}: empty line or white space in {symbol!r}")
        if symbol in (*RESERVED, SPACE):
            raise UserError(f"{place}: {symbol} is in every token list already")
        for other in symbols[: number - 1]:
            if symbol.startswith(other) or other.startswith(symbol):
                raise UserError(
                    f"{place}: {symbol!r} and {other!r} cannot be told apart: one "
                    "begins with the other"
                )
    return tuple(symbols)


def read_lines(paths: Sequence[str | Path]) -> list[str]:
    """Return the non-empty texts of Kaldi tables in file order; log the empty ones."""
    values = [value for path in paths for value in read_table(path).values()]
    lines = [value for value in values if value]
    if len(lines) < len(values):
        logging.info("%d empty texts left out", len(values) - len(lines))
    if not lines:
        raise UserError(f"{', '.join(map(str, paths))}: no text to make tokens from")
    return lines


def tokenise(
    lines: Sequence[str], output_dir: str | Path, options: TokenOptions
) -> list[str]:
    """Write ``tokens.txt`` and the tokeniser's files, if any; return the tokens.

    ``tokens.txt`` is removed first and written last, so it marks a complete folder.
    """
    output = Path(output_dir)
    if options.hf_tokenizer is not None:
        return copy_tokenizer(lines, output, options)
    if options.uses_pieces:
        model = train_pieces(lines, options)
        pieces, split = load_pieces(model, lines)
    else:
        model = None
        split = splitter(options)
        pieces = count_tokens(lines, split, options)
    tokens = [BLANK, UNK, *pieces, SOS_EOS]
    log_token_counts(lines, tokens, split, options)
    remove_tokens(output)
    if model is not None:
        with atomic_file(output / TOKENISER, "wb") as stream:
            stream.write(model)
    write_tokens(output, tokens)
    return tokens


def copy_tokenizer(
    lines: Sequence[str], output: Path, options: TokenOptions
) -> list[str]:
    """Copy a Transformers tokenizer into a folder; return the tokens by id.

    There is a token for each row of the embedding of the tokenizer's model.
    """
    from espnet_mtla.data import hf_tokens

    assert options.hf_tokenizer is not None, "the caller has checked it"
    tokeniser = hf_tokens.HFTokeniser(options.hf_tokenizer)
    size = len(tokeniser.names)
    rows = hf_tokens.model_rows(options.hf_tokenizer, tokeniser.names)
    tokens = [*tokeniser.names, *map(hf_tokens.unused_name, range(size, rows))]
    log_token_counts(lines, tokens, tokeniser.text2tokens, options)
    remove_tokens(output)
    with atomic_folder(output / TOKENIZER) as aside:
        hf_tokens.load_tokenizer(options.hf_tokenizer).save_pretrained(aside)
    write_tokens(output, tokens)
    return tokens


def remove_tokens(output: Path) -> None:
    """Remove token list and tokeniser from a folder."""
    for name in (TOKENS, TOKENISER):
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / TOKENIZER, ignore_errors=True)


def write_tokens(output: Path, tokens: Sequence[str]) -> None:
    """Write ``tokens.txt``, a token a line."""
    with atomic_file(output / TOKENS) as stream:
        stream.writelines(f"{token}\n" for token in tokens)


def train_pieces(lines: Iterable[str], options: TokenOptions) -> bytes:
    """Train a sentencepiece model without <s> and </s>; return its bytes.

    Raises :class:`UserError` with the largest or smallest possible vocabulary.
    """
    import sentencepiece

    assert options.vocab_size is not None, "TokenOptions require it for pieces"
    lines = list(lines)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=options.token_type,
            # sentencepiece counts <unk>, but not our <blank> and <sos/eos>.
            vocab_size=options.vocab_size - 2,
            character_coverage=1.0,
            user_defined_symbols=list(options.symbols),
            bos_id=-1,
            eos_id=-1,
            num_threads=_THREADS,
            # The default silently skips long lines.
            max_sentence_length=max(len(line.encode()) for line in lines) + 1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise explain_trainer(str(error), options) from None
    return model.getvalue()


def explain_trainer(message: str, options: TokenOptions) -> UserError:
    """Convert sentencepiece's error to the counting of ``--vocab_size``."""
    option = f"--vocab_size {options.vocab_size} (--nbpe of a recipe)"
    most = re.search(r"too high.*value <= (\d+)", message)
    if most:
        return UserError(
            f"{option}: too big for this text; the maximum is {int(most[1]) + 2}"
        )
    least = re.search(r"smaller than required_chars\. *\d+ vs (\d+)", message)
    if least:
        return UserError(
            f"{option}: too small for the characters of this text; the minimum is "
            f"{int(least[1]) + 2}"
        )
    return UserError(f"sentencepiece could not train: {message}")


def load_pieces(
    model: bytes, lines: Sequence[str]
) -> tuple[list[str], Callable[[str], list[str]]]:
    """Return the pieces of a model in its order, and the function that splits a line.

    Logs how many of ``lines`` sentencepiece changes by its normalisation (Unicode's
    NFKC): decoded text differs there from the reference.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(size) if i != processor.unk_id()]
    changed = [
        line
        for line in lines
        if processor.decode(processor.encode(line)) != " ".join(line.split())
    ]
    if changed:
        logging.warning(
            "sentencepiece's normalisation changes %d texts, such as %r",
            *(len(changed), changed[0]),
        )
    return pieces, lambda line: processor.encode(line, out_type=str)


def splitter(options: TokenOptions) -> Callable[[str], list[str]]:
    """Return the function that splits a line into characters or words.

    >>> splitter(TokenOptions("char", symbols=("<n>",)))("a <n>")
    ['a', '<space>', '<n>']
    """
    if options.token_type == "word":
        return str.split
    pattern = re.compile("|".join([*map(re.escape, options.symbols), "."]))
    return lambda line: [
        SPACE if token == " " else token for token in pattern.findall(line)
    ]


def count_tokens(
    lines: Iterable[str], split: Callable[[str], list[str]], options: TokenOptions
) -> list[str]:
    """Return symbols, then tokens by descending count and by code point."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(split(line))
    for token in RESERVED:
        if token in counts:
            raise UserError(f"the text holds the reserved token {token}; remove it")
    for symbol in options.symbols:
        counts.pop(symbol, None)
    common = sorted(
        (token for token, count in counts.items() if count >= options.min_count),
        key=lambda token: (-counts[token], token),
    )
    tokens = [*options.symbols, *common]
    if options.vocab_size is not None:
        tokens = tokens[: options.vocab_size - len(RESERVED)]
    return tokens


def log_token_counts(
    lines: Sequence[str],
    tokens: Sequence[str],
    split: Callable[[str], list[str]],
    options: TokenOptions,
) -> None:
    """Log the length of the texts in tokens, and the share of unknown tokens."""
    known = frozenset(tokens)
    total = unknown = 0
    for line in lines:
        line_tokens = split(line)
        total += len(line_tokens)
        unknown += sum(token not in known for token in line_tokens)
    logging.info(
        "%d tokens (%s); %d texts of %.1f tokens each",
        *(len(tokens), options.token_type, len(lines), total / len(lines)),
    )
    if unknown:
        logging.warning(
            "%d of %d tokens of the text (%.2f %%) are %s",
            *(unknown, total, 100 * unknown / total, UNK),
        )
