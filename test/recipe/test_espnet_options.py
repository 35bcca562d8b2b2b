"""ESPnet2's option names: accepted as aliases, or refused with what to use instead."""

from __future__ import annotations

import re
import subprocess

import pytest

from test.support.repository import ROOT

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


ASR_SH = """
stage stop_stage skip_stages skip_data_prep skip_train skip_eval skip_packing
skip_upload skip_upload_hf eval_valid_set ngpu num_nodes nj inference_nj
gpu_inference dumpdir expdir python local_data_opts post_process_local_data_opts
auxiliary_data_tags speed_perturb_factors feats_type audio_format fs
min_wav_duration max_wav_duration token_type nbpe bpemode oov blank sos_eos sot_asr
token_joint bpe_input_sentence_size bpe_nlsyms bpe_char_cover
hugging_face_model_name_or_path use_ngram ngram_exp ngram_num use_lm lm_tag lm_exp
lm_stats_dir lm_config lm_args use_word_lm num_splits_lm word_vocab_size asr_tag
asr_exp asr_stats_dir asr_config asr_args pretrained_model ignore_init_mismatch
feats_normalize num_splits_asr hf_repo use_k2 use_streaming use_maskctc batch_size
inference_tag inference_config inference_args inference_lm inference_ngram
inference_asr_model download_model train_set valid_set test_sets bpe_train_text
lm_train_text lm_dev_text lm_test_text nlsyms_txt cleaner g2p lang score_opts
local_score_opts asr_speech_fold_length asr_text_fold_length lm_fold_length
"""
"""Options of asr.sh in ESPnet 202511, and those of older versions."""


def table_of(name: str) -> dict[str, str]:
    """Return an associative array of espnet_options.sh."""
    script = (
        f". {ROOT}/egs2/TEMPLATE/espnet_options.sh; "
        f'for n in "${{!{name}[@]}}"; do echo "$n ${{{name}[$n]}}"; done'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def test_every_option_of_asr_sh_is_known() -> None:
    pipeline = (ROOT / "egs2/TEMPLATE/pipeline.sh").read_text(encoding="utf-8")
    own = set(re.findall(r"^([a-z_]+)=.* # ", pipeline, re.MULTILINE))
    aliases, refused = table_of("ESPNET_ALIASES"), table_of("ESPNET_REFUSED")
    assert set(ASR_SH.split()) - own - aliases.keys() - refused.keys() == set()
    assert table_of("ESPNET_NO_CHANGE").keys() <= refused.keys()
    assert not (own | aliases.keys()) & refused.keys()
    for name, instead in refused.items():
        for option in re.findall(r"(?<![a-z] )--([a-z_]+)", instead):
            foreign = {"init_param", "ignore_init_mismatch", "non_linguistic_symbols"}
            assert option in own | {"bpemode", "lang"} | foreign, name


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("skip_train", "false", "true"),
        ("use_ngram", "false", "true"),
        ("num_nodes", "1", "2"),
        ("cleaner", "none", "tacotron"),
        ("skip_upload_hf", "true", "false"),
    ],
)
def test_a_value_that_asks_for_what_happens_anyway_is_accepted(
    recipe, name, value, other
) -> None:
    output = recipe.run(*DRY, f"--{name}", value)
    assert output.count(f"   --{name} {value} (ESPnet) changes nothing\n") == 1
    assert plan(output) == plan(recipe.run(*DRY))
    assert f"error: --{name} (ESPnet)" in recipe.run(f"--{name}={other}", code=1)
    assert recipe.calls() == []


def test_all_refused_options_of_a_line_are_named_at_once(recipe) -> None:
    line = ("--inference_nj", "8", "--skip_eval", "--bpe_train_text=x", "--nj", "4")
    output = recipe.run(*line, code=1)
    names = re.findall(r"^error: --(\w+) \(ESPnet\): .+", output, re.MULTILINE)
    assert names == ["inference_nj", "skip_eval", "bpe_train_text"]
    assert output.count("\n") == 3 and recipe.calls() == []


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
