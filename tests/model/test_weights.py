"""Planted faults that the comparison with `transformers` must see; saving and copying. Layouts: test_published.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minibert.model.bert import BertForQuestionAnswering, attention_by_hand
from minibert.model.prepare import prepare_to_answer
from minibert.model.weights import copy_model, load_model, save_model
from minibert.support.machine import Machine
from minibert.text.tokenizer import load_tokenizer
from tests.builders import tiny_model
from tests.model.test_published import DISTIL_QA, QA, TOLERANCE, built, our_logits, padded_batch


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


@pytest.fixture(scope="module", params=[QA, DISTIL_QA])
def folder(request, tmp_path_factory) -> Path:
    """A folder as `transformers` writes it."""
    folder = tmp_path_factory.mktemp("published")
    built(request.param).save_pretrained(folder)
    return folder


def test_logits_are_those_of_transformers(folder):
    model = load_model(folder)
    expected = their_logits(folder, padded_batch(), model)
    assert expected.std() >= 1
    assert (our_logits(model, padded_batch()) - expected).abs().max() <= TOLERANCE


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
        layer.attention.attend = lambda query, key, value, _, *rest: attention_by_hand(query, key, value, None, *rest)


def pre_norm(model):
    for layer in model.encoder.layers:

        def forward(x, mask, layer=layer):
            x = x + layer.attention(layer.attention_norm(x), mask)
            return x + layer.feed_forward(layer.feed_forward_norm(x))

        layer.forward = forward


def swapped_logits(model):
    for parameter in model.span_head.parameters():
        parameter.data = parameter.data.flip(0)


@pytest.mark.parametrize("fault", [tanh_gelu, large_eps, no_token_types, no_mask, pre_norm, swapped_logits])
def test_the_comparison_sees_a_planted_fault(folder, fault):
    model = load_model(folder)
    if fault is no_token_types and not model.config.type_vocab_size:
        pytest.skip("a DistilBERT has no token types")
    expected = our_logits(model, padded_batch())
    fault(model)
    assert (our_logits(model, padded_batch()) - expected).abs().max() > 100 * TOLERANCE


def test_a_new_head_is_drawn_from_torchs_generator(tmp_path, tokenizer):
    model = tiny_model(hidden_size=240, initializer_range=0.63)
    save_model(model, tokenizer, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in state.items() if "qa_outputs" not in n}, tmp_path / "model.safetensors")
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        heads.append(load_model(tmp_path).span_head)
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    assert 0.55 < heads[0].weight.std() < 0.71 and not heads[0].bias.any()


KINDS: dict[str, dict] = {"bert": {}, "distilbert": dict(model_type="distilbert", type_vocab_size=0, qa_dropout=0.1)}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_a_saved_folder(tmp_path, kind, tokenizer):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(**KINDS[kind])
    batch = padded_batch(model.config.vocab_size)
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
    assert theirs == tokenizer.encode([text])[0][0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_keep_every_bit(tmp_path, kind, tokenizer):
    model = tiny_model(**KINDS[kind])
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
    save_model(tiny_model().half(), tokenizer, tmp_path)
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
