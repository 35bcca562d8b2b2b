"""The pipeline's mechanics, with test/support/command_stub.py for its commands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SMALL = ("--attention", "mha")
STAGES = (
    *("data", "speed_perturb", "format", "filter", "tokens", "stats"),
    *("encoder", "train", "average", "decode", "score", "pack", "upload"),
)


def stages_of(output: str) -> list[str]:
    return re.findall(r"^== stage \d+ (\w+) ==", output, re.MULTILINE)


def test_all_stages_run_in_order_and_end_in_the_table(recipe) -> None:
    output = recipe.run()
    assert stages_of(output) == list(STAGES[:-1])
    names = recipe.names()
    expected = (
        *("data", *["validate_data"] * 3, *["format_audio"] * 3, *["filter_data"] * 3),
        *("tokenise", *["train"] * 3, *["average"] * 2, *["inference"] * 2),
        *("score",) * 4,
        *("results", "pack", "pack"),
    )
    assert names == list(expected)
    assert "| mha | 1 |" in output.split("stage 12 pack")[1]
    assert (recipe.folder / "RESULTS.md").exists()
    packed = recipe.folder / "exp" / "packed_train_bpe_500"
    assert (packed / "asr_train_bpe_500_mtla_s2.yaml").exists()
    assert (packed / "conf" / "attention" / "mha.yaml").exists()
    for model in ("asr_train_bpe_500_mha", "asr_train_bpe_500_mtla_s2"):
        assert (packed / model / "README.md").read_text() == f"{model}\n"


def test_a_second_run_calls_nothing_and_shows_the_table(finished) -> None:
    before = finished.outputs()
    output = finished.run(*SMALL)
    assert finished.calls() == []
    assert output.count("already done") == 19
    assert "| mha | 1 |" in output
    assert finished.outputs() == before


def test_a_changed_config_trains_anew_and_keeps_the_old_model(finished) -> None:
    old = finished.outputs()
    finished.calls()
    config = finished.folder / "conf" / "train.yaml"
    config.write_text("lr: 2\nmax_epoch: 3\n")
    output = finished.run(*SMALL)
    names = ["train", "train", "average", "inference", "score", "score"]
    # Statistics, and all from training on.
    assert finished.names() == [*names, "results", "pack"]
    assert "starting again" in output
    model = "exp/asr_train_bpe_500_mha"
    (aside,) = finished.folder.glob(f"{model}.before_*")
    assert (aside / "model.pth").read_text() == old[f"{model}/model.pth"]
    assert finished.outputs()[f"{model}/model.pth"] != old[f"{model}/model.pth"]


def test_a_changed_decode_config_decodes_anew(finished) -> None:
    (finished.folder / "conf" / "decode.yaml").write_text("beam_size: 2\n")
    finished.run(*SMALL)
    assert finished.names() == ["inference", "score", "score", "results", "pack"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "train_bpe_500"),
        (("--feats_type", "raw", "--max_seconds", "20"), "train_bpe_500"),
        (("--feats_type", "fbank_ark"), "train_bpe_500_fbank_ark"),
        (("--frontend_model", "/models/large/"), "train_bpe_500_large"),
        (("--frontend_model", "owner/large-v3"), "train_bpe_500_large-v3"),
        (("--encoder_config", "conf/encoder.yaml"), "train_bpe_500_encoder"),
        (
            ("--train_opts", "--max_epoch 5 --patience=2 --optim_conf lr=1e-3"),
            "train_bpe_500_optim_conf_lr_1e-3",
        ),
        (("--train_opts", "--max_epoch 5 --num_workers=2"), "train_bpe_500"),
        (("--asr_args", "--seed 3", "--tag", "mine"), "mine"),
    ],
)
def test_what_the_user_changes_is_in_the_experiments_name(
    recipe, options, name
) -> None:
    run = ("--dry_run", "--stop_stage", "average", "--", *options, *SMALL)
    assert f"--exp_dir exp/asr_{name}_mha " in f"{recipe.run(*run)} "


def test_settings_of_the_recipe_itself_are_not_in_the_name(recipe) -> None:
    own = ("--feats_type", "ssl", "--frontend_model", "large", "--dry_run")
    other = ("--feats_type", "raw", "--frontend_model", "small", *SMALL)
    assert "exp/asr_train_bpe_500_mha " in recipe.run(*own, "--", *SMALL)
    assert "exp/asr_train_bpe_500_raw_small_mha " in recipe.run(*own, "--", *other)


def test_long_options_make_a_name_that_fits(recipe) -> None:
    options = [f"--train_opts=--model_conf {'x' * 300}={end}" for end in "12"]
    names = [
        re.search(r"exp/asr_(\S+)_mha ", recipe.run("--dry_run", option, *SMALL))[1]
        for option in options
    ]
    assert len(set(names)) == 2 and max(map(len, names)) < 120


def test_more_epochs_go_on_from_the_same_model(finished) -> None:
    config = finished.folder / "conf" / "train.yaml"
    config.write_text("lr: 1\nmax_epoch: 4\n")
    output = finished.run(*SMALL, "--train_opts", "--max_epoch 5")
    assert "epoch 3 is there" in output
    output = finished.run(*SMALL, "--train_opts", "--max_epoch=6")
    assert "mha: resuming from" in output and "epoch 3 is there" in output
    assert not list(finished.folder.glob("exp/*.before_*"))


def test_a_comment_in_a_config_changes_nothing(finished) -> None:
    config = finished.folder / "conf" / "train.yaml"
    config.write_text(f"# why\n\n{config.read_text()}")
    finished.run(*SMALL)
    assert finished.calls() == []


def test_a_change_in_a_base_of_the_config_trains_anew(recipe) -> None:
    """The base may have a base; a comment in one changes nothing; a loop ends."""
    conf = recipe.folder / "conf"
    (conf / "train.yaml").write_text("base: ../conf/middle.yaml  # why\n")
    (conf / "middle.yaml").write_text("base: 'far.yaml'\n")
    (conf / "far.yaml").write_text("lr: 1\n")
    options = (*SMALL, "--stop_stage", "stats")
    recipe.run(*options)
    (conf / "far.yaml").write_text("# why\nlr: 1\n")
    recipe.calls()
    recipe.run(*options)
    assert recipe.calls() == []
    (conf / "far.yaml").write_text("lr: 2\nbase: train.yaml\n")
    recipe.run(*options)
    assert recipe.names() == ["train"]


def test_force_runs_the_chosen_stages_again(finished) -> None:
    finished.run(*SMALL, "--force", "--stage", "tokens", "--stop_stage", "tokens")
    assert finished.names() == ["tokenise"]
    # The same tokens came out, so what follows is still good.
    finished.run(*SMALL)
    assert finished.calls() == []


def test_another_attention_type_joins_what_is_there(finished) -> None:
    finished.run("--attention", "mha mtla_s2")
    names = ["train", "average", "inference", "score", "score", "results"]
    assert finished.names() == [*names, "pack"]


def test_failed_command_shows_itself_and_the_end_of_its_log(recipe) -> None:
    output = recipe.run(*SMALL, code=1, STUB_FAIL="filter_data")
    report = output[output.index("error: stage 4 (filter) failed with exit code 1") :]
    assert re.search(r"command: python3 -m espnet_mtla.bin.filter_data \S+ \S+", report)
    assert "log: data/logs/4_filter.train.log, which ends:" in report
    assert "error: train/utt7: the reason" in report
    assert "line 29" in report and "line 5\n" not in report
    assert recipe.names()[-1] == "filter_data"
    assert not (recipe.folder / "dump" / "raw" / "train").exists()


def test_help_lists_stages_and_the_values_that_options_have_here(recipe) -> None:
    output = recipe.run("--nj", "7", "--help")
    for number, stage in enumerate(STAGES, 1):
        assert re.search(rf"^ +{number}  {stage} ", output, re.MULTILINE)
    assert '--nj "7"' in output and '--nbest "2"' in output
    assert recipe.calls() == []


def test_dry_run_tells_all_and_changes_nothing(recipe) -> None:
    before = recipe.snapshot()
    output = recipe.run("--dry_run")
    assert stages_of(output) == list(STAGES[:-1])
    assert output.count("[to do]") == 25 and "[done ]" not in output
    assert "--attention mtla_s2" in output
    assert recipe.snapshot() == before and recipe.calls() == []


def test_dry_run_knows_what_is_done_and_what_a_change_makes_old(finished) -> None:
    output = finished.run(*SMALL, "--dry_run")
    assert "[to do]" not in output
    (finished.folder / "conf" / "decode.yaml").write_text("beam_size: 2\n")
    output = finished.run(*SMALL, "--dry_run")
    old = re.findall(r"\[to do\] ([\w.]+):", output)
    assert old == [
        *("mha.decode.test", "mha.decode.test.wer", "mha.decode.test.cer"),
        *("results", "mha"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["--stage", "3", "--stop_stage", "5"],
        ["--stage=format", "--stop-stage=tokens"],
        ["--stop_stage", "5", "--skip_stages", "data speed-perturb"],
        ["--stop-stage", "tokens", "--skip-stages", "1,2"],
    ],
)
def test_stages_by_number_and_name(recipe, options: list[str]) -> None:
    recipe.run("--stop_stage", "2")
    recipe.calls()
    recipe.run(*options)
    assert set(recipe.names()) == {"format_audio", "filter_data", "tokenise"}


def test_one_encoder_serves_all_attention_types(recipe) -> None:
    recipe.run("--encoder_config", "conf/encoder.yaml")
    trained = [line for line in recipe.calls() if line.startswith("train ")]
    assert len(trained) == 4  # statistics, the encoder, two models
    model = "exp/encoder_train_bpe_500_encoder/model.pth"
    for line in trained[2:]:
        assert f"--encoder_model {model} " in f"{line} "
    assert "--encoder_model" not in trained[1]


def test_more_models_to_average_leave_the_encoder_as_it_is(recipe) -> None:
    options = (*SMALL, "--encoder_config", "conf/encoder.yaml")
    recipe.run(*options)
    recipe.calls()
    recipe.run(*options, "--nbest", "1")
    names = ["average", "inference", "score", "score", "results", "pack"]
    assert recipe.names() == names


def test_speed_factors_make_a_training_set_of_their_own(recipe) -> None:
    recipe.run("--speed_factors", "0.9 1.1", "--stop_stage", "stats")
    calls = recipe.calls()
    assert "perturb_speed data/train data/train_sp --factors 0.9 1.1" in calls
    assert any("--train_data dump/raw/train_sp --valid" in line for line in calls)


def test_a_test_set_is_never_shortened(recipe) -> None:
    recipe.run("--stop_stage", "filter", "--min_seconds", "1", "--max_seconds", "9")
    limits = {
        line.split()[2]: line.split(" ", 3)[3]
        for line in recipe.calls()
        if line.startswith("filter_data")
    }
    kept = "--min_seconds 1 --max_seconds 9"
    assert limits["dump/raw/train"] == limits["dump/raw/valid"] == kept
    whole = "--min_seconds 0 --max_seconds inf --allow_empty_text"
    assert limits["dump/raw/test"] == whole


@pytest.mark.parametrize("options", [(), ("--valid_set", "test")])
def test_texts_may_be_empty_in_sets_that_are_scored_alone(recipe, options) -> None:
    recipe.run("--stop_stage", "filter", *options)
    allowed = {
        (line.split()[0], Path(line.split()[1]).name)
        for line in recipe.calls()
        if "--allow_empty_text" in line
    }
    commands = ("validate_data", "filter_data")
    assert allowed == (set() if options else {(name, "test") for name in commands})


def test_a_character_model_needs_no_sentencepiece(recipe) -> None:
    recipe.run("--token_type", "char", "--stop_stage", "stats")
    tokenise, stats = recipe.calls()[-2:]
    assert "--vocab_size" not in tokenise and "--bpemodel" not in stats


def test_runs_from_any_folder(recipe) -> None:
    script = str(recipe.folder / "run.sh")
    shown = subprocess.run(
        [script, *SMALL, "--stop_stage", "1"],
        env=recipe.env,
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
    )
    assert "stage 1 data" in shown.stdout
    assert (recipe.folder / "data" / "train").is_dir()


def test_scripts_of_another_recipe_are_inputs(recipe) -> None:
    """Where data.sh names their folder, a change there prepares the data anew."""
    other = recipe.folder.parent / "asr0" / "local"
    other.mkdir(parents=True)
    (other / "shared.py").write_text("1")
    script = recipe.folder / "local" / "data.sh"
    script.write_text(f"{script.read_text()}export PYTHONPATH=../asr0/local\n")
    recipe.run("--stop_stage", "1")
    recipe.run("--stop_stage", "1")
    assert recipe.names() == ["data"]
    (other / "shared.py").write_text("2")
    recipe.run("--stop_stage", "1")
    assert recipe.names() == ["data"]
