"""Sound to batches, and token ids to text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer, ProcessorMixin, Wav2Vec2FeatureExtractor

from espnet_mtla.checks import plain
from espnet_mtla.errors import UserError
from espnet_mtla.speech2text.samples import check_rate, to_samples

TOKENS, PIECES = "tokens.txt", "bpe.model"


class MTLASpeechTokenizer(PreTrainedTokenizer):
    """The recipe's tokeniser and token list.

    Args:
        vocab_file: a token a line; sentencepiece_file: of ``bpe`` and ``unigram``.
        token_type: ``bpe``, ``unigram``, ``char`` or ``word``.
    """

    vocab_files_names = {"vocab_file": TOKENS, "sentencepiece_file": PIECES}  # noqa: RUF012 - Transformers' name
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str,
        sentencepiece_file: str | None = None,
        token_type: str = "bpe",
        **others: Any,
    ) -> None:
        from espnet_mtla.task.tokens import build_tokeniser, read_token_list

        self.vocab_file, self.sentencepiece_file = vocab_file, sentencepiece_file
        self.token_list = read_token_list(vocab_file)
        self.ids = {token: number for number, token in enumerate(self.token_list)}
        self.tokeniser = build_tokeniser(token_type, sentencepiece_file)
        # <unk> is none of the special ones: it stays visible in a text.
        ends = {"bos_token": self.token_list[-1], "eos_token": self.token_list[-1]}
        others = {"pad_token": self.token_list[0], **ends, **others}
        others["clean_up_tokenization_spaces"] = False
        super().__init__(token_type=token_type, **others)

    @property
    def vocab_size(self) -> int:
        return len(self.token_list)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.ids)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return self.tokeniser.text2tokens(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.ids.get(token, self.ids["<unk>"])

    def _convert_id_to_token(self, index: int) -> str:
        return self.token_list[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.tokeniser.tokens2text(tokens)

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, **_: Any
    ) -> str:
        """As the recipe writes a text: all tokens together, by its own tokeniser."""
        token_ids = plain(token_ids)
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        special = {0, len(self.token_list) - 1} if skip_special_tokens else set()
        return self.convert_tokens_to_string(
            [self.token_list[int(i)] for i in ids if int(i) not in special]
        )

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        written = []
        for source, name in (
            (self.vocab_file, TOKENS),
            (self.sentencepiece_file, PIECES),
        ):
            if source is None:
                continue
            target = Path(save_directory) / f"{prefix}{name}"
            if Path(source).resolve() != target.resolve():
                shutil.copyfile(source, target)
            written.append(str(target))
        return tuple(written)


class MTLASpeechProcessor(ProcessorMixin):
    """A feature extractor that pads samples, and the recipe's tokeniser."""

    attributes = ["feature_extractor", "tokenizer"]  # noqa: RUF012
    feature_extractor_class = "Wav2Vec2FeatureExtractor"
    tokenizer_class = "AutoTokenizer"  # which knows ours by its name

    def __init__(
        self,
        feature_extractor: Wav2Vec2FeatureExtractor,
        tokenizer: MTLASpeechTokenizer,
    ) -> None:
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def from_packed(
        cls, model: str | Path, revision: str | None = None
    ) -> MTLASpeechProcessor:
        """Of a packed folder, or of a packed model of the hub.

        Raises:
            UserError: no such model, or it is not packed.
        """
        from argparse import Namespace

        from espnet_mtla.share.files import CONFIG
        from espnet_mtla.share.hub import find_model
        from espnet_mtla.task.config import load_yaml
        from espnet_mtla.task.parts import sampling_rate

        folder = find_model(model, revision)
        if not (folder / TOKENS).is_file():
            raise UserError(
                f"{folder}: no {TOKENS}; pack it: python -m espnet_mtla.bin.pack"
            )
        settings = load_yaml(folder / CONFIG)
        pieces = folder / PIECES
        tokenizer = MTLASpeechTokenizer(
            str(folder / TOKENS),
            str(pieces) if pieces.is_file() else None,
            settings["token_type"],
        )
        # Samples as they are: whatever normalises features is a part of the model.
        extractor = Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=sampling_rate(Namespace(**settings)),
            padding_value=0.0,
            do_normalize=False,
            return_attention_mask=True,
        )
        return cls(extractor, tokenizer)

    def __call__(
        self, audio: Any = None, text: Any = None, sampling_rate: int | None = None
    ) -> Any:
        """``input_values`` and ``attention_mask`` of sound, ``labels`` of text.

        Args:
            audio: samples ``(n,)``, or a list of such: floats in [-1, 1], or integers,
                which are scaled as :mod:`espnet_mtla.speech2text.samples` says.
            text: a text, or a list.
            sampling_rate: of the sound, in Hz; one that does not fit is refused.

        Raises:
            UserError: no samples, or values that do not fit their type.
        """
        rate = sampling_rate
        batch = self.feature_extractor(
            _rows(audio),
            sampling_rate=None if rate is None else check_rate(rate, "sampling_rate"),
            padding=True,
            return_tensors="pt",
        )
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            rows = [self.tokenizer.encode(one) for one in texts]
            most = max(map(len, rows))
            padded = [row + [-100] * (most - len(row)) for row in rows]
            batch = batch.__class__({**batch, "labels": padded}, tensor_type="pt")
        return batch

    def batch_decode(self, ids: Any, **_: Any) -> list[str]:
        """Texts of what ``generate`` gives."""
        return [self.decode(row) for row in ids]

    def decode(self, ids: Any, **_: Any) -> str:
        """The text of one row of ids."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def _rows(audio: Any) -> list[Any]:
    """Each sound of a batch as samples ``(n,)``, float32 in [-1, 1].

    A list of numbers is one sound, and an array ``(B, n)`` is several, as Transformers'
    feature extractors have it.
    """
    several = isinstance(audio, list | tuple) and not isinstance(
        plain(next(iter(audio), None)), int | float
    )
    several = several or getattr(audio, "ndim", 1) == 2
    rows = [
        to_samples(one, f"audio {place}")
        for place, one in enumerate(audio if several else [audio])
    ]
    for place, row in enumerate(rows):
        if row.ndim != 1:
            raise UserError(
                f"audio {place}: shape {row.shape} given, samples (n,) needed: choose "
                "a channel, or their mean"
            )
    return rows
