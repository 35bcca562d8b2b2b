"""The pipeline's mechanics, with test/support/command_stub.py for its commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
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


def test_killed_in_every_stage_and_resumed_equals_a_straight_run(make_recipe) -> None:
    options = (*SMALL, "--encoder_config", "conf/encoder.yaml")
    options = (*options, "--speed_factors", "0.9 1.0 1.1")
    straight = make_recipe("straight")
    straight.run(*options)
    killed = make_recipe("killed")
    for command in (
        *("data", "validate_data", "perturb_speed", "format_audio", "filter_data"),
        *("tokenise", "collect_stats", "train", "average", "inference", "score"),
        *("results", "pack"),
    ):
        process = killed.start(*options, STUB_HANG=command)
        killed.wait_for_hang(process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed.release()
    killed.run(*options)
    assert killed.outputs() == straight.outputs()


def test_resumed_training_goes_on_from_its_last_epoch(recipe) -> None:
    process = recipe.start(*SMALL, STUB_HANG="train")
    recipe.wait_for_hang(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    recipe.release()
    output = recipe.run(*SMALL)
    assert "resuming from exp/asr_train_bpe_500_mha" in output
    assert "epoch 2 is there" in output


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_end_the_command_too(recipe, sign: signal.Signals) -> None:
    process = recipe.start(*SMALL, STUB_HANG="tokenise")
    command = recipe.wait_for_hang(process)
    if sign == signal.SIGINT:
        os.killpg(process.pid, sign)  # as a terminal does
    else:
        process.send_signal(sign)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "interrupted in stage 5 (tokens)" in output
    end = time.monotonic() + 5
    while Path(f"/proc/{command}").exists():
        assert time.monotonic() < end, "the command lives on"
        time.sleep(0.02)


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


def test_more_epochs_go_on_from_the_same_model(finished) -> None:
    config = finished.folder / "conf" / "train.yaml"
    config.write_text("lr: 1\nmax_epoch: 4\n")
    output = finished.run(*SMALL, "--train_opts", "--max_epoch 5")
    assert "epoch 3 is there" in output
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
    model = "exp/encoder_train_bpe_500/model.pth"
    for line in trained[2:]:
        assert f"--init_param {model}:encoder:encoder {model}:ctc:ctc" in line
    assert "--init_param" not in trained[1]


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


def test_two_runs_at_once_share_the_early_stages(recipe) -> None:
    first = recipe.start(*SMALL, STUB_HANG="tokenise")
    recipe.wait_for_hang(first)
    second = recipe.start("--attention", "mtla_s2")
    lines = []
    for line in second.stdout:
        lines.append(line)
        if "another run is making data/token_list/bpe_500" in line:
            break
    recipe.release()
    for process in (first, second):
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    assert recipe.names().count("tokenise") == 1
    for attention in ("mha", "mtla_s2"):
        assert (recipe.folder / f"exp/asr_train_bpe_500_{attention}/model.pth").exists()


def test_side_by_side_training_gives_the_same_models(finished) -> None:
    expected = finished.outputs()
    shutil.rmtree(finished.folder / "exp" / "asr_train_bpe_500_mha")
    both = ("--attention", "mha mtla_s2", "--train_jobs", "2")
    process = finished.start(*both, STUB_HANG="train")
    finished.wait_for_hang(process)
    end = time.monotonic() + 120
    while sum(line.startswith("train ") for line in finished.peek()) < 2:
        assert time.monotonic() < end, "the second training waits for the first"
        time.sleep(0.02)
    finished.release()
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    model = "exp/asr_train_bpe_500_mha/model.pth"
    assert finished.outputs()[model] == expected[model]


def test_ctrl_c_ends_all_that_train_side_by_side(finished) -> None:
    shutil.rmtree(finished.folder / "exp" / "asr_train_bpe_500_mha")
    both = ("--attention", "mha mtla_s2", "--train_jobs", "2")
    process = finished.start(*both, STUB_HANG="train")
    finished.wait_for_hang(process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]  # nobody holds the pipe any more
    assert process.returncode == 130, output
    finished.release()
    finished.run(*both)


def test_a_command_that_was_only_just_started_is_ended_too(finished, tmp_path) -> None:
    """The shell is held up between starting it and noting its process."""
    shutil.rmtree(finished.folder / "exp" / "asr_train_bpe_500_mha")
    hold = tmp_path / "hold.sh"
    hold.write_text(
        "set -T; trap '[[ $BASH_COMMAND != job_pid=* ]] || sleep 2' DEBUG\n"
    )
    options = ("--attention", "mha", "--stage", "8")
    process = finished.start(*options, STUB_HANG="train", BASH_ENV=str(hold))
    finished.wait_for_hang(process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    finished.release()


def test_one_failure_of_two_side_by_side_fails_the_stage(finished) -> None:
    options = ("--attention", "mtla_s2 mha", "--train_jobs", "2", "--force")
    output = finished.run(*options, "--stage", "8", code=1, STUB_FAIL="train")
    assert "error: stage 8 (train) failed with exit code 1" in output
    assert "stage 9" not in output


SBATCH = """#!/usr/bin/env bash
echo "$@" >>"$STUB_CALLS.sbatch"
while [ $# -gt 0 ]; do
    case $1 in --wrap) wrap=$2 ;; --output) log=$2 ;; esac
    shift
done
bash -c "$wrap" >>"$log" 2>&1
"""


def test_slurm_gets_the_commands_and_gives_their_exit_codes(recipe, tmp_path) -> None:
    sbatch = tmp_path / "slurm" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    recipe.env["PATH"] = f"{sbatch.parent}:{recipe.env['PATH']}"
    options = (*SMALL, "--job", "slurm", "--slurm_opts", "--partition fast --mem 8G")
    output = recipe.run(*options, "--ngpu", "1", STUB_FAIL="average", code=1)
    assert "error: stage 9 (average) failed with exit code 1" in output
    assert "error: train/utt7: the reason" in output
    jobs = Path(f"{recipe.calls_file}.sbatch").read_text()
    assert jobs.count("--partition fast --mem 8G") == jobs.count("\n") == 14
    assert "--gres gpu:1" in jobs


def test_the_environment_is_installed_only_when_there_is_none(recipe, tmp_path) -> None:
    fake = tmp_path / "bare" / "python3"
    fake.parent.mkdir()
    real = recipe.env["PATH"].split(":")[0]
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    tree = recipe.folder.parents[2]
    install = tree / "utils" / "install.sh"
    install.parent.mkdir()
    install.write_text(
        "#!/bin/sh\necho installing $*\n"
        f"mkdir -p {tree}/.venv/bin && cd {tree}/.venv/bin\n"
        f"printf '#!/bin/sh\\nexec {real}/python3 \"$@\"\\n' >python3\n"
        "chmod +x python3\n"
    )
    install.chmod(0o755)
    recipe.env["PATH"] = f"{fake.parent}:{recipe.env['PATH']}"
    output = recipe.run("--stop_stage", "2")
    assert "installing" in output
    output = recipe.run("--stop_stage", "3")
    assert "installing" not in output and "already done" in output


def test_no_space_left_is_said_and_more_space_mends_it(make_recipe, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        recipe = make_recipe("tree", disk)
        recipe.run("--stop_stage", "3", *SMALL)
        filler = disk / "filler"
        with pytest.raises(OSError), open(filler, "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        output = recipe.run(*SMALL, code=1)
        assert "no space left" in output.lower()
        filler.unlink()
        recipe.run(*SMALL)
        straight = make_recipe("straight")
        straight.run(*SMALL)
        assert recipe.outputs() == straight.outputs()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
