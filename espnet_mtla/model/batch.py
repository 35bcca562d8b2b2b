"""Preprocessing of one utterance, and padding of several into a batch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection

import numpy as np
import torch

from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.data.token_list import build_tokeniser, read_token_list
from espnet_mtla.data.tokens import UNK
from espnet_mtla.errors import UserError
from espnet_mtla.model.template_text import transcripts_follow

# Padded token ids are never read: lengths say where a row ends. -1 is no token's id, so
# that a mistake raises an error.
TOKEN_PADDING, SAMPLE_PADDING = -1, 0.0

Rows = Collection[tuple[str, dict[str, np.ndarray]]]
Collate = Callable[[Rows], tuple[list[str], dict[str, torch.Tensor]]]


class Preprocess:
    """Check the audio of an utterance and turn its texts into token ids.

    With ``intents`` it adds ``intent``, the number of tokens of the text's first word.
    espnet2's datasets call it with ``(name, {"speech": array, "text": str})``. It must
    be picklable, since worker processes get a copy.
    """

    def __init__(self, args: Namespace, intents: bool = False) -> None:
        """Build the tokeniser from a model's options, parsed or of its config."""
        self.tokeniser = build_tokeniser(
            args.token_type, args.bpemodel, args.non_linguistic_symbols
        )
        tokens = read_token_list(args.token_list, args.token_type)
        if isinstance(self.tokeniser, HFTokeniser):
            self.tokeniser.check_list(tokens, f"bpemodel: {args.bpemodel}")
            end = transcripts_follow(args)
            if end is not None:
                self.tokeniser.follow(*end)
        self.ids = {token: number for number, token in enumerate(tokens)}
        # A tokenizer of token_type hf returns no token that its list lacks.
        self.unknown = self.ids.get(UNK, -1)
        self.intents = intents
        self.tasks = list(getattr(args, "model_conf", {}).get("templates", ()))

    def __call__(self, name: str, data: dict[str, object]) -> dict[str, np.ndarray]:
        out = {}
        if "speech" in data:
            out["speech"] = _checked(name, np.asarray(data["speech"]))
        for field in ("source", "text"):
            if field in data:
                out[field] = np.array(self.token_ids(str(data[field])), dtype=np.int64)
        if "task" in data:
            out["task"] = np.array([self._task(name, str(data["task"]))], np.int64)
        if self.intents and "text" in data:
            intent = str(data["text"]).split(maxsplit=1)[0]
            out["intent"] = np.array([len(self.token_ids(intent))], dtype=np.int64)
        return out

    def _task(self, name: str, task: str) -> int:
        if task not in self.tasks:
            raise UserError(
                f"utt2task: {name}: {task!r} is none of model_conf.templates, "
                f"{', '.join(self.tasks)}"
            )
        return self.tasks.index(task)

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of a text's tokens; unknown ones become <unk>."""
        tokens = self.tokeniser.text2tokens(text)
        return [self.ids.get(token, self.unknown) for token in tokens]


def _checked(name: str, speech: np.ndarray) -> np.ndarray:
    if speech.ndim not in (1, 2):
        raise UserError(
            f"{name}: {speech.shape}; (samples,) of one channel or features "
            "(frames, width) needed"
        )
    if len(speech) == 0:
        raise UserError(f"{name}: no samples; drop it (espnet-mtla filter_data)")
    if not np.isfinite(speech).all():
        raise UserError(f"{name}: NaN or infinite samples; repair or drop it")
    return speech


def collate(rows: Rows) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Return names and, for each field, padded rows (B, longest, ...) and lengths."""
    batch = {}
    for field in next(iter(rows))[1]:
        arrays = [torch.from_numpy(np.asarray(data[field])) for _, data in rows]
        floating = arrays[0].is_floating_point()
        batch[field] = torch.nn.utils.rnn.pad_sequence(
            arrays,
            batch_first=True,
            padding_value=SAMPLE_PADDING if floating else TOKEN_PADDING,
        )
        batch[f"{field}_lengths"] = torch.tensor([len(array) for array in arrays])
    return [name for name, _ in rows], batch
