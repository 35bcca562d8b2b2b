import argparse
import json
import shutil

import pytest


@pytest.fixture(scope="session")
def model(model, tmp_path_factory):
    """An experiment that was decoded and scored on one test set."""
    folder = tmp_path_factory.mktemp("share") / "asr_tiny_mtla_s2"
    shutil.copytree(model, folder)
    test = folder / "decode_beam10" / "test"
    score = {"metric": "wer", "utterances": 40, "ref_words": 400, "sub": 9, "del": 2}
    score |= {"ins": 1, "errors": 12, "wer": 3.0, "ci95": [2.0, 4.5]}
    score |= {"value": 3.0, "sentence_errors": 10}
    (test / "score_wer").mkdir(parents=True)
    (test / "score_wer" / "score.json").write_text(json.dumps(score))
    lines = [{"key": "u1", "errors": 12, "ref_words": 400}]
    (test / "score_wer" / "utterances.jsonl").write_text(json.dumps(lines[0]) + "\n")
    return folder


@pytest.fixture(scope="session")
def packed(model, tmp_path_factory):
    from espnet_mtla.recognise.options import read_options
    from espnet_mtla.share.card import Card
    from espnet_mtla.share.pack import pack

    folder = tmp_path_factory.mktemp("packed") / "tiny"
    options = read_options(argparse.Namespace(config=None, beam_size=3))
    pack(model, folder, options, Card("me/tiny", "apache-2.0", "en", "On noise."))
    return folder
