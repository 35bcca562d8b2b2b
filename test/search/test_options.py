import dataclasses

import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.search import DecodeOptions, length_limits


@pytest.mark.parametrize(
    "name, value",
    [
        ("beam_size", 0),
        ("beam_size", 2.5),
        ("beam_size", True),
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
