"""The language model of a recipe: which steps it adds, and what is refused."""

from __future__ import annotations

import pytest

CONFIGS = ("--decode_configs", "conf/decode_lm.yaml conf/decode.yaml")


@pytest.fixture
def with_lm(recipe):
    conf = recipe.folder / "conf"
    (conf / "decode_lm.yaml").write_text("beam_size: 4\nlm_weight: 0.3\n")
    (conf / "decode_off.yaml").write_text("beam_size: 4\nlm_weight: 0.0\n")
    (conf / "decode_ngram.yaml").write_text("beam_size: 4\nngram_weight: .5\n")
    (conf / "lm.yaml").write_text("max_epoch: 2\n")
    (recipe.folder / "lm.arpa").write_text("n-grams\n")
    return recipe


def planned(recipe, *options: str) -> list[str]:
    """The commands of a dry run."""
    output = recipe.run("--attention", "mha", *options, "--dry_run")
    return [line.split("] ", 1)[1] for line in output.splitlines() if "[to do]" in line]


def test_it_is_trained_once_and_joins_where_it_has_a_weight(with_lm) -> None:
    before = planned(with_lm, "--decode_configs", "conf/decode.yaml")
    lines = planned(with_lm, *CONFIGS, "--use_lm", "true")
    assert [line for line in before if line.startswith("lm:")] == []
    stats, train, average = (line for line in lines if line.startswith("lm: "))
    assert "--task lm" in stats and stats.endswith("--collect_stats --ngpu 0")
    assert (
        "--output_dir exp/lm_lm_bpe_500" in train and "--config conf/lm.yaml" in train
    )
    assert "--exp_dir exp/lm_lm_bpe_500 --metric valid.loss.min" in average
    joined = [line for line in lines if "--lm exp/lm_lm_bpe_500" in line]
    assert [line.split(":")[0] for line in joined] == ["mha.decode_lm.test", "mha"]
    assert ".bin.pack" in joined[1], "the first decode config is packed"
    unchanged = [line for line in lines if line in before]
    assert any(line.startswith("mha.decode.test:") for line in unchanged)


def test_own_texts_folder_and_options(with_lm) -> None:
    lines = planned(
        with_lm,
        *(*CONFIGS, "--use_lm", "true", "--lm_exp", "exp/mine"),
        *("--lm_train_text", "texts", "--lm_args", "--max_epoch 1"),
    )
    train = [line for line in lines if line.startswith("lm: ")][1]
    assert "--train_data texts" in train and "--max_epoch 1" in train
    assert "--output_dir exp/mine" in train
    assert any("--lm exp/mine" in line for line in lines)


def test_ngrams_join_where_they_have_a_weight(with_lm) -> None:
    configs = ("--decode_configs", "conf/decode.yaml conf/decode_ngram.yaml")
    lines = planned(with_lm, *configs, "--ngram_file", "lm.arpa")
    joined = [line for line in lines if "--ngram lm.arpa" in line]
    assert [line.split(":")[0] for line in joined] == ["mha.decode_ngram.test"]


def test_a_changed_hotword_file_decodes_again(recipe) -> None:
    conf = recipe.folder / "conf"
    (conf / "words.yaml").write_text('hotwords: "my names.txt" # one phrase a line\n')
    (conf / "decode_words.yaml").write_text("base: words.yaml\nbeam_size: 4\n")
    names = recipe.folder / "my names.txt"
    names.write_text("asterisk\n")
    options = ("--attention", "mha", "--decode_configs", "conf/decode_words.yaml")
    recipe.run(*options)
    decoded = "mha.decode_words.test: already done"
    assert decoded in recipe.run(*options)
    names.write_text("asterisk\nvoicemail\n")
    assert decoded not in recipe.run(*options)
    assert decoded in recipe.run(*options)


def test_a_list_of_hotwords_is_part_of_the_config(recipe) -> None:
    config = recipe.folder / "conf" / "decode_words.yaml"
    config.write_text("hotwords:\n- asterisk\n")
    options = ("--attention", "mha", "--decode_configs", "conf/decode_words.yaml")
    recipe.run(*options)
    assert "mha.decode_words.test: already done" in recipe.run(*options)
    config.write_text("hotwords: [asterisk, voicemail]\n")
    assert "mha.decode_words.test: already done" not in recipe.run(*options)


def test_a_weight_of_the_base_counts_unless_overridden(with_lm) -> None:
    conf = with_lm.folder / "conf"
    (conf / "decode_more.yaml").write_text("base: decode_lm.yaml\nbeam_size: 8\n")
    lines = planned(with_lm, "--use_lm", "--decode_configs", "conf/decode_more.yaml")
    assert any("--lm exp/lm" in line for line in lines)
    (conf / "decode_more.yaml").write_text("base: decode_lm.yaml\nlm_weight: 0\n")
    output = with_lm.run(
        *("--use_lm", "--decode_configs", "conf/decode_more.yaml"), code=1
    )
    assert "none of --decode_configs has lm_weight" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["conf/decode_lm.yaml"], "conf/decode_lm.yaml: lm_weight needs --use_lm"),
        (["conf/decode_ngram.yaml"], "ngram_weight needs --ngram_file"),
        (
            ["conf/decode_off.yaml", "--use_lm"],
            "none of --decode_configs has lm_weight",
        ),
        (
            ["conf/decode.yaml", "--ngram_file", "lm.arpa"],
            "none of --decode_configs has ngram_weight",
        ),
        (
            ["conf/decode_lm.yaml", "--use_lm", "--lm_config", "conf/no.yaml"],
            "conf/no.yaml: no such file (--lm_config)",
        ),
        (
            ["conf/decode_ngram.yaml", "--ngram_file", "no.arpa"],
            "no.arpa: no such file (--ngram_file)",
        ),
        (["conf/decode.yaml", "--use_ngram", "true"], "--use_ngram (ESPnet): "),
    ],
)
def test_what_does_not_belong_together_is_refused(with_lm, options, words) -> None:
    output = with_lm.run("--decode_configs", *options, code=1)
    assert output.startswith("error: ") and words in output
    assert with_lm.calls() == []
