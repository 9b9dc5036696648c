"""Files: strict reading, atomic writing, and the lock of a run's folder.

In: paths from users and from our own runs. Out: parsed content or BadInput; files that are complete or not there.

Next: `page.py`.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from minibert.support.errors import BadInput
from minibert.support.streams import tell

LOCK = ".lock"  # of a run's folder
NOT_JSON = " is not a JSON value"

# What a file that is not JSON starts with, after whitespace.
OTHER_FORMATS = {
    b"version https://git-lfs": "is a git-LFS pointer, not the file; run `git lfs pull`",
    b"<": "looks like HTML or XML, not JSON; download the raw file",
}
# What a file that is not text starts with.
NOT_TEXT = {
    b"%PDF-": "is a PDF; save it as plain text first, for example with `pdftotext`",
    b"\x1f\x8b": "is compressed; gunzip it first",
    b"PK\x03\x04": "is a zip archive; unzip it first, or save an office document as plain text or CSV",
}


def read_json(file: str | os.PathLike, constant: Callable[[str], Any] | None = None) -> Any:
    """Parse a UTF-8 JSON file, with or without a byte order mark; BadInput says where it fails and what it seems to be.

    Stricter than `json`: a key that appears twice in one object, NaN and infinite numbers are errors.
    constant: what to do with NaN and Infinity instead, a function of the word that returns the value.
    """
    raw = read_bytes(file)
    for start, what in OTHER_FORMATS.items():
        if raw.lstrip().startswith(start):
            raise BadInput(file, "", what)
    text = decode(file, raw)
    if not text.strip():
        raise BadInput(file, "", "the file is empty")
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=constant or refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        hint = "; JSON lines? expected one JSON object" if error.msg == "Extra data" else ""
        raise BadInput(file, f"line {error.lineno} column {error.colno}", f"is not JSON: {error.msg}{hint}") from error
    except RecursionError as error:
        raise BadInput(file, "", "nested too deeply") from error
    except ValueError as error:  # from a hook below, or an integer of thousands of digits
        word = str(error).removesuffix(NOT_JSON)
        raise BadInput(file, next(iter(lines_of(text, word)), ""), str(error)) from error


def lines_of(text: str, *words: str) -> list[str]:
    """The lines of a JSON text where one of these words stands outside of strings, as "line 7"."""
    tokens = re.finditer(r'"(?:[^"\\]|\\.)*"|[^\s"\[\]{}:,]+', text)
    return [f"line {text.count(chr(10), 0, token.start()) + 1}" for token in tokens if token[0] in words]


def read_text(file: str | os.PathLike) -> str:
    """A UTF-8 file's text, without its byte order mark."""
    return decode(file, read_bytes(file))


def read_bytes(file: str | os.PathLike) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise BadInput(file, "", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def decode(file: str | os.PathLike, raw: bytes) -> str:
    """The text of a UTF-8 file's bytes; BadInput says what the file seems to be instead."""
    for start, what in NOT_TEXT.items():
        if raw.startswith(start):
            raise BadInput(file, "", what)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            file, f"byte {error.start}", "is not UTF-8; save the file again with the encoding UTF-8"
        ) from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs; `json` alone would silently keep the last of two equal keys."""
    result = dict(pairs)
    if len(result) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key!r} appears twice in one object")
    return result


def refuse(constant: str) -> NoReturn:
    """Raise ValueError for NaN and Infinity, which `json` accepts although they are not JSON."""
    raise ValueError(constant + NOT_JSON)


def finite(number: str) -> float:
    """Parse a number; ValueError if it is so large that it would become infinite."""
    return float(number) if math.isfinite(float(number)) else refuse(number)


def fingerprint(file: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a regular file."""
    return {"bytes": file.stat().st_size, "sha256": hash_file(file, hashlib.sha256())}


def hash_file(file: Path, digest: Any) -> str:
    """The hex digest of a regular file's content, by an object of `hashlib` that may hold what stands before it."""
    with open(file, "rb", opener=regular) as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())


def regular(file: str, flags: int) -> int:
    """Open a regular file, as `opener` of `open`; BadInput for anything else. What is written to is never a link.

    A FIFO or a device would block or act; O_NONBLOCK keeps opening it from waiting, and does nothing to a regular file.
    """
    is_writing = flags & (os.O_WRONLY | os.O_RDWR)
    flags |= getattr(os, "O_NONBLOCK", 0) | (getattr(os, "O_NOFOLLOW", 0) if is_writing else 0)
    if is_writing and os.path.islink(file):  # for systems without O_NOFOLLOW
        raise BadInput(file, "", "expected a regular file, found a symbolic link; remove it")
    try:
        descriptor = os.open(file, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise BadInput(file, "", "expected a regular file; remove what is there") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadInput(file, "", "expected a regular file; remove what is there")
    return descriptor


def write_json(file: Path, content: object) -> None:
    """Write indented JSON; ValueError for NaN and infinite numbers.

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
    temporary = temporary_name(file)
    try:
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


def check_target(file: Path, is_ours: Callable[[], bool], overwrite: bool = False) -> None:
    """BadInput or OSError if a file could not be written later on, or is there and not ours to replace.

    is_ours: whether the content is what an earlier call wrote. It is found out before the work, not after it.
    """
    if os.path.lexists(file) and not file.is_file():
        raise BadInput(file, "", "is not a regular file; name another")
    if file.is_file() and file.stat().st_size and not overwrite and not is_ours():
        raise BadInput(file, "", "holds something else; name another file, or replace it with --overwrite")
    folder = next(folder for folder in file.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise BadInput(folder, "", "is a file; name a folder")
    trial = folder / temporary_name(file).name
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:  # no permission, a read-only disk, a name that is too long
        raise OSError(error.errno, error.strerror, str(file)) from error


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk and not only in the system's memory."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call for a folder
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_pointer(pointer: Path, name: str) -> None:
    """Write the name of a checkpoint to a run's one-line file `best` or `latest`."""
    write_atomically(pointer, name + "\n")


def read_pointer(pointer: Path) -> str | None:
    """The name in a one-line file, or None without the file. Whoever uses the name checks it: it may be anything."""
    return pointer.read_text("utf-8", errors="replace").strip() if pointer.is_file() else None


def checkpoints(run: Path) -> list[Path]:
    """The folders `checkpoint-<step>`, oldest first."""
    folders = [path for path in run.glob("checkpoint-*") if path.name[11:].isdecimal() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name[11:]))


def remove(folder: Path, *patterns: str) -> None:
    """Remove the files and folders that match the patterns. A failure costs only disk space: it is a warning.

    A folder is first renamed to `.tmp-old-NAME`: killed half-way, a checkpoint without its manifest would look like
    somebody else's, and stay for ever.
    """
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        try:
            if path.is_symlink() or not path.is_dir():
                path.unlink()
                continue
            is_aside = path.name.startswith(".")
            shutil.rmtree(path if is_aside else path.rename(path.with_name(f".tmp-old-{path.name}")))
        except OSError as error:
            tell(f"warning: cannot remove {path}: {error}")


@contextlib.contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the lock of a run's folder for a `with` block; BadInput if another process holds it.

    The system frees the lock when its process ends, however it ends.
    """
    # Without truncation: behind a hard link the file may be anybody's.
    descriptor = regular(str(run / LOCK), os.O_RDWR | os.O_CREAT)
    try:
        if not lock(descriptor):
            raise BadInput(run, "", "another run is writing here; wait for it, or name another --output_dir")
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Take the system's exclusive lock on an open file; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the answer of flock, and that of Windows
        return False
    return True
