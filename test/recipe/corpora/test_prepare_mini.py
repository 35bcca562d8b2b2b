"""The generated corpus: the sets are new together, or stay as they were."""

from __future__ import annotations

import pytest


def test_stopped_in_its_last_set_it_leaves_the_old_ones(
    load_local, tmp_path, monkeypatch, capsys
):
    mini = load_local("mini/asr1")
    options = ["prepare", "--data_dir", str(tmp_path), "--num_valid", "2"]
    options += ["--num_test", "2", "--num_train"]
    monkeypatch.setattr("sys.argv", [*options, "3"])
    mini.main()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(list(tmp_path.rglob("*.wav"))) == 7
    written = []

    def stop(*arguments: object) -> None:
        written.append(arguments)
        if len(written) > 6:
            raise KeyboardInterrupt
        write(*arguments)

    write = mini.write_wav
    monkeypatch.setattr(mini, "write_wav", stop)
    monkeypatch.setattr("sys.argv", [*options, "4"])
    with pytest.raises(KeyboardInterrupt):
        mini.main()
    assert "train: 4" not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
