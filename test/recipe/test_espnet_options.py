"""ESPnet2's option names: accepted as aliases, or refused with what to use instead."""

from __future__ import annotations

import re

import pytest

DRY = ("--dry_run", "--attention", "mha")


def plan(output: str) -> list[str]:
    """Return the planned commands, without notes and times."""
    return re.findall(r"^   \[.*", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("espnet", "ours"),
    [
        (
            ["--asr_config", "conf/encoder.yaml"],
            ["--train_config", "conf/encoder.yaml"],
        ),
        (["--st_config=conf/encoder.yaml"], ["--train_config", "conf/encoder.yaml"]),
        (["--slu-config=conf/encoder.yaml"], ["--train_config", "conf/encoder.yaml"]),
        (["--asr_args", "--max_epoch 5"], ["--train_opts", "--max_epoch 5"]),
        (["--st_args", "--max_epoch 5"], ["--train_opts", "--max_epoch 5"]),
        (["--slu_tag", "mine"], ["--tag", "mine"]),
        (
            ["--inference_config", "conf/train.yaml conf/decode.yaml"],
            ["--decode_configs", "conf/train.yaml conf/decode.yaml"],
        ),
        (["--speed_perturb_factors", "0.9 1.1"], ["--speed_factors", "0.9 1.1"]),
        (["--max_wav_duration", "9"], ["--max_seconds", "9"]),
        (["--min_wav_duration", "0.5"], ["--min_seconds", "0.5"]),
    ],
)
def test_an_alias_plans_what_the_option_plans(recipe, espnet, ours) -> None:
    aliased, plain = recipe.run(*DRY, *espnet), recipe.run(*DRY, *ours)
    assert plan(aliased) == plan(plain) != plan(recipe.run(*DRY))
    typed = re.split("[= ]", espnet[0])[0].replace("-config", "_config")
    note = f"   {typed} (ESPnet) sets {ours[0]}\n"
    assert aliased.count("(ESPnet)") == aliased.count(note) == 1
    assert "(ESPnet)" not in plain


def test_an_alias_given_twice_is_said_once_and_the_last_value_wins(recipe) -> None:
    output = recipe.run(*DRY, "--asr_args", "--lr 7", "--asr_args", "--lr 8")
    assert output.count("--asr_args (ESPnet)") == 1
    assert "--lr 8" in output and "--lr 7" not in output


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--train_opts", "--asr_args"),
        ("--asr_args", "--train_opts"),
        ("--asr_args", "--st_args"),
    ],
)
def test_two_names_of_one_option_are_an_error_that_names_both(
    recipe, first, second
) -> None:
    output = recipe.run(first, "--lr 7", second, "--lr 8", code=1)
    assert output.startswith(
        f"error: {first} and {second} are the same option: use one"
    )
    assert output.count("\n") == 1 and recipe.calls() == []


def test_users_override_the_recipe_by_either_name(recipe) -> None:
    """``--`` in run.sh separates its options from the user's."""
    script = recipe.folder / "run.sh"
    lines = script.read_text()
    assert '--nbest 2 -- "$@"' in lines
    for own in ("--train_opts", "--asr_args"):
        options = f'--nbest 2 {own} "--lr 7" -- "$@"'
        script.write_text(lines.replace('--nbest 2 -- "$@"', options))
        for user in ("--train_opts", "--asr_args"):
            output = recipe.run(*DRY, user, "--lr 8")
            assert "--lr 8" in output and "--lr 7" not in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--asr_exp", "exp/x"], "--asr_exp (ESPnet): models are in EXPDIR/TASK_TAG_"),
        (["--slu_exp=x"], "--slu_exp (ESPnet): models are in EXPDIR/TASK_TAG_"),
        (["--asr_stats_dir", "x"], "--asr_stats_dir (ESPnet): statistics are in"),
        (["--st_stats_dir", "x"], "use --expdir and --tag"),
        (["--inference_nj", "8"], "--inference_nj (ESPnet): one process decodes"),
        (["--gpu_inference", "true"], "--gpu_inference (ESPnet): --ngpu 1 trains and"),
        (["--bpemode", "unigram"], "--bpemode (ESPnet): --token_type bpe or"),
        (["--skip_train", "true"], '--skip_train (ESPnet): --skip_stages "stats'),
        (["--feats_type", "fbank_pitch"], "'fbank_pitch' is not raw, fbank_zip,"),
        (["--asr_conf", "x"], "unknown option --asr_conf; did you mean --asr_config"),
    ],
)
def test_what_has_no_meaning_here_is_refused_by_name(recipe, options, words) -> None:
    output = recipe.run(*options, code=1)
    assert output.startswith("error: ") and words in output
    assert output.count("\n") == 1 and recipe.calls() == []


def test_help_lists_the_aliases(recipe) -> None:
    shown = recipe.run("--help")
    assert re.search(r"--asr_config +sets --train_config\n", shown)
    assert re.search(r"--inference_config +sets --decode_configs\n", shown)


def test_a_boolean_of_the_recipe_is_set_by_its_name_alone(recipe) -> None:
    own = ("--option", "strict=false # refuse more", *DRY, "--stop_stage", "data")
    assert "local/data.sh --strict false" in recipe.run(*own)
    assert "local/data.sh --strict true" in recipe.run(*own, "--strict")
    output = recipe.run(*own, "--strict=maybe", code=1)
    assert "error: --strict: 'maybe' is not true or false" in output
