"""Atomic writing: a file is complete under its name, or not there.

In: content, and the name that it gets once it is on the disk. A crash, a full disk or a signal leaves what was there
before.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from minibert.support.errors import BadInput
from minibert.support.streams import tell


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Give an OSError the name of the file if it has none: of a full disk the system says only that it is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


def write_json(file: Path, content: object) -> None:
    """Write indented JSON in a folder that is not in use yet, not atomically; ValueError for NaN and infinite numbers.

    The surrogates in a path that is not UTF-8 become escapes, as JSON writes them, and are read as what they were.
    """
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    file.write_text(text, "utf-8", errors="backslashreplace")


def write_atomically(file: Path, text: str) -> None:
    """Replace a file's content: at any instant, also after a crash, the file holds the old text or the new one."""
    write_together({file: text})


def write_together(texts: dict[Path, str]) -> None:
    """Replace the content of files: all of them are on the disk before the first gets its name.

    A full disk or a crash while they are written changes none. The surrogates in a name that is not UTF-8 become
    escapes. Raises OSError.
    """
    temporaries = {temporary_name(file): file for file in texts}
    try:
        for temporary, file in temporaries.items():
            with naming(file):
                with open(temporary, "x", encoding="utf-8", errors="backslashreplace") as opened:
                    opened.write(texts[file])
                sync_to_disk(temporary)
        for temporary, file in temporaries.items():
            os.replace(temporary, file)
    except BaseException:  # a signal, too, leaves nothing behind
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise
    for folder in {file.parent for file in texts}:
        sync_to_disk(folder)


def temporary_name(file: Path) -> Path:
    """A name beside the file that nobody else has: not the user's own files, nor a second process that writes it."""
    return file.with_name(f".tmp-{file.name}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[TextIO]:
    """A text file to write in a `with` block that takes the name `file` when the block ends well.

    If it does not, the file of that name is what it was, and what was written stays beside it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(file)
    try:
        with naming(file):
            with open(temporary, "x", encoding="utf-8") as opened:
                yield opened
            sync_to_disk(temporary)
        os.replace(temporary, file)
    except BaseException:
        if temporary.exists() and temporary.stat().st_size:
            tell(f"what was written so far is in {temporary}")
        else:
            temporary.unlink(missing_ok=True)
        raise
    sync_to_disk(file.parent)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill in a `with` block. It takes the name `target` when the block ends well, else it is removed.

    Raises BadInput if `target` is there already or cannot be a folder.
    """
    if os.path.lexists(target):
        raise BadInput(target, "", "is there already; name a new folder")
    check_utf8(target)
    check_parent(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = temporary_name(target.absolute())
    try:
        aside.mkdir()
        with naming(target):
            yield aside
            for path in (*aside.iterdir(), aside):
                sync_to_disk(path)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_to_disk(target.absolute().parent)


def check_target(file: Path, is_ours: Callable[[], bool], overwrite: bool = False) -> None:
    """BadInput or OSError if a file could not be written later on, or is there and not ours to replace.

    is_ours: whether the content is what an earlier call wrote. It is found out before the work, not after it.
    """
    if str(file) == "-":
        raise BadInput(file, "", "is not stdout here; name a file")
    if os.path.lexists(file) and not file.is_file():
        raise BadInput(file, "", "is not a regular file; name another")
    if file.is_symlink():  # the new file would take the place of the link, and its target would stay as it is
        raise BadInput(file, "", f"is a link; name the file itself, {os.path.realpath(file)}")
    if file.is_file() and file.stat().st_size and not overwrite and not is_ours():
        raise BadInput(
            file,
            "",
            "holds something else, or is of another call; name another file or folder, or replace it with --overwrite",
        )
    check_parent(file)


def check_utf8(folder: Path) -> None:
    """BadInput for a folder whose name is not UTF-8: safetensors could not open weights there."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            folder, "", "is not UTF-8, and weights there could not be opened; name another folder"
        ) from error


def check_parent(path: Path) -> None:
    """BadInput or OSError if no file or folder of this name could be written later on."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise BadInput(folder, "", "is a file; name a folder")
    trial = folder / temporary_name(path).name
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:  # no permission, a read-only disk, a name that is too long
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk and not only in the system's memory."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call for a folder
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
