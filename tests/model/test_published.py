"""The layouts of published models, rebuilt as small random folders: the files, keys and tensor names that they have.

Each loads and gives the logits and the tokens of `transformers`. What is refused is in test_config.py and
test_weight_files.py.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from minibert.answers.predict import check_pair
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weights import load_with_report
from minibert.support.hub import find_folder
from minibert.text.tokenizer import load_tokenizer
from tests.builders import draw_weights, write_folder
from tests.text.test_tokenizer import encode, json_tokenizer, lines

# Sizes that are all different: a swapped axis cannot pass. V 97, D 30, H 5, layers 4, F 52, positions 41, B 3, T 17.
SIZES = {"vocab_size": 97, "max_position_embeddings": 41, "initializer_range": 0.63}  # a new head's logits spread too
BERT = {"hidden_size": 30, "num_hidden_layers": 4, "num_attention_heads": 5, "intermediate_size": 52} | SIZES
DISTILBERT = {"dim": 30, "n_layers": 4, "n_heads": 5, "hidden_dim": 52} | SIZES
TOLERANCE = 1e-5  # on logits whose standard deviation is 1 or more


def built(class_name: str) -> torch.nn.Module:
    """A `transformers` model drawn so that its logits spread, yet hold little float32 noise."""
    cls = getattr(pytest.importorskip("transformers"), class_name)
    model = draw_weights(cls(cls.config_class(**(DISTILBERT if "Distil" in class_name else BERT))), seed=2)
    for name, parameter in model.named_parameters():
        if "_embeddings" in name:
            parameter.data *= 0.04  # the eps of a LayerNorm shows only where the variance is small
        elif parameter.dim() == 2:
            parameter.data *= 2.3 if "qa_outputs" in name else 0.67
    return model


def padded_batch(vocab_size: int = 97) -> dict[str, torch.Tensor]:
    """(3, 17): windows of 17, 11 and 6 tokens, the last part of each of type 1."""
    lengths, tokens = torch.tensor([17, 11, 6])[:, None], torch.arange(17)[None]
    ids = torch.randint(1, vocab_size, (3, 17), generator=torch.Generator().manual_seed(2))
    mask = (tokens < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": mask * (tokens >= lengths // 3)}


@torch.no_grad()
def our_logits(model: BertForQuestionAnswering, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(2, real tokens): start and end logits."""
    return torch.stack(model(**batch))[:, batch["attention_mask"].bool()]


TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK] the clock was made by Anna in a b c ##s ##ed . , \u4e00 \u00e9 ?".split()
UNUSED = ["[PAD]", *(f"[unused{i}]" for i in range(1, 9)), *TOKENS[1:]]  # google's order
TEXT = "The clocks were made by Anna, in caf\u00e9 \u4e00\u4e8c?"

OURS = r"\.layer\.|qa_outputs|embeddings\.(word_|position_e|token_type_e|LayerNorm)"  # names of what is never ignored
OLD_CONFIG = ("model_type", "layer_norm_eps", "pad_token_id", "architectures", "transformers_version", "dtype")


class Layout(NamedTuple):
    """How a published folder differs from what `transformers` writes for a `class_name`."""

    class_name: str
    files: Mapping = MappingProxyType({})  # beside config.json and the weights
    prefix: str = ""  # before all names
    extra: tuple[str, ...] = ()  # more tensors
    without: str = "-"
    names: tuple[tuple[str, str], ...] = ()  # parts of names that it spells otherwise
    config: Mapping = MappingProxyType({})
    old_config: bool = False  # the keys of google's bert_config.json only
    dtype: torch.dtype = torch.float32
    shards: bool = False


def cased(tokens=TOKENS, **settings) -> dict:
    return {"vocab.txt": lines(tokens), "tokenizer_config.json": {"do_lower_case": False} | settings}


def uncased(tokens=TOKENS, **settings) -> dict:
    return {"vocab.txt": lines(tokens), "tokenizer_config.json": {"do_lower_case": True} | settings}


def fast(**settings) -> dict:
    """The files that a fast tokenizer writes."""
    lower = settings.setdefault("do_lower_case", True)
    normalizer = {"type": "BertNormalizer", "clean_text": True, "lowercase": lower}
    normalizer |= {"strip_accents": None, "handle_chinese_chars": True}
    names = {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
    return {
        "tokenizer.json": json_tokenizer(TOKENS, normalizer=normalizer),
        "vocab.txt": lines(TOKENS),
        "tokenizer_config.json": names | {"tokenizer_class": "BertTokenizer", "never_split": None} | settings,
        "special_tokens_map.json": names,
    }


GAMMA = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
SENTENCE = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}],
    "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": False},
    "1_Pooling/config.json": {"pooling_mode_cls_token": True},
}
MLM, PRE, BASE, QA = "BertForMaskedLM", "BertForPreTraining", "BertModel", "BertForQuestionAnswering"
DISTIL_QA = "DistilBertForQuestionAnswering"
ONE, MANY = "BertForSequenceClassification", "BertForTokenClassification"
HEAD = ["span_head.weight", "span_head.bias"]
IDS, POOL = "bert.embeddings.position_ids", ("bert.pooler.dense.weight", "bert.pooler.dense.bias")

LAYOUTS = {
    "bert-base-multilingual-cased": Layout(
        PRE, cased(UNUSED), without="decoder", names=GAMMA, config={"pooler_type": "first_token_transform"}
    ),
    "bert-base-chinese": Layout(MLM, cased(), without="decoder", names=GAMMA, config={"directionality": "bidi"}),
    "bert-base-german-cased": Layout(PRE, cased(), without="decoder"),
    "bert-base-italian-xxl": Layout(MLM, cased(TOKENS[:-1], max_len=512), extra=(IDS,), without="decoder"),
    "nordic BERT, as google's trainer left it": Layout(
        PRE, uncased(), without="decoder", names=GAMMA, config={"name": "bert_config.json"}, old_config=True
    ),
    "nb-bert-base": Layout(MLM, fast(do_lower_case=False, strip_accents=None), extra=(IDS,)),
    "kcbert, 300 positions": Layout(MLM, cased(max_len=300), without="decoder"),
    "BioBERT": Layout(PRE, {"vocab.txt": lines(TOKENS)}, without="decoder"),
    "SciBERT, no model_type": Layout(PRE, uncased([*TOKENS, "", ""]), extra=(), old_config=True),
    "FinBERT": Layout(ONE, fast(), config={"id2label": {"0": "a", "1": "b", "2": "c"}}, extra=(IDS,)),
    "Legal-BERT": Layout(PRE, fast(model_max_length=512), extra=(IDS, "bert.embeddings.token_type_ids")),
    "TinyBERT": Layout(
        PRE, {"vocab.txt": lines(TOKENS)}, extra=("fit_dense.weight", "fit_dense.bias"), config={"cell": {}}
    ),
    "MiniLM-L12": Layout(BASE, uncased(), names=(("embeddings.word_", "bert.embeddings.word_"),)),
    "all-MiniLM-L12": Layout(BASE, SENTENCE | fast(), extra=("embeddings.position_ids",)),
    "cross-encoder/ms-marco-MiniLM": Layout(ONE, fast(), config={"id2label": {"0": "LABEL_0"}}),
    "BGE": Layout(BASE, SENTENCE | fast(), extra=("embeddings.position_ids",)),
    "E5": Layout(BASE, SENTENCE | fast(do_lower_case=True, strip_accents=None)),
    "GTE": Layout(BASE, fast()),
    "LaBSE": Layout(BASE, SENTENCE | cased(full_tokenizer_file=None)),
    "ColBERT": Layout(BASE, fast(), prefix="bert.", extra=("linear.weight",)),
    "dslim/bert-base-NER": Layout(MANY, cased(TOKENS), config={"_num_labels": 9}, extra=POOL),
    "multiple choice": Layout("BertForMultipleChoice", uncased()),
    "next sentence": Layout("BertForNextSentencePrediction", uncased()),
    "bert-large-uncased-whole-word-masking-finetuned-squad": Layout(QA, uncased(), extra=POOL),
    "distilbert-base-multilingual-cased": Layout("DistilBertForMaskedLM", cased(), without="vocab_projector.weight"),
    "distilbert-base-cased-distilled-squad": Layout(DISTIL_QA, cased()),
    "float16": Layout(QA, uncased(), dtype=torch.float16),
    "bfloat16": Layout(DISTIL_QA, uncased(), dtype=torch.bfloat16),
    "float64": Layout(QA, uncased(), dtype=torch.float64),
    "shards": Layout(QA, uncased(), shards=True),
    "distilbert sst-2": Layout("DistilBertForSequenceClassification", uncased()),
    "distilbert NER": Layout("DistilBertForTokenClassification", cased()),
    "a distilled one without a prefix": Layout("DistilBertModel", uncased()),
    "DataParallel": Layout(QA, fast(), prefix="module."),
    "torch.compile of DistributedDataParallel": Layout(QA, fast(), prefix="_orig_mod.module."),
    "Lightning": Layout(QA, uncased(), prefix="model.", extra=("model.bert.pooler.dense.weight",)),
    "sentence_transformers' own names": Layout(BASE, uncased(), prefix="0.auto_model."),
    "prefix twice": Layout(MANY, uncased(), prefix="bert."),
    "a span head without the encoder's prefix": Layout(QA, uncased(), names=(("bert.", ""),)),
}


def write(folder: Path, layout: Layout) -> Path:
    model = built(layout.class_name)
    state = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in layout.names:
            name = name.replace(ours, theirs)
        if layout.without not in name:
            state[layout.prefix + name] = tensor.to(layout.dtype).clone()
    state |= {name: torch.ones(3) for name in layout.extra}
    if layout.shards:
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    else:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | layout.config
    if layout.old_config:
        config = {key: value for key, value in config.items() if key not in OLD_CONFIG}
    (folder / "1_Pooling").mkdir()
    (folder / config.pop("name", "config.json")).write_text(json.dumps(config), "utf-8")
    return write_folder(folder, layout.files)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_folder_gives_the_logits_and_tokens_of_transformers(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    layout = LAYOUTS[name]
    folder = find_folder(write(tmp_path, layout))
    torch.manual_seed(0)
    (model, report), tokenizer = load_with_report(folder), load_tokenizer(folder)
    check_pair(model, tokenizer, folder)
    assert report.ignored == [name for name in report.ignored if not re.search(OURS, name)]
    tensors = sum(len(load_file(file)) for file in folder.glob("*.safetensors"))
    assert len(report.ignored) + len(report.loaded) == tensors
    assert report.new == model.new_parameters == ([] if layout.class_name in (QA, DISTIL_QA) else HEAD)
    assert report.loaded == [name for name in model.state_dict() if name not in report.new]
    assert str(report).startswith(f"loaded {len(report.loaded)} tensors, new {len(report.new)}")
    assert all(name in str(report) for name in report.ignored)
    assert all(parameter.dtype is torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    shared = {"bert.": ""}.get(layout.prefix, layout.prefix) if name != "prefix twice" else "bert."
    assert report.prefix == shared and (f"took the prefix {shared!r} off" in str(report)) is bool(shared)

    peer = built(layout.class_name).to(layout.dtype).float()  # the same weights, in the model that wrote them
    kind = "DistilBert" if "Distil" in layout.class_name else "Bert"
    head = getattr(transformers, f"{kind}ForQuestionAnswering")(peer.config).eval()
    base = getattr(peer, peer.base_model_prefix, peer)
    getattr(head, peer.base_model_prefix).load_state_dict(base.state_dict(), strict=False)
    head.qa_outputs.load_state_dict(model.span_head.state_dict())
    batch = padded_batch()
    inputs = {key: value for key, value in batch.items() if kind == "Bert" or key != "token_type_ids"}
    with torch.no_grad():
        output = head(**inputs)
    expected = torch.stack([output.start_logits, output.end_logits])[:, batch["attention_mask"].bool()]
    assert expected.std() >= 1
    assert (our_logits(model, batch) - expected).abs().max() <= TOLERANCE

    # A bare vocab.txt with a capital letter is cased here; transformers needs to be told.
    told = {} if "tokenizer_config.json" in layout.files else {"do_lower_case": False}
    fast = transformers.BertTokenizerFast.from_pretrained(folder, **told)
    theirs = fast(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    assert encode(tokenizer, TEXT) == (theirs["input_ids"], theirs["offset_mapping"])
