"""Files are read strictly, written completely or not at all, and a run's folder has one writer."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minibert.support import files
from minibert.support.errors import BadInput
from minibert.support.files import (
    LOCK,
    check_target,
    checkpoints,
    fingerprint,
    read_json,
    read_pointer,
    read_text,
    regular,
    remove,
    replacing,
    run_lock,
    sync_to_disk,
    write_atomically,
    write_json,
    write_pointer,
    write_together,
)
from tests.builders import ROOT

needs_links = pytest.mark.skipif(os.name == "nt", reason="Windows lets only administrators make symbolic links")

# --- reading ---

GOOD = '{"version": "1.1", "data": [{"title": "caf\u00e9"}]}'


@pytest.mark.parametrize("raw", [GOOD.encode(), b"\xef\xbb\xbf" + GOOD.encode(), b"\n " + GOOD.encode() + b"\n"])
def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path, raw):
    (tmp_path / "a.json").write_bytes(raw)
    assert read_json(tmp_path / "a.json") == read_json(str(tmp_path / "a.json")) == json.loads(GOOD)


BAD_JSON = [
    ("empty", b"", "", "the file is empty"),
    ("whitespace", b" \n\t\n", "", "the file is empty"),
    ("only a byte order mark", b"\xef\xbb\xbf", "", "the file is empty"),
    ("git-LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "", "git-LFS .*`git lfs pull`"),
    ("HTML", b"\n<!DOCTYPE html><html>", "", "looks like HTML"),
    ("XML", b"<a/>", "", "XML"),
    ("gzip", gzip.compress(GOOD.encode()), "", "compressed; gunzip"),
    ("zip", b"PK\x03\x04\x14\x00", "", "zip archive"),
    ("UTF-16", GOOD.encode("utf-16"), "byte 0", "not UTF-8"),
    ("UTF-16 without a mark", '{"data": 1}'.encode("utf-16-le"), "line 1", "."),
    ("latin-1", b'{"data": "caf\xe9"}', "byte 13", "not UTF-8"),
    ("truncated", GOOD[:-5].encode(), "line 1 column", "."),
    ("truncated in a string", GOOD[:10].encode(), "line 1 column", "."),
    ("trailing comma", b'{\n"data": [],\n}', "line ", "."),  # Python 3.13 names the comma itself
    ("trailing data", f"{GOOD}\nend".encode(), "line 2 column 1", "Extra data"),
    ("JSON lines", f"{GOOD}\n{GOOD}".encode(), "line 2 column 1", "JSON lines"),
    ("deep lists", b'{"data": ' + b"[" * 100_000, "", "nested too deeply"),
    ("deep objects", b'{"data":' * 100_000, "", "nested too deeply"),
    ("an integer of 5,000 digits", b'{"data": ' + b"1" * 5000 + b"}", "", "digits"),
    ("NaN", b'{"data": NaN}', "", "NaN"),
    ("Infinity", b'{"data": Infinity}', "", "Infinity"),
    ("-Infinity", b'{"data": -Infinity}', "", "-Infinity"),
    ("a number that becomes infinite", b'{"data": 1e999}', "", "1e999"),
    ("a key twice", b'{"data": {"id": "q0", "x": 1, "id": "q1"}}', "", "'id' .*twice"),
]


@pytest.mark.parametrize(("raw", "where", "what"), [row[1:] for row in BAD_JSON], ids=[row[0] for row in BAD_JSON])
def test_json_that_cannot_be_used_is_refused_with_its_place_and_kind(tmp_path, raw, where, what):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(BadInput, match=what) as caught:
        read_json(tmp_path / "a.json")
    assert caught.value.file == str(tmp_path / "a.json") and caught.value.where.startswith(where)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b'{"a": "\\ud800"}')
@given(st.binary(max_size=60) | st.text('[]{}",:0e9.-NaInfity \\u\ud7ff', max_size=60).map(str.encode))
def test_any_bytes_are_parsed_or_refused(tmp_path, raw):
    (tmp_path / "a.json").write_bytes(raw)
    try:
        json.dumps(read_json(tmp_path / "a.json"), allow_nan=False)
    except BadInput as error:
        assert str(error).startswith(str(tmp_path / "a.json"))


@pytest.mark.parametrize("read", [read_json, read_text])
@pytest.mark.parametrize("name", ["none.json", "folder", "null\0byte", "x" * 5000])
def test_a_file_that_cannot_be_read_is_bad_input(tmp_path, read, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=r"cannot be read: ."):
        read(tmp_path / name)


def test_text_is_utf8_and_loses_its_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf<b> caf\xc3\xa9\r\n")
    assert read_text(tmp_path / "a.txt") == "<b> caf\u00e9\r\n"
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInput, match=r"byte 3: is not UTF-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("raw", "says"),
    [(b"%PDF-1.7\n", "a PDF; .*text"), (b"PK\x03\x04\x14", "office document"), (b"\x1f\x8b\x08", "gunzip")],
)
def test_a_document_that_is_not_text_is_named(tmp_path, raw, says):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(BadInput, match=says):
        read_text(tmp_path / "a.txt")


def test_a_fingerprint_is_size_and_sha256(tmp_path):
    raw = bytes(range(251)) * 5000  # more than one block
    (tmp_path / "a").write_bytes(raw)
    assert fingerprint(tmp_path / "a") == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


# --- writing ---


def test_json_is_written_as_it_is_read_and_without_nan(tmp_path):
    content = {"a": [1, 2.5, "caf\u00e9"], "b": None, "a path that is not UTF-8": "caf\udce9"}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content and "caf\u00e9" in read_text(tmp_path / "a.json")
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_a_name_that_is_not_utf8_is_written_with_escapes(tmp_path):
    write_atomically(tmp_path / "a.txt", "caf\u00e9 caf\udce9")
    assert read_text(tmp_path / "a.txt") == "caf\u00e9 caf\\udce9"


def test_a_file_is_replaced_only_once_its_content_is_on_the_disk(tmp_path, monkeypatch):
    """Otherwise a power failure could leave the new name with no content."""
    events: list = []
    replace = os.replace
    monkeypatch.setattr(files, "sync_to_disk", lambda path: events.append(path.name[:10]))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append("replace"), replace(old, new)))
    write_atomically(tmp_path / "a.txt", "new")
    assert events == [".tmp-a.txt", "replace", tmp_path.name[:10]] and (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(("at", "call"), [("fsync", 1), ("fsync", 3), ("replace", 1)])
def test_files_of_one_call_are_all_on_the_disk_before_the_first_changes(tmp_path, monkeypatch, at, call, error):
    """A full disk or a signal leaves the old contents, and nothing else."""
    old = {tmp_path / name: "old" for name in "abc"}
    for file, text in old.items():
        file.write_text(text)
    monkeypatch.setattr(os, at, Mock(side_effect=[None] * (call - 1) + [error]))
    with pytest.raises(type(error)):
        write_together(dict.fromkeys(old, "new"))
    assert {file: file.read_text() for file in sorted(tmp_path.iterdir())} == old


def test_on_windows_a_folder_is_not_synced_and_a_file_is_opened_for_writing(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    opened, paths = Mock(wraps=os.open), (tmp_path, tmp_path / "a")
    with monkeypatch.context() as windows:
        windows.setattr(os, "open", opened)
        windows.setattr(os, "name", "nt")
        for path in paths:
            sync_to_disk(path)
    opened.assert_called_once_with(paths[1], os.O_RDWR)


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


# --- the lock ---

HOLD = "import sys, pathlib, time, minibert.support.files as f\nwith f.run_lock(pathlib.Path(sys.argv[1])):\n"
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
        assert [files.lock(file.fileno()) for _ in range(2)] == [True, False]
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


@needs_links
def test_a_temporary_name_that_is_taken_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".tmp-file").hardlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "file", "new")
    with replacing(tmp_path / "file") as opened:
        opened.write("newer")
    assert [(tmp_path / name).read_text() for name in ("mine", ".tmp-file", "file")] == ["precious"] * 2 + ["newer"]
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0")
    (tmp_path / ".tmp-file-0").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", "other")
    assert [(tmp_path / name).read_text() for name in ("mine", "file")] == ["precious", "newer"]


def test_two_writers_of_one_file_never_mix(tmp_path):
    with replacing(tmp_path / "file") as first:
        first.write("first")
        with replacing(tmp_path / "file") as second:
            second.write("second")
        assert (tmp_path / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "first"


def test_a_target_is_tried_before_the_work(tmp_path):
    mine, empty, folder = (tmp_path / name for name in ("mine", "empty", "folder"))
    mine.write_text("precious")
    empty.touch()
    folder.mkdir()
    for file in (empty, tmp_path / "new" / "file"):
        check_target(file, lambda: False)
    check_target(mine, lambda: True)
    check_target(mine, lambda: False, overwrite=True)
    for file, what in ((mine, "--overwrite"), (folder, "not a regular file"), (mine / "file", "is a file")):
        with pytest.raises(BadInput, match=what):
            check_target(file, lambda: False)
    with pytest.raises(OSError, match="xxx"):
        check_target(tmp_path / "new" / ("x" * 245), lambda: False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder", "mine"]
