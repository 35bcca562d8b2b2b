"""Decode with ESPnet's ``Speech2Text``, for the comparison with our search.

Front-end, normalisation, encoder and CTC have the weights of the trained model. The
decoder is ESPnet's Transformer of the same sizes with random weights, so its texts have
no meaning and no natural end. Each utterance is therefore decoded to the length of our
best hypothesis, which are as many steps as ours took. A search for the end could only
take more steps.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.utterances import Sound

SAME_OPTIONS = (
    *("token_list", "token_type", "bpemodel", "frontend", "frontend_conf"),
    *("normalize", "normalize_conf", "encoder", "input_size", "ctc_conf"),
)
SAME_WEIGHTS = ("frontend", "normalize", "encoder", "ctc")
SEARCH = "espnet2.legacy.nets"
"""Name of the logger of ESPnet's search."""


class EspnetDecoder:
    """ESPnet's beam search with the encoder of an experiment.

    Args:
        args: ``model_dir``, ``device``, ``batch``, ``beam_size`` and ``ctc_weight`` of
            the benchmark.
        trained: the model in that folder.

    Raises:
        UserError: ESPnet is too old, or lacks the front-end, normalisation or encoder.
    """

    def __init__(self, args: argparse.Namespace, trained: TrainedModel) -> None:
        from espnet_mtla.espnet import BATCHED, espnet_version

        installed = espnet_version()
        if installed is not None and installed < BATCHED:
            raise UserError(
                f"espnet {installed}: decodes utterances one by one; {BATCHED} or "
                "newer (Python 3.12) is needed, or --no_espnet"
            )
        with _quiet():
            self._decode = _speech2text(args, trained)
        self._lengths: dict[str, int] = {}

    def set_lengths(self, tokens: dict[str, list[int]]) -> None:
        """Decode each utterance to the number of tokens that it has in ``tokens``."""
        self._lengths = {key: len(ids) for key, ids in tokens.items()}

    def __call__(self, batch: Sequence[Sound]) -> dict[str, list[int]]:
        """Decode a batch in one search; a single utterance by ESPnet's own path.

        Returns:
            Token ids of the best hypothesis by key; empty if no hypothesis ended.
        """
        import torch

        samples = [len(sound.samples) for sound in batch]
        # ESPnet sorts a batch by length, and asks for length limits in that order.
        order = torch.tensor(samples).sort(descending=True).indices.tolist()
        lengths = [max(self._lengths[batch[index].key], 1) for index in order]
        limits = [length + 1 for length in lengths], lengths  # the larger counts <eos>
        search = self._decode.beam_search
        bounds = mock.patch.object(search, "_length_bounds", lambda *_: limits)
        with _quiet(), bounds:
            if len(batch) == 1:
                results = [self._decode(batch[0].samples)]
            else:
                results = self._decode.batch_decode([s.samples for s in batch])
        return {
            sound.key: nbest[0][2] if nbest else []
            for sound, nbest in zip(batch, results, strict=True)
        }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence ESPnet's logs: its model, and a dozen slow lines for each utterance.

    Its search also warns that a text has as many tokens as its limit.
    """
    disabled, logger = logging.root.manager.disable, logging.getLogger(SEARCH)
    level = logger.level
    logging.disable(logging.INFO)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        logger.setLevel(level)


def _speech2text(args: argparse.Namespace, trained: TrainedModel) -> Speech2Text:
    """Build ESPnet's model with the trained weights, and its search.

    ``Speech2Text`` reads a model from files, so they are written to a temporary folder.
    """
    import torch
    import yaml
    from espnet2.bin.asr_inference import ASRTask, Speech2Text

    with mock.patch.object(sys, "argv", sys.argv[:1]):  # ESPnet would parse the rest
        config = ASRTask.get_default_config()
    config |= _options(args.model_dir)
    for choices in ASRTask.class_choices_list:
        if config.get(choices.name) not in (*choices.choices(), None):
            raise UserError(
                f"{choices.name} {config[choices.name]!r}: ESPnet has none of that "
                "name; use --no_espnet"
            )
    with tempfile.TemporaryDirectory() as folder:
        config_file = Path(folder) / "config.yaml"
        weights = Path(folder) / "model.pth"
        config_file.write_text(yaml.safe_dump(config), encoding="utf-8")
        torch.manual_seed(0)
        model = ASRTask.build_model(argparse.Namespace(**config))
        _copy_weights(trained, model)
        torch.save(model.state_dict(), weights)
        return Speech2Text(
            str(config_file),
            str(weights),
            device=args.device,
            beam_size=args.beam_size,
            ctc_weight=args.ctc_weight,
            normalize_length=False,
            batch_size=args.batch,
            maxlenratio=-1.0,  # not 0, which would turn end detection on
        )


def _options(model_dir: Path) -> dict[str, Any]:
    """Return ESPnet's options for the model of an experiment."""
    from espnet_mtla.model.components import encoder_settings
    from espnet_mtla.model.files import resolve_files
    from espnet_mtla.settings.yaml_files import load_yaml

    ours = argparse.Namespace(**load_yaml(model_dir / "config.yaml"))
    resolve_files(ours, model_dir)
    sizes = ours.decoder_conf
    return {
        **{name: getattr(ours, name) for name in SAME_OPTIONS},
        "encoder_conf": encoder_settings(ours),
        "decoder": "transformer",
        "decoder_conf": {
            "attention_heads": sizes["num_heads"],
            "linear_units": sizes["ffn_dim"],
            "num_blocks": sizes["num_layers"],
        },
    }


def _copy_weights(trained: TrainedModel, model: Any) -> None:
    """Load the trained weights of everything before the decoder into ESPnet's model."""
    parts = tuple(f"{part}." for part in SAME_WEIGHTS)
    same = {n: v for n, v in trained.model.state_dict().items() if n.startswith(parts)}
    result = model.load_state_dict(same, strict=False)
    missing = [name for name in result.missing_keys if name.startswith("encoder.")]
    if missing or result.unexpected_keys:
        names = ", ".join([*missing, *result.unexpected_keys][:3])
        raise UserError(f"weights that ESPnet's model does not share: {names}")
