"""The decoder-only Transformer as a scorer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.layout import DEFAULT_CACHE, CacheOptions
from espnet_mtla.attention.decoding.rows import put_rows, rows_of
from espnet_mtla.decoder.graphs import steps_of
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer


class DecoderScorer:
    """Log-probabilities of a decoder, whose prompt is computed once and cached.

    Args:
        prompt: ``(B, P, D)``, padded at the end; prompt_lens: valid frames ``(B,)``.
        max_tokens: most tokens to generate, without <eos>.
        cuda_graphs: see :func:`espnet_mtla.decoder.graphs.steps_of`.
        options: data type, layout and back-end of the cache.
    """

    def __init__(
        self,
        decoder: DecoderOnlyTransformer,
        prompt: Tensor,
        prompt_lens: Tensor,
        max_tokens: int,
        beam: int,
        share_prompt: bool = True,
        cuda_graphs: str = "auto",
        options: CacheOptions = DEFAULT_CACHE,
    ) -> None:
        self.decoder, self.beam, self.share_prompt = decoder, beam, share_prompt
        self.options = options
        # The inputs are <sos> and all generated tokens, since <eos> is scored after the
        # last one.
        self.state = decoder.prefill(
            prompt,
            prompt_lens,
            max_tokens=max_tokens + 1,
            beam=beam,
            share_prompt=share_prompt,
            options=options,
        )
        self.run = steps_of(decoder, self.state, cuda_graphs)
        self.prompt_lens, self.itemsize = prompt_lens, prompt.itemsize
        self.room = torch.full_like(prompt_lens, max_tokens + 1)
        self.allocated_bytes = self.state.nbytes
        self._peak = (0, 0)

    def score(self, tokens: Tensor) -> Tensor:
        """Extend each row by ``tokens (N,)`` and score every next token, ``(N, V)``."""
        logits = self.run.step(tokens)
        return torch.log_softmax(logits, dim=-1, dtype=torch.float32)

    def reorder(self, rows: Tensor) -> None:
        """Let new row i continue old row ``rows[i]``."""
        self.run.reorder(rows)

    def select(self, utterances: Tensor) -> None:
        """Keep these utterances ``(B',)`` with their rows."""
        # The filled part of the cache grows at every step and shrinks only here.
        self._peak = self.peak_bytes()
        self.room = self.room[utterances]
        self.run.select(utterances, int(self.room.max()))
        self.prompt_lens = self.prompt_lens[utterances]

    def join(self, other: DecoderScorer, utterances: Tensor) -> None:
        """Put the utterances of ``other`` at these places ``(B',)``."""
        self.run.join(other.run, utterances)  # type: ignore[arg-type] # of one class
        self.room = put_rows(self.room, other.room, utterances)
        self.prompt_lens = put_rows(self.prompt_lens, other.prompt_lens, utterances)
        self.allocated_bytes = max(self.allocated_bytes, self.state.nbytes)

    def rewind(self, utterances: Tensor) -> None:
        """Set done utterances back to their prompts: their rows must not outgrow it."""
        counts = self._tokens()
        counts[utterances] = 0
        rows = rows_of(utterances, self.beam)
        self.state.rewind(rows, int(counts.max()))

    def _tokens(self) -> Tensor:
        """Return how many tokens each utterance has after its prompt, ``(B,)``."""
        counts = self.state.timeline.num_tokens[:: self.beam] - self.prompt_lens
        return counts.clamp(min=0)

    def peak_bytes(self) -> tuple[int, int]:
        """Return the largest bytes filled so far: measured, and by the formula."""
        formula = sum(
            self.decoder.cache_bytes(
                frames,
                tokens,
                self.beam,
                self.share_prompt,
                self.itemsize,
                self.options,
            )
            for frames, tokens in zip(
                self.prompt_lens.tolist(), self._tokens().tolist(), strict=True
            )
        )
        return max(self._peak, (self.state.used_nbytes, formula))


def cache_options(options: DecodeOptions) -> CacheOptions:
    """Return the cache settings among the decoding options."""
    return CacheOptions(
        options.backend,
        options.cache_dtype,
        options.prompt_cache,
        options.expand_from or None,
    )
