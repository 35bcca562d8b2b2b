"""Language models and hotwords by options: what they change, and what is refused."""

import shutil

import pytest
import torch
import yaml

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.fusion import load_fusion, read_phrases
from espnet_mtla.recognise.load import TrainedModel
from espnet_mtla.search.options import DecodeOptions
from test.support.arpa import random_arpa
from test.support.tiny_experiment import TOKENS, make_data, make_lm, make_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its data, a language model, n-grams and hotwords."""
    folder = tmp_path_factory.mktemp("fusion")
    make_model(folder / "model")
    make_data(folder / "data", seconds=[0.9, 0.3, 0.6])
    make_lm(folder / "lm")
    (folder / "lm.arpa").write_text(random_arpa(3, seed=2))
    (folder / "hotwords.txt").write_text("abc d\n\n gag \n")
    return folder


def transcribe(folder, **options):
    model = Speech2Text.from_pretrained(
        folder / "model", device="cpu", beam_size=4, nbest=2, **options
    )
    return model([folder / "data" / f"u{place}.wav" for place in range(3)])


def results(transcripts):
    return [[(a.text, a.score) for a in found.nbest] for found in transcripts]


def fusion_options(folder):
    return {
        "lm": {"lm": folder / "lm", "lm_weight": 0.5},
        "ngram": {"ngram": str(folder / "lm.arpa"), "ngram_weight": 0.5},
        "hotwords": {"hotwords": ["abc d", "gag"], "hotword_bonus": 3.0},
    }


@pytest.mark.parametrize("name", ["lm", "ngram", "hotwords"])
def test_each_changes_the_scores_and_weight_0_does_not(folder, name, caplog):
    options = fusion_options(folder)[name]
    plain = results(transcribe(folder, ctc_weight=0.3))
    assert results(transcribe(folder, ctc_weight=0.3, **options)) != plain
    weight = "hotword_bonus" if name == "hotwords" else f"{name}_weight"
    off = results(transcribe(folder, ctc_weight=0.3, **{**options, weight: 0.0}))
    assert off == plain, "not bit by bit the same"
    if name != "hotwords":
        assert f"is not used: {name}_weight is 0" in caplog.text


def test_a_large_bonus_finds_the_phrase(folder):
    found = transcribe(folder, hotwords=["gag"], hotword_bonus=200.0)
    assert all("gag" in transcript.text.split() for transcript in found)


def test_a_sum_of_weighted_log_probabilities(folder):
    """A hypothesis's score with the language model, less that by itself, is w log p."""
    with_lm = transcribe(folder, lm=folder / "lm", lm_weight=0.5)
    from espnet_mtla.model.build import load_model
    from espnet_mtla.search import DecoderScorer
    from test.support.plain_models import rescore

    lm = load_model(folder / "lm" / "config.yaml", folder / "lm" / "model.pth")[0]
    eos = len(TOKENS) - 1
    alone = Speech2Text.from_pretrained(folder / "model", device="cpu", beam_size=4)
    for place, transcript in enumerate(with_lm):
        best = transcript.nbest[0]
        tokens = [TOKENS.index(token) for token in best.tokens]
        none = torch.zeros(1, 0, 32), torch.zeros(1, dtype=torch.long)
        with torch.inference_mode():
            scorer = DecoderScorer(lm.eval().decoder, *none, len(tokens), 1)
            lm_score = rescore(scorer, tokens, sos_eos=eos)
            own = decoder_score(alone, folder / "data" / f"u{place}.wav", tokens, eos)
        assert best.score == pytest.approx(own + 0.5 * lm_score, abs=2e-3)


def decoder_score(speech2text, path, tokens, eos):
    import soundfile

    from espnet_mtla.search import DecoderScorer
    from test.support.plain_models import rescore

    model = speech2text.trained.model
    samples = torch.tensor(soundfile.read(path, dtype="float32")[0])[None]
    encoded, lengths = model.encode(samples, torch.tensor([samples.size(1)]))
    scorer = DecoderScorer(
        model.decoder, *model.project(encoded, lengths), len(tokens), 1
    )
    return rescore(scorer, tokens, sos_eos=eos)


def test_all_together_alone_as_in_a_batch(folder):
    options = {}
    for part in fusion_options(folder).values():
        options |= part
    model = Speech2Text.from_pretrained(
        folder / "model", device="cpu", beam_size=4, ctc_weight=0.3, **options
    )
    files = [folder / "data" / f"u{place}.wav" for place in range(3)]
    together = model(files)
    for file, transcript in zip(files, together, strict=True):
        alone = model(file)
        assert alone.text == transcript.text
        assert alone.score == pytest.approx(transcript.score, abs=1e-3)


def test_files_are_loaded_once_for_a_model(folder):
    options = DecodeOptions(lm=str(folder / "lm"), lm_weight=0.5)
    trained = TrainedModel.from_folder(folder / "model", CPU, options)
    first = load_fusion(trained, options)
    assert load_fusion(trained, options.replaced(lm_weight=0.1)).lm is first.lm
    assert load_fusion(trained, options.replaced(dtype="bfloat16")).lm is not first.lm


def test_phrases_of_a_file(folder):
    assert read_phrases(str(folder / "hotwords.txt")) == ["abc d", "gag"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lm_weight": 0.3}, "lm_weight 0.3: --lm is missing"),
        ({"ngram_weight": 0.3}, "ngram_weight 0.3: --ngram is missing"),
        ({"lm": "{}/none", "lm_weight": 0.3}, "lm: .*none: no such folder"),
        ({"lm": "{}/model", "lm_weight": 0.3}, "lm .*model: not a language model"),
        ({"lm": "{}/other", "lm_weight": 0.3}, r"lm .*other: its token list \(10 tok"),
        ({"ngram": "{}/none", "ngram_weight": 0.3}, "none: no such file"),
        ({"ngram": "{}/words", "ngram_weight": 1.0}, "ngram .*words: the n-grams know"),
        ({"hotwords": "{}/none"}, "hotwords: .*none: no such file"),
        ({"hotwords": "{}/empty"}, "hotwords: .*empty: no phrase in it"),
        ({"hotwords": ["xyz"]}, "hotwords: 'xyz': the token list lacks a symbol"),
        ({"hotwords": [" "]}, "decoding option hotwords: .* a list of phrases is"),
        ({"hotword_bonus": -1.0}, "decoding option hotword_bonus: "),
        ({"lm": 3}, "decoding option lm: 3 given, a path is needed"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(folder, options, message):
    make_lm(folder / "other", tokens=[t for t in TOKENS if t != "<space>"])
    (folder / "empty").write_text("\n")
    text = random_arpa(2, seed=1)
    for word in "abcd":
        text = text.replace(f"\t{word}", f"\tx{word}").replace(f" {word}", f" x{word}")
    (folder / "words").write_text(text)
    options = {
        name: value.format(folder) if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(UserError, match=message) as caught:
        transcribe(folder, **options)
    assert "\n" not in str(caught.value)


def test_an_lm_is_no_model_to_decode_with(folder):
    with pytest.raises(UserError, match="name it as --lm"):
        Speech2Text.from_pretrained(folder / "lm", device="cpu")


def test_a_model_without_decoder_has_no_search(tmp_path):
    make_model(tmp_path / "ctc", ctc_weight=1.0)
    with pytest.raises(UserError, match="lm, ngram, hotwords: the model has no decode"):
        Speech2Text.from_pretrained(tmp_path / "ctc", device="cpu", hotwords=["gag"])


def test_paths_in_a_models_folder_are_relative_to_it(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copytree(folder / "lm", tmp_path / "model" / "lm")
    decode = {"lm": "lm", "lm_weight": 0.5, "beam_size": 4, "nbest": 2}
    (tmp_path / "model" / "decode.yaml").write_text(yaml.safe_dump(decode))
    model = Speech2Text.from_pretrained(tmp_path / "model", device="cpu")
    files = [folder / "data" / f"u{place}.wav" for place in range(3)]
    wanted = transcribe(folder, lm=folder / "lm", lm_weight=0.5)
    assert results(model(files)) == results(wanted)
