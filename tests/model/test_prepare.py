"""Putting a model on a machine changes its speed and, in bfloat16, its rounding, but not its state."""

import sys

import pytest
import torch
from torch import Tensor, nn

from minibert.model.bert import BertForQuestionAnswering, attention_fused
from minibert.model.fast_cpu import CheapDropout, attention_on_cpu
from minibert.model.prepare import Float32Linear, prepare, prepare_to_answer, set_dropout
from minibert.support.machine import Machine
from tests.builders import tiny_batch, tiny_config, tiny_model

CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = Machine(CPU, torch.float32), Machine(CPU, torch.bfloat16)


@torch.no_grad()
def logits(model: BertForQuestionAnswering) -> Tensor:
    """(2, real tokens)"""
    return torch.stack(model(*tiny_batch()))[:, tiny_batch()[1].bool()]


@pytest.mark.parametrize("times", [1, 2])
def test_preparing_changes_neither_logits_nor_state_and_may_be_repeated(times):
    plain, fast = tiny_model(), tiny_model()
    for _ in range(times):
        assert prepare(fast, FLOAT32) is fast
    torch.testing.assert_close(logits(fast), logits(plain), atol=1e-5, rtol=1e-5)
    expected, state = plain.state_dict(), fast.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in expected)
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]


@pytest.mark.parametrize("mode", [True, False])
def test_preparing_keeps_the_mode_and_torchs_seed_decides_the_dropout(mode):
    model, results = prepare(tiny_model().train(mode), FLOAT32), []
    assert {module.training for module in model.modules()} == {mode}
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(logits(model))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2]) != mode


@pytest.mark.parametrize(("kind", "head"), [("bert", 0.0), ("distilbert", 0.3)])
def test_one_rate_for_all_dropout_layers_but_bert_has_none_before_its_head(kind, head):
    types = 2 if kind == "bert" else 0
    model = BertForQuestionAnswering(tiny_config(model_type=kind, type_vocab_size=types, qa_dropout=head / 3))
    set_dropout(model, 0.3)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert model.dropout.p == head and sorted(rates) == sorted([head] + [0.3] * (len(rates) - 1))
    other = BertForQuestionAnswering(model.config)
    assert [module.p for module in other.modules() if isinstance(module, nn.Dropout)] == rates


def test_the_cpu_gets_its_own_kernels_and_another_device_torchs():
    for machine, attend, dropout in (
        (FLOAT32, attention_on_cpu, CheapDropout),
        (Machine(torch.device("meta"), torch.float32), attention_fused, nn.Dropout),
    ):
        model = prepare(tiny_model(), machine)
        assert {layer.attention.attend for layer in model.encoder.layers} == {attend}
        assert {type(module) for module in model.modules() if isinstance(module, nn.Dropout)} == {dropout}
        assert {parameter.device for parameter in model.parameters()} == {machine.device}


@pytest.mark.parametrize("machine", [FLOAT32, BFLOAT16], ids=str)
def test_a_model_that_only_answers_has_the_machines_dtype_but_for_its_head(machine):
    plain, fast = tiny_model(), prepare_to_answer(tiny_model(), machine)
    assert {parameter.dtype for parameter in fast.encoder.parameters()} == {machine.dtype}
    assert {parameter.dtype for parameter in fast.span_head.parameters()} == {torch.float32}
    with machine.autocast(fast):
        assert not torch.is_autocast_enabled("cpu")
        ours, expected = logits(fast), logits(plain)
    assert ours.dtype is torch.float32 and len(ours.unique()) > 60  # not in steps of bfloat16
    is_rounded = machine is BFLOAT16
    assert (ours - expected).norm() <= (3e-2 if is_rounded else 1e-5) * expected.norm()


def test_logits_are_float32_under_autocast():
    plain, fast = tiny_model(), prepare(tiny_model(), FLOAT32)
    with BFLOAT16.autocast(fast):
        ours = logits(fast)
    assert ours.dtype is torch.float32
    assert 0 < (ours - logits(plain)).abs().max() < 0.3  # the encoder did run in bfloat16


def test_float32_linear_stays_in_float32_under_autocast_and_shares_its_parameters():
    torch.manual_seed(10)
    linear, values = nn.Linear(24, 2), torch.randn(3, 5, 24)
    ours = Float32Linear(linear)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(values).dtype is torch.bfloat16  # what it avoids
        result, from_bfloat16 = ours(values), ours(values.bfloat16())
    result.sum().backward()
    torch.testing.assert_close(result, linear(values))
    torch.testing.assert_close(from_bfloat16, linear(values.bfloat16().float()))
    assert ours.weight is linear.weight and ours.bias is linear.bias
    torch.testing.assert_close(linear.weight.grad, values.sum((0, 1)).expand(2, 24))


def test_without_the_optional_kernels_everything_works(monkeypatch):
    """The one line that applies them can go."""
    monkeypatch.setattr(sys.modules["minibert.model.prepare"], "use_fast_kernels", lambda model: None)
    expected = logits(tiny_model())
    torch.testing.assert_close(logits(prepare(tiny_model(), FLOAT32)), expected, atol=1e-5, rtol=1e-5)
    trained = prepare(tiny_model().train(), FLOAT32)
    sum(part.sum() for part in trained(*tiny_batch())).backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())
