"""Ways to damage a file, for the tests of bad input and the fuzz."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from minibert.support.hashes import fingerprint

DEEP = "[" * 100_000 + "]" * 100_000


def put(document: Any, path: str, value: Any) -> Any:
    """A copy of a JSON document with another value at a path such as "data/0/title"; `...` removes what is there."""
    document = parent = {"": copy.deepcopy(document)}
    *parents, last = [int(key) if key.isdecimal() else key for key in ("/" + path).rstrip("/").split("/")]
    for key in parents:
        parent = parent[key]
    parent[last] = value
    if value is ...:
        del parent[last]
    return document[""]


def to_text(document: Any) -> str:
    """JSON, in which the string "@deep" is a list nested 100,000 deep."""
    return json.dumps(document).replace('"@deep"', DEEP)


Change = str | bytes | dict[str, torch.Tensor] | Callable[[bytes], bytes] | None


def damage(file: Path, change: Change, value: Any = None) -> None:
    """Change a file: None removes it, bytes are its new content, a function gives the new content from the old.

    A str is a path in its JSON, where `value` is put; a dict replaces tensors by name. After these two the manifest of
    a checkpoint agrees with the file.
    """
    if change is None:
        file.unlink()
    elif isinstance(change, bytes):
        file.write_bytes(change)
    elif callable(change):
        file.write_bytes(change(file.read_bytes()))
    elif isinstance(change, dict):
        save_file(load_file(file) | change, file, {"format": "pt"})
    else:
        file.write_text(to_text(put(json.loads(file.read_text("utf-8")), change, value)), "utf-8")
    if isinstance(change, (dict, str)) and file.name != "manifest.json":
        sign(file.parent)


def sign(checkpoint: Path) -> None:
    """Make a checkpoint's manifest agree with the files that it lists."""
    manifest = checkpoint / "manifest.json"
    if manifest.is_file():
        names = json.loads(manifest.read_text("utf-8"))
        manifest.write_text(json.dumps({name: fingerprint(checkpoint / name) for name in names}), "utf-8")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """The content of each file below a folder, None for a folder; the lock of a run is not content."""
    paths = [path for path in folder.rglob("*") if path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}
