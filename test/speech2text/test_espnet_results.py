"""A transcript reads as the list that ESPnet's ``Speech2Text`` returns."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from test.support.tiny_experiment import TOKENS


def espnets_method():
    """``Speech2Text._decode_single_sample``, out of ESPnet's file.

    Importing the module would need packages of decoders that are not used here.
    """
    from espnet.nets.beam_search import Hypothesis

    spec = find_spec("espnet2.bin.asr_inference")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (method,) = (
        node
        for node in ast.walk(tree)
        if getattr(node, "name", None) == "_decode_single_sample"
    )
    method.returns, method.decorator_list = None, []
    scope = {"Hypothesis": Hypothesis, "TransHypothesis": Hypothesis, "torch": torch}
    scope["S4Decoder"] = type("S4Decoder", (), {})
    exec(compile(ast.Module([method], []), spec.origin, "exec"), scope)
    return scope["_decode_single_sample"], Hypothesis


def espnet_results(hypotheses):
    """What ESPnet makes of token ids and scores that its search has found."""
    from espnet2.text.char_tokenizer import CharTokenizer
    from espnet2.text.token_id_converter import TokenIDConverter

    method, hypothesis_class = espnets_method()
    ends = [len(TOKENS) - 1]
    found = [
        hypothesis_class(yseq=torch.tensor([*ends, *ids, *ends]), score=score)
        for ids, score in hypotheses
    ]

    class Search:
        nn_dict = SimpleNamespace()

        def __call__(self, **_):
            return found

    espnets = SimpleNamespace(
        **{"beam_search": Search(), "nbest": len(found), "hugging_face_model": None},
        **{"maxlenratio": 0.0, "minlenratio": 0.0, "beam_search_transducer": None},
        asr_model=SimpleNamespace(use_transducer_decoder=False),
        converter=TokenIDConverter(TOKENS),
        tokenizer=CharTokenizer(),
    )
    return method(espnets, torch.zeros(4, 2))


def test_iterating_gives_espnets_tuples(speech2text, data) -> None:
    transcript = speech2text(data / "u2.wav")
    expected = espnet_results(
        [(list(one.token_int), one.score) for one in transcript.nbest]
    )
    assert len(transcript) == len(expected) == 2 and transcript[0][0]
    for ours, theirs in zip(transcript, expected, strict=True):
        assert ours[:3] == theirs[:3]
        assert [type(part) for part in ours[:3]] == [type(part) for part in theirs[:3]]
        assert {type(token) for token in ours[2]} == {int}
        assert ours[3].score == theirs[3].score
    text, *_ = transcript[0]
    assert text == transcript.text == str(transcript)
    assert transcript[0][3].score > transcript[1][3].score
    with pytest.raises(IndexError):
        transcript[2]


def test_parts_of_a_long_recording_are_one_entry(speech2text, data) -> None:
    from espnet_mtla.speech2text.result import joined

    parts = speech2text([data / "u2.wav", data / "u0.wav"])
    whole = joined("both", parts, [0.0, 1.4])
    ((_, token, token_int, _),) = whole
    assert token == [*parts[0][0][1], *parts[1][0][1]]
    assert token_int == [TOKENS.index(name) for name in token]
