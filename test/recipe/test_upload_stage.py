"""Stage upload, with stubs for the commands (test/support/command_stub.py)."""

from __future__ import annotations

SMALL = ("--attention", "mha")


def test_upload_is_asked_for_by_name_and_done_once(finished) -> None:
    output = finished.run(*SMALL, "--stage", "upload", "--stop_stage", "13", code=1)
    assert output.endswith("error: stage upload needs --hub_name owner/name\n")
    options = (*SMALL, "--stop_stage", "upload", "--hub_name", "me/toy")
    finished.run(*options)
    calls = finished.calls()
    folder = "exp/packed_train_bpe_500/asr_train_bpe_500_mha"
    assert [call.split()[0] for call in calls] == ["pack", "upload"]
    assert "--name me/toy-mha" in calls[0]
    assert calls[1] == f"upload {folder} me/toy-mha"
    finished.run(*options)
    assert finished.calls() == []
