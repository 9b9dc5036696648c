"""Read tensors from weight files that may be damaged or hostile, and write weight files.

In: a model folder with one `model.safetensors`, or with several shards and an index. Out: the names of its tensors,
then each tensor as float32. Every check of a weight file is here: what kind of file it is, where the index points,
names, dtypes, shapes, values. Which tensor belongs to which parameter is the next file. Next: `weights.py`.
"""

import json
import os
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.support.layouts import NEVER_OPENED, PICKLED_WEIGHTS, conversion

# Other kinds of file that people find under this name, by their first bytes.
OTHER_KINDS = {
    b"version https://git-lfs": "this is a git-LFS pointer, not the weights; run `git lfs pull`",
    b"<": "this looks like HTML, not weights; download the raw file",
    b"PK\x03\x04": "this is a zip archive (a pickled checkpoint?), not safetensors; convert it",
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5")
MAX_HEADER = 10_000_000  # bytes; the header of BERT-large has 50,000
DTYPES = ("F64", "F32", "F16", "BF16")


def list_tensors(folder: Path) -> list[tuple[Path, str]]:
    """The (file, tensor name) of every tensor in a folder's weight files."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [(single, name) for name in tensor_names(single)]
    if index.is_file():
        return list_shards(index)
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if convertible := [name for name in pickles if fnmatch(name, PICKLED_WEIGHTS)]:
        hint = f"{convertible[0]} is {NEVER_OPENED}; convert it, if you trust its author: {conversion(folder)}"
    elif pickles:
        hint = f"{pickles[0]} is {NEVER_OPENED}: convert it to safetensors"
    else:
        hint = "download it into this folder"
    raise BadInput(single, "", f"file not found; {hint}")


def list_shards(index: Path) -> list[tuple[Path, str]]:
    """The same for shards. Includes tensors that the index does not list, so that none is skipped in silence."""
    folder = index.parent
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(index, "weight_map", "expected an object {tensor: file}")
    neighbours = {file.name for file in folder.iterdir() if file.is_file()}
    for name, shard in weight_map.items():
        # Only a plain file name is safe: a path could lead anywhere on the disk.
        if not isinstance(shard, str) or shard not in neighbours:
            raise BadInput(index, f"weight_map[{name!r}]", f"expected a file beside the index, found {shard!r}")
    shards = {folder / shard: set(tensor_names(folder / shard)) for shard in set(weight_map.values())}
    for name, shard in weight_map.items():
        if name not in shards[folder / shard]:
            raise BadInput(folder / shard, repr(name), "tensor not found; the index says that it is in this file")
    return [(file, name) for file in sorted(shards) for name in sorted(shards[file])]


def tensor_names(file: Path) -> list[str]:
    """The names in a safetensors file: 8 bytes with the header's length, a JSON header, then the data."""
    with open(file, "rb") as opened:
        first_bytes = opened.read(8)
        length = int.from_bytes(first_bytes, "little")
        header = opened.read(min(length, MAX_HEADER))
    try:
        if length > MAX_HEADER:
            raise SafetensorError(f"its header would have {length} bytes")
        with safe_open(file, "pt") as tensors:  # checks that header and data fit each other
            names = list(tensors.keys())
    except (SafetensorError, OSError) as error:
        start = first_bytes + header
        kinds = [kind for mark, kind in OTHER_KINDS.items() if start.startswith(mark)]
        what = kinds[0] if kinds else f"not a complete safetensors file: {error}"
        raise BadInput(file, f"{file.stat().st_size} bytes", what) from error
    # Of two tensors with the same name the library keeps the last, without an error.
    counts = Counter(name for name, _ in json.loads(header, object_pairs_hook=list))
    for name, count in counts.most_common(1):
        if count > 1:
            raise BadInput(file, repr(name), f"expected one tensor of this name in the header, found {count}")
    return names


def read_tensor(file: Path, name: str, shape: torch.Size) -> Tensor:
    """One tensor as float32. Its shape and dtype are checked before memory is allocated, then its values."""
    with safe_open(file, "pt") as tensors:
        view = tensors.get_slice(name)
        if view.get_dtype() not in DTYPES:
            raise BadInput(file, repr(name), f"expected dtype {' or '.join(DTYPES)}, found {view.get_dtype()}")
        if tuple(view.get_shape()) != tuple(shape):
            found = tuple(view.get_shape())
            raise BadInput(file, repr(name), f"expected shape {tuple(shape)} as in config.json, found {found}")
        tensor = tensors.get_tensor(name).float()
    if not torch.isfinite(tensor).all():
        raise BadInput(file, repr(name), "expected finite values, found NaN or infinity")
    return tensor


def save_tensors(state: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file with the permissions of any new file. The library's own allow only the owner to read."""
    save_file(state, file, metadata={"format": "pt"})
    umask = os.umask(0)  # the one way to read it
    os.umask(umask)
    file.chmod(0o666 & ~umask)
