"""What the pipeline refuses, in one line, before anything runs for it."""

from __future__ import annotations

import pytest

SMALL = ("--attention", "mha")


def test_missing_corpus_is_one_clear_line(recipe) -> None:
    options = ("--local_data_opts", "--corpus /no/such/place")
    output = recipe.run(*SMALL, *options, code=1)
    assert "error: /no/such/place: no corpus" in output
    assert not (recipe.folder / "data" / "train").exists()
    # What an earlier run said is in the log, and not on the screen again.
    output = recipe.run(*SMALL, "--local_data_opts", "--corpus /no/other", code=1)
    assert "error: /no/other: no corpus" in output and "/no/such" not in output
    assert "/no/such" in (recipe.folder / "data/logs/1_data.data.log").read_text()


def test_a_script_that_cannot_be_run_is_named(recipe) -> None:
    (recipe.folder / "local" / "data.sh").chmod(0o644)
    output = recipe.run(*SMALL, code=1)
    assert "error: local/data.sh: no such file, or not executable (chmod +x)" in output


def test_stage_one_must_make_every_set(recipe) -> None:
    output = recipe.run("--test_sets", "test other", code=1)
    assert "error: local/data.sh has not made data/other" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--atention", "mha"], "unknown option --atention; did you mean --attention"),
        (["--zzz=1"], "unknown option --zzz (--help lists all)"),
        (["mha"], "'mha' is not an option"),
        (["--nj"], "--nj needs a value"),
        (["--nj", "0"], "--nj: '0' is not a positive number"),
        (["--ngpu", "two"], "--ngpu: 'two' is not a number"),
        (["--stage", "trian"], "there is no stage 'trian'"),
        (["--stage", "14"], "there is no stage '14'"),
        (["--skip_stages", "2 x"], "there is no stage 'x'"),
        (["--stage", "9", "--stop_stage", "3"], "--stage 9 comes after --stop_stage 3"),
        (["--attention", "mtla_s9"], "no 'mtla_s9' in conf/attention, which has: mha"),
        (["--attention", ""], "--attention: name at least one"),
        (["--test_sets", ""], "--test_sets: name at least one"),
        (["--token_type", "phone"], "--token_type: 'phone' is not bpe"),
        (["--token_type", "hf"], "--token_type hf needs --hf_tokenizer"),
        (["--train_config", "conf/no.yaml"], "conf/no.yaml: no such file"),
        (["--feats_type", "mfcc"], "--feats_type: 'mfcc' is not raw, fbank_zip"),
        (["--frontend_config", "fbank99"], "no 'fbank99' in conf/frontend, which has:"),
        (["--job", "pbs"], "--job: 'pbs' is not local or slurm"),
        (["--dry_run=perhaps"], "--dry_run: 'perhaps' is not true or false"),
    ],
)
def test_bad_options_are_one_line_and_nothing_runs(recipe, options, words) -> None:
    output = recipe.run(*options, code=1)
    assert output.startswith("error: ") and words in output
    assert output.count("\n") == 1
    assert recipe.calls() == []


def test_a_stage_without_its_input_names_the_stage_that_makes_it(recipe) -> None:
    output = recipe.run("--stage", "8", code=1)
    assert "stage 8 (train) needs exp/stats_train_bpe_500/train" in output
    assert "stage 6 (stats) makes it" in output


def test_folders_that_cannot_be_written_are_named(recipe) -> None:
    """Before a command runs for them: a file in the way, and a read-only place."""
    recipe.run("--stop_stage", "5")
    (recipe.folder / "exp").write_text("a file")
    output = recipe.run("--stage", "6", code=1)
    assert output.endswith("error: exp: cannot be written (Not a directory)\n") or (
        output.endswith("error: exp: cannot be written (File exists)\n")
    )
    output = recipe.run("--stage", "6", "--expdir", "/proc/exp", code=1)
    assert "error: /proc/exp: cannot be written (No such file or directory)" in output
    assert "line" not in output and recipe.names().count("train") == 0


def test_a_table_that_is_not_there_is_named(recipe) -> None:
    """As soon as the data is there, and where a later stage looks for it."""
    output = recipe.run("--target_text", "text.tx", code=1)
    assert "error: --target_text text.tx: no such table; data/train has text" in output
    assert recipe.names() == ["data"]
    recipe.run("--stop_stage", "4")
    wrong = ("--stage", "5", "--task", "st", "--source_text", "text.en")
    output = recipe.run(*wrong, code=1)
    assert "needs dump/raw/train/text.en, which is missing: --target_text" in output
    assert "name tables; dump/raw/train has text" in output
