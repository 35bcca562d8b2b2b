"""A recogniser refuses in one line what its model cannot do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.load import TrainedModel
from espnet_mtla.recognise.recogniser import Recogniser
from espnet_mtla.recognise.utterances import Sound
from espnet_mtla.search.options import DecodeOptions


def test_ctc_scores_of_a_model_without_ctc_are_refused_by_name() -> None:
    """Loading checks it too, but a loaded model may get other options."""
    config = DecoderConfig(20, 32, num_layers=1, num_heads=4, ffn_dim=16)
    encoded, frames = torch.zeros(1, 6, 32), torch.tensor([6])
    model = SimpleNamespace(
        decoder=DecoderOnlyTransformer(config).eval(),
        encode=lambda *_: (encoded, frames),
        project=lambda encoded, frames, _: (encoded, frames),
        templates=None,
        sound_positions=lambda lengths, _: lengths,
        ctc=None,
        unit="second",
        sos=19,
        eos=19,
        blank=0,
    )
    trained = TrainedModel(
        model, torch.device("cpu"), 16000, " ".join, word_starts=torch.ones(20)
    )
    sound = Sound("a", np.zeros(1600, np.float32))
    assert Recogniser(trained, DecodeOptions(beam_size=2))([sound])[0].key == "a"
    with pytest.raises(UserError, match=r"ctc_weight 0\.3: the model has no CTC"):
        Recogniser(trained, DecodeOptions(beam_size=2, ctc_weight=0.3))([sound])
