"""Writes that are whole or not at all, and folders held against a second run."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from espnet_mtla.data import atomic, lock, workers
from espnet_mtla.data.atomic import atomic_file, atomic_folder, atomic_folders
from espnet_mtla.errors import UserError
from test.support.toy_folder import snapshot


def test_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a"
    for text in ("first\n", "second é\n"):
        with atomic_file(path) as stream:
            stream.write(text)
    assert snapshot(tmp_path) == {"deep/a": "second é\n".encode()}


def test_failed_file_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a") as stream:
        stream.write("new")
        raise ZeroDivisionError
    assert snapshot(tmp_path) == {"a": b"old"}


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError) as caught, atomic_file(tmp_path / "a") as stream:
        stream.write("new")
    assert caught.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with atomic_folder(tmp_path / "out") as aside:
            (aside / name).write_text(name)
    assert snapshot(tmp_path) == {"out/two": b"two"}
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as aside:
        (aside / "three").write_text("three")
        raise ZeroDivisionError
    assert snapshot(tmp_path) == {"out/two": b"two"}
    assert os.listdir(tmp_path) == ["out"]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    for name in (".out.tmp", ".out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    with atomic_folder(tmp_path / "out") as aside:
        (aside / "a").write_text("a")
    assert snapshot(tmp_path) == {"out/a": b"a"}


def make_folders(top: Path, **folders: str) -> None:
    """Make folders with one file each; ``out_old`` is ``.out.old``."""
    for name, text in folders.items():
        stem, _, end = name.partition("_")
        folder = top / (f".{stem}.{end}" if end else stem)
        folder.mkdir()
        (folder / "file").write_text(text)


def test_a_kill_between_the_two_renamings_loses_nothing(tmp_path: Path) -> None:
    make_folders(tmp_path, out_old="whole", out_tmp="new")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out"):
        raise ZeroDivisionError
    assert snapshot(tmp_path) == {"out/file": b"whole"}


def write_three(top: Path, text: str) -> None:
    with atomic_folders(top / name for name in "abc") as asides:
        for aside in asides:
            (aside / "file").write_text(text)


def test_folders_that_belong_together_are_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each renaming in turn; ``c`` is new."""

    class Killed(BaseException):
        pass

    for step in range(5):
        top = tmp_path / str(step)
        top.mkdir()
        make_folders(top, a="old", b="old")
        left = [step]

        def rename(source: Path, target: Path, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            os.rename(source, target)

        with monkeypatch.context() as killed, pytest.raises(Killed):
            killed.setattr(os, "replace", rename)
            # A kill leaves no time to clear up.
            killed.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
            write_three(top, "new")
        stand = {top.joinpath(name, "file") for name in "abc"}
        assert len({path.read_text() for path in stand if path.exists()}) <= 1
        with pytest.raises(ZeroDivisionError), atomic_folders(top / n for n in "abc"):
            raise ZeroDivisionError
        texts = set(snapshot(top).values())
        assert texts <= {b"new"} if step > 2 else texts == {b"old"}
        write_three(top, "newer")
        assert snapshot(top) == {f"{name}/file": b"newer" for name in "abc"}


def test_second_run_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    with (
        lock.lock_folder(tmp_path),
        pytest.raises(UserError, match="another run is writing here"),
        lock.lock_folder(tmp_path),
    ):
        pass
    with lock.lock_folder(tmp_path):
        pass


def test_the_process_that_writes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.0)
    with lock.lock_folder(tmp_path), pytest.raises(UserError) as refusal:
        lock.lock_folder(tmp_path).__enter__()
    assert f"(process {os.getpid()} on " in str(refusal.value)


def test_a_folder_that_another_process_writes_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.0)
    with atomic_folder(tmp_path / "out") as aside:
        (aside / "a").write_text("a")
        with (
            pytest.raises(UserError, match="out: another run is writing here"),
            atomic_folder(tmp_path / "out"),
        ):
            pass
    assert snapshot(tmp_path) == {"out/a": b"a"}


def test_a_file_system_without_locks_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.lock_folder(tmp_path):
        pass
    assert "its file system has no locks" in caplog.text


@pytest.mark.parametrize("nj", [1, 3])
def test_jobs_and_their_errors(nj: int) -> None:
    jobs = [4, 3, 2, 1]
    assert dict(workers.map_unordered(_divide, jobs, nj)) == {4: 3, 3: 4, 2: 6, 1: 12}
    with pytest.raises(ZeroDivisionError):
        list(workers.map_unordered(_divide, [1, 0, 2], nj))


def _divide(number: int) -> int:
    return 12 // number


def test_worker_that_is_killed_is_reported(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_mtla.data import format as formatting
    from espnet_mtla.data.audio_shards import Settings

    monkeypatch.setattr(formatting, "make_shard", _die)
    with pytest.raises(UserError, match="a worker process was killed"):
        formatting.format_audio(toy, "out", Settings(), nj=2)
    assert not Path("out/wav.scp").exists()


def _die(_: object) -> None:
    os._exit(9)
