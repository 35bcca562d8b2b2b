"""Processor of a speech model: sound to batches, and token ids to text."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import (
    BatchFeature,
    PreTrainedTokenizer,
    ProcessorMixin,
    Wav2Vec2FeatureExtractor,
)

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import plain, refuse_unknown
from espnet_mtla.speech2text.samples import check_rate, to_samples

TOKENS, PIECES = "tokens.txt", "bpe.model"


class MTLASpeechTokenizer(PreTrainedTokenizer):
    """The recipe's tokeniser and token list.

    Args:
        vocab_file: file with one token a line.
        sentencepiece_file: model of the token types ``bpe`` and ``unigram``.
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
        from espnet_mtla.data.token_list import build_tokeniser, read_token_list

        self.vocab_file, self.sentencepiece_file = vocab_file, sentencepiece_file
        self.token_list = read_token_list(vocab_file)
        self.ids = {token: number for number, token in enumerate(self.token_list)}
        self.tokeniser = build_tokeniser(token_type, sentencepiece_file)
        # <unk> is not a special token, so that decoding does not remove it.
        ends = {"bos_token": self.token_list[-1], "eos_token": self.token_list[-1]}
        others = {"pad_token": self.token_list[0], **ends, **others}
        others["clean_up_tokenization_spaces"] = False
        super().__init__(token_type=token_type, **others)

    @property
    def vocab_size(self) -> int:
        return len(self.token_list)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.ids)

    # Transformers passes keywords here; prepare_for_tokenization has refused them.
    def _tokenize(self, text: str) -> list[str]:  # type: ignore[override]
        return self.tokeniser.text2tokens(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.ids.get(token, self.ids["<unk>"])

    def _convert_id_to_token(self, index: int) -> str:
        return self.token_list[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.tokeniser.tokens2text(tokens)

    def prepare_for_tokenization(
        self, text: str, is_split_into_words: bool = False, **others: Any
    ) -> tuple[str, dict[str, Any]]:
        """Refuse unknown keywords of ``tokenize``; the text is not changed.

        Raises:
            UserError: a keyword is unknown.
        """
        refuse_unknown(self.prepare_for_tokenization, others)
        return super().prepare_for_tokenization(text, is_split_into_words)

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> str:
        """Return the text of token ids, written by the recipe's tokeniser.

        Raises:
            UserError: an id is out of range, ``clean_up_tokenization_spaces`` is set,
                or a keyword is unknown.
        """
        refuse_unknown(self._decode, others)
        if clean_up_tokenization_spaces:
            raise UserError(
                "clean_up_tokenization_spaces: True given; the recipe's own tokeniser "
                "writes the spaces, leave it out"
            )
        token_ids = plain(token_ids)
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        last = len(self.token_list) - 1
        for number in ids:
            if not 0 <= number <= last:
                raise UserError(
                    f"decode: id {number} given, 0 to {last} needed; put pad_token_id "
                    "in place of -100"
                )
        special = {0, last} if skip_special_tokens else set()
        return self.convert_tokens_to_string(
            [self.token_list[number] for number in ids if number not in special]
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

    if hasattr(ProcessorMixin, "attributes"):
        # Transformers 4 reads the parts from here. Version 5 reads the parameters of
        # __init__ and finds the classes by the Auto classes; it deprecates these names.
        attributes = ["feature_extractor", "tokenizer"]
        feature_extractor_class = "AutoFeatureExtractor"
        tokenizer_class = "AutoTokenizer"

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
        """Load the processor of a packed folder, or of a packed model of the hub.

        Raises:
            UserError: no such model, or it is not packed.
        """
        from argparse import Namespace

        from espnet_mtla.model.components import sampling_rate
        from espnet_mtla.settings.names import CONFIG
        from espnet_mtla.settings.yaml_files import load_yaml
        from espnet_mtla.share.hub import find_model

        folder = find_model(model, revision)
        if not (folder / TOKENS).is_file():
            raise UserError(f"{folder}: no {TOKENS}; pack it: espnet-mtla pack")
        settings = load_yaml(folder / CONFIG)
        if settings["token_type"] == "hf":
            raise UserError(f"{folder}: token_type hf; use espnet_mtla.Speech2Text")
        pieces = folder / PIECES
        tokenizer = MTLASpeechTokenizer(
            str(folder / TOKENS),
            str(pieces) if pieces.is_file() else None,
            settings["token_type"],
        )
        # Samples are not normalised here: the model normalises features itself.
        extractor = Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=sampling_rate(Namespace(**settings)),
            padding_value=0.0,
            do_normalize=False,
            return_attention_mask=True,
        )
        return cls(extractor, tokenizer)

    def __call__(
        self,
        audio: Any = None,
        text: Any = None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str = "pt",
        **others: Any,
    ) -> BatchFeature:
        """Return ``input_values`` and ``attention_mask`` of sound, ``labels`` of text.

        Args:
            audio: samples ``(n,)``, or a list of such: floats in [-1, 1], or integers,
                which :mod:`espnet_mtla.speech2text.samples` scales.
            text: a text, or a list with one for each sound.
            sampling_rate: sampling rate of the sound in Hz; must be the model's.
            padding: only to the longest is supported.
            return_tensors: only ``pt`` is supported.
        Raises:
            UserError: an unsupported option, neither audio nor text, another number of
                texts than of sounds, or values that do not fit the type of the samples.
        """
        if padding not in (True, "longest"):
            others["padding"] = padding
        if return_tensors != "pt":
            others["return_tensors"] = return_tensors
        refuse("the processor", others)
        if audio is None and text is None:
            raise UserError("the processor: audio or text is needed")
        batch = {} if text is None else {"labels": self._labels(text)}
        if audio is not None:
            rate = sampling_rate
            if rate is not None:
                rate = check_rate(rate, "sampling_rate")
            sound = self.feature_extractor(
                _rows(audio),
                sampling_rate=rate,
                padding=True,
                return_tensors="pt",
            )
            batch = {**sound, **batch}
        rows = {name: len(value) for name, value in batch.items()}
        if len(set(rows.values())) > 1:
            raise UserError(
                f"the processor: {rows['input_values']} sounds and {rows['labels']} "
                "texts given; as many are needed"
            )
        return BatchFeature(batch, tensor_type="pt")

    def _labels(self, text: str | Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, padded on the right with -100."""
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.tokenizer.encode(one) for one in texts]
        most = max(map(len, rows), default=0)
        return [row + [-100] * (most - len(row)) for row in rows]

    def batch_decode(
        self, ids: Any, skip_special_tokens: bool = True, **others: Any
    ) -> list[str]:
        """Return the texts of rows of ids, from ``generate``; see :meth:`decode`."""
        return [self.decode(row, skip_special_tokens, **others) for row in ids]

    def decode(self, ids: Any, skip_special_tokens: bool = True, **others: Any) -> str:
        """Return the text of one row of ids.

        Raises:
            UserError: an id is out of range, or an option is unknown.
        """
        return self.tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, **others
        )


def refuse(call: str, options: Mapping[str, object]) -> None:
    """Refuse the first option, if there is one.

    Raises:
        UserError: names ``call`` and the option.
    """
    for name, value in options.items():
        raise UserError(f"{call}: {name}={value!r}: not supported; leave it out")


def _rows(audio: Any) -> list[Any]:
    """Return the sounds of a batch, each ``(n,)`` float32 in [-1, 1].

    As in Transformers' feature extractors, a list of numbers is one sound, and an array
    ``(B, n)`` is several.
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
