"""Perplexity against bytes of cache: one model, several attention types and widths."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.build import (
    LatentSizes,
    Target,
    convert,
    converted_cache_bytes,
)
from espnet_mtla.hf.convert.heal import Healing
from espnet_mtla.hf.convert.moments import second_moments
from espnet_mtla.hf.convert.original import Original
from espnet_mtla.hf.convert.progress import phase, step_log
from espnet_mtla.hf.convert.source import source_cache_bytes
from espnet_mtla.hf.convert.text import TextBlocks, perplexity, spread

log = logging.getLogger(__name__)

Row = dict[str, Any]


def parse_targets(
    attentions: Sequence[str], ranks: Sequence[int], rope: int, context: int
) -> list[Target]:
    """Return one target for each attention type and latent width.

    Args:
        attentions: ``mla``, or ``mtla_sN`` for stride N, ``mtla_sN_wM`` with a raw
            window of M tokens.
        ranks: latent widths.
        rope: width of the rotary key.
        context: largest distance in tokens that counts.

    Raises:
        UserError: a name or a size is invalid.

    >>> targets = parse_targets(["mtla_s4"], [8, 6], 4, 9)
    >>> [(target.down_rate, target.kv_lora_rank) for target in targets]
    [(4, 8), (4, 6)]
    """
    targets = []
    for name in attentions:
        match = re.fullmatch(r"mla|mtla_s([1-9]\d*)(?:_w(\d+))?", name)
        if match is None:
            raise UserError(
                f"attention: {name!r} given, mla, mtla_sN or mtla_sN_wM needed"
            )
        attention, rate = name.partition("_")[0], int(match[1] or 1)
        window = int(match[2] or 0)
        targets += [
            Target(attention, rate, rank, rope, context, window) for rank in ranks
        ]
    return targets


def read_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, held_out: int
) -> dict[str, TextBlocks]:
    """Read the texts ``NAME=FILE``; return them by name.

    Args:
        texts: one or more of them.
        tokenizer: of the model.
        length: tokens per block.
        held_out: largest number of blocks held out of each.

    Raises:
        UserError: a text has no name or another one's, or cannot be read.
    """
    read: dict[str, TextBlocks] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file or name in read:
            raise UserError(
                f"text: {text!r} given, NAME=FILE with a different NAME for each needed"
            )
        read[name] = TextBlocks.read([file], tokenizer, length, most=held_out)
    return read


class Curve:
    """Measures rows of the table; rows that an earlier run measured are read."""

    def __init__(
        self,
        source: PreTrainedModel,
        texts: Mapping[str, TextBlocks],
        healing: Healing,
        calibration: int,
        folder: Path,
        budget: Row,
    ) -> None:
        """Prepare the measurements.

        Args:
            source: the original.
            texts: by name; training uses all of them.
            healing: settings of the training after each conversion.
            calibration: blocks to measure activations on, from all texts.
            folder: where rows are stored.
            budget: options that rows depend on; a stored row with other options, or of
                other texts, is measured again.
        """
        self.source, self.texts, self.healing = source, texts, healing
        training = [text.training for text in texts.values()]
        self.training = torch.cat(training)
        held_out = torch.cat([text.held_out for text in texts.values()])
        tokens = torch.cat((self.training, held_out)).numpy().tobytes()
        self.folder = folder
        self.budget = {**budget, "tokens": hashlib.sha256(tokens).hexdigest()}
        share = -(-calibration // len(training))
        self.calibration = torch.cat([spread(blocks, share) for blocks in training])
        self.original = Original(source, self.training)
        self.bytes = source_cache_bytes(source)
        self._moments: list[torch.Tensor] | None = None

    def rows(self, targets: Sequence[Target]) -> Iterator[Row]:
        """Measure and yield the row of the original, then one for each target.

        Raises:
            UserError: a target does not fit the original; before anything is measured.
        """
        attention = self.source.model.layers[0].self_attn
        head = attention.head_dim
        for target in targets:
            LatentSizes.of(target, attention.k_proj.out_features // head, head)
        grouped = attention.num_key_value_groups > 1
        yield self._stored("gqa" if grouped else "mha", None)
        for target in targets:
            name = target.attention
            name += f"_s{target.down_rate}" if name == "mtla" else ""
            name += f"_w{target.raw_window}" if target.raw_window else ""
            yield self._stored(name, target)

    def notes(self) -> list[str]:
        """Return what the numbers mean, in lines of the document."""
        healing = self.healing
        tokens = healing.steps * healing.batch * self.training.size(1)
        parts = [
            f"{name}: {text.training.numel()} tokens for training, "
            f"{text.held_out.numel()} held out"
            for name, text in self.texts.items()
        ]
        text = f"perplexity of held-out tokens; {'; '.join(parts)}"
        if not healing.steps:
            return [text, "no healing"]
        return [
            text,
            f"healing: {healing.steps} steps of {healing.batch} blocks of "
            f"{self.training.size(1)} tokens from all texts ({tokens} tokens in all), "
            f"{healing.train} weights, "
            f"peak learning rate {healing.learning_rate:g}, weight of the divergence "
            f"from the original {healing.distil:g}",
        ]

    def _stored(self, attention: str, target: Target | None) -> Row:
        """Read the row of an earlier run with the same options, or measure it."""
        name = attention if target is None else f"{attention}_r{target.kv_lora_rank}"
        path = self.folder / "rows" / f"{name}.json"
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["budget"] == self.budget:
                log.info("%s: measured by an earlier run", name)
                return stored["row"]
            log.info("%s: measured with other options; measured again", name)
        with phase(name):
            row = self._measure(name, attention, target)
        with atomic_file(path) as stream:
            stored = {"budget": self.budget, "row": row}
            stream.write(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
        return row

    def _measure(self, name: str, attention: str, target: Target | None) -> Row:
        """Convert, measure, heal and measure again; return the row."""
        start = time.process_time()
        if target is None:
            model, rank, size = self.source, None, float(self.bytes)
        else:
            model, _ = convert(
                self.source, target, None, self.healing.seed, self._second_moments()
            )
            rank, size = target.kv_lora_rank, converted_cache_bytes(model)
        row: Row = {"attention": attention, "rank": rank, "bytes/token": size}
        row["smaller"] = self.bytes / size
        before = self._perplexities(model, f"{name} converted")
        after = self._healed(model, name, before)
        for text in self.texts:
            row[f"{text} converted"] = before[text]
            if after:
                row[f"{text} healed"] = after[text]
        row["CPU minutes"] = (time.process_time() - start) / 60
        return row

    def _healed(
        self, model: PreTrainedModel, name: str, before: dict[str, float]
    ) -> dict[str, float]:
        """Train the model; return perplexities by text, none without training.

        Where the loss has a part of the text, the original is trained like the others,
        which lowers its perplexity too. Distilled from itself it would not change.

        Args:
            model: the original or a converted model.
            name: of the row.
            before: the model's perplexities before.
        """
        healing, is_original = self.healing, model is self.source
        if not healing.steps:
            return {}
        if is_original and healing.distil == 1:
            return before
        if is_original:
            model = copy.deepcopy(model)  # all other rows need it as it is
        with phase(f"{name}: healing"):
            report = step_log(f"{name}: healing", healing.steps)
            healing.run(model, self.training, self.original, report)
        return self._perplexities(model, f"{name} healed")

    def _perplexities(self, model: PreTrainedModel, stage: str) -> dict[str, float]:
        """Return the perplexity of each text's held-out blocks."""
        values = {}
        for name, text in self.texts.items():
            values[name] = perplexity(model, text.held_out, f"{stage}, {name}")
            log.info("%s: perplexity of %s is %.3f", stage, name, values[name])
        return values

    def _second_moments(self) -> list[torch.Tensor]:
        """Return the second moments of the original's activations, computed once."""
        if self._moments is None:
            with phase("second moments"):
                self._moments = second_moments(self.source, self.calibration)
        return self._moments
