"""What a folder's files must be: the hashes by which damaged and foreign files are found before their use.

In: a model folder. Out: for each file whose hash is known, what it must be and who says so, and whether it is that. The
hashes come from the manifest that a run writes beside its checkpoint, from the names in the hub's cache, or, for the
default model, from this file.
"""

import functools
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from minibert.support.errors import BadInput
from minibert.support.files import read_json, regular


class Known(NamedTuple):
    """What a file must be. hash: its sha256 in hex, or the sha1 with which git names files (40 digits)."""

    hash: str
    bytes: int | None
    source: str


MANIFEST = "manifest.json"

# The default model, from wherever it comes: the hub's and the wheel's files are the same. No other file is fetched.
MINILM_FILES = {
    name: Known(digest, size, "the code of minibert")
    for name, size, digest in (
        ("README.md", 10_454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
        ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    )
}


def known_files(folder: Path) -> dict[str, Known]:
    """file name -> what it must be, by the hub's cache or by the folder's manifest; {} where neither is there.

    In the cache a manifest is a file like any other: a model that was changed on the hub may still have its old one.
    """
    return cache_files(folder) or manifest_files(folder)


def manifest_files(folder: Path) -> dict[str, Known]:
    """file name -> what it must be, by `manifest.json`; {} if another program wrote that file.

    Raises BadInput if ours is damaged, and OSError if it cannot be read, which does not prove damage.
    """
    file = folder / MANIFEST
    try:
        content = read_json(file) if file.is_file() else {}
    except BadInput as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    if not isinstance(content, dict) or not any(isinstance(row, dict) and "sha256" in row for row in content.values()):
        return {}
    known = {}
    for name, row in content.items():
        size, digest = (row.get("bytes"), row.get("sha256")) if isinstance(row, dict) else (None, None)
        is_plain = name == os.path.basename(name) and name not in ("", ".", "..")  # a path would lead out of the folder
        if not is_plain or type(size) is not int or not isinstance(digest, str):
            raise BadInput(file, repr(name), "expected the size and sha256 of a file in this folder")
        known[name] = Known(digest, size, MANIFEST)
    return known


def cache_files(folder: Path) -> dict[str, Known]:
    """file name -> what it must be, by the hub's cache, where `snapshots/<commit>/<name>` is a link to `blobs/<hash>`.

    The hash is the one that the hub gave: sha256 for large files, git's sha1 for others. {} on a system without links,
    where the cache has no hashes in its names.
    """
    blobs = folder.parent.parent / "blobs"
    if folder.parent.name != "snapshots" or not blobs.is_dir():
        return {}
    # The first link only: the blob itself may be a link into a store that all models share, under another hash.
    links = {file.name: file.parent / os.readlink(file) for file in folder.iterdir() if file.is_symlink()}
    return {
        name: Known(link.name, None, "the hub")
        for name, link in links.items()
        if link.parent.resolve() == blobs.resolve() and len(link.name) in (40, 64)
    }


def fault(folder: Path, known: dict[str, Known], may_lack: tuple[str, ...] = ()) -> str | None:
    """What is wrong with the files of a folder, or None. OSError if one cannot be read, which does not prove damage."""
    for name, expected in known.items():
        if name in may_lack and not os.path.lexists(folder / name):
            continue
        if found := mismatch(folder / name, expected):
            return f"{name} {found}"
    return None


def model_fault(folder: Path) -> str | None:
    """What is wrong with the files that an answer depends on, where that is known, or None."""
    try:
        known = known_files(folder)
    except BadInput as error:
        return f"{MANIFEST} is damaged: {error}"
    known.pop("optimizer.safetensors", None)  # not read for an answer, and twice as large as the weights
    return fault(folder, known, may_lack=("trainer_state.json",))  # people remove it: an answer does not need it either


def mismatch(file: Path, known: Known) -> str | None:
    """In which way a file differs from what it must be, or None."""
    if not file.is_file():
        return "is missing"
    state = file.stat()
    if known.bytes is not None and state.st_size != known.bytes:
        return f"is damaged: expected {known.bytes} bytes by {known.source}, found {state.st_size}"
    by_git = len(known.hash) == 40
    digest = hash_once(file.resolve(), by_git, state.st_ino, state.st_size, state.st_mtime_ns)
    if digest == known.hash:
        return None
    return f"is damaged: expected {'git sha1' if by_git else 'sha256'} {known.hash} by {known.source}, found {digest}"


@functools.lru_cache(maxsize=1000)
def hash_once(file: Path, by_git: bool, inode: int, size: int, changed: int) -> str:
    """A file's sha256, or the sha1 of git's object; read once as long as the file does not change."""
    return hash_file(file, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if by_git else hashlib.sha256())


def fingerprint(file: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a regular file."""
    return {"bytes": file.stat().st_size, "sha256": hash_file(file, hashlib.sha256())}


def hash_file(file: Path, digest: Any) -> str:
    """The hex digest of a regular file's content, by an object of `hashlib` that may hold what stands before it."""
    with open(file, "rb", opener=regular) as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())
