"""A trained recipe model with the interface of a Transformers model."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from espnet_mtla.errors import UserError
from espnet_mtla.hf.loading import CheckedLoading
from espnet_mtla.hf.speech.arguments import label_counts, sample_lengths
from espnet_mtla.hf.speech.building import build, non_persistent_buffers
from espnet_mtla.hf.speech.configuration import MTLASpeechConfig
from espnet_mtla.hf.speech.options import (
    completed,
    of_config,
    of_keywords,
    recipe_values,
)
from espnet_mtla.hf.speech.precision import HalfPrecisionDecoder
from espnet_mtla.search.options import DTYPES, DecodeOptions
from espnet_mtla.tensor_modes import evaluating

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer
    from espnet_mtla.model.speech import DecoderOnlySpeechModel
    from espnet_mtla.recognise.fusion import Fusion
    from espnet_mtla.recognise.load import TrainedModel


class MTLAForSpeechSeq2Seq(  # type: ignore[misc] # Transformers' `to` has no types
    HalfPrecisionDecoder, CheckedLoading, PreTrainedModel
):
    """Sound to text; see :meth:`from_packed`.

    ``forward`` computes logits and the training loss. ``generate`` runs the recipes'
    beam search over a batch of utterances, so that its text is that of the recipes.

    Labels for training are what the recipe's decoder writes: the words spoken; for
    translation (``st``) the translation; for understanding (``slu``) the intent, then
    the words, as one text. The loss is the recipe's token loss and, with its weight, a
    CTC loss of the same labels. It has no extra term for the intent. A recipe with
    ``source_text`` trains CTC on the words spoken, which labels here cannot tell; set
    ``recipe["model_conf"]["ctc_weight"]`` to 0 in the configuration to train without.
    """

    if TYPE_CHECKING:
        config: MTLASpeechConfig
        speech: DecoderOnlySpeechModel

    config_class = MTLASpeechConfig
    main_input_name = "input_values"
    _tied_weights_keys = {  # noqa: RUF012 - Transformers' name
        "speech.decoder.output.weight": "speech.decoder.embedding.weight"
    }

    def __init__(self, config: MTLASpeechConfig) -> None:
        super().__init__(config)
        config.check()
        config.locate_upstream()
        self.speech = build(config)
        dtype = torch.get_default_dtype()  # what from_pretrained was asked for
        if dtype != torch.float32:
            self.speech.to(dtype)
        else:
            self._decoder.to(getattr(torch, config.decode.get("dtype", "float32")))
        config.tie_word_embeddings = self._decoder.config.tie_embeddings
        self._fusions: dict[object, Fusion] = {}
        self._derived = non_persistent_buffers(self.speech)
        self.generation_config = GenerationConfig(
            pad_token_id=config.pad_token_id, **recipe_values(config.decode)
        )
        self.post_init()

    @property
    def generation_config(self) -> GenerationConfig:
        """Defaults of ``generate``; empty fields get the values of the recipe.

        Where a field has the value of the recipe, ``config.decode`` applies.
        """
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._generation_config = completed(config, self.config.decode)
        self._recipe_values = recipe_values(self.config.decode)

    @property
    def _decoder(self) -> DecoderOnlyTransformer:
        if self.speech.decoder is None:
            raise UserError(
                "model_conf.ctc_weight is 1: this is an encoder without a decoder"
            )
        return self.speech.decoder

    def _tie_weights(self) -> None:
        """Tie as the recipe does; Transformers 5 reads ``_tied_weights_keys``."""
        if self.config.tie_word_embeddings:
            decoder = self._decoder
            decoder.output.weight = decoder.embedding.weight

    @staticmethod
    def _fix_state_dict_key_on_load(key: str) -> tuple[str, bool]:
        """Keep names as saved: Transformers 4 renames those of old weight norms."""
        return key, False

    @classmethod
    def can_generate(cls) -> bool:
        return True

    def _init_weights(self, module: nn.Module) -> None:
        """Restore non-persistent buffers; the parts initialise their parameters.

        ``from_pretrained`` allocates these buffers anew, without their values.
        """
        for name, value in self._derived.get(module, {}).items():
            getattr(module, name).copy_(value)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Load as :class:`CheckedLoading` does; the decoder keeps its saved precision.

        ``dtype`` applies to the decoder; the parts before it keep single precision or
        higher.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # Transformers does not initialise parts that are models of its own.
        for module in model._derived:
            model._init_weights(module)
        asked = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if asked in (torch.float32, "float32"):
            model._decoder.float()
        return loaded

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Save, with the values of ``generation_config`` in ``config.decode``."""
        dtype = self.decoder_dtype()
        options = {**asdict(self._options({})), "dtype": "float32"}
        self.config.decode = {
            **options,
            **({"dtype": dtype} if dtype in DTYPES else {}),
        }
        super().save_pretrained(save_directory, *args, **kwargs)

    def decoder_dtype(self) -> str:
        """Return the decoder's precision, as :class:`DecodeOptions` spells it."""
        dtype = self._decoder.output.weight.dtype
        return str(dtype).removeprefix("torch.")

    @classmethod
    def from_packed(
        cls, model: str | Path, revision: str | None = None
    ) -> MTLAForSpeechSeq2Seq:
        """Load an experiment folder, a packed folder or a packed model of the hub.

        Raises:
            UserError: no such model, or its input is not sound.
        """
        from espnet_mtla.recognise.load import TrainedModel
        from espnet_mtla.recognise.options import folder_options, without_files
        from espnet_mtla.settings.names import CONFIG
        from espnet_mtla.settings.yaml_files import load_yaml
        from espnet_mtla.share.hub import find_model
        from espnet_mtla.share.pack import portable

        folder = find_model(model, revision)
        options = without_files(folder_options(folder))
        trained = TrainedModel.from_folder(folder, torch.device("cpu"), options)
        if trained.frontend is None or trained.model.decoder is None:
            raise UserError(f"{folder}: a model from sound to text is needed")
        recipe = portable(load_yaml(folder / CONFIG), folder / CONFIG)
        recipe["frontend_conf"] = dict(trained.frontend_conf)  # with its files
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
        """Compute logits ``(B, U, V)`` of the token after each token.

        Args:
            input_values: samples ``(B, L)``.
            attention_mask: ``(B, L)``, 1 at samples and 0 in padding.
            labels: tokens ``(B, U)``, -100 in padding, without <sos> and <eos>, which
                are added. They also give the recipe's loss, CTC included.
            decoder_input_ids: tokens ``(B, U)`` that begin with <sos>; instead of
                ``labels``.
            return_dict: False returns a tuple.
        Raises:
            UserError: an argument has another shape or range, or labels and
                ``decoder_input_ids`` are both given, or both missing.
        """
        lengths = sample_lengths(input_values, attention_mask)
        input_values, loss = input_values.to(self.dtype), None
        if (labels is None) == (decoder_input_ids is None):
            raise UserError("labels or decoder_input_ids are needed, one of them")
        if labels is not None:
            counts = label_counts(labels, self.config.vocab_size)
            text = labels.masked_fill(labels == -100, 0)
            loss, _, logits = self.speech.losses(input_values, lengths, text, counts)
        else:
            encoded, frames = self.speech.encode(input_values, lengths)
            prompt, counts = self.speech.project(encoded, frames.to(encoded.device))
            logits = self._decoder(prompt, counts, decoder_input_ids)
        assert logits is not None, "there is a decoder, see _decoder"
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return Seq2SeqLMOutput(loss=loss, logits=logits)

    @torch.inference_mode()
    def generate(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return token ids ``(B * num_return_sequences, U)``, padded on the right.

        Args:
            input_values: samples ``(B, L)``.
            attention_mask: ``(B, L)``, 1 at samples and 0 in padding.
            generation_config: replaces the model's own.
            labels: ignored; ``Seq2SeqTrainer`` passes the whole batch.
            options: ``num_beams``, ``num_return_sequences``, ``max_new_tokens``,
                ``max_length`` (counts <sos>), ``min_new_tokens``, ``min_length``, or
                any field of :class:`DecodeOptions`. ``batch_frames`` and the free
                memory limit how many rows are decoded at once.
        Raises:
            UserError: an unknown option, or one that no decoding option can express.
        """
        from espnet_mtla.recognise.recogniser import Recogniser
        from espnet_mtla.recognise.utterances import Sound

        del labels
        chosen = self.decode_options(options, generation_config)
        lengths = sample_lengths(input_values, attention_mask).tolist()
        assert input_values is not None, "sample_lengths() refuses that"
        rows = input_values.detach().float().cpu()
        sounds = [
            Sound(f"row {index}", row[:count].numpy())
            for index, (row, count) in enumerate(zip(rows, lengths, strict=True))
        ]
        with evaluating(self.speech):
            results = Recogniser(self._trained(), chosen).in_batches(sounds)
        tokens = [
            torch.tensor(one.tokens, dtype=torch.long)
            for result in results
            for one in result.nbest
        ]
        padded = nn.utils.rnn.pad_sequence(
            tokens, batch_first=True, padding_value=self.config.pad_token_id
        )
        return padded.to(self.device)

    def _trained(self) -> TrainedModel:
        """Return the model as the recipes' decoding takes it."""
        from espnet_mtla.data.token_list import word_starts
        from espnet_mtla.recognise.load import TrainedModel

        config = self.config
        starts = word_starts(config.tokens, config.recipe["token_type"])
        return TrainedModel(
            model=self.speech,
            device=self.device,
            fs=config.sampling_rate,
            to_text=" ".join,
            word_starts=torch.tensor(starts),
            source_text=config.recipe.get("source_text") or "",
            fusions=self._fusions,
        )

    def decode_options(
        self, keywords: Mapping[str, Any], config: GenerationConfig | None = None
    ) -> DecodeOptions:
        """Return the options of ``generate``: those of the call over the model's.

        Raises:
            UserError: see :meth:`generate`.
        """
        dtype, wanted = self.decoder_dtype(), keywords.get("dtype")
        if dtype not in DTYPES:
            raise UserError(
                f"generate: the decoder is in {dtype}, {', '.join(DTYPES)} needed; "
                "convert it by model.float()"
            )
        if wanted not in (None, dtype):
            raise UserError(
                f"generate: dtype: {wanted!r} given, the decoder is in {dtype}; load "
                f"it with from_pretrained(..., dtype={wanted!r})"
            )
        return self._options(keywords, config).replaced(dtype=dtype)

    def _options(
        self, keywords: Mapping[str, Any], config: GenerationConfig | None = None
    ) -> DecodeOptions:
        ids = {
            **dict.fromkeys(("bos_token_id", "eos_token_id"), self.speech.eos),
            "decoder_start_token_id": self.speech.sos,
            "pad_token_id": self.config.pad_token_id,
        }
        own = copy.copy(self.generation_config)
        for name, value in self._recipe_values.items():
            if getattr(own, name) == value:
                setattr(own, name, None)
        options = DecodeOptions.from_mapping(self.config.decode, "config.decode")
        options = options.replaced(**of_config(own, ids))
        if config is not None:
            options = options.replaced(**of_config(config, ids))
        return options.replaced(**of_keywords(keywords, ids))
