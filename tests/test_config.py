"""config.json -> BertConfig: both spellings, defaults, and a table of values that are refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import tiny_config

from minibert.config import BertConfig, load_config
from minibert.errors import BadInput
from minibert.model import BertForQuestionAnswering

# As published with bert-base-uncased and distilbert-base-uncased.
BERT_BASE = """{
  "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false,
  "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
  "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
  "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
  "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": true, "vocab_size": 30522
}"""
DISTILBERT_BASE = """{
  "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768,
  "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512,
  "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1,
  "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": false, "tie_weights_": true,
  "transformers_version": "4.10.0.dev0", "vocab_size": 30522
}"""
BERT_SIZES = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
DISTILBERT_SIZES = {
    "model_type": "distilbert",
    "vocab_size": 30,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 20,
}


def load(folder: Path, content) -> BertConfig:
    """The config of a folder with this config.json: text as it is, anything else as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text, "utf-8")
    return load_config(folder)


def refusal(folder: Path, content) -> str:
    with pytest.raises(BadInput) as raised:
        load(folder, content)
    message = str(raised.value)
    assert message.startswith(str(folder / "config.json")) and "\n" not in message
    return message.removeprefix(str(folder / "config.json"))


def test_berts_published_config_is_read(tmp_path):
    assert load(tmp_path, BERT_BASE) == BertConfig()


def test_distilberts_spelling_gives_the_same_sizes(tmp_path):
    expected = BertConfig(model_type="distilbert", num_hidden_layers=6, type_vocab_size=0, qa_dropout=0.1)
    assert load(tmp_path, DISTILBERT_BASE) == expected


def test_every_distilbert_key_lands_in_its_own_field(tmp_path):
    found = load(
        tmp_path,
        DISTILBERT_SIZES
        | {"dropout": 0.2, "attention_dropout": 0.3, "qa_dropout": 0.4, "max_position_embeddings": 41}
        | {"initializer_range": 0.5, "pad_token_id": 7},
    )
    assert dataclasses.astuple(found) == ("distilbert", 30, 12, 2, 3, 20, "gelu", 0.2, 0.3, 0.4, 41, 0, 1e-12, 0.5, 7)


def test_every_bert_key_lands_in_its_own_field(tmp_path):
    found = load(
        tmp_path,
        BERT_SIZES
        | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "max_position_embeddings": 41}
        | {"type_vocab_size": 4, "layer_norm_eps": 1e-6, "initializer_range": 0.5, "pad_token_id": 7},
    )
    assert dataclasses.astuple(found) == ("bert", 30, 12, 2, 3, 20, "gelu", 0.2, 0.3, 0.0, 41, 4, 1e-6, 0.5, 7)


def test_unknown_keys_are_left_alone(tmp_path):
    assert load(tmp_path, BERT_SIZES | {"use_cache": True, "id2label": {"0": None}}) == load(tmp_path, BERT_SIZES)


def test_optional_keys_have_berts_defaults(tmp_path):
    assert load(tmp_path, BERT_SIZES) == BertConfig(**BERT_SIZES)


def test_a_distilbert_has_no_token_types_and_a_fixed_norm_whatever_the_file_says(tmp_path):
    found = load(tmp_path, DISTILBERT_SIZES | {"type_vocab_size": 2, "layer_norm_eps": 1e-5})
    assert (found.type_vocab_size, found.layer_norm_eps) == (0, 1e-12)


def test_a_bert_has_no_dropout_before_the_span_head_whatever_the_file_says(tmp_path):
    assert load(tmp_path, BERT_SIZES | {"qa_dropout": 0.3}).qa_dropout == 0.0


@pytest.mark.parametrize("sizes", [BERT_SIZES, DISTILBERT_SIZES], ids=["bert", "distilbert"])
def test_each_size_must_be_there(tmp_path, sizes):
    for key in sizes.keys() - {"model_type"}:
        message = refusal(tmp_path, {k: v for k, v in sizes.items() if k != key})
        assert message == f": {key}: is missing"


WHOLE_NUMBERS = ["-1", "1000000000", "1e9", "2.0", '"12"', "null", "true", "[12]", "1" + "0" * 400]
RATES = ["-0.1", "1.0", '"0.1"', "null", "true", "{}"]
REFUSED = [
    *((key, value) for key in (*BERT_SIZES, "max_position_embeddings") for value in ["0", *WHOLE_NUMBERS]),
    *((key, value) for key in ("type_vocab_size", "pad_token_id") for value in WHOLE_NUMBERS),
    *((key, value) for key in ("hidden_dropout_prob", "attention_probs_dropout_prob") for value in RATES),
    *(("layer_norm_eps", value) for value in ("-1e-12", "1.5", '"1e-12"', "null", "true")),
    *(("initializer_range", value) for value in ("-0.02", "1e9", '"0.02"', "null", "true")),
    *(("hidden_act", value) for value in ('"gelu_new"', '"relu"', '"GELU"', "null", '["gelu"]', "0")),
    *(("model_type", value) for value in ('"roberta"', '"BERT"', '""', "null", "1", '["bert"]', '{"bert": 1}')),
    ("position_embedding_type", '"relative_key"'),
    ("position_embedding_type", '"relative_key_query"'),
    ("pad_token_id", "30"),  # as large as the vocabulary: there is no such row
]


def with_raw(sizes: dict, key: str, value: str) -> str:
    """The text of a config.json in which `key` has this text as its value, JSON or not."""
    text = json.dumps({k: v for k, v in sizes.items() if k != key})
    return f'{text[:-1]}, "{key}": {value}}}'


@pytest.mark.parametrize(("key", "value"), REFUSED, ids=[f"{key}-{value[:12]}" for key, value in REFUSED])
def test_a_bad_value_is_refused_by_name(tmp_path, key, value):
    assert refusal(tmp_path, with_raw(BERT_SIZES, key, value)).startswith(f": {key}: ")


@pytest.mark.parametrize("key", ["hidden_size", "layer_norm_eps", "hidden_act", "unknown"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_know_is_refused_under_any_key(tmp_path, key, value):
    assert f"{value} is not a JSON value" in refusal(tmp_path, with_raw(BERT_SIZES, key, value))


def test_heads_must_divide_the_width(tmp_path):
    message = refusal(tmp_path, BERT_SIZES | {"num_attention_heads": 5})
    assert message == ": hidden_size: 12 is not a multiple of the 5 attention heads"


@pytest.mark.parametrize("key", ["dim", "n_layers", "n_heads", "hidden_dim", "vocab_size", "max_position_embeddings"])
@pytest.mark.parametrize("value", [-1, 0, 10**9, "12", True])
def test_a_bad_distilbert_value_is_refused_under_distilberts_name(tmp_path, key, value):
    assert refusal(tmp_path, DISTILBERT_SIZES | {key: value}).startswith(f": {key}: ")


def test_heads_that_do_not_divide_the_width_are_refused_under_distilberts_name(tmp_path):
    assert refusal(tmp_path, DISTILBERT_SIZES | {"n_heads": 5}).startswith(": dim: ")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"bert"', "<html></html>", '{"a": 1, "a": 2}'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content):
    assert refusal(tmp_path, content)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"config\.json: no such file"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3, layer_norm_eps=1e-6, pad_token_id=3),
        tiny_config(model_type="distilbert", type_vocab_size=0, qa_dropout=0.4, initializer_range=0.5),
    ],
    ids=["bert", "distilbert"],
)
def test_a_written_config_reads_back_the_same(tmp_path, config):
    assert load(tmp_path, config.to_json()) == config


def test_a_written_config_says_its_architecture():
    assert tiny_config().to_json()["architectures"] == ["BertForQuestionAnswering"]
    distilbert = tiny_config(model_type="distilbert", type_vocab_size=0).to_json()
    assert distilbert["architectures"] == ["DistilBertForQuestionAnswering"]
    assert not distilbert.keys() & {"hidden_size", "num_hidden_layers", "type_vocab_size", "layer_norm_eps"}


@pytest.mark.parametrize("sizes", [BERT_SIZES, DISTILBERT_SIZES], ids=["bert", "distilbert"])
def test_a_config_that_is_accepted_makes_a_model(tmp_path, sizes):
    extremes = {"vocab_size": 1, "max_position_embeddings": 1}
    model = BertForQuestionAnswering(load(tmp_path, sizes | extremes))
    assert model.embeddings.word.weight.shape == (1, 12)
