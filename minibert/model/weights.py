"""Load published weights into our model, and save them under their published names.

In: a model folder or hub id. Out: a `BertForQuestionAnswering` and a report. One table pairs our names with BERT's and
DistilBERT's, and is read in both directions. Every tensor of a file is loaded or reported as ignored, every parameter
is loaded or reported as new, and anything else is an error that names the tensor.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minibert.model.bert import BertConfig, BertForQuestionAnswering
from minibert.model.config import config_json, load_config
from minibert.model.weight_files import WeightFile, list_tensors, save_tensors
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.text.tokenizer import Tokenizer

# ours                                 BERT's                                      DistilBERT's (- : has none)
TABLE = """
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
span_head                              qa_outputs                                  qa_outputs
"""
# What published files hold besides, as `canonical_name` spells it: position numbers 0, 1, 2, .., the pooler, the heads
# of pre-training tasks, classifiers (of texts, tokens, choices), rerankers and retrievers, layers of a distillation.
IGNORED = re.compile(
    r"(.*\.)?(position_ids|token_type_ids|pooler\..+)|vocab_(transform|layer_norm|projector)\..+"
    r"|(cls|score|crf|linear|fit_denses?|\w*(classifier|regressor|_head)\w*)\..+"
)


@dataclass(frozen=True)
class LoadReport:
    """Our names of the parameters that were loaded and that are new; the file's names of the ignored tensors.

    `prefix` is what all names of the file began with, beside what every published file has.
    """

    loaded: list[str]
    new: list[str]
    ignored: list[str]
    prefix: str = ""

    def __str__(self) -> str:
        def listed(names: list[str]) -> str:
            return f"{len(names)}" + (f" ({', '.join(names)})" if names else "")

        prefix = f", took the prefix {self.prefix!r} off all names" if self.prefix else ""
        return f"loaded {len(self.loaded)} tensors, new {listed(self.new)}, ignored {listed(self.ignored)}{prefix}"


def published_names(config: BertConfig) -> dict[str, str]:
    """Our parameter's name -> its name by the table, for a model of this kind and depth."""
    column = {"bert": 1, "distilbert": 2}[config.model_type]
    names = {}
    for row in TABLE.strip().split("\n"):
        ours, theirs = row.split()[0], row.split()[column]
        if theirs == "-":
            continue
        kinds = ("weight",) if theirs.endswith("_embeddings") else ("weight", "bias")
        for layer in range(config.num_hidden_layers if "#" in ours else 1):
            for kind in kinds:
                names[f"{ours}.{kind}".replace("#", str(layer))] = f"{theirs}.{kind}".replace("#", str(layer))
    return names


def shared_prefix(names: list[str], config: BertConfig) -> str:
    """What a program has put before all names of a file, such as `module.` (DataParallel) or `_orig_mod.` (compile)."""
    landmark = "embeddings.word_embeddings.weight"
    before = next((name.removesuffix(landmark) for name in names if name.endswith(landmark)), "")
    prefix = before.removesuffix(f"{config.model_type}.")
    return prefix if all(name.startswith(prefix) for name in names) else ""


def canonical_name(name: str, config: BertConfig, prefix: str = "") -> str:
    """A tensor's name in a file -> its name in the table.

    Files spell the same name in several ways. They are all resolved here and nowhere else: with or without a prefix
    that all names share, then `bert.` or `distilbert.`, and LayerNorm's gamma and beta of BERT's first release for
    today's weight and bias.
    """
    name = name.removeprefix(prefix).removeprefix(f"{config.model_type}.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def file_name(name: str, config: BertConfig) -> str:
    """A tensor's name in the table -> its name in the files that we write. Only the head has no prefix."""
    return name if name.startswith("qa_outputs.") else f"{config.model_type}.{name}"


def load_model(name_or_dir: str | os.PathLike[str], revision: str | None = None) -> BertForQuestionAnswering:
    """The model of a folder or hub id: eval mode, float32, on the CPU.

    `model.new_parameters` names the parameters that the file does not hold. A pre-trained encoder has no span head;
    the new head's values come from torch's random generator. Raises BadInput naming file and tensor.
    """
    return load_with_report(find_folder(name_or_dir, revision))[0]


def load_with_report(folder: Path) -> tuple[BertForQuestionAnswering, LoadReport]:
    """`load_model` for a local folder, with the names of what was loaded, is new and was ignored."""
    config = load_config(folder)
    names = published_names(config)
    our_names = {theirs: ours for ours, theirs in names.items()}
    sources: dict[str, tuple[WeightFile, str]] = {}  # our name -> where its values are
    ignored = []
    tensors = list_tensors(folder)
    prefix = shared_prefix([name for _, name in tensors], config)
    for file, name_in_file in tensors:
        published = canonical_name(name_in_file, config, prefix)
        name = our_names.get(published)
        if name is None and IGNORED.fullmatch(published):
            ignored.append(name_in_file)
        elif name is None:
            what = "unexpected tensor: no parameter of this model has this name; is config.json that of these weights?"
            raise BadInput(file.path, repr(name_in_file), what)
        elif name in sources:
            other = f"{sources[name][1]!r} in {sources[name][0].path.name}"
            raise BadInput(file.path, repr(name_in_file), f"expected one tensor for {name}, found this and {other}")
        else:
            sources[name] = file, name_in_file
    new = [name for name in names if name not in sources]
    if missing := [file_name(names[name], config) for name in new if not name.startswith("span_head.")]:
        what = f"tensor not found; the weights lack {len(missing)} of the encoder's tensors; fetch the original file"
        raise BadInput(folder, missing[0], what)

    model = empty_model(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {name: file.read(tensor, shapes[name]) for name, (file, tensor) in sources.items()}
    for name in new:
        # BERT's own initialisation: normal weights, zero biases.
        values = torch.zeros(shapes[name])
        state[name] = values.normal_(std=config.initializer_range) if name.endswith(".weight") else values
    fill(model, state, new)
    return model, LoadReport([name for name in shapes if name not in new], new, ignored, prefix)


def save_model(model: BertForQuestionAnswering, tokenizer: Tokenizer, folder: str | os.PathLike[str]) -> None:
    """Write a folder that `transformers` opens too: weights in float32 by their published names, config, tokenizer."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = published_names(model.config)
    state = {
        file_name(names[name], model.config): tensor.detach().float().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_tensors(state, folder / "model.safetensors")
    text = json.dumps(config_json(model.config), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, "utf-8")
    tokenizer.save(folder)


def copy_model(model: BertForQuestionAnswering) -> BertForQuestionAnswering:
    """A second model with copies of the weights, as `load_model` returns it, however the first was prepared since."""
    state = {name: tensor.to("cpu", torch.float32, copy=True) for name, tensor in model.state_dict().items()}
    return fill(empty_model(model.config), state, list(model.new_parameters))


def empty_model(config: BertConfig) -> BertForQuestionAnswering:
    """A model on the meta device (shapes, no memory), so that its sizes are compared with a file's first."""
    with torch.device("meta"), NoInitialValues():
        return BertForQuestionAnswering(config)


def fill(model: BertForQuestionAnswering, state: dict[str, Tensor], new: list[str]) -> BertForQuestionAnswering:
    """Put these tensors, not copies of them, in the place of the empty model's parameters."""
    model.load_state_dict(state, assign=True)
    model.new_parameters = new
    return model.eval()


class NoInitialValues(TorchFunctionMode):
    """A context in which new layers draw no initial values: on the meta device that imports torch's compiler (1 s)."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_initialiser = getattr(function, "__module__", None) == "torch.nn.init"
        return kwargs["tensor"] if is_initialiser else function(*args, **kwargs)
