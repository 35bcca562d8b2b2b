"""A recipe with the tokens of a Transformers tokenizer: options of each command."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "options",
    [
        ("--token_type", "hf", "--hf_tokenizer", "owner/Some-LM"),
        (
            *("--token_type", "hugging_face"),
            *("--hugging_face_model_name_or_path", "owner/Some-LM"),
        ),
    ],
)
def test_tokenizer_reaches_every_command(recipe, options) -> None:
    recipe.run("--attention", "mha", "--stop_stage", "decode", *options)
    calls = recipe.calls()
    folder = "data/token_list/hf_Some-LM"
    (tokens,) = (call for call in calls if call.startswith("tokenise"))
    assert "--token_type hf --hf_tokenizer owner/Some-LM" in tokens
    assert f"--output_dir {folder}" in tokens
    trainings = [call for call in calls if call.startswith("train ")]
    assert len(trainings) == 2
    for call in trainings:
        assert f"--token_list {folder}/tokens.txt --token_type hf" in call
        assert f"--bpemodel {folder}/tokenizer" in call
    assert any("_hf_Some-LM_mha" in call for call in trainings)
