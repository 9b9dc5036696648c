"""int8 products are near the exact ones, on every processor, and step aside where torch has none."""

import copy
import warnings

import pytest
import torch
from torch import nn

from minibert.model import int8
from minibert.model.bert import FeedForward, Layer
from minibert.model.int8 import ClsApart, Int8Linear, largest_integer, quantize
from minibert.model.prepare import prepare_to_answer
from minibert.support.machine import choose_machine
from tests.builders import tiny_batch, tiny_config, tiny_model


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", [(7, 64), (2, 33, 64), (1, 1, 64), (0, 64)])
def test_an_int8_linear_map_is_the_linear_map_up_to_rounding(shape):
    torch.manual_seed(11)
    linear, x = nn.Linear(64, 48), torch.randn(shape)
    with torch.no_grad():
        result, expected = Int8Linear(linear)(x), linear(x)
    assert result.dtype is torch.float32 and result.shape == expected.shape
    assert not x.numel() or relative_error(result, expected) < 0.02


def test_each_output_has_its_own_scale_so_that_a_large_row_costs_the_others_nothing():
    torch.manual_seed(12)
    linear, x = nn.Linear(64, 3, bias=False), torch.randn(50, 64)
    with torch.no_grad():
        linear.weight[1] *= 1e4
        linear.weight[2] = 0
        linear.bias = nn.Parameter(torch.zeros(3))
        result, expected = Int8Linear(linear)(x), linear(x)
    assert relative_error(result[:, 0], expected[:, 0]) < 0.02
    assert relative_error(result[:, 1], expected[:, 1]) < 0.02
    assert not result[:, 2].any()


def test_cls_has_its_own_range_so_that_its_large_values_cost_the_other_tokens_nothing():
    torch.manual_seed(13)
    exact = FeedForward(tiny_config(hidden_size=64))
    together, x = copy.deepcopy(exact), torch.randn(3, 9, 64)
    x[:, 0] *= 50
    together.expand, together.contract = Int8Linear(exact.expand), Int8Linear(exact.contract)
    with torch.no_grad():
        expected, apart, together = exact(x), ClsApart(together)(x), together(x)
    assert apart.shape == expected.shape
    assert relative_error(apart[:, 1:], expected[:, 1:]) < 0.03 < relative_error(together[:, 1:], expected[:, 1:])
    assert relative_error(apart[:, 0], expected[:, 0]) < 0.03


@pytest.mark.parametrize("flags", [{"avx2"}, {"avx2", "avx_vnni"}, {"avx2", "avx512_vnni"}, set()])
def test_without_vnni_no_sum_of_two_products_overflows_16_bits(monkeypatch, flags):
    monkeypatch.setattr(int8, "processor_flags", lambda: flags)
    assert ("avx512_vnni" in flags) == (2 * 255 * largest_integer() >= 2**15)


def test_the_largest_inputs_and_weights_overflow_nowhere():
    linear, x = nn.Linear(64, 4), torch.ones(5, 64)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(0.5)
        torch.testing.assert_close(Int8Linear(linear)(x), torch.full((5, 4), 64.5), rtol=1e-3, atol=0)


def test_a_model_of_int8_answers_nearly_as_in_float32_and_without_a_warning(capsys):
    plain = tiny_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of quantised tensors
        fast = prepare_to_answer(tiny_model(), choose_machine("cpu", "int8"))
        with torch.inference_mode():
            expected, result = torch.stack(plain(*tiny_batch())), torch.stack(fast(*tiny_batch()))
    maps = [type(module) for layer in fast.modules() if isinstance(layer, Layer) for module in layer.modules()]
    assert maps.count(Int8Linear) == 6 * 2 and nn.Linear not in maps  # 6 in each layer
    assert result.dtype is torch.float32 and 0 < relative_error(result, expected) < 0.05
    assert capsys.readouterr().err == ""


def test_a_model_may_be_prepared_again_in_any_order_and_keeps_its_state():
    plain, model = tiny_model(), tiny_model()
    expected, state = torch.stack(plain(*tiny_batch())), plain.state_dict()
    for dtype, tolerance in (("float32", 1e-5), ("int8", 0.05), ("int8", 0.05), ("float32", 1e-5)):
        prepare_to_answer(model, choose_machine("cpu", dtype))
        with torch.inference_mode():
            assert relative_error(torch.stack(model(*tiny_batch())), expected) < tolerance
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def no_operator(*args):
    raise AttributeError("'_OpNamespace' 'quantized' object has no attribute 'linear_prepack'")


def no_engine(*args):
    raise RuntimeError("Didn't find engine for operation quantized::linear_prepack NoQEngine\nand a second line")


FAILURES = {
    "torch has no such operator": ("linear_prepack", no_operator, "no attribute"),
    "this build has no kernels": ("linear_prepack", no_engine, "Didn't find engine"),
    "another product": ("linear_dynamic", lambda x, packed: x.new_zeros(*x.shape[:-1], 24), "differs"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_where_torch_has_no_int8_product_answers_are_in_float32_and_a_line_says_why(monkeypatch, capsys, name):
    operator, replacement, reason = FAILURES[name]
    monkeypatch.setattr(torch.ops.quantized, operator, replacement)
    model = tiny_model()
    structure, before = str(model), torch.stack(model(*tiny_batch()))
    assert not quantize(model)
    assert str(model) == structure and torch.equal(torch.stack(model(*tiny_batch())), before)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: answering in float32, not int8: ") and reason in line
