"""Text around the sound in the decoder's prompt: ``<audio> Transcribe the speech:``.

A template is a text with the sound's place, ``<audio>``, in it. A model of several
tasks has a template for each. The prompt of an utterance is the text before the sound,
the sound's vectors, and the text after it, without padding between them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.model.batch import Preprocess
from espnet_mtla.model.config import AUDIO, ModelConfig
from espnet_mtla.model.symbols import has_hf_tokens
from espnet_mtla.model.template_text import Ids, read_templates, template_end

if TYPE_CHECKING:
    from espnet_mtla.model.base import DecoderOnlyModel


class PromptTemplates(nn.Module):
    """The token ids before and after the sound, by task.

    Args:
        tasks: by name of the task, ids before and after the sound.
    """

    before: Tensor
    after: Tensor
    sizes: Tensor

    def __init__(self, tasks: dict[str, tuple[Ids, Ids]]) -> None:
        super().__init__()
        self.names = list(tasks)
        for index, side in enumerate(("before", "after")):
            rows = [
                torch.tensor(ids[index], dtype=torch.long) for ids in tasks.values()
            ]
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            self.register_buffer(side, padded, persistent=False)
        sizes = [[len(ids) for ids in sides] for sides in tasks.values()]
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)

    def forward(
        self,
        sound: Tensor,
        lengths: Tensor,
        tasks: Tensor | None,
        embed: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Put the texts around the sound of each row.

        Args:
            sound: ``(B, P, D)``, valid up to ``lengths`` (B,).
            tasks: index of each row's task (B,); None if there is one task alone.
            embed: turns ids ``(..., U)`` into vectors ``(..., U, D)``.
        Returns:
            Prompts ``(B, P', D)``, the valid positions first, and their number (B,).
        """
        tasks = self._rows(tasks, lengths)
        before, after = self.before[tasks], self.after[tasks]
        texts = [embed(ids).to(sound.dtype) for ids in (before, after)]
        joined = torch.cat((texts[0], sound, texts[1]), 1)
        counts = (self.sizes[tasks, 0], lengths, self.sizes[tasks, 1])
        widths = (before.size(1), sound.size(1), after.size(1))
        valid = torch.cat(
            [valid_frames(n, width) for n, width in zip(counts, widths, strict=True)], 1
        )
        # A stable sort moves the valid positions to the front and keeps their order.
        order = (~valid).to(torch.int8).argsort(dim=1, stable=True)
        total = valid.sum(1)
        order = order[:, : int(total.max())].unsqueeze(2).expand(-1, -1, sound.size(2))
        return joined.gather(1, order), total

    def positions(self, tasks: Tensor | None, lengths: Tensor) -> Tensor:
        """Return the positions of the texts in each row's prompt, (B,)."""
        return self.sizes[self._rows(tasks, lengths)].sum(1)

    def _rows(self, tasks: Tensor | None, lengths: Tensor) -> Tensor:
        if tasks is not None:
            return tasks.to(self.sizes.device)
        if len(self.names) > 1:
            self.index(None, "task")
        return torch.zeros(len(lengths), dtype=torch.long, device=self.sizes.device)

    def index(self, name: str | None, where: str) -> int:
        """Return the index of a task.

        Raises:
            UserError: there is no such task, or ``name`` is None; begins with
                ``where``.
        """
        if name is None:
            raise UserError(
                f"this model has several tasks ({', '.join(self.names)}): name one, by "
                "--task_template or in the data folder's utt2task"
            )
        if name not in self.names:
            raise UserError(
                f"{where}: {name!r} is no task of this model; it has "
                f"{', '.join(self.names)}"
            )
        return self.names.index(name)


def set_templates(model: DecoderOnlyModel, args: Namespace) -> None:
    """Give a model the templates of its options.

    With ``token_type: hf`` and no ``sym_sos``, the last token of the text after the
    sound is what the decoder reads first, so that the text follows it as in a text of
    the language model. It must be the same for all tasks.

    Raises:
        UserError: the tokenizer has no chat template, or the templates end differently.
    """
    config: ModelConfig = model.config
    if not config.all_templates or model.decoder is None:
        return
    if not has_hf_tokens(args):
        model.templates = PromptTemplates(_plain_sides(args, config))
        return
    texts = read_templates(args, config)
    sides = {name: (text.before, text.after) for name, text in texts.items()}
    end = None if config.sym_sos is not None else template_end(texts.values())
    if end is not None:
        model.sos = end[0]
        sides = {name: (before, after[:-1]) for name, (before, after) in sides.items()}
    model.templates = PromptTemplates(sides)


def _plain_sides(args: Namespace, config: ModelConfig) -> dict[str, tuple[Ids, Ids]]:
    """Return the token ids before and after the sound, by task."""
    if config.chat:
        raise UserError("model_conf.chat: needs token_type hf")
    token_ids = Preprocess(args).token_ids
    sides: dict[str, tuple[Ids, Ids]] = {}
    for name, text in config.all_templates.items():
        before, after = (token_ids(side.strip()) for side in text.split(AUDIO))
        sides[name] = before, after
    return sides


def task_ids(
    model: DecoderOnlyModel, names: Sequence[str | None], chosen: str | None
) -> Tensor | None:
    """Return the index of each input's task (B,); None without several templates.

    Args:
        model: the model.
        names: task of each input as its data folder says; None: it does not.
        chosen: task of all of them, as the option ``task_template`` says; None: none.
    Raises:
        UserError: a task is unknown, or not said.
    """
    templates = model.templates
    if templates is None or len(templates.names) == 1:
        if chosen is not None:
            raise UserError(
                f"task_template: {chosen!r} given, and the model has one task alone"
            )
        return None
    if chosen is not None:
        return torch.full((len(names),), templates.index(chosen, "task_template"))
    return torch.tensor([templates.index(name, "utt2task") for name in names])
