"""The optional kernels give the results of `bert.py`, and step aside where they cannot."""

import math

import pytest
import torch
from torch import nn

from minibert.model import fast_cpu
from minibert.model.bert import attention_by_hand
from minibert.model.fast_cpu import CheapDropout, PackedLinear, attention_on_cpu, pack_weights, use_fast_kernels
from minibert.support.machine import has_fast_bfloat16
from tests.builders import tiny_batch, tiny_model

RATES = [0.1, 0.3, 0.5, 0.9, 1e-6]  # the last one rounds to "keep all" in steps of 2**-16


def keep_rate(p: float) -> float:
    return round((1 - p) * 2**16) / 2**16


@pytest.mark.parametrize("p", RATES)
def test_dropout_keeps_its_rate_and_the_mean_and_decides_for_each_element_independently(p):
    torch.manual_seed(3)
    n, keep = 50_000, keep_rate(p)  # four elements share a random word
    dropped = CheapDropout(p)(torch.full((n, 4), 2.0)).double()
    kept, error = (dropped != 0).double(), 4 * (keep * (1 - keep) / n) ** 0.5  # four standard deviations
    assert ((kept.mean(0) - keep).abs() <= error).all() and abs(dropped.mean() - 2) <= 2 * error / keep + 1e-6
    assert keep == 1 or (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 4 / n**0.5


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_dropout_scales_kept_values_and_gradients_by_the_inverse_of_the_rate(p, dtype, tolerance):
    torch.manual_seed(6)
    values = torch.randn(3, 5, 7, 11).to(dtype).requires_grad_()
    dropped = CheapDropout(p)(values)
    dropped.sum().backward()
    kept = dropped != 0
    assert dropped.dtype is dtype and kept.any() and not values.grad[~kept].any()
    scale = torch.full_like(values, 1 / keep_rate(p))[kept]
    torch.testing.assert_close(values.grad[kept], scale, rtol=tolerance, atol=0)
    torch.testing.assert_close(dropped[kept], values[kept] * scale, rtol=tolerance, atol=0)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 5), (7, 1, 9), (4, 0), ()])
def test_dropout_takes_any_size_and_any_strides(shape):
    for values in (torch.arange(1.0, 1 + math.prod(shape)).view(shape), torch.rand(*shape, 2).transpose(0, -1)):
        dropped = CheapDropout(0.5)(values)
        assert dropped.shape == values.shape and ((dropped == 0) | (dropped == 2 * values)).all()


@pytest.mark.parametrize("module", [CheapDropout(0.5).eval(), CheapDropout(0.0).train()])
def test_dropout_is_off_in_eval_mode_and_at_rate_0(module):
    values = torch.randn(5, 7)
    assert torch.equal(module(values), values)


def test_torchs_seed_decides_the_masks_and_the_stream_stays_the_same():
    """Another stream would change every training run, and a run resumed with another version."""

    def draws(seed: int) -> list[str]:
        torch.manual_seed(seed)
        masks = [(CheapDropout(0.3)(torch.ones(3, 11)) != 0).int() for _ in range(2)]
        return ["".join(map(str, row)) for mask in masks for row in mask.tolist()]

    first = draws(7)
    assert first[:3] == ["10110110101", "11010010110", "11001111011"]
    assert first == draws(7) and first[3:] != first[:3] and first != draws(8)


@pytest.mark.parametrize("is_padded", [True, False])
def test_attention_in_chunks_is_attention(monkeypatch, is_padded):
    monkeypatch.setattr(fast_cpu, "SCORES_BYTES", 2 * 3 * 11 * 11 * 4)  # two windows, two and one
    lengths = torch.tensor([11, 8, 5, 9, 10])
    mask = (torch.arange(11) < lengths[:, None])[:, None, None] if is_padded else None
    calls, results = [], []

    def counted(query, *rest):
        calls.append(len(query))
        return attention_by_hand(query, *rest)

    monkeypatch.setattr(fast_cpu, "attention_by_hand", counted)
    for attend in (attention_on_cpu, attention_by_hand):
        generator = torch.Generator().manual_seed(4)
        tensors = [torch.randn(5, 3, 11, 7, generator=generator).requires_grad_() for _ in range(3)]
        attended = attend(*tensors, mask, nn.Dropout(0.0).train())
        (attended**2).sum().backward()
        results.append([attended, *(tensor.grad for tensor in tensors)])
    assert calls == [2, 2, 1]
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("is_training", "dtype", "is_slow", "expected"),
    [
        (False, torch.float32, True, "attention_fused"),
        (False, torch.bfloat16, True, "attention_by_hand"),
        (False, torch.bfloat16, False, "attention_fused"),
        (True, torch.float32, True, "attention_by_hand"),
        (True, torch.bfloat16, False, "attention_by_hand"),
    ],
)
def test_the_fused_kernel_is_taken_where_it_is_faster(monkeypatch, is_training, dtype, is_slow, expected):
    called = []

    def noted(name):
        function = getattr(fast_cpu, name)
        return lambda *arguments: called.append(name) or function(*arguments)

    for name in ("attention_fused", "attention_by_hand"):
        monkeypatch.setattr(fast_cpu, name, noted(name))
    monkeypatch.setattr(fast_cpu, "IS_FUSED_SLOW", is_slow)
    tensors = torch.randn(3, 2, 3, 11, 7).to(dtype).unbind()
    attended = attention_on_cpu(*tensors, None, nn.Dropout(0.0).train(is_training))
    assert called == [expected] and attended.shape == (2, 3, 11, 7)


def test_every_dropout_is_replaced_and_keeps_its_rate_and_mode():
    rates = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "qa_dropout": 0.4}
    model = tiny_model(**rates)
    for mode in (True, False):
        use_fast_kernels(model.train(mode))
        dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        assert sorted(module.p for module in dropouts) == [0.2] * 3 + [0.3] * 2 + [0.4]
        assert {type(module) for module in dropouts} == {CheapDropout}
        assert {module.training for module in model.modules()} == {mode}


# ---- packed weights; oneDNN packs float32 on any x86 processor, bfloat16 only on some


def can_pack(dtype: torch.dtype) -> bool:
    if dtype is torch.bfloat16 and not has_fast_bfloat16():
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.ones(4, 4, dtype=dtype))
    except (RuntimeError, AttributeError):
        return False
    return True


DTYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(not can_pack(dtype), reason=f"oneDNN packs no {dtype} here"))
    for dtype in (torch.float32, torch.bfloat16)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 64), (2, 33, 64)])
def test_a_packed_linear_map_is_the_linear_map(shape, dtype):
    torch.manual_seed(11)
    linear, x = nn.Linear(64, 48).to(dtype), torch.randn(shape).to(dtype)
    with torch.no_grad():
        exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
        for activation, expected in (("none", exact), ("gelu", nn.functional.gelu(exact))):
            result = PackedLinear(linear, activation)(x)
            assert result.dtype is dtype
            rtol, atol = (2**-8, 1e-3) if dtype is torch.bfloat16 else (1e-5, 1e-5)  # one rounding to 8 bits
            torch.testing.assert_close(result.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_keeps_logits_and_state_and_may_be_repeated(dtype):
    model = tiny_model().to(dtype)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        expected = torch.stack(model(*tiny_batch()))
    for _ in range(2):
        pack_weights(model)
        assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 6 * 2  # 6 in each layer
        with torch.inference_mode():
            logits = torch.stack(model(*tiny_batch()))
        assert (logits - expected).norm() <= (0.03 if dtype is torch.bfloat16 else 1e-5) * expected.norm()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def no_operator(*args):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")


def no_processor(*args):
    raise RuntimeError("bf16 path needs the cpu support avx512bw\nand a second line")


def zeros(x, weight, bias, *rest):
    return x.new_zeros(*x.shape[:-1], len(bias))


def plain_product(x, weight, bias, activation, *rest):
    product = nn.functional.linear(x, weight, bias)
    return nn.functional.gelu(product) if activation == "gelu" else product


FAILURES = {
    "torch has no such operator": ("_reorder_linear_weight", no_operator, "no attribute"),
    "the processor cannot pack": ("_reorder_linear_weight", no_processor, "needs the cpu support avx512bw"),
    "the processor cannot multiply": ("_linear_pointwise", no_processor, "needs the cpu support avx512bw"),
    "another product": (
        "_linear_pointwise",
        lambda x, w, bias, *rest: x.new_zeros(*x.shape[:-1], len(bias)),
        "differs",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_packing_that_fails_leaves_the_model_as_it_is_and_warns_once_with_the_reason(monkeypatch, capsys, name):
    operator, replacement, reason = FAILURES[name]
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight: weight)
    monkeypatch.setattr(torch.ops.mkldnn, operator, replacement)
    model = tiny_model()
    before, structure = torch.stack(model(*tiny_batch())), str(model)
    pack_weights(model)
    assert str(model) == structure
    assert torch.equal(torch.stack(model(*tiny_batch())), before)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: weights stay unpacked") and reason in line


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("architecture", ["x86_64", "AMD64", "aarch64"])  # AMD64: as Windows says it
def test_weights_are_packed_on_x86_processors_bfloat16_only_where_it_is_fast(monkeypatch, dtype, is_fast, architecture):
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight: weight)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", plain_product)
    monkeypatch.setattr(fast_cpu, "has_fast_bfloat16", lambda: is_fast)
    monkeypatch.setattr(fast_cpu.platform, "machine", lambda: architecture)
    model = tiny_model().to(dtype)
    pack_weights(model)
    is_packed = any(isinstance(module, PackedLinear) for module in model.modules())
    assert is_packed == (architecture != "aarch64" and (is_fast or dtype is torch.float32))
