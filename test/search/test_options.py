import argparse
import dataclasses
import logging
import re

import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_decoding_options
from espnet_mtla.search import DecodeOptions, length_limits
from espnet_mtla.search.options import ALIASES, ESPNET_REFUSED, _log_alias


@pytest.mark.parametrize(
    "name, value",
    [
        ("beam_size", 0),
        ("beam_size", 2.5),
        ("beam_size", True),
        ("beam_size", 10**9),
        ("batch_frames", 10**10),
        ("ctc_candidates", 1e9),
        ("max_length_ratio", 1e6),
        ("max_length_ratio", -1e9),
        ("min_length_ratio", 1e300),
        ("nbest", 11),
        ("nbest", 0),
        ("ctc_weight", 1.0),
        ("ctc_weight", -0.1),
        ("ctc_weight", "0.3x"),
        ("ctc_candidates", 0.5),
        ("length_bonus", float("nan")),
        ("length_norm", -1.0),
        ("max_length_ratio", float("inf")),
        ("batch_frames", 0),
        ("dtype", "int8"),
        ("share_prompt", 1),
        ("cuda_graphs", "on"),
        ("cache_dtype", "int4"),
        ("expand_from", -1),
    ],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(UserError, match=f"^decoding option {name}: "):
        DecodeOptions(**{name: value})


def test_every_option_has_help():
    for option in dataclasses.fields(DecodeOptions):
        assert option.metadata["help"]


@pytest.mark.parametrize(
    "least, most, low, high",
    [
        (0.0, 0.0, [0, 0, 0], [1, 7, 40]),
        (0.0, 0.5, [0, 0, 0], [1, 3, 20]),
        (0.0, -5.0, [0, 0, 0], [5, 5, 5]),
        (0.2, 0.5, [0, 1, 8], [1, 3, 20]),
        (-4.0, 0.5, [1, 3, 4], [1, 3, 20]),
        (2.0, 0.0, [1, 7, 40], [1, 7, 40]),
    ],
)
def test_length_limits(least, most, low, high):
    options = DecodeOptions(min_length_ratio=least, max_length_ratio=most)
    found = length_limits(torch.tensor([1, 7, 40]), options)
    assert [side.tolist() for side in found] == [low, high]


def test_how_the_cache_is_kept_reaches_it() -> None:
    from espnet_mtla.search.decoder_scorer import cache_options

    found = cache_options(DecodeOptions(cache_dtype="fp8", expand_from=40))
    assert (found.dtype, found.prompt, found.expand_from) == ("fp8", "latent", 40)
    assert cache_options(DecodeOptions()).expand_from is None


def test_names_known_without_torch_are_those_of_the_cache() -> None:
    from espnet_mtla.attention.decoding import backend, layout, quantise
    from espnet_mtla.search import options

    assert options.CACHE_DTYPES == quantise.CACHE_DTYPES
    assert options.PROMPT_CACHES == layout.PROMPT_FORMS
    assert set(options.BACKENDS) == set(backend.CHOICES)


def test_options_from_a_mapping():
    options = DecodeOptions.from_mapping({"beam_size": 4, "ctc_weight": 0.3})
    assert options == DecodeOptions(beam_size=4, ctc_weight=0.3)
    assert DecodeOptions.from_mapping({}) == DecodeOptions()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam": 4}, r"^x\.yaml: unknown option 'beam'; valid: beam_size, nbest, "),
        ({3: 4}, r"^x\.yaml: unknown option 3; valid: "),
        ({"beam_size": 0}, r"^x\.yaml: decoding option beam_size: 0 given"),
        (
            {"penalty": 0.1, "length_bonus": 0.1},
            r"^x\.yaml: penalty, length_bonus: two names of one option; use one",
        ),
    ],
)
def test_errors_name_the_source(values, message):
    with pytest.raises(UserError, match=message):
        DecodeOptions.from_mapping(values, "x.yaml")
    with pytest.raises(UserError, match=message.replace(r"x\.yaml: ", "")):
        DecodeOptions.from_mapping(values)


@pytest.mark.parametrize(
    ("before", "changes", "expected"),
    [
        ((10, 1), {"nbest": 12}, (12, 12)),
        ((10, 5), {"beam_size": 3}, (3, 3)),
        ((10, 5), {"beam_size": 20}, (20, 5)),
        ((10, 5), {"beam_size": 6, "nbest": 6}, (6, 6)),
    ],
)
def test_of_beam_and_nbest_the_one_not_given_is_adapted(before, changes, expected):
    options = DecodeOptions(beam_size=before[0], nbest=before[1]).replaced(**changes)
    assert (options.beam_size, options.nbest) == expected


def test_beam_and_nbest_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="nbest: 6 given, at most beam_size=4 is"):
        DecodeOptions().replaced(beam_size=4, nbest=6)


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_espnets_names(alias, caplog):
    """As good as our own, in a file and as a change; logged once in a process."""
    _log_alias.cache_clear()
    with caplog.at_level(logging.INFO):
        options = DecodeOptions.from_mapping({alias: 0.25})
        assert options == DecodeOptions(**{ALIASES[alias]: 0.25})
        changed = options.replaced(**{alias: 0.5})
    assert getattr(changed, ALIASES[alias]) == 0.5
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{alias}: ESPnet's name of the option {ALIASES[alias]}"]


def test_each_alias_is_of_a_field_and_none_is_one():
    names = {option.name for option in dataclasses.fields(DecodeOptions)}
    assert set(ALIASES.values()) <= names and not names & set(ALIASES)


@pytest.mark.parametrize("most", [0.0, 0.3, -5.0, 2.0])
@pytest.mark.parametrize("least", [0.0, 0.15, -2.0])
def test_espnets_ratios_mean_the_same_there(least, most):
    """The limits that ESPnet's own search sets itself, read from its calls."""
    search = pytest.importorskip("espnet.nets.beam_search")
    limits = {}

    class Stop(Exception):
        pass

    class Spy(search.BeamSearch):
        def init_hyp(self, _):
            return []

        def search(self, running_hyps, *_, **__):
            return running_hyps

        def post_process(self, _, maxlen, minlen, *__):
            limits.update(most=maxlen, least=minlen)
            raise Stop

    spy = Spy({}, {}, beam_size=1, vocab_size=3, sos=2, eos=2)
    for frames in (1, 7, 40):
        with pytest.raises(Stop):
            spy(torch.zeros(frames, 2), maxlenratio=most, minlenratio=least)
        options = DecodeOptions.from_mapping(
            {"maxlenratio": most, "minlenratio": least}
        )
        low, high = length_limits(torch.tensor([frames]), options)
        assert int(high) == limits["most"]
        assert int(low) == min(limits["least"], limits["most"])


def test_what_is_refused_is_no_option_and_no_alias():
    known = {option.name for option in dataclasses.fields(DecodeOptions)}
    assert not ESPNET_REFUSED.keys() & (known | ALIASES.keys())
    for name, instead in ESPNET_REFUSED.items():
        message = re.escape(f"{name} (ESPnet): {instead}")
        with pytest.raises(UserError, match=rf"^decode\.yaml: {message}$"):
            DecodeOptions.from_mapping({name: 1}, where="decode.yaml")


@pytest.mark.parametrize("name", ["batch_size", "asr_model_file", "ngram_file"])
def test_the_command_line_refuses_the_same_before_it_asks_for_more(name):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--lm_file")  # a command may use the name itself
    add_decoding_options(parser)
    with pytest.raises(UserError, match=rf"^--{name} \(ESPnet\): "):
        parser.parse_args([f"--{name}", "x", "y"])
    assert parser.parse_args(["--model_dir", "m", "--lm_file", "f"]).lm_file == "f"
    assert f"--{name}" not in parser.format_help()
