"""Options that a recipe has of its own, by --option in its call of the pipeline."""

from __future__ import annotations

import re

OWN = ("--option", "lang=de # language of the text", "--train_set", "train_{lang}")


def test_default_value_help_and_names_made_from_it(recipe) -> None:
    output = recipe.run(*OWN, "--dry_run", "--nbpe", "50", "--stop_stage", "8")
    assert "local/data.sh --lang de" in output
    assert "data/train_de" in output
    assert "data/token_list/de_bpe_50" in output
    assert re.search(r"exp/asr_train_de_bpe_50_mha\b", output)
    shown = recipe.run(*OWN, "--help")
    assert re.search(r'--lang "de"\n +language of the text\n', shown)


def test_given_value_wins_wherever_the_name_stands(recipe) -> None:
    sets = ("--test_sets", "a{lang} b")
    output = recipe.run(*OWN, "--lang", "fr", *sets, "--dry_run", "--stop_stage", "2")
    assert "local/data.sh --lang fr" in output
    assert {"data/train_fr", "data/afr", "data/b"} <= set(output.split())
    assert "train_de" not in output


def test_a_list_gives_one_name_per_item(recipe) -> None:
    option = ("--option", "languages=cs nl # spoken", "--test_sets", "test_{languages}")
    output = recipe.run(*option, "--dry_run", "--nbpe", "50", "--stop_stage", "8")
    assert "local/data.sh --languages cs nl" in output
    assert {"data/test_cs", "data/test_nl"} <= set(output.split())
    assert "data/token_list/cs_nl_bpe_50" in output
    one = recipe.run(*option, "--languages", "nl", "--dry_run", "--stop_stage", "2")
    assert "data/test_nl" in one and "data/test_cs" not in one


def test_misspelled_and_misshapen(recipe) -> None:
    output = recipe.run(*OWN, "--lagn", "fr", code=1)
    assert "unknown option --lagn; did you mean --lang" in output
    for line in ("lang", "lang=de", "Lang=de # x"):
        output = recipe.run("--option", line, code=1)
        assert f"--option '{line}' is not 'name=value # help'" in output


def test_unknown_symbols_are_allowed_by_one_word(recipe) -> None:
    only = ("--dry_run", "--stage", "stats", "--stop_stage", "train")
    plain, allowed = recipe.run(*only), recipe.run(*only, "--allow_unk")
    assert "--allow_unk" not in plain
    assert allowed.count("--allow_unk true") == 3  # statistics, two attention types
    output = recipe.run("--allow_unk=maybe", code=1)
    assert "--allow_unk: 'maybe' is not true or false" in output


def test_own_data_leave_the_recipes_models_and_readme_alone(recipe) -> None:
    sets = (
        "--train_set",
        "mine",
        "--valid_set",
        "mine_dev",
        "--test_sets",
        "mine_test",
    )
    plain = recipe.run("--dry_run", "--readme", "README.md")
    own = recipe.run("--dry_run", "--readme", "README.md", *sets)
    assert "exp/asr_train_bpe_500_mha" in plain and "--readme README.md" in plain
    assert "exp/asr_train_mine_bpe_500_mha" in own and "--readme" not in own
    assert "data/token_list/mine_bpe_500" in own and "exp/asr_train_bpe" not in own


def test_a_run_with_other_settings_leaves_the_committed_results_alone(recipe) -> None:
    run = ("--dry_run", "--readme", "README.md", "--")  # as a recipe's run.sh ends
    for same in ((), ("--nj", "3", "--stage", "pack"), ("--ngpu", "1", "--threads=1")):
        assert "--readme README.md" in recipe.run(*run, *same)
    for other in (
        ("--train_opts", "--max_epoch 1"),
        ("--local_data_opts", "--seconds 9"),
        ("--asr_args", "--max_epoch 1"),  # ESPnet's name
        ("--nbest=1",),
    ):
        output = recipe.run(*run, *other)
        name = other[0].partition("=")[0]
        assert f"README.md keeps its results: {name} may change them" in output
        assert "results --exp" in output and "--output exp/packed" in output
        assert not re.search(r"results .*--readme", output)
        assert "--readme README.md" in recipe.run(*run, *other, "--readme=README.md")
