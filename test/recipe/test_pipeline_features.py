"""Features in the pipeline: made once, and read in place of sound."""

from __future__ import annotations


def test_features_made_once_are_what_training_and_decoding_read(recipe) -> None:
    options = (
        "--feats_type",
        "ssl",
        "--frontend_config",
        "fbank80",
        "--attention",
        "mha",
    )
    recipe.run(*options)
    calls = recipe.calls()
    made, conf = "dump/raw/ssl_fbank80", recipe.folder.parents[2] / "conf"
    fragment = f"--frontend_config {conf}/frontend/fbank80.yaml"
    (dumped,) = [c for c in calls if c.startswith("dump_features dump/raw/test ")]
    given = f"{made}/test --config conf/train.yaml --archive zip --dtype float16"
    assert f"{given} {fragment} " in dumped
    trained = [call for call in calls if call.startswith("train ")]
    for call in trained:
        assert f"--train_data {made}/train --valid_data {made}/valid" in call
        assert fragment in call
    assert "/asr_train_bpe_500_fbank80_ssl_mha " in f"{trained[-1]} "
    (decoded,) = [call for call in calls if call.startswith("inference")]
    assert f"--data {made}/test" in decoded
    recipe.run(*options)
    assert recipe.calls() == []


def test_the_pretrained_front_end_is_named_by_one_option(recipe) -> None:
    only = ("--dry_run", "--feats_type", "ssl", "--stop_stage", "train")
    plain = recipe.run(*only)
    assert "--frontend_model" not in plain and "--frontend_conf" not in plain
    output = recipe.run(
        *only, "--frontend_model", "/models/small", "--encoder_config", ""
    )
    commands = [line for line in output.splitlines() if "dump_features" in line]
    assert len(commands) == 3
    assert all("--frontend_model /models/small" in line for line in commands)
    # Statistics, and two attention types.
    assert output.count("--frontend_conf model=/models/small") == 3
