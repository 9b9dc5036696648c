"""Published layouts against `transformers`, planted faults that the comparison must see, saving and copying."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minibert.model.bert import BertForQuestionAnswering, attention_by_hand
from minibert.model.prepare import prepare_to_answer
from minibert.model.weights import copy_model, load_model, load_with_report, save_model
from minibert.support.machine import Machine
from minibert.text.tokenizer import load_tokenizer
from tests.builders import draw_weights, tiny_config

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


def written(class_name: str, without="-", extra=None, dtype=None, norms=("", "")):
    """Write a model as `transformers` names its tensors, without those that hold `without`, with `extra` ones."""

    def write(folder: Path) -> None:
        model = built(class_name)
        state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items() if without not in name}
        for new, old in zip(("weight", "bias"), norms):
            state = {name.replace(f"LayerNorm.{new}", f"LayerNorm.{old or new}"): t for name, t in state.items()}
        model.config.save_pretrained(folder)
        state = {name: tensor.clone() for name, tensor in (state | (extra or {})).items()}
        save_file(state, folder / "model.safetensors")

    return write


def sharded(folder: Path) -> None:
    built("BertForQuestionAnswering").save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


HEAD = ["span_head.weight", "span_head.bias"]
POOLER = {"bert.pooler.dense.weight": torch.ones(30, 30), "bert.pooler.dense.bias": torch.ones(30)}
PRETRAINING = """bert.pooler.dense.weight bert.pooler.dense.bias cls.predictions.bias cls.seq_relationship.weight
cls.seq_relationship.bias cls.predictions.transform.dense.weight cls.predictions.transform.dense.bias""".split()
MASKED = [f"vocab_{part}.{kind}" for part in ("transform", "layer_norm") for kind in ("weight", "bias")]
NORM, IDS = "cls.predictions.transform.LayerNorm.", "embeddings.position_ids"
QA, DISTIL_QA = "BertForQuestionAnswering", "DistilBertForQuestionAnswering"
# Published layout -> (what writes it, our new parameters, the ignored tensors). The matrix of a masked-word head is
# that of the word embeddings and is not stored twice.
LAYOUTS = {
    "bert-base-uncased": (
        written("BertForPreTraining", without="decoder", norms=("gamma", "beta")),
        HEAD,
        [*PRETRAINING, NORM + "gamma", NORM + "beta"],
    ),
    "bert-base-cased": (
        written("BertForPreTraining", without="decoder"),
        HEAD,
        [*PRETRAINING, NORM + "weight", NORM + "bias"],
    ),
    "bert-large-uncased-whole-word-masking-finetuned-squad": (written(QA, extra=POOLER), [], list(POOLER)),
    "distilbert-base-uncased": (
        written("DistilBertForMaskedLM", without="vocab_projector.weight"),
        HEAD,
        [*MASKED, "vocab_projector.bias"],
    ),
    "distilbert-base-cased-distilled-squad": (written(DISTIL_QA), [], []),
    "all-MiniLM-L6-v2": (
        written("BertModel", extra={IDS: torch.arange(41)[None]}),
        HEAD,
        [IDS, "pooler.dense.weight", "pooler.dense.bias"],
    ),
    "float16": (written(QA, dtype=torch.float16), [], []),
    "bfloat16": (written(DISTIL_QA, dtype=torch.bfloat16), [], []),
    "float64": (written(QA, dtype=torch.float64), [], []),
    "sharded": (sharded, [], []),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Callable[[str], Path]:
    """layout -> its folder, each written once."""

    @cache
    def folder(layout: str) -> Path:
        folder = tmp_path_factory.mktemp("published")
        LAYOUTS[layout][0](folder)
        return folder

    return folder


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


@torch.no_grad()
def their_logits(folder: Path, batch: dict[str, torch.Tensor], ours: BertForQuestionAnswering) -> torch.Tensor:
    """The same by `transformers`, with our head's values where the folder has none."""
    import transformers

    kind = {"bert": "Bert", "distilbert": "DistilBert"}[ours.config.model_type]
    cls = getattr(transformers, f"{kind}ForQuestionAnswering")
    model, report = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert set(report["missing_keys"]) == {name.replace("span_head", "qa_outputs") for name in ours.new_parameters}
    model.qa_outputs.load_state_dict(ours.span_head.state_dict())
    if kind == "DistilBert":
        batch = {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
    output = model.eval()(**batch)
    return torch.stack([output.start_logits, output.end_logits])[:, batch["attention_mask"].bool()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_gives_the_logits_of_transformers(layout, published):
    torch.manual_seed(0)
    model = load_model(published(layout))
    expected = their_logits(published(layout), padded_batch(), model)
    assert expected.std() >= 1
    assert (our_logits(model, padded_batch()) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_load_accounts_for_every_tensor(layout, published):
    _, new, ignored = LAYOUTS[layout]
    model, report = load_with_report(published(layout))
    assert report.loaded == [name for name in model.state_dict() if name not in new]
    assert report.new == model.new_parameters == new
    assert sorted(report.ignored) == sorted(ignored)
    assert str(report).startswith(f"loaded {len(report.loaded)} tensors, new {len(new)}")
    assert all(parameter.dtype is torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def tanh_gelu(model):
    for layer in model.encoder.layers:
        layer.feed_forward.gelu = torch.nn.GELU("tanh")


def large_eps(model):
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5


def no_token_types(model):
    model.embeddings.token_type.weight.data[1] = model.embeddings.token_type.weight.data[0]


def no_mask(model):
    for layer in model.encoder.layers:
        layer.attention.attend = lambda query, key, value, mask, *rest: attention_by_hand(
            query, key, value, None, *rest
        )


def pre_norm(model):
    for layer in model.encoder.layers:

        def forward(x, mask, layer=layer):
            x = x + layer.attention(layer.attention_norm(x), mask)
            return x + layer.feed_forward(layer.feed_forward_norm(x))

        layer.forward = forward


def swapped_logits(model):
    for parameter in model.span_head.parameters():
        parameter.data = parameter.data.flip(0)


FAULTS = [("float64", fault) for fault in (tanh_gelu, large_eps, no_token_types, no_mask, pre_norm, swapped_logits)]
FAULTS += [("bfloat16", fault) for _, fault in FAULTS if fault is not no_token_types]  # a DistilBERT


@pytest.mark.parametrize("layout, fault", FAULTS, ids=[f"{layout}-{fault.__name__}" for layout, fault in FAULTS])
def test_the_comparison_sees_a_planted_fault(layout, fault, published):
    model = load_model(published(layout))
    expected = their_logits(published(layout), padded_batch(), model)
    fault(model)
    assert (our_logits(model, padded_batch()) - expected).abs().max() > 100 * TOLERANCE


def test_a_new_head_is_drawn_from_torchs_generator(tmp_path, tokenizer):
    model = draw_weights(BertForQuestionAnswering(tiny_config(hidden_size=240, initializer_range=0.63)))
    save_model(model, tokenizer, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in state.items() if "qa_outputs" not in n}, tmp_path / "model.safetensors")
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        heads.append(load_model(tmp_path).span_head)
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    assert 0.55 < heads[0].weight.std() < 0.71 and not heads[0].bias.any()


KINDS = {"bert": tiny_config(), "distilbert": tiny_config(model_type="distilbert", type_vocab_size=0, qa_dropout=0.1)}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_a_saved_folder(tmp_path, kind, tokenizer):
    transformers = pytest.importorskip("transformers")
    model, batch = draw_weights(BertForQuestionAnswering(KINDS[kind])), padded_batch(KINDS[kind].vocab_size)
    model.span_head.weight.data *= 2  # so that the logits spread here too
    save_model(model, tokenizer, tmp_path)
    architecture = json.loads((tmp_path / "config.json").read_text("utf-8"))["architectures"][0]
    _, report = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    expected = their_logits(tmp_path, batch, model)
    assert expected.std() >= 1
    assert (our_logits(model, batch) - expected).abs().max() <= TOLERANCE
    text = "Who built the Iron clock-tower café in 1871?"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)(text, add_special_tokens=False)["input_ids"]
    assert theirs == tokenizer.encode([text]).ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_keep_every_bit(tmp_path, kind, tokenizer):
    model = draw_weights(BertForQuestionAnswering(KINDS[kind]))
    save_model(model, tokenizer, tmp_path / "first")
    first = load_model(tmp_path / "first")
    save_model(first, load_tokenizer(tmp_path / "first"), tmp_path / "second")
    assert first.config == model.config and not first.new_parameters
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in first.state_dict().items())
    for file in (tmp_path / "first").iterdir():
        assert (tmp_path / "second" / file.name).read_bytes() == file.read_bytes()


def test_a_model_can_be_saved_over_the_folder_it_came_from(tmp_path, tiny_folder):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    model = load_model(folder)
    save_model(model, load_tokenizer(folder), folder)
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (tiny_folder / name).read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), load_model(tiny_folder).parameters()))


def test_half_precision_weights_are_saved_as_float32(tmp_path, tokenizer):
    save_model(draw_weights(BertForQuestionAnswering(tiny_config())).half(), tokenizer, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


def test_a_copy_has_the_weights_in_memory_of_its_own_whatever_was_set_on_the_model(tiny_folder):
    original = load_model(tiny_folder)
    original.new_parameters = ["span_head.bias"]
    copies = [copy_model(original)]
    prepare_to_answer(original.train(), Machine(torch.device("cpu"), torch.float32))
    copies.append(copy_model(original))
    expected = load_model(tiny_folder)
    for copy in copies:
        assert str(copy) == str(expected) and not copy.training and copy.new_parameters == ["span_head.bias"]
        assert all(parameter.requires_grad for parameter in copy.parameters())
        assert all(torch.equal(value, expected.state_dict()[name]) for name, value in copy.state_dict().items())
        copy.span_head.bias.data += 1
    assert torch.equal(original.span_head.bias, expected.span_head.bias)
