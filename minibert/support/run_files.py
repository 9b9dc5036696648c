"""What lies in a run's folder: checkpoints, one-line files that point to them, and the lock of the process that writes.

In: the folder. Out: names of checkpoints, a held lock. The downloads of `wheel.py` are locked and removed in the same
way.
"""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from minibert.support.errors import BadInput
from minibert.support.files import regular
from minibert.support.streams import tell
from minibert.support.writing import write_atomically

LOCK = ".lock"


def write_pointer(pointer: Path, name: str) -> None:
    """Write the name of a checkpoint to a run's one-line file `best` or `latest`."""
    write_atomically(pointer, name + "\n")


def read_pointer(pointer: Path) -> str | None:
    """The name in a one-line file, or None without the file. Whoever uses the name checks it: it may be anything."""
    return pointer.read_text("utf-8", errors="replace").strip() if pointer.is_file() else None


def checkpoints(run: Path) -> list[Path]:
    """The folders `checkpoint-<step>`, oldest first."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in run.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


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
        if not lock_if_possible(descriptor):
            raise BadInput(run, "", "another run is writing here; wait for it, or name another --output_dir")
        if not is_still(run / LOCK, descriptor):  # opened just before another run removed its empty folder
            raise BadInput(run, "", "another run has just ended here; start again")
        yield
    finally:
        os.close(descriptor)


def lock_if_possible(descriptor: int) -> bool:
    """`lock`; on a file system without locks a warning, and True."""
    try:
        return lock(descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        tell(f"warning: this file system has no locks ({error.strerror}): start no second run in the same folder")
        return True


def is_still(file: Path, descriptor: int) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


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
