"""The pipeline's processes: kills, locks, parallel training, Slurm, a full disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SMALL = ("--attention", "mha")


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


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
    """The shell is delayed between starting a process and recording its id."""
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


def install_slurm(recipe, folder: Path, **scripts: str) -> None:
    """Put stand-ins of Slurm's commands first in the recipe's PATH."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    recipe.env["PATH"] = f"{folder}:{recipe.env['PATH']}"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_queued_jobs_end_with_the_pipeline(recipe, tmp_path, sign) -> None:
    """The stand-in of sbatch survives its pipeline, as Slurm's jobs do."""
    queue = '#!/usr/bin/env bash\nsetsid bash -c "${@: -1}" & wait\n'
    cancel = '#!/usr/bin/env bash\necho "$@" >>"$STUB_CALLS.scancel"\n'
    install_slurm(recipe, tmp_path / "slurm", sbatch=queue, scancel=cancel)
    process = recipe.start(*SMALL, "--job", "slurm", STUB_HANG="train")
    recipe.wait_for_hang(process)
    process.send_signal(sign)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    called = Path(f"{recipe.calls_file}.scancel").read_text()
    assert called == f"--name espnet_mtla.{process.pid}.train\n"
    recipe.release()


def test_a_job_that_outlives_its_pipeline_keeps_its_folder(recipe) -> None:
    """Another run refuses to move the folder away from under it."""
    recipe.run(*SMALL, "--stop_stage", "6")
    model = recipe.folder / "exp/asr_train_bpe_500_mha"
    model.mkdir()
    (model / ".begun.train").write_text("other settings\n")
    (model / ".lock").write_text("process 7 on node3\n")
    with open(model / ".lock") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        output = recipe.run(*SMALL, "--stage", "8", code=1)
    line = "exp/asr_train_bpe_500_mha: another run is writing here (process 7 on node3)"
    assert line in output and "Traceback" not in output
    assert "starting again" in recipe.run(*SMALL, "--stage", "8")


def test_slurm_gets_the_commands_and_gives_their_exit_codes(recipe, tmp_path) -> None:
    install_slurm(recipe, tmp_path / "slurm", sbatch=SBATCH)
    options = (*SMALL, "--job", "slurm", "--slurm_opts", "--partition fast --mem 8G")
    output = recipe.run(*options, "--ngpu", "1", STUB_FAIL="average", code=1)
    assert "error: stage 9 (average) failed with exit code 1" in output
    assert "error: train/utt7: the reason" in output
    jobs = Path(f"{recipe.calls_file}.sbatch").read_text()
    assert jobs.count("--partition fast --mem 8G") == jobs.count("\n") == 14
    assert "--gres gpu:1" in jobs
    # A job starts again by itself only where the user asks for it: the last word wins.
    assert jobs.count("--no-requeue --job-name") == jobs.count("\n")
    recipe.run(*SMALL, "--job", "slurm", "--slurm_opts", "--requeue", "--force")
    last = Path(f"{recipe.calls_file}.sbatch").read_text().splitlines()[-1]
    assert last.index("--no-requeue") < last.index(" --requeue")


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
