"""The encoder and head by themselves; `test_weights.py` compares them with an independent implementation."""

import pytest
import torch
from conftest import VOCABULARY, drawn, tiny_config

from minibert.model import BertForQuestionAnswering, attention_by_hand

B, T = 3, 11


@pytest.fixture(scope="module")
def model() -> BertForQuestionAnswering:
    return drawn(BertForQuestionAnswering(tiny_config()))


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(B, T, dtype=torch.long)
    mask[1, 8:] = 0
    return {
        "input_ids": torch.randint(5, len(VOCABULARY), (B, T), generator=generator),
        "attention_mask": mask,
        "token_type_ids": (torch.arange(T) > 4).long().expand(B, T),
    }


def test_shapes_and_dtype(model, batch):
    start_logits, end_logits = model(**batch)
    assert start_logits.shape == end_logits.shape == (B, T) and start_logits.dtype == torch.float32
    assert model.encode(**batch).shape == (B, T, 24)


def test_logits_spread(model, batch):
    """The other tests here say little about logits that are all alike."""
    assert torch.stack(model(**batch)).std() > 0.5


def test_padding_changes_nothing(model, batch):
    alone = {name: tensor[1:2, :8] for name, tensor in batch.items() if name != "attention_mask"}
    for padded, expected in zip(model(**batch), model(**alone)):
        assert torch.allclose(padded[1, :8], expected[0], atol=1e-5)


def test_no_mask_means_all_tokens(model, batch):
    without = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}
    with_ones = without | {"attention_mask": torch.ones(B, T)}
    for a, b in zip(model(**without), model(**with_ones)):
        assert torch.allclose(a, b, atol=1e-6)


def test_no_token_types_mean_type_0(model, batch):
    zeros = model(batch["input_ids"], batch["attention_mask"], torch.zeros_like(batch["token_type_ids"]))
    without = model(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(zeros[0], without[0])
    assert not torch.allclose(model(**batch)[0], without[0], atol=1e-2)


def test_windows_of_a_batch_do_not_see_each_other(model, batch):
    changed = {name: tensor.clone() for name, tensor in batch.items()}
    changed["input_ids"][0] = 7
    for a, b in zip(model(**batch), model(**changed)):
        assert torch.allclose(a[1:], b[1:], atol=1e-6)
        assert not torch.allclose(a[0], b[0], atol=1e-2)


def test_every_token_sees_every_other(model, batch):
    changed = {name: tensor.clone() for name, tensor in batch.items()}
    changed["input_ids"][0, -1] = (changed["input_ids"][0, -1] + 1) % len(VOCABULARY)
    difference = (model(**batch)[0] - model(**changed)[0])[0].abs()
    assert (difference > 1e-6).all()


def test_attention_by_hand_is_the_formula():
    generator = torch.Generator().manual_seed(3)
    query, key, value = torch.randn(3, 2, 3, 5, 4, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()[:, None, None, :]
    gathered = attention_by_hand(query, key, value, mask, torch.nn.Identity())
    for b, real in ((0, 5), (1, 3)):
        for h in range(3):
            for t in range(5):
                weights = torch.tensor([float(query[b, h, t] @ key[b, h, s]) / 2 for s in range(real)]).softmax(0)
                expected = sum(weights[s] * value[b, h, s] for s in range(real))
                assert torch.allclose(gathered[b, h, t], expected, atol=1e-5)


def test_dropout_acts_in_training_only(batch):
    model = drawn(BertForQuestionAnswering(tiny_config()))
    assert torch.equal(model(**batch)[0], model(**batch)[0])
    model.train()
    assert not torch.equal(model(**batch)[0], model(**batch)[0])


def test_distilbert_drops_out_before_its_head(batch):
    config = tiny_config(
        model_type="distilbert",
        type_vocab_size=0,
        qa_dropout=0.9,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = drawn(BertForQuestionAnswering(config))
    assert not any("token_type" in name for name, _ in model.named_parameters())
    still = model(**batch)[0]
    model.train()
    assert not torch.allclose(model(**batch)[0], still, atol=1e-2)
