"""config.json <-> BertConfig: both spellings, defaults, and every kind of value that is refused by its key."""

import dataclasses
import json

import pytest

from minibert.model.bert import BertForQuestionAnswering
from minibert.model.config import config_json, load_config
from minibert.support.errors import BadInput
from tests.builders import tiny_config

BERT = dict(vocab_size=30, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20)
DISTILBERT = dict(model_type="distilbert", vocab_size=30, dim=12, n_layers=2, n_heads=3, hidden_dim=20)
KINDS = {"bert": BERT, "distilbert": DISTILBERT}


def load(folder, content):
    """The config of a folder with this config.json: text as it is, anything else as JSON."""
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return load_config(folder)


def refusal(folder, content) -> str:
    """What the error says after the file's name."""
    with pytest.raises(BadInput) as raised:
        load(folder, content)
    file, message = str(folder / "config.json"), str(raised.value)
    assert message.startswith(file) and "\n" not in message
    return message.removeprefix(file)


# Files as published, files in which every value is its own, and files with keys that mean nothing to their kind.
BERT_BASE = """{"architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
"hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "use_cache": true,
"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
"num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute", "gradient_checkpointing": false,
"transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "vocab_size": 30522}"""
DISTILBERT_BASE = """{"activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1,
"dim": 768, "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512,
"model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1, "vocab_size": 30522,
"seq_classif_dropout": 0.2, "sinusoidal_pos_embds": false, "tie_weights_": true}"""
ALL = dict(max_position_embeddings=41, initializer_range=0.5, pad_token_id=7)
BERT_ALL = BERT | ALL | dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3, type_vocab_size=4)
DISTILBERT_ALL = DISTILBERT | ALL | dict(dropout=0.2, attention_dropout=0.3, qa_dropout=0.4)
TINY = (30, 12, 2, 3, 20, "gelu")
ACCEPTED = [
    (BERT_BASE, ("bert", 30522, 768, 12, 12, 3072, "gelu", 0.1, 0.1, 0.0, 512, 2, 1e-12, 0.02, 0)),
    (DISTILBERT_BASE, ("distilbert", 30522, 768, 6, 12, 3072, "gelu", 0.1, 0.1, 0.1, 512, 0, 1e-12, 0.02, 0)),
    (BERT_ALL | {"layer_norm_eps": 1e-6}, ("bert", *TINY, 0.2, 0.3, 0.0, 41, 4, 1e-6, 0.5, 7)),
    (DISTILBERT_ALL, ("distilbert", *TINY, 0.2, 0.3, 0.4, 41, 0, 1e-12, 0.5, 7)),
    (BERT, ("bert", *TINY, 0.1, 0.1, 0.0, 512, 2, 1e-12, 0.02, 0)),
    (BERT | {"architectures": ["BertForMaskedLM"]}, ("bert", *TINY, 0.1, 0.1, 0.0, 512, 2, 1e-12, 0.02, 0)),
    (
        BERT | {"is_decoder": False, "pruned_heads": {}, "hidden_act": "gelu_python"},
        ("bert", *TINY[:-1], "gelu_python", 0.1, 0.1, 0.0, 512, 2, 1e-12, 0.02, 0),
    ),
    (BERT | {"qa_dropout": 0.3, "dim": "x", "id2label": {}}, ("bert", *TINY, 0.1, 0.1, 0.0, 512, 2, 1e-12, 0.02, 0)),
    (
        DISTILBERT | {"type_vocab_size": 2, "layer_norm_eps": 1e-5, "hidden_size": "x"},
        ("distilbert", *TINY, 0.1, 0.1, 0.1, 512, 0, 1e-12, 0.02, 0),
    ),
]


@pytest.mark.parametrize("content, expected", ACCEPTED)
def test_every_key_sets_its_own_field_and_no_other(tmp_path, content, expected):
    assert dataclasses.astuple(load(tmp_path, content)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_each_size_is_required(tmp_path, kind):
    for key in KINDS[kind].keys() - {"model_type"}:
        message = refusal(tmp_path, {k: v for k, v in KINDS[kind].items() if k != key})
        assert message.startswith(f": {key}: key not found")


# Keys that make it another kind of model: the message says to choose one of this kind.
OTHER_COMPUTATION = """model_type architectures hidden_act activation position_embedding_type is_decoder
add_cross_attention pruned_heads""".split()
# kind, keys, JSON values
REFUSED = r"""
bert vocab_size,num_hidden_layers,intermediate_size,max_position_embeddings 0 -1 1000000000 1e9 2.0 "12" null true [12]
bert hidden_size,num_attention_heads 0 -1 1000000000 1e9 2.0 "12" null true [12]
bert type_vocab_size,pad_token_id -1 1000000000 1e9 2.0 "12" null true [12]
bert hidden_dropout_prob,attention_probs_dropout_prob -0.1 1.0 "0.1" null true {}
bert layer_norm_eps -1e-12 1.5 "1e-12" null true
bert initializer_range -0.02 1e9 "0.02" null true
bert hidden_act "gelu_new" "relu" "GELU" null ["gelu"] 0
bert model_type "roberta" "BERT" "" null 1 ["bert"] {"bert":1}
bert model_type "electra" "albert" "bert-generation" "xlm-roberta"
bert position_embedding_type "relative_key" "relative_key_query" "alibi" null ["absolute"]
bert is_decoder,add_cross_attention true null 1.5
bert pruned_heads {"0":[1]}
bert architectures ["RobertaForQuestionAnswering"] ["AlbertModel"] "ElectraModel" [1] {"bert":1}
bert pad_token_id 30
bert hidden_size 13
distilbert vocab_size,dim,n_layers,n_heads,hidden_dim,max_position_embeddings,pad_token_id -1 1000000000 "12" true []
distilbert dropout,attention_dropout,qa_dropout -0.1 1.0 "0.1" null true
distilbert activation "relu"
distilbert dim 13
"""
ROWS = [
    (kind, key, value)
    for kind, keys, *values in map(str.split, REFUSED.strip().splitlines())
    for key in keys.split(",")
    for value in values
]
ROWS += [("bert", "hidden_size", "1" + "0" * 400)]


@pytest.mark.parametrize("kind, key, value", ROWS, ids=lambda word: word[:20])
def test_a_bad_value_is_refused_by_its_key(tmp_path, kind, key, value):
    message = refusal(tmp_path, KINDS[kind] | {key: json.loads(value)})
    assert message.startswith(f": {key}: expected ") and ("choose" in message) == (key in OTHER_COMPUTATION)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architectures", [None, [], "BertModel DistilBertForMaskedLM"])
def test_without_a_model_type_the_architecture_or_the_spelling_of_the_sizes_says_it(tmp_path, kind, architectures):
    content = {key: value for key, value in KINDS[kind].items() if key != "model_type"}
    if architectures is not None:
        content["architectures"] = architectures and [architectures.split()[kind == "distilbert"]]
    assert load(tmp_path, content) == load(tmp_path, content | {"model_type": kind})


def test_googles_name_of_the_file_is_read_where_there_is_no_other(tmp_path):
    (tmp_path / "bert_config.json").write_text(json.dumps(BERT), "utf-8")
    assert load_config(tmp_path).hidden_size == 12
    assert load(tmp_path, BERT | {"hidden_size": 24}).hidden_size == 24
    (tmp_path / "config.json").unlink()
    (tmp_path / "bert_config.json").write_text(json.dumps(BERT | {"hidden_act": "relu"}), "utf-8")
    with pytest.raises(BadInput, match=r"bert_config\.json: hidden_act: expected 'gelu'"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "null", '"bert"', '{"a": 1, "a": 2}', '{"a": NaN}'])
def test_a_file_that_is_not_a_json_object_is_refused(tmp_path, content):
    with pytest.raises(BadInput, match=r"config\.json: file not found"):
        load_config(tmp_path)
    assert refusal(tmp_path, content)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3, layer_norm_eps=1e-6, pad_token_id=3),
        tiny_config(model_type="distilbert", type_vocab_size=0, qa_dropout=0.4, initializer_range=0.5),
    ],
    ids=["bert", "distilbert"],
)
def test_a_written_config_reads_back_the_same_and_names_its_architecture(tmp_path, config):
    content = config_json(config)
    assert load(tmp_path, content) == config and None not in content
    is_bert = config.model_type == "bert"
    assert content["architectures"] == ["BertForQuestionAnswering" if is_bert else "DistilBertForQuestionAnswering"]
    assert bool(content.keys() & {"hidden_size", "num_hidden_layers", "type_vocab_size", "layer_norm_eps"}) == is_bert


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_accepted_sizes_make_a_model(tmp_path, kind):
    config = load(tmp_path, KINDS[kind] | {"vocab_size": 1, "max_position_embeddings": 1})
    assert BertForQuestionAnswering(config).embeddings.word.weight.shape == (1, 12)
