"""The encoder, the span head and the loss by themselves; `test_weights.py` compares them with `transformers`."""

import math

import pytest
import torch
from torch import Tensor, nn

from minibert.model.bert import BertForQuestionAnswering, attention_by_hand, attention_fused, span_loss
from tests.builders import VOCABULARY, tiny_model

B, T = 3, 11
BOTH = pytest.mark.parametrize("attend", [attention_by_hand, attention_fused])


@pytest.fixture(scope="module")
def model() -> BertForQuestionAnswering:
    return tiny_model()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three windows of 11 tokens; the second has 3 tokens of padding."""
    ids = torch.randint(5, len(VOCABULARY), (B, T), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(T) < torch.tensor([[11], [8], [11]])).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(T) > 4).long().expand(B, T)}


def logits(model: nn.Module, **batch: Tensor) -> Tensor:
    """(2, B, T)"""
    return torch.stack(model(**batch))


def test_shapes_dtype_and_spread(model, batch):
    result = logits(model, **batch)
    assert result.shape == (2, B, T) and result.dtype is torch.float32 and model.encode(**batch).shape == (B, T, 24)
    assert result.std() > 0.5  # the other tests would pass with logits that are all alike


def test_padding_does_not_change_the_logits(model, batch):
    padded = logits(model, **batch)
    alone = logits(model, **{name: tensor[1:2, :8] for name, tensor in batch.items() if name != "attention_mask"})
    torch.testing.assert_close(padded[:, 1, :8], alone[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, default", [("attention_mask", torch.ones(B, T)), ("token_type_ids", torch.zeros(B, T))])
def test_an_argument_left_out_means_its_default(model, batch, name, default):
    given, without = logits(model, **batch | {name: default.long()}), logits(model, **batch | {name: None})
    torch.testing.assert_close(given, without, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(given, logits(model, **batch), atol=1e-2)


def test_attention_stays_inside_a_window_and_reaches_all_its_tokens(model, batch):
    before = logits(model, **batch)
    batch["input_ids"][0, -1] = (batch["input_ids"][0, -1] + 1) % len(VOCABULARY)
    difference = (before - logits(model, **batch)).abs()
    assert (difference[:, 0] > 1e-6).all() and difference[:, 1:].max() < 1e-5


def test_attention_by_hand_is_the_formula():
    query, key, value = torch.randn(3, 2, 3, 5, 4, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()[:, None, None, :]
    attended = attention_by_hand(query, key, value, mask, nn.Dropout(0.0))
    for b, h, t in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        tokens = (5, 3)[b]
        weights = torch.tensor([float(query[b, h, t] @ key[b, h, s]) / 2 for s in range(tokens)]).softmax(0)
        expected = sum(weights[s] * value[b, h, s] for s in range(tokens))
        torch.testing.assert_close(attended[b, h, t], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("dropout", [nn.Dropout(0.5).eval(), nn.Dropout(0.0).train()], ids=["eval", "rate 0"])
@pytest.mark.parametrize("lengths", [None, [9, 4, 1]], ids=["full", "padded"])
def test_both_attentions_agree_in_values_and_gradients(dtype, tolerance, dropout, lengths):
    torch.manual_seed(11)
    mask = None if lengths is None else (torch.arange(9) < torch.tensor(lengths)[:, None])[:, None, None]
    inputs, weights, results = torch.randn(3, B, 2, 9, 5), torch.randn(B, 2, 9, 5).to(dtype), []
    for attend in (attention_by_hand, attention_fused):
        leaves = [part.to(dtype).requires_grad_() for part in inputs]
        attended = attend(*leaves, mask, dropout)
        (attended * weights).sum().backward()
        results.append([attended, *(leaf.grad for leaf in leaves)])
    for by_hand, fused in zip(*results):
        assert by_hand.dtype is dtype
        torch.testing.assert_close(by_hand, fused, atol=tolerance, rtol=tolerance)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_attention_gives_padding_no_weight(attend, dtype):
    torch.manual_seed(12)
    query, key, value = torch.randn(3, 2, 3, 7, 5).to(dtype)
    mask = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None]
    before = attend(query, key, value, mask, nn.Dropout(0.0))
    key[1, :, 4:], value[1, :, 4:] = 1e4, -1e4
    torch.testing.assert_close(attend(query, key, value, mask, nn.Dropout(0.0)), before)


@BOTH
@pytest.mark.parametrize("mode", [True, False])
def test_attention_drops_probabilities_in_training_only(attend, mode):
    torch.manual_seed(13)
    inputs, dropout = torch.randn(3, 2, 3, 7, 5), nn.Dropout(0.5).train(mode)
    assert torch.equal(attend(*inputs, None, dropout), attend(*inputs, None, dropout)) != mode


@pytest.mark.parametrize("place", ["hidden_dropout_prob", "attention_probs_dropout_prob", "qa_dropout"])
def test_each_dropout_acts_in_training_only(batch, place):
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "qa_dropout": 0.0, place: 0.5}
    model = tiny_model(**rates)
    expected = logits(model, **batch)
    assert torch.equal(logits(model, **batch), expected)
    assert not torch.allclose(logits(model.train(), **batch), expected, atol=1e-2)


def test_a_distilbert_has_no_token_types(batch):
    model = tiny_model(model_type="distilbert", type_vocab_size=0)
    assert not any("token_type" in name for name, _ in model.named_parameters())
    assert torch.equal(logits(model, **batch), logits(model, **batch | {"token_type_ids": None}))


def test_the_loss_is_the_mean_of_two_cross_entropies_over_real_tokens():
    start, end = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))
    lengths, positions = (5, 4, 2), torch.tensor([[[1], [0], [0]], [[4], [2], [1]]])
    terms = [
        math.log(sum(math.exp(x) for x in row[:length])) - row[position]
        for rows, places in ((start, positions[0]), (end, positions[1]))
        for row, length, (position,) in zip(rows.tolist(), lengths, places.tolist())
    ]
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    loss = span_loss(start, end, *positions, mask)
    assert float(loss) == pytest.approx(sum(terms) / 6, abs=1e-6)
    # More padding, whatever its logits, changes nothing; no mask means that all tokens are real.
    wider = [torch.cat([rows, torch.full((3, 4), 9.0)], 1) for rows in (start, end)]
    torch.testing.assert_close(span_loss(*wider, *positions, nn.functional.pad(mask, (0, 4))), loss)
    torch.testing.assert_close(span_loss(start, end, *positions), span_loss(start, end, *positions, mask**0))


def loss_and_gradient(loss_of, logits: Tensor, *positions) -> tuple[Tensor, Tensor]:
    """A loss of start and end logits (2, B, T), and its gradient by them."""
    leaf = logits.clone().requires_grad_()
    loss = loss_of(*leaf, *positions)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def test_the_loss_is_the_mean_over_annotators():
    """Two windows and three annotators; a column by itself is the loss of one annotator."""
    logits = torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(5))
    starts, ends = torch.tensor([[2, 3, 0], [0, 0, 1]]), torch.tensor([[4, 3, 0], [0, 0, 6]])
    mask = torch.tensor([[1] * 6 + [0], [1] * 7])
    alone = [loss_and_gradient(span_loss, logits, starts[:, [k]], ends[:, [k]], mask) for k in range(3)]
    assert len({float(loss) for loss, _ in alone}) == 3
    for columns in ([0, 1], [0, 1, 2], [2, 0, 2]):  # of those who agree, each counts
        together = loss_and_gradient(span_loss, logits, starts[:, columns], ends[:, columns], mask)
        for value, values in zip(together, zip(*(alone[k] for k in columns))):
            torch.testing.assert_close(value, torch.stack(values).mean(0))


def test_the_loss_is_smallest_where_each_token_has_its_share_of_the_annotators():
    shares = torch.tensor([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])  # the second window holds no answer
    positions = torch.tensor([[0, 1, 2, 1], [0, 0, 0, 0]])
    logits = (shares + 1e-9).log().expand(2, 2, 3)
    _, gradient = loss_and_gradient(span_loss, logits, positions, positions)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(16,), (16, 1)])
def test_with_one_annotator_the_loss_is_the_cross_entropy_and_its_gradient_equal_to_the_last_bit(shape):
    def one_label(starts, ends, *positions):
        losses = [nn.functional.cross_entropy(*pair) for pair in zip((starts, ends), positions)]
        return (losses[0] + losses[1]) / 2

    logits = 5 * torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(6))
    positions = torch.randint(0, 48, (2, 16), generator=torch.Generator().manual_seed(7))
    loss, gradient = loss_and_gradient(span_loss, logits, *positions.view(2, *shape))
    expected_loss, expected_gradient = loss_and_gradient(one_label, logits, *positions)
    assert torch.equal(gradient, expected_gradient)
    torch.testing.assert_close(loss, expected_loss)
