"""Published safetensors <-> our parameters: one table of names, read in both directions.

Every tensor of a file is used or on the list of ignored ones, every parameter is loaded or reported as new, and
anything else is an error that names the tensor: nothing is skipped in silence. Next: `distributed.py`.
"""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from minibert.config import BertConfig, load_config
from minibert.errors import BadInput
from minibert.folders import find_folder
from minibert.model import BertForQuestionAnswering
from minibert.squad import read_json
from minibert.tokenizer import Tokenizer

# ours                                 BERT's                                      DistilBERT's
NAMES = """
embeddings.word                        embeddings.word_embeddings                  embeddings.word_embeddings
embeddings.position                    embeddings.position_embeddings              embeddings.position_embeddings
embeddings.token_type                  embeddings.token_type_embeddings            -
embeddings.norm                        embeddings.LayerNorm                        embeddings.LayerNorm
encoder.layers.#.attention.query       encoder.layer.#.attention.self.query        transformer.layer.#.attention.q_lin
encoder.layers.#.attention.key         encoder.layer.#.attention.self.key          transformer.layer.#.attention.k_lin
encoder.layers.#.attention.value       encoder.layer.#.attention.self.value        transformer.layer.#.attention.v_lin
encoder.layers.#.attention.output      encoder.layer.#.attention.output.dense      transformer.layer.#.attention.out_lin
encoder.layers.#.attention_norm        encoder.layer.#.attention.output.LayerNorm  transformer.layer.#.sa_layer_norm
encoder.layers.#.feed_forward.expand   encoder.layer.#.intermediate.dense          transformer.layer.#.ffn.lin1
encoder.layers.#.feed_forward.contract encoder.layer.#.output.dense                transformer.layer.#.ffn.lin2
encoder.layers.#.feed_forward_norm     encoder.layer.#.output.LayerNorm            transformer.layer.#.output_layer_norm
"""
HEAD = {"span_head": "qa_outputs"}  # under this name in both, and without the model's prefix
PREFIX = {"bert": "bert.", "distilbert": "distilbert."}
# What published files hold beside the encoder: heads of the pre-training, the pooler, a buffer of 0, 1, 2, ..
IGNORED = re.compile(r"(.*\.)?(position_ids|pooler\..+)|cls\..+|vocab_(transform|layer_norm|projector)\..+")
# What lies under the name of a weights file when a download went wrong.
OTHER_FILES = {
    b"version https://git-lfs": "is a git-LFS pointer, not the weights; run `git lfs pull`",
    b"<": "looks like HTML, not weights; download the raw file",
    b"PK\x03\x04": "is a zip archive (a pickled checkpoint?), not safetensors; convert it",
}
LONGEST_HEADER = 10_000_000  # bytes; BERT-large takes 50,000
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class LoadReport:
    """Names of the parameters that were loaded and that are new, and of the file's tensors that were ignored."""

    loaded: list[str]
    new: list[str]
    ignored: list[str]

    def __str__(self) -> str:
        def listed(names: list[str]) -> str:
            return f"{len(names)}" + (f" ({', '.join(names[:3])}{', ..' * (len(names) > 3)})" if names else "")

        return f"loaded {len(self.loaded)} tensors, new {listed(self.new)}, ignored {listed(self.ignored)}"


def published_names(config: BertConfig) -> dict[str, str]:
    """Our parameter's name -> its published name, for a model of this kind and depth."""
    column = {"bert": 1, "distilbert": 2}[config.model_type]
    modules = dict(HEAD)
    for row in NAMES.split("\n"):
        if row and row.split()[column] != "-":
            ours, theirs = row.split()[0], PREFIX[config.model_type] + row.split()[column]
            for n in range(config.num_hidden_layers if "#" in ours else 1):
                modules[ours.replace("#", str(n))] = theirs.replace("#", str(n))
    return {
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in modules.items()
        for kind in (("weight",) if theirs.endswith("_embeddings") else ("weight", "bias"))
    }


def load_model(name_or_dir, revision: str | None = None) -> BertForQuestionAnswering:
    """The model of a folder or hub id: eval mode, float32, on the CPU.

    `model.new_parameters` names the parameters that the file does not hold (a pre-trained encoder has no span head):
    they are drawn anew from torch's generator. Raises BadInput naming file and tensor.
    """
    return load_with_report(find_folder(name_or_dir, revision))[0]


def load_with_report(folder: Path) -> tuple[BertForQuestionAnswering, LoadReport]:
    config = load_config(folder)
    names = published_names(config)
    ours = {theirs: name for name, theirs in names.items()}
    found, ignored = {}, []
    for file, published in list_tensors(folder):
        name = ours.get(full_name(published, config))
        if name is None and not IGNORED.fullmatch(published):
            raise BadInput(file, repr(published), "is a tensor that this model has no place for")
        if name in found:
            raise BadInput(file, repr(published), f"is a second tensor for {name}")
        if name is None:
            ignored.append(published)
        else:
            found[name] = file, published
    new = [name for name in names if name not in found]
    if missing := [names[name] for name in new if not name.startswith("span_head.")]:
        raise BadInput(folder, missing[0], f"is not in the weights ({len(missing)} tensors of the encoder are missing)")

    model = empty_model(config)
    wanted = model.state_dict()
    state = {name: read_tensor(*place, wanted[name].shape) for name, place in found.items()}
    for name in new:
        # BERT's own initialisation: normal weights, zero biases.
        values = torch.zeros(wanted[name].shape)
        state[name] = values.normal_(std=config.initializer_range) if name.endswith(".weight") else values
    return fill(model, state, new), LoadReport([name for name in wanted if name not in new], new, ignored)


def copy_model(model: BertForQuestionAnswering) -> BertForQuestionAnswering:
    """Another model of the same weights, as `load_model` would return it, whatever has been set on this one since."""
    state = {name: tensor.to("cpu", torch.float32, copy=True) for name, tensor in model.state_dict().items()}
    return fill(empty_model(model.config), state, list(model.new_parameters))


def empty_model(config: BertConfig) -> BertForQuestionAnswering:
    """Shapes without memory: a config may ask for anything."""
    with torch.device("meta"), NoInitialValues():
        return BertForQuestionAnswering(config)


def fill(model: BertForQuestionAnswering, state: dict[str, torch.Tensor], new: list[str]) -> BertForQuestionAnswering:
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.new_parameters = new
    return model.eval()


class NoInitialValues(TorchFunctionMode):
    """Within a `with` block new layers draw no initial values: without memory that costs a second of imports."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_initialiser = getattr(function, "__module__", None) == "torch.nn.init"
        return kwargs["tensor"] if is_initialiser else function(*args, **kwargs)


def full_name(published: str, config: BertConfig) -> str:
    """A file's tensor name in today's spelling: with the model's prefix, and LayerNorm.weight for LayerNorm.gamma."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", published)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    prefix = PREFIX[config.model_type]
    return name if name.startswith((prefix, *(f"{head}." for head in HEAD.values()))) else prefix + name


def list_tensors(folder: Path) -> list[tuple[Path, str]]:
    """(file, tensor name) of a folder's weights: one `model.safetensors`, or shards with an index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [(single, name) for name in header(single)]
    if not index.is_file():
        pickled = [file.name for file in folder.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5")]
        hint = f"; {pickled[0]} is never opened: convert it to safetensors" if pickled else ""
        raise BadInput(single, "", f"no such file{hint}")
    found = read_json(index)
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(index, "weight_map", "expected an object {tensor: file}")
    beside = {file.name for file in folder.iterdir() if file.is_file()}
    for name, file in weight_map.items():
        # A path here could lead anywhere on the disk.
        if not isinstance(file, str) or file not in beside:
            raise BadInput(index, f"weight_map[{name!r}]", f"must name a file beside the index, not {file!r}")
    shards = {file: set(header(folder / file)) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise BadInput(folder / file, repr(name), "is listed in the index, but not in this file")
    # What a shard holds beyond the index is looked at like the rest: nothing is skipped in silence.
    return [(folder / file, name) for file, names in shards.items() for name in sorted(names)]


def header(file: Path) -> list[str]:
    """The tensor names of a safetensors file, after a look at what kind of file it really is."""
    with open(file, "rb") as opened:
        start = opened.read(40)
        length = int.from_bytes(start[:8], "little")
        text = start[8:] + opened.read(max(0, length - 32)) if length <= LONGEST_HEADER else b""
    size = f"{file.stat().st_size} bytes"
    kinds = [what for mark, what in OTHER_FILES.items() if start.startswith(mark)]
    if length > LONGEST_HEADER:
        what = (kinds or [f"is not a whole safetensors file: its header would have {length} bytes"])[0]
        raise BadInput(file, size, what)
    try:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise BadInput(file, size, (kinds or [f"is not a whole safetensors file: {error}"])[0]) from error
    # The library keeps the last of two tensors of the same name without a word.
    for name, count in Counter(key for key, _ in json.loads(text[:length], object_pairs_hook=list)).most_common(1):
        if count > 1:
            raise BadInput(file, repr(name), "stands twice in the header")
    return names


def read_tensor(file: Path, name: str, shape: torch.Size) -> torch.Tensor:
    """One tensor as float32, once its dtype, shape and values are known to be usable."""
    with safe_open(file, "pt") as tensors:
        found = tensors.get_slice(name)
        if found.get_dtype() not in FLOATS:
            raise BadInput(file, repr(name), f"has dtype {found.get_dtype()}, not one of {', '.join(FLOATS)}")
        if tuple(found.get_shape()) != tuple(shape):
            raise BadInput(
                file, repr(name), f"has shape {tuple(found.get_shape())}, not {tuple(shape)} as in config.json"
            )
        tensor = tensors.get_tensor(name).float()
    if not torch.isfinite(tensor).all():
        raise BadInput(file, repr(name), "holds values that are not finite")
    return tensor


def save_model(model: BertForQuestionAnswering, tokenizer: Tokenizer, folder) -> None:
    """Write a model folder that `transformers` opens too: weights under their published names, config, tokenizer."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = published_names(model.config)
    state = {names[name]: tensor.detach().float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(state, folder / "model.safetensors")
    text = json.dumps(model.config.to_json(), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, "utf-8")
    tokenizer.save(folder)


def save_tensors(state: dict[str, torch.Tensor], file: Path) -> None:
    """A safetensors file that others may read: the library itself makes it private to its owner."""
    save_file(state, file, metadata={"format": "pt"})
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)
