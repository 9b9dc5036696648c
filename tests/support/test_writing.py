"""Files are written completely or not at all, and only where they are not in the way of others."""

import errno
import os
from unittest.mock import Mock

import pytest

from minibert.support import writing
from minibert.support.errors import BadInput
from minibert.support.files import read_json, read_text
from minibert.support.writing import check_target, replacing, sync_to_disk, write_atomically, write_json, write_together

needs_links = pytest.mark.skipif(os.name == "nt", reason="Windows lets only administrators make symbolic links")


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
    monkeypatch.setattr(writing, "sync_to_disk", lambda path: events.append(path.name[:10]))
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


@pytest.mark.parametrize("name", ["write", "replacing", "new_folder"])
def test_an_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch, name):
    full = OSError(errno.ENOSPC, "No space left on device")
    if name == "write":
        monkeypatch.setattr(os, "fsync", Mock(side_effect=full))
    with pytest.raises(OSError) as caught:
        if name == "write":
            write_atomically(tmp_path / "a.json", "{}")
        else:
            with getattr(writing, name)(tmp_path / "a.json"):
                raise full
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space left on device: {str(tmp_path / 'a.json')!r}"
    assert list(tmp_path.iterdir()) == []


def test_on_windows_a_folder_is_not_synced_and_a_file_is_opened_for_writing(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    opened, paths = Mock(wraps=os.open), (tmp_path, tmp_path / "a")
    with monkeypatch.context() as windows:
        windows.setattr(os, "open", opened)
        windows.setattr(os, "name", "nt")
        for path in paths:
            sync_to_disk(path)
    opened.assert_called_once_with(paths[1], os.O_RDWR)


@needs_links
def test_a_temporary_name_that_is_taken_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".tmp-file").hardlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "file", "new")
    with replacing(tmp_path / "file") as opened:
        opened.write("newer")
    assert [(tmp_path / name).read_text() for name in ("mine", ".tmp-file", "file")] == ["precious"] * 2 + ["newer"]
    monkeypatch.setattr(writing.secrets, "token_hex", lambda _: "0")
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
