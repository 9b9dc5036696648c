"""`config.json` -> `BertConfig`, for BERT and for DistilBERT, which spells the same sizes otherwise.

Every value is checked before anything is built from it: the file may come from a stranger. Next: `model.py`.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minibert.errors import BadInput
from minibert.squad import read_json

# ours (and BERT's) -> DistilBERT's. DistilBERT has no token types and fixes layer_norm_eps at 1e-12.
DISTILBERT = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "qa_dropout": "qa_dropout",
    "max_position_embeddings": "max_position_embeddings",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
ARCHITECTURES = {"bert": "BertForQuestionAnswering", "distilbert": "DistilBertForQuestionAnswering"}


@dataclass(frozen=True)
class BertConfig:
    """The sizes and rates of an encoder. Names and defaults are those of BERT's `config.json` (BERT-base)."""

    model_type: str = "bert"  # or "distilbert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    qa_dropout: float = 0.0  # before the span head; DistilBERT's habit
    max_position_embeddings: int = 512
    type_vocab_size: int = 2  # 0: no token types (DistilBERT)
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0

    def to_json(self) -> dict:
        """The content of a `config.json` that other libraries read as well."""
        values = dataclasses.asdict(self)
        if self.model_type == "distilbert":
            values = {theirs: values[ours] for ours, theirs in DISTILBERT.items()}
        else:
            del values["qa_dropout"]
        return values | {
            "architectures": [ARCHITECTURES[self.model_type]],
            "dtype": "float32",
            "model_type": self.model_type,
        }


# The range of each value: generous for any model of this family, far below what would exhaust memory.
RANGES = {
    "vocab_size": (1, 10_000_000),
    "hidden_size": (1, 65_536),
    "num_hidden_layers": (1, 1_000),
    "num_attention_heads": (1, 65_536),
    "intermediate_size": (1, 1_000_000),
    "hidden_dropout_prob": (0.0, 0.999),
    "attention_probs_dropout_prob": (0.0, 0.999),
    "qa_dropout": (0.0, 0.999),
    "max_position_embeddings": (1, 1_000_000),
    "type_vocab_size": (2, 1_000),
    "layer_norm_eps": (0.0, 1.0),
    "initializer_range": (0.0, 100.0),
    "pad_token_id": (0, 10_000_000),
}
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def load_config(folder: Path) -> BertConfig:
    """Read and check `config.json`; unknown keys are left alone. Raises BadInput naming key and value."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise BadInput(file, "", "no such file: this is no model folder")
    found = read_json(file)
    if not isinstance(found, dict):
        raise BadInput(file, "", "expected a JSON object")
    model_type = found.get("model_type", "bert")
    if model_type not in list(ARCHITECTURES):  # a list: what stands in the file may not be hashable
        raise BadInput(file, "model_type", f"must be one of {', '.join(ARCHITECTURES)}, not {model_type!r}")
    if found.get("position_embedding_type", "absolute") != "absolute":
        raise BadInput(file, "position_embedding_type", "only absolute positions are supported")

    values = {"model_type": model_type}
    if model_type == "distilbert":
        values |= {"type_vocab_size": 0, "qa_dropout": 0.1}
    for field in dataclasses.fields(BertConfig):
        key = DISTILBERT.get(field.name) if model_type == "distilbert" else field.name
        if key in found and field.name != "model_type" and (model_type, key) != ("bert", "qa_dropout"):
            values[field.name] = check(file, key, found[key], field.name)
        elif field.name in REQUIRED:
            raise BadInput(file, key, "is missing")
    config = BertConfig(**values)
    if config.hidden_size % config.num_attention_heads:
        what = f"{config.hidden_size} is not a multiple of the {config.num_attention_heads} attention heads"
        raise BadInput(file, DISTILBERT["hidden_size"] if model_type == "distilbert" else "hidden_size", what)
    if config.pad_token_id >= config.vocab_size:
        raise BadInput(file, "pad_token_id", f"{config.pad_token_id} is not below vocab_size, {config.vocab_size}")
    return config


def check(file: Path, key: str, value, name: str):
    """One value of the right kind and in its range."""
    if name == "hidden_act":
        if value != "gelu":
            raise BadInput(file, key, f"only the exact 'gelu' is supported, not {value!r}")
        return value
    least, most = RANGES[name]
    kinds = (int, float) if isinstance(least, float) else int
    # `not least <= value` and not `value < least`: NaN must fail too.
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        what = "a number" if isinstance(least, float) else "a whole number"
        raise BadInput(file, key, f"must be {what} from {least} to {most}, not {value!r}")
    return value
