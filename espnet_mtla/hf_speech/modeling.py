"""The recipe's model behind the calls that Transformers' users know."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from espnet_mtla.errors import UserError
from espnet_mtla.hf.loading import CheckedLoading
from espnet_mtla.hf_speech.configuration import MTLASpeechConfig
from espnet_mtla.search.options import DecodeOptions

OPTIONS = {"num_beams": "beam_size", "num_return_sequences": "nbest"}
"""Names of ``generate``'s arguments here and in :class:`DecodeOptions`."""
_NO_MATTER = (
    *("generation_config", "tokenizer", "assistant_model", "assistant_tokenizer"),
    *("synced_gpus", "use_cache", "pad_token_id"),
)


class MTLAForSpeechSeq2Seq(CheckedLoading, PreTrainedModel):
    """Sound to text; see :meth:`from_packed`.

    ``forward`` gives logits and loss for training; ``generate`` is the recipes' own
    beam search over many utterances at once, so its text is theirs.
    """

    config_class = MTLASpeechConfig
    main_input_name = "input_values"

    def __init__(self, config: MTLASpeechConfig) -> None:
        super().__init__(config)
        config.check()
        # from_pretrained builds on no device at all, to fill parameters in later; but
        # espnet2's parts hold tensors that are neither parameters nor saved.
        with torch.device("cpu"):
            self.speech = build(config)
        self.post_init()
        # For the pipeline alone, whose own settings would otherwise take the place of
        # the configuration's: what is set here it leaves to generate().
        beam = config.decode.get("beam_size", DecodeOptions.beam_size)
        self.generation_config = GenerationConfig(
            num_beams=beam, max_length=10**6, pad_token_id=config.pad_token_id
        )

    @classmethod
    def can_generate(cls) -> bool:
        return True

    def _init_weights(self, module: nn.Module) -> None:
        """The parts initialise themselves."""

    @classmethod
    def from_packed(
        cls, model: str | Path, revision: str | None = None
    ) -> MTLAForSpeechSeq2Seq:
        """From an experiment folder, a packed folder or a packed model of the hub.

        Raises:
            UserError: no such model, or none of sound.
        """
        from espnet_mtla.recognise.load import load_model
        from espnet_mtla.share.files import CONFIG
        from espnet_mtla.share.hub import find_model
        from espnet_mtla.share.pack import portable
        from espnet_mtla.speech2text.api import decode_options
        from espnet_mtla.task.config import load_yaml

        folder = find_model(model, revision)
        options = decode_options(folder, {})
        trained = load_model(folder, torch.device("cpu"), options)
        if trained.frontend is None or trained.model.decoder is None:
            raise UserError(f"{folder}: a model from sound to text is needed")
        recipe = portable(load_yaml(folder / CONFIG), folder / CONFIG)
        recipe["decoder_conf"] = dict(trained.model.decoder.config.complete())
        config = MTLASpeechConfig(
            recipe, trained.model.token_list, asdict(options), trained.fs
        )
        config.trained_down_rate = config.down_rate
        wrapped = cls(config)
        wrapped.speech.load_state_dict(trained.model.state_dict())
        return wrapped.eval()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput | tuple[Tensor, ...]:
        """Logits ``(B, U, V)`` of the token after each token.

        Args:
            input_values: samples ``(B, L)``; attention_mask: 1 at those that are real.
            labels: tokens ``(B, U)`` without <sos>, -100 in padding; <eos> follows by
                itself. Gives the recipe's loss (with CTC, as it was trained).
            decoder_input_ids: tokens ``(B, U)`` that begin with <sos>, instead.
        """
        lengths = sample_lengths(input_values, attention_mask)
        loss = None
        if labels is not None:
            counts = (labels != -100).sum(1)
            text = labels.masked_fill(labels == -100, 0)
            loss = self.speech(input_values, lengths, text, counts)[0].squeeze(0)
            sos = text.new_full((len(text), 1), self.speech.sos)
            decoder_input_ids = torch.cat((sos, text), 1)
        if decoder_input_ids is None:
            raise UserError("labels or decoder_input_ids are needed")
        encoded, frames = self.speech.encode(input_values, lengths)
        prompt, counts = self.speech.project(encoded, frames.to(encoded.device))
        logits = self.speech.decoder(prompt, counts, decoder_input_ids)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return Seq2SeqLMOutput(loss=loss, logits=logits)

    @torch.inference_mode()
    def generate(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Token ids ``(B * num_return_sequences, U)``, padded with ``pad_token_id``.

        Args:
            input_values: samples ``(B, L)``; attention_mask: 1 at those that are real.
            options: ``num_beams``, ``num_return_sequences``, ``max_new_tokens``, or any
                field of :class:`DecodeOptions`. Others are those of ``config.decode``;
                a ``generation_config`` has no influence.
        Raises:
            UserError: an unknown option.
        """
        from espnet_mtla.recognise.load import TrainedModel
        from espnet_mtla.recognise.recogniser import Recogniser
        from espnet_mtla.recognise.utterances import Sound
        from espnet_mtla.task.tokens import word_starts

        chosen = self.decode_options(options)
        lengths = sample_lengths(input_values, attention_mask).tolist()
        rows = input_values.detach().float().cpu()
        sounds = [
            Sound(f"row {place}", row[:count].numpy())
            for place, (row, count) in enumerate(zip(rows, lengths, strict=True))
        ]
        config, model = self.config, self.speech.eval()
        starts = word_starts(config.tokens, config.recipe["token_type"])
        trained = TrainedModel(
            model, self.device, config.sampling_rate, " ".join, torch.tensor(starts)
        )
        found = Recogniser(trained, chosen)(sounds)
        tokens = [
            torch.tensor(one.tokens, dtype=torch.long)
            for result in found
            for one in result.nbest
        ]
        padded = nn.utils.rnn.pad_sequence(
            tokens, batch_first=True, padding_value=self.config.pad_token_id
        )
        return padded.to(self.device)

    def decode_options(self, given: dict[str, Any]) -> DecodeOptions:
        """What ``generate`` was told, laid over what the configuration says."""
        known = asdict(DecodeOptions())
        changes = {}
        for name, value in given.items():
            if name in _NO_MATTER or value is None:
                continue
            if name == "max_new_tokens":
                changes["max_length_ratio"] = -float(value)
                continue
            field = OPTIONS.get(name, name)
            if field not in known:
                raise UserError(
                    f"generate: unknown option {name!r}; valid: "
                    f"{', '.join([*OPTIONS, 'max_new_tokens', *known])}"
                )
            changes[field] = value
        packed = {k: v for k, v in self.config.decode.items() if k in known}
        options = DecodeOptions(**{**known, **packed})
        beam = changes.get("beam_size", options.beam_size)
        changes["beam_size"] = max(beam, changes.get("nbest", 1))
        if beam < options.nbest and "nbest" not in changes:
            changes["nbest"] = beam
        return replace(options, **changes)


def build(config: MTLASpeechConfig) -> nn.Module:
    """The recipe's model with parameters as initialised."""
    import numpy as np

    from espnet_mtla.task.build import build_model

    args = Namespace(**config.recipe)
    args.token_list = list(config.tokens)
    if args.normalize != "global_mvn":
        return build_model(args)
    # The statistics are buffers of the model, and come with its weights; to be built
    # it wants a file all the same.
    width = args.frontend_conf.get("n_mels", 80)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "feats_stats.npz")
        np.savez(file, count=1, sum=np.zeros(width), sum_square=np.ones(width))
        args.normalize_conf = {**args.normalize_conf, "stats_file": file}
        return build_model(args)


def sample_lengths(samples: Tensor | None, mask: Tensor | None) -> Tensor:
    """Real samples of each row, ``(B,)``; they come first.

    Raises:
        UserError: nothing given, a mask of another shape, or padding on the left.
    """
    if samples is None or samples.dim() != 2:
        raise UserError("input_values: samples of shape (batch, samples) are needed")
    if not samples.is_floating_point():
        raise UserError(
            f"input_values: {samples.dtype} given, floats in [-1, 1] needed; the "
            "processor makes them of integers"
        )
    if mask is None:
        return torch.full((len(samples),), samples.size(1), device=samples.device)
    if mask.shape != samples.shape:
        raise UserError(
            f"attention_mask: {tuple(mask.shape)} given, the {tuple(samples.shape)} of "
            "input_values needed"
        )
    lengths = mask.long().sum(1)
    place = torch.arange(mask.size(1), device=mask.device)
    if not torch.equal(mask.bool(), place < lengths.unsqueeze(1)):
        raise UserError("attention_mask: sound is padded on the right alone")
    return lengths
