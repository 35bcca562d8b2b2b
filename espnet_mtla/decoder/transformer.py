"""The decoder-only Transformer: it reads a prompt of vectors and generates tokens.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``P`` prompt frames,
``U`` tokens, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from espnet_mtla.attention import TokenPlacement
from espnet_mtla.attention.decoding.layout import DEFAULT_CACHE, CacheOptions
from espnet_mtla.attention.linear import PlainLinear
from espnet_mtla.decoder.config import DecoderConfig
from espnet_mtla.decoder.feed_forward import build_norm
from espnet_mtla.decoder.layer import DecoderLayer
from espnet_mtla.decoder.prompt import PROMPTS, PromptPacking
from espnet_mtla.decoder.state import DecoderState
from espnet_mtla.errors import UserError
from espnet_mtla.module_list import ModuleListOf
from espnet_mtla.settings.checks import require, whole_number


class DecoderOnlyTransformer(nn.Module):
    """Pre-norm layers and a final norm; positions are rotary, inside the attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.prompt_mode = PROMPTS[config.prompt_mode]
        self.embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        self.layers = ModuleListOf(
            DecoderLayer(config, index) for index in range(config.num_layers)
        )
        self.norm = build_norm(config)
        self.output = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=config.embed_dim**-0.5)
        self._tie()
        self.register_load_state_dict_post_hook(_tie_again)

    def forward(self, prompt: Tensor, prompt_lens: Tensor, tokens: Tensor) -> Tensor:
        """Compute the logits of the next token after each token, for training.

        Args:
            prompt: ``(B, P, D)``, the valid frames first.
            prompt_lens: valid frames, ``(B,)``.
            tokens: ids that begin with <sos>, ``(B, U)``; padding is any valid id.

        Returns:
            ``(B, U, V)``; meaningless at padding.
        """
        self._check(prompt, prompt_lens)
        text = self.embed(tokens)
        # Under autocast a projector's output has half precision; sums of layers keep
        # the parameters' precision.
        prompt = prompt.to(text.dtype)
        text = self.prompt_mode.run(self.layers, prompt, prompt_lens, text)
        return self._logits(text)

    def prefill(
        self,
        prompt: Tensor,
        prompt_lens: Tensor,
        *,
        max_tokens: int,
        beam: int = 1,
        share_prompt: bool = True,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> DecoderState:
        """Cache the prompts and begin ``beam`` hypotheses of each.

        Args:
            prompt: ``(B, P, D)``, the valid frames first.
            prompt_lens: valid frames, ``(B,)``.
            max_tokens: tokens that may follow; the cache is allocated for them.
            beam: hypotheses of each utterance.
            share_prompt: one copy of the prompt for all hypotheses of an utterance;
                False copies it to each, as the code of the paper does.
            options: how the cache is stored and read.
        Returns:
            State for :meth:`step`; row ``b * beam + k`` is hypothesis k of utterance b.
        """
        self._check(prompt, prompt_lens)
        max_tokens = whole_number(max_tokens, "max_tokens", least=0)
        beam = whole_number(beam, "beam")
        # Packing without text sets the padding, which may hold NaN, to zero.
        prompt = PromptPacking(prompt_lens, prompt.size(1), 0).rows(
            prompt, prompt[:, :0]
        )
        caches = self.prompt_mode.prefill(
            self.layers, prompt, prompt_lens, max_tokens, options
        )
        return DecoderState(caches, beam, share_prompt)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Append one token a row ``(N,)`` to ``state``; return logits ``(N, V)``."""
        return self.extend(tokens.unsqueeze(1), state)[:, -1]

    def extend(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Append tokens ``(N, L)`` to ``state``; return logits ``(N, L, V)``."""
        x = self.embed(tokens)
        placements: dict[int, TokenPlacement] = {}
        for layer, cache in zip(self.layers, state.caches, strict=True):
            offset = cache.layout.offset
            if offset not in placements:
                placements[offset] = layer.attention.locate(cache.timeline, x)
            x = layer.step(x, cache, placements[offset])
        for timeline in state.timelines:
            timeline.advance(tokens.size(1))
        return self._logits(x)

    def cache_bytes(
        self,
        prompt_frames: int,
        tokens: int,
        beam: int = 1,
        share_prompt: bool = True,
        itemsize: int = 4,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> int:
        """Return the bytes that one utterance uses in all caches, by the formula.

        Args:
            prompt_frames: P.
            tokens: tokens of each hypothesis after the prompt.
            beam: hypotheses.
            share_prompt: one copy of the prompt for all of them.
            itemsize: bytes of a number.
            options: how the cache is stored.
        """
        return sum(
            layer.attention.cache_bytes(
                prompt_frames, tokens, beam, share_prompt, itemsize, options
            )
            for layer in self.layers
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the vectors of token ids, ``(..., U)`` to ``(..., U, D)``."""
        x = self.embedding(tokens)
        if self.config.scale_embedding:
            x = x * self.config.embed_dim**0.5
        return x

    def _logits(self, x: Tensor) -> Tensor:
        """Compute logits ``(..., V)`` from the last layer's output ``(..., D)``.

        Raises:
            UserError: there is an adapter on a tied embedding or output. Merging it
                into the shared weight would change both.
        """
        if self.config.tie_embeddings and not self._has_own_ends():
            raise UserError(
                "tie_embeddings: embedding and output share a weight, and an adapter "
                "merged into one would change the other; leave both out of its targets"
            )
        return self.output(self.norm(x))

    def _has_own_ends(self) -> bool:
        """Return True if embedding and output are of the original types."""
        linear = type(self.output) is nn.Linear or isinstance(self.output, PlainLinear)
        return linear and type(self.embedding) is nn.Embedding

    def _tie(self) -> None:
        """Let output and embedding share their weight, with ``tie_embeddings``."""
        ends = (self.output, self.embedding)
        if (
            self.config.tie_embeddings
            and self._has_own_ends()
            and all("weight" in end._parameters for end in ends)
        ):
            self.output.weight = self.embedding.weight

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> DecoderOnlyTransformer:
        """Tie again after ``to``, ``to_empty`` and the like, which can undo it."""
        super()._apply(fn, recurse)
        self._tie()
        return self

    def _load_from_state_dict(
        self, state: Mapping[str, Tensor], prefix: str, *rest: Any
    ) -> None:
        names = [f"{prefix}{end}.weight" for end in ("embedding", "output")]
        both = [state[name] for name in names if name in state]
        if self.config.tie_embeddings and len(both) == 2 and not _are_equal(*both):
            raise UserError(
                f"{names[1]}: differs from {names[0]}, but tie_embeddings is true; "
                "these weights belong to a decoder with tie_embeddings: false"
            )
        super()._load_from_state_dict(state, prefix, *rest)

    def _check(self, prompt: Tensor, prompt_lens: Tensor) -> None:
        width = self.config.embed_dim
        for name, value in (("prompt", prompt), ("prompt_lens", prompt_lens)):
            require(isinstance(value, Tensor), name, type(value), "a tensor is")
        if prompt.dim() != 3 or prompt.size(2) != width:
            raise UserError(
                f"prompt: {tuple(prompt.shape)} given, (batch, frames, {width}) needed"
            )
        if prompt_lens.shape != prompt.shape[:1] or prompt_lens.dtype != torch.long:
            raise UserError(
                f"prompt_lens: {tuple(prompt_lens.shape)} of {prompt_lens.dtype} "
                f"given, ({prompt.size(0)},) of torch.int64 needed"
            )


def _tie_again(decoder: DecoderOnlyTransformer, incompatible: object) -> None:
    """Tie again after loading, which can replace parameters (``assign=True``)."""
    del incompatible
    decoder._tie()


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Compare values, or shapes if either is on the meta device."""
    if a.is_meta or b.is_meta:
        return a.shape == b.shape
    return a is b or torch.equal(a, b.to(a.device))
