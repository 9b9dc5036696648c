"""Read tensors from weight files that may be damaged or hostile, and write weight files.

In: a model folder with one `model.safetensors`, or with several shards and an index. Out: the names of its tensors,
then each tensor as float32, in memory of its own: together the bytes of the model's parameters, and for a moment those
of one tensor more where the file has another dtype. Every check of a weight file is here.
"""

import math
import os
from fnmatch import fnmatch
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from minibert.support.errors import BadInput
from minibert.support.files import parse_json, read_json, regular
from minibert.support.layouts import NEVER_OPENED, PICKLED_WEIGHTS, conversion

# Other kinds of file that people find under this name, by their first bytes.
OTHER_KINDS = {
    b"version https://git-lfs": "this is a git-LFS pointer, not the weights; run `git lfs pull`",
    b"<": "this looks like HTML, not weights; download the raw file",
    b"PK\x03\x04": "this is a zip archive (a pickled checkpoint?), not safetensors; convert it",
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5")
MAX_HEADER = 10_000_000  # bytes; the header of BERT-large has 50,000
MOST_IN_A_NAME, MOST_AXES = 1000, 8  # of a tensor; published ones have 80 characters and 4 axes
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def list_tensors(folder: Path) -> list[tuple["WeightFile", str]]:
    """The (file, tensor name) of every tensor in a folder's weight files."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        file = WeightFile(single)
        return [(file, name) for name in file.entries]
    if index.is_file():
        return list_shards(index)
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if convertible := [name for name in pickles if fnmatch(name, PICKLED_WEIGHTS)]:
        hint = f"{convertible[0]} is {NEVER_OPENED}; convert it, if you trust its author: {conversion(folder)}"
    elif pickles:
        hint = f"{pickles[0]} is {NEVER_OPENED}: convert it to safetensors"
    elif shards := sorted(folder.glob("model-*-of-*.safetensors")):
        hint = f"{shards[0].name} is a part of the weights: download {index.name} too, which lists the parts"
    elif (folder / "adapter_model.safetensors").is_file():
        hint = "adapter_model.safetensors is an adapter: merge it into its base model (`merge_and_unload` of peft)"
    else:
        hint = "download it into this folder"
    raise BadInput(single, "", f"file not found; {hint}")


def list_shards(index: Path) -> list[tuple["WeightFile", str]]:
    """The (file, tensor name) of every tensor in the shards. Those that the index does not list are not skipped."""
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
    shards = {shard: WeightFile(folder / shard) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in shards[shard].entries:
            raise BadInput(folder / shard, repr(name), "tensor not found; the index says that it is in this file")
    return [(file, name) for file in shards.values() for name in sorted(file.entries)]


class WeightFile:
    """A safetensors file whose header was read and checked: 8 bytes with the header's length, a JSON header, the data.

    Each tensor is read into memory of its own, never mapped: a file that is truncated or rewritten later cannot change
    a loaded model, nor end the process. One that changes while it is read is refused.
    Raises BadInput if it is not a complete safetensors file.
    """

    def __init__(self, path: Path):
        self.path = path
        with open_regular(path) as opened:
            self.version = version_of(opened)
            size = os.fstat(opened.fileno()).st_size
            first_bytes = opened.read(8)
            length = int.from_bytes(first_bytes, "little")
            header = opened.read(min(length, MAX_HEADER))
        self.data_start = 8 + length
        try:
            if length > MAX_HEADER:
                raise ValueError(f"its header would have {length} bytes")
            self.entries = parse_header(header, size - self.data_start)
        except (ValueError, RecursionError) as error:  # ValueError: invalid UTF-8 and JSON included
            start = first_bytes + header
            kinds = [kind for mark, kind in OTHER_KINDS.items() if start.startswith(mark)]
            what = kinds[0] if kinds else f"not a complete safetensors file: {error}"
            raise BadInput(path, f"{size} bytes", what) from error

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """One tensor as float32, in memory that nothing else uses.

        Its shape and dtype are checked before memory is allocated, then its values.
        """
        entry, place = self.entries[name], repr(name)
        if entry["dtype"] not in DTYPES:
            raise BadInput(self.path, place, f"expected dtype {' or '.join(DTYPES)}, found {entry['dtype']}")
        if entry["shape"] != list(shape):
            found = tuple(entry["shape"])
            raise BadInput(self.path, place, f"expected shape {tuple(shape)} as in config.json, found {found}")
        begin, end = entry["data_offsets"]
        tensor = torch.empty(shape, dtype=DTYPES[entry["dtype"]])
        with open_regular(self.path) as opened:
            opened.seek(self.data_start + begin)
            # As bytes, because numpy has no bfloat16, and flat, because a number without dimensions has no such view.
            received = opened.readinto(tensor.view(-1).view(torch.uint8).numpy().data)
            if received != end - begin or version_of(opened) != self.version:
                raise BadInput(self.path, place, "the file changed while it was read; try again")
        tensor = tensor.float()
        # NaN and infinity carry over to the sum, which is faster; it may also overflow where all values are finite.
        if not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise BadInput(self.path, place, "expected finite values, found NaN or infinity")
        return tensor


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; BadInput unless it is a regular one: a FIFO would block, a device never end."""
    try:
        return open(path, "rb", opener=regular)
    except OSError as error:
        raise BadInput(path, "", f"cannot be read: {error.strerror}") from error


def version_of(opened: BufferedReader) -> tuple[int, ...]:
    """What differs once a file was replaced, written or truncated: inode, size in bytes, time of the last change."""
    state = os.fstat(opened.fileno())
    return state.st_ino, state.st_size, state.st_mtime_ns


def parse_header(header: bytes, data_bytes: int) -> dict[str, dict[str, Any]]:
    """name -> {"dtype", "shape", "data_offsets"} of every tensor, as the format's specification defines them.

    ValueError unless the tensors cover the data exactly, without gap or overlap. A dtype that we do not read is
    accepted: its tensor may be one that the model ignores.
    """
    if not header.startswith(b"{"):
        raise ValueError("its header is not a JSON object")
    entries = parse_json(header)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ is not an object of strings")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"expected dtype, shape and data_offsets of {name!r}")
        if not isinstance(entry["dtype"], str):
            raise ValueError(f"expected the name of a dtype of {name!r}")
        numbers = [entry["shape"], entry["data_offsets"]]
        if not all(isinstance(row, list) and all(type(n) is int and n >= 0 for n in row) for row in numbers):
            raise ValueError(f"expected lists of whole numbers as shape and data_offsets of {name!r}")
        if len(name) > MOST_IN_A_NAME or len(entry["shape"]) > MOST_AXES:
            raise ValueError(f"a tensor's name or shape is too long: {name[:60]!r}")
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, (begin, end) = entry["dtype"], entry["data_offsets"]
        if begin != position or end < begin:
            raise ValueError(f"the data of {name!r} should begin at {position}, not at {begin}")
        if dtype in DTYPES and end - begin != math.prod(entry["shape"]) * DTYPES[dtype].itemsize:
            raise ValueError(f"{end - begin} bytes do not fit the shape of {name!r}")
        position = end
    if position != data_bytes:
        raise ValueError(f"its tensors have {position} bytes, its data {data_bytes}")
    return entries


def save_tensors(state: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file with the permissions of any new file. The library's own allow only the owner to read.

    Raises OSError, as any other writing does.
    """
    try:
        save_file(state, file, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, for example
        raise OSError(f"{file}: {error}") from error
    umask = os.umask(0)  # the one way to read it
    os.umask(umask)
    file.chmod(0o666 & ~umask)
