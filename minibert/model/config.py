"""`config.json` or `bert_config.json` -> `BertConfig`, and back.

In: the file of a BERT or a DistilBERT model; the two spell the same sizes differently. Out: a `BertConfig`. Every value
is checked before anything is built from it, because the file may come from a stranger.
"""

from pathlib import Path
from typing import Any, NamedTuple

from minibert.model.bert import BertConfig
from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.support.layouts import CONFIG_FILES

ARCHITECTURES = {"bert": "BertForQuestionAnswering", "distilbert": "DistilBertForQuestionAnswering"}
# Keys whose other values mean another computation, and the values that mean ours.
FIXED: dict[str, tuple] = {
    "hidden_act": ("gelu", "gelu_python"),  # two names of the exact one
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),  # otherwise a token attends only to those before it
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
}


# What lies in a folder without a config.json that is a model of another kind -> what to do.
OTHER_FOLDERS = {
    "adapter_config.json": "this is an adapter: merge it into its base model (`merge_and_unload` of peft)",
    "*.gguf": "GGUF is not read: take the model's original folder",
}


class Field(NamedTuple):
    """How a field of `BertConfig` is written in `config.json`. BERT's key is the field's own name."""

    distilbert: str | None  # DistilBERT's key; None: not in its file
    least: float = 0  # the range of values; two whole numbers admit whole numbers only
    most: float = 0
    is_required: bool = False


# The ranges are generous for this family. A size beyond them would exhaust the memory.
FIELDS = {
    "vocab_size": Field("vocab_size", 1, 10_000_000, is_required=True),
    "hidden_size": Field("dim", 1, 65_536, is_required=True),
    "num_hidden_layers": Field("n_layers", 1, 1_000, is_required=True),
    "num_attention_heads": Field("n_heads", 1, 65_536, is_required=True),
    "intermediate_size": Field("hidden_dim", 1, 1_000_000, is_required=True),
    "hidden_act": Field("activation"),  # not a number: see `FIXED`
    "hidden_dropout_prob": Field("dropout", 0.0, 0.999),
    "attention_probs_dropout_prob": Field("attention_dropout", 0.0, 0.999),
    "qa_dropout": Field("qa_dropout", 0.0, 0.999),  # not in BERT's file
    "max_position_embeddings": Field("max_position_embeddings", 1, 1_000_000),
    "type_vocab_size": Field(None, 2, 1_000),  # DistilBERT has no token types
    "layer_norm_eps": Field(None, 0.0, 1.0),  # DistilBERT fixes it at 1e-12, our default
    "initializer_range": Field("initializer_range", 0.0, 100.0),
    "pad_token_id": Field("pad_token_id", 0, 10_000_000),
}


def keys(model_type: str) -> dict[str, str]:
    """Our field -> its key in the `config.json` of this kind of model."""
    if model_type == "bert":
        return {name: name for name in FIELDS if name != "qa_dropout"}
    return {name: field.distilbert for name, field in FIELDS.items() if field.distilbert}


def load_config(folder: Path) -> BertConfig:
    """Read and check a model folder's `config.json`, or google's `bert_config.json`. Keys not used here are ignored.

    Raises BadInput naming the file, the key and the value.
    """
    files = [Path(folder) / name for name in CONFIG_FILES]
    file = next(filter(Path.is_file, files), None)
    if file is None:
        for pattern, hint in OTHER_FOLDERS.items():
            if any(Path(folder).glob(pattern)):
                raise BadInput(files[0], "", f"file not found: {hint}")
        raise BadInput(files[0], "", "file not found: a model folder holds a config.json; check the model's name")
    content = read_json(file)
    if not isinstance(content, dict):
        raise BadInput(file, "", f"expected a JSON object, found {type(content).__name__}")
    model_type = kind_of_model(file, content)
    our_keys = keys(model_type)
    for name, expected in FIXED.items():
        key = our_keys.get(name, name)
        if (found := content.get(key, expected[0])) not in expected:
            what = f"expected {expected[0]!r}, found {found!r}; this kind of encoder is not supported, choose another"
            raise BadInput(file, key, what)

    values: dict[str, Any] = {"model_type": model_type}
    if model_type == "distilbert":
        values |= {"type_vocab_size": 0, "qa_dropout": 0.1}
    for name, key in our_keys.items():
        if key in content:
            values[name] = content[key] if name in FIXED else check(file, key, content[key], FIELDS[name])
        elif FIELDS[name].is_required:
            raise BadInput(file, key, "key not found; a model of this kind needs it")
    config = BertConfig(**values)
    if config.hidden_size % config.num_attention_heads:
        what = f"expected a multiple of the {config.num_attention_heads} attention heads, found {config.hidden_size}"
        raise BadInput(file, our_keys["hidden_size"], what)
    if config.pad_token_id >= config.vocab_size:
        what = f"expected less than vocab_size ({config.vocab_size}), found {config.pad_token_id}"
        raise BadInput(file, "pad_token_id", what)
    return config


def kind_of_model(file: Path, content: dict[str, Any]) -> str:
    """`model_type`; where the file has none, what its architecture or the spelling of its sizes says."""
    if "model_type" in content:
        key, found = "model_type", content["model_type"]
    elif content.get("architectures"):
        key, found = "architectures", str(content["architectures"])
        found = next((kind for kind in ARCHITECTURES if found.lower().strip("[' ").startswith(kind)), found)
    else:
        return "distilbert" if "n_layers" in content else "bert"
    if found not in list(ARCHITECTURES):  # a list, because an unhashable value in the file would break a dict
        families = " or ".join(ARCHITECTURES)
        raise BadInput(file, key, f"expected {families}, found {found!r}; choose a model of one of these families")
    return str(found)


def check(file: Path, key: str, value: Any, field: Field) -> Any:
    """The value, if it has the right type and is in the range of the field."""
    is_whole = isinstance(field.least, int)
    is_number = isinstance(value, int if is_whole else (int, float)) and not isinstance(value, bool)
    if not (is_number and field.least <= value <= field.most):
        kind = "a whole number" if is_whole else "a number"
        raise BadInput(file, key, f"expected {kind} from {field.least} to {field.most}, found {value!r}")
    return value


def config_json(config: BertConfig) -> dict[str, Any]:
    """The content of a `config.json` that other libraries read too."""
    values = {key: getattr(config, name) for name, key in keys(config.model_type).items()}
    architecture = ARCHITECTURES[config.model_type]
    return values | {"architectures": [architecture], "dtype": "float32", "model_type": config.model_type}
