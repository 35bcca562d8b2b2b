"""Measure a model at each stage of a conversion: perplexity, and samples of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from espnet_mtla.hf.convert.progress import phase
from espnet_mtla.hf.convert.text import TextBlocks, perplexity


class Stages:
    """Perplexities and samples of the original, converted and healed model."""

    def __init__(
        self,
        text: TextBlocks | None,
        tokenizer: PreTrainedTokenizerBase | None,
        prompts: Sequence[str] = (),
        prompt_tokens: int = 30,
    ) -> None:
        """Prepare the measurements.

        Args:
            text: its held-out blocks are for the perplexity; None: it is not measured.
            tokenizer: of the model; needed for ``prompts``.
            prompts: texts to continue.
            prompt_tokens: largest number of tokens of a continuation.
        """
        self.text, self.tokenizer = text, tokenizer
        self.prompts, self.prompt_tokens = prompts, prompt_tokens
        self.perplexities: dict[str, float] = {}
        self.samples: dict[str, list[str]] = {}

    def measure(self, stage: str, model: PreTrainedModel) -> None:
        """Measure the model at a stage; do nothing without a text and prompts."""
        if self.text is not None:
            with phase(f"perplexity, {stage}"):
                value = perplexity(model, self.text.held_out, f"perplexity, {stage}")
            self.perplexities[stage] = value
        if self.prompts and self.tokenizer is not None:
            with phase(f"samples, {stage}"):
                self.samples[stage] = continuations(
                    model, self.tokenizer, self.prompts, self.prompt_tokens
                )

    def lines(self) -> list[str]:
        """Return the measurements as lines to print."""
        lines = []
        if self.text is not None:
            values = (
                f"{value:.4f} {name}" for name, value in self.perplexities.items()
            )
            tokens = self.text.held_out.numel()
            lines.append(f"perplexity of {tokens} held-out tokens: {', '.join(values)}")
        for index, prompt in enumerate(self.prompts):
            lines.append(f"prompt: {prompt}")
            lines += [
                f"  {name}: {texts[index]!r}" for name, texts in self.samples.items()
            ]
        return lines


@torch.no_grad()
def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    tokens: int,
) -> list[str]:
    """Return the greedy continuation of each prompt, without the prompt.

    Args:
        model: a causal language model.
        tokenizer: of the model.
        prompts: texts to continue.
        tokens: largest number of new tokens.
    """
    old = model.generation_config
    greedy = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        bos_token_id=old.bos_token_id,
        eos_token_id=old.eos_token_id,
        pad_token_id=old.pad_token_id,
    )
    texts = []
    generate: Any = model.generate  # its types depend on the generation's settings
    for prompt in prompts:
        batch = tokenizer(prompt, return_tensors="pt").to(model.device)
        mask = batch["attention_mask"]
        ids = batch["input_ids"]
        output = generate(ids, attention_mask=mask, generation_config=greedy)
        new = output[0, ids.size(1) :]
        texts.append(str(tokenizer.decode(new, skip_special_tokens=True)))
    return texts
