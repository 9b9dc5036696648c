"""Files from the Hugging Face hub and to it. Only this file imports `huggingface_hub`, and only when it is asked.

In: a model's name on the hub. Out: its folder in the hub's own cache. A download says when it waits, and ends by a
signal or after a minute without a byte.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from minibert.support.errors import BadInput
from minibert.support.layouts import NEVER_OPENED, PICKLED_WEIGHTS, conversion
from minibert.support.streams import first_line, tell

PROBE_SECONDS = 5
ANSWER_SECONDS = 10  # for each answer of the hub
REPORT_SECONDS = 5  # without a byte from the hub, until a line says so
GIVE_UP_SECONDS = 60  # without a byte from the hub
Result = TypeVar("Result")


def library() -> Any:
    """The hub's library; BadInput if it cannot use one of the settings that it reads from the environment."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ValueError as error:
        raise BadInput("huggingface_hub", "", f"{error}; correct the environment's variables HF_*") from error
    return huggingface_hub


def is_offline() -> bool:
    """Whether the user has forbidden the hub's library to use the network."""
    return bool(library().constants.HF_HUB_OFFLINE)


def hub_answers(hub_id: str) -> bool:
    """Ask the hub once, for at most 5 seconds."""

    def probe() -> None:
        library().get_hf_file_metadata(library().hf_hub_url(hub_id, "config.json"), timeout=PROBE_SECONDS)

    return any(not answer.exception() for answer in wait([in_thread(probe)], PROBE_SECONDS).done)


def download(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Fetch files of a model; return their folder. Say so where no byte arrives; TimeoutError after a minute of that.

    Raises whatever the hub's library does: its classes and those of its HTTP library change with their versions.
    """
    answer = in_thread(lambda: fetch_files(hub_id, revision, patterns))
    received, silent = -1, 0.0
    while not wait([answer], REPORT_SECONDS).done:
        before, received = received, cached_bytes(hub_id)
        silent = silent + REPORT_SECONDS if received == before else 0.0
        if silent >= GIVE_UP_SECONDS:
            raise TimeoutError(f"no byte in {silent:g} s")
        if received == before or before < 0:
            tell(f"{hub_id}: waiting for the hub, for at most {GIVE_UP_SECONDS:g} s without a byte from it")
    return answer.result()


def in_thread(work: Callable[[], Result]) -> Future[Result]:
    """Start work that waits for the hub in a thread: a DNS lookup cannot be interrupted or given a timeout.

    A daemon, and not of a `ThreadPoolExecutor`, so that the process can end without it.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def fetch_files(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Fetch the top-level files of these patterns; subfolders hold the same weights for other frameworks.

    One after the other, and not by the library's `snapshot_download`: its threads are waited for at the end of the
    process, so that a signal would take effect after the download only.
    """
    # By plain HTTP, whose bytes reach the disk as they arrive, and stay there if the download ends early. The hub's
    # other way (Xet) writes after blocks of many megabytes, which on a slow line looks like silence, and keeps nothing.
    library().constants.HF_HUB_DISABLE_XET = True
    branch = revision or "main"
    info = library().HfApi().model_info(hub_id, revision=branch, timeout=ANSWER_SECONDS)
    listed = [entry.rfilename for entry in info.siblings or []]
    names = [name for name in listed if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        raise FileNotFoundError(f"the repository has no {', '.join(patterns)}")
    file = ""
    for name in names:
        # All of one commit. The last by the branch's name: the library then notes the commit of a complete download.
        of = branch if name == names[-1] else info.sha
        file = library().hf_hub_download(hub_id, name, revision=of, etag_timeout=ANSWER_SECONDS)
    return Path(file).parent


def cached_bytes(hub_id: str) -> int:
    """The bytes that the hub's cache holds of a model, those of unfinished downloads included."""
    blobs = Path(library().constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs"
    with contextlib.suppress(OSError):  # a file that is renamed just now
        return sum(file.stat().st_size for file in blobs.iterdir())
    return 0


def cached_folder(hub_id: str, revision: str | None = None) -> Path | None:
    """The folder of an earlier download, or None."""
    hub = library()
    with contextlib.suppress(Exception):
        return Path(hub.snapshot_download(hub_id, revision=revision, local_files_only=True))
    return None


def without_weights(hub_id: str, revision: str | None = None) -> str:
    """What to do where a repository has no safetensors weights: the hub's own bot may have converted its pickle."""
    api = library().HfApi()
    what = f"has no safetensors weights, and pickled ones are {NEVER_OPENED}; "
    with contextlib.suppress(Exception):  # this is a hint only
        info = api.model_info(hub_id, revision=revision or "main", timeout=ANSWER_SECONDS)
        if not any(fnmatch(entry.rfilename, PICKLED_WEIGHTS) for entry in info.siblings or []):
            return "has no weights of PyTorch; choose another repository of this model"
        for request in api.get_repo_discussions(hub_id, author="SFconvertbot", discussion_type="pull_request"):
            if "safetensors" in request.title:
                return f"{what}a pull request of the hub's bot has converted ones: add --revision refs/pr/{request.num}"
    name = hub_id.split("/")[-1]
    fetch = f"hf download {hub_id} --local-dir {name}"
    return f"{what}convert them, if you trust their author: {fetch} && {conversion(name)}"


def upload(folder: Path, hub_id: str, private: bool = False) -> str:
    """Upload all files of a folder to a repository on the hub, created if needed; return its address.

    The access token is the one that `hf auth login` saved, or the variable HF_TOKEN.
    """
    api = library().HfApi()
    try:
        address = api.create_repo(hub_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Upload the model")
        return str(address)
    except Exception as error:  # see `download`
        raise BadInput(hub_id, "", f"cannot be uploaded: {first_line(error)}; log in with `hf auth login`") from error
