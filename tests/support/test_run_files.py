"""A run's folder: its pointers, its checkpoints, what is removed there, and its one writer."""

import errno
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from minibert.support import run_files
from minibert.support.errors import BadInput
from minibert.support.files import regular
from minibert.support.run_files import LOCK, checkpoints, read_pointer, remove, run_lock, write_pointer
from tests.builders import ROOT

needs_links = pytest.mark.skipif(os.name == "nt", reason="Windows lets only administrators make symbolic links")


def test_a_pointer_holds_one_name(tmp_path):
    assert read_pointer(tmp_path / "best") is None
    write_pointer(tmp_path / "best", "checkpoint-3")
    assert (tmp_path / "best").read_bytes() == b"checkpoint-3\n" and read_pointer(tmp_path / "best") == "checkpoint-3"
    (tmp_path / "best").write_bytes(b"\xff\xfe\x00")
    assert read_pointer(tmp_path / "best")  # noise is a name that nothing has


def test_checkpoints_are_listed_by_their_step(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-notes", "checkpoint-best", ".tmp-checkpoint-11"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


@needs_links
def test_what_matches_is_removed_but_nothing_behind_a_link(tmp_path, capsys):
    for name in ("run/old-1", "run/kept", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "run" / "old-2").write_text("x")
    (tmp_path / "run" / "old-3").symlink_to(tmp_path / "outside")
    remove(tmp_path / "run", "old-*", "none")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]
    assert (tmp_path / "outside" / "file").exists() and capsys.readouterr().err == ""


def test_a_removal_that_is_cut_short_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    def cut_short(path):
        (path / "manifest.json").unlink()
        raise KeyboardInterrupt

    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3/manifest.json").touch()
    monkeypatch.setattr("shutil.rmtree", cut_short)
    with pytest.raises(KeyboardInterrupt):
        remove(tmp_path, "checkpoint-*")
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-old-checkpoint-3"]


def test_what_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, capsys):
    (tmp_path / "old-1").mkdir()
    (tmp_path / "old-2").write_text("x")
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=OSError("busy")))
    remove(tmp_path, "old-*")
    assert capsys.readouterr().err == f"warning: cannot remove {tmp_path / 'old-1'}: busy\n"
    assert not (tmp_path / "old-2").exists()


HOLD = "import sys, pathlib, time, minibert.support.run_files as f\nwith f.run_lock(pathlib.Path(sys.argv[1])):\n"
HOLD += "    print('held', flush=True); time.sleep(60)"


def test_a_second_process_is_refused_until_the_first_ends_even_by_a_kill(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(BadInput, match=r"another run is writing here; .*--output_dir") as caught, run_lock(tmp_path):
        pytest.fail("two processes hold the lock")
    assert caught.value.file == str(tmp_path)
    child.kill()
    child.communicate()
    with run_lock(tmp_path):
        pass


def test_the_lock_is_released_by_an_error_too_and_never_truncates(tmp_path):
    (tmp_path / LOCK).write_text("somebody's notes")
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        1 / 0  # noqa: B018
    with run_lock(tmp_path), pytest.raises(BadInput), run_lock(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "somebody's notes"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_a_file_system_without_locks_costs_a_warning_and_no_run(tmp_path, monkeypatch, capsys):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOSYS, "Function not implemented")))
    with run_lock(tmp_path):
        assert "start no second run in the same folder" in capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"), run_lock(tmp_path):
        pytest.fail("locked")


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove an open file")
def test_a_lock_on_a_file_that_another_run_has_just_removed_is_none(tmp_path, monkeypatch):
    def late(descriptor: int) -> bool:
        (tmp_path / LOCK).unlink()
        return True

    monkeypatch.setattr(run_files, "lock", late)
    with pytest.raises(BadInput, match="has just ended here"), run_lock(tmp_path):
        pytest.fail("locked")


@needs_links
@pytest.mark.parametrize("target", ["file", "none"])
def test_locking_does_not_follow_a_link(tmp_path, monkeypatch, target):
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / target)
    with pytest.raises(BadInput, match="symbolic link; remove it"), run_lock(tmp_path / "run"):
        pytest.fail("locked")
    if hasattr(os, "O_NOFOLLOW"):  # a link that appears after the check
        monkeypatch.setattr(os.path, "islink", lambda path: False)
        with pytest.raises(BadInput), run_lock(tmp_path / "run"):
            pytest.fail("locked")
    assert (tmp_path / "file").read_text() == "precious" and not (tmp_path / "none").exists()


def test_on_windows_the_lock_is_that_of_msvcrt(tmp_path, monkeypatch):
    locking = Mock(side_effect=[None, PermissionError(13, "Permission denied")])
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="not blocking"))
    with open(tmp_path / LOCK, "w") as file, monkeypatch.context() as windows:
        windows.setattr(sys, "platform", "win32")
        assert [run_files.lock(file.fileno()) for _ in range(2)] == [True, False]
    assert [words[1:] for words, _ in locking.call_args_list] == [("not blocking", 1)] * 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_only_a_regular_file_is_opened(tmp_path):
    """A FIFO would keep the program waiting for ever."""
    os.mkfifo(tmp_path / LOCK)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="regular file"), run_lock(tmp_path):
        pytest.fail("locked")
    for name in (LOCK, "folder"):
        for mode in "ra":
            with pytest.raises((BadInput, OSError)):
                open(tmp_path / name, mode, opener=regular)  # noqa: SIM115
