"""From one utterance's raw data to a padded batch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection

import numpy as np
import torch

from espnet_mtla.data.token_list import build_tokeniser, read_token_list
from espnet_mtla.data.tokens import UNK
from espnet_mtla.errors import UserError

# Padding of token ids is never looked at (lengths say where a row ends), so any
# number that is no token's id will do.
TOKEN_PADDING, SAMPLE_PADDING = -1, 0.0

Rows = Collection[tuple[str, dict[str, np.ndarray]]]
Collate = Callable[[Rows], tuple[list[str], dict[str, torch.Tensor]]]


class Preprocess:
    """Check the sound of an utterance and turn its texts into token ids.

    With ``intents``, ``intent`` says how many tokens the text's first word takes.
    Called as espnet2's datasets do: ``(name, {"speech": array, "text": str})``. It goes
    to worker processes, so it holds what can be pickled.
    """

    def __init__(self, args: Namespace, intents: bool = False) -> None:
        """``args`` are a model's options, parsed or read back."""
        self.tokeniser = build_tokeniser(
            args.token_type, args.bpemodel, args.non_linguistic_symbols
        )
        tokens = read_token_list(args.token_list)
        self.ids = {token: number for number, token in enumerate(tokens)}
        self.unknown = self.ids[UNK]
        self.intents = intents

    def __call__(self, name: str, data: dict[str, object]) -> dict[str, np.ndarray]:
        out = {}
        if "speech" in data:
            out["speech"] = _checked(name, np.asarray(data["speech"]))
        for kind in ("source", "text"):
            if kind in data:
                out[kind] = np.array(self.token_ids(str(data[kind])), dtype=np.int64)
        if self.intents and "text" in data:
            intent = str(data["text"]).split(maxsplit=1)[0]
            out["intent"] = np.array([len(self.token_ids(intent))], dtype=np.int64)
        return out

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text's tokens; those outside the list become <unk>."""
        tokens = self.tokeniser.text2tokens(text)
        return [self.ids.get(token, self.unknown) for token in tokens]


def _checked(name: str, speech: np.ndarray) -> np.ndarray:
    if speech.ndim not in (1, 2):
        raise UserError(
            f"{name}: {speech.shape}; (samples,) of one channel or features "
            "(frames, width) needed"
        )
    if len(speech) == 0:
        raise UserError(f"{name}: no samples; drop it (filter_data)")
    if not np.isfinite(speech).all():
        raise UserError(f"{name}: NaN or infinite samples; repair or drop it")
    return speech


def collate(rows: Rows) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Names, and for each kind of data padded rows (B, longest, ...) and lengths."""
    batch = {}
    for kind in next(iter(rows))[1]:
        arrays = [torch.from_numpy(np.asarray(data[kind])) for _, data in rows]
        floating = arrays[0].is_floating_point()
        batch[kind] = torch.nn.utils.rnn.pad_sequence(
            arrays,
            batch_first=True,
            padding_value=SAMPLE_PADDING if floating else TOKEN_PADDING,
        )
        batch[f"{kind}_lengths"] = torch.tensor([len(array) for array in arrays])
    return [name for name, _ in rows], batch
