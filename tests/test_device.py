"""What `device.py` sets on a model changes its speed, not its results."""

import pytest
import torch
from conftest import drawn, tiny_config
from torch import nn

from minibert import device
from minibert.device import CheapDropout, Float32Linear, Machine, best_dtype, choose_machine, prepare, prepare_to_answer
from minibert.errors import BadInput
from minibert.model import BertForQuestionAnswering, attention_by_hand, attention_fused

CPU = torch.device("cpu")
RATES = [0.1, 0.3, 0.5, 0.9, 1e-6]  # the last one rounds to "keep all" in steps of 2**-16


def kept_of(p: float) -> int:
    return round((1 - p) * 2**16)


@pytest.mark.parametrize("p", RATES)
def test_dropout_keeps_its_rate(p):
    torch.manual_seed(3)
    n, keep = 200_000, kept_of(p) / 2**16
    kept = int((CheapDropout(p)(torch.ones(n)) != 0).sum())
    assert abs(kept - n * keep) <= 4 * (n * keep * (1 - keep)) ** 0.5


def test_dropout_keeps_its_rate_at_every_place_of_a_random_word():
    torch.manual_seed(4)  # four elements share one drawn word
    kept = (CheapDropout(0.3)(torch.ones(50_000, 4)) != 0).float().mean(0)
    assert (kept - 0.7).abs().max() < 4 * (0.21 / 50_000) ** 0.5


def test_dropout_decides_for_each_element_by_itself():
    torch.manual_seed(5)
    kept = (CheapDropout(0.5)(torch.ones(50_000, 4)) != 0).float()
    correlations = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlations.abs().max() < 4 / 50_000**0.5


@pytest.mark.parametrize("p", RATES)
def test_what_dropout_keeps_is_scaled_by_the_exact_inverse(p):
    torch.manual_seed(6)
    values = torch.randn(3, 5, 7, 11)
    dropped = CheapDropout(p)(values)
    kept = dropped != 0
    assert kept.any()
    torch.testing.assert_close(dropped[kept], values[kept] * 2**16 / kept_of(p), rtol=1e-6, atol=0)


def test_dropout_keeps_the_mean():
    torch.manual_seed(7)
    n, p = 200_000, 0.3
    mean = CheapDropout(p)(torch.full((n,), 2.0)).double().mean().item()
    assert abs(mean - 2.0) < 4 * 2.0 * (p / (1 - p) / n) ** 0.5


@pytest.mark.parametrize("p", RATES)
def test_dropout_scales_gradients_as_it_scales_values(p):
    torch.manual_seed(8)
    values = torch.full((9, 13), 1.0, requires_grad=True)
    dropped = CheapDropout(p)(values)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 5), (7, 1, 9), (4, 0), ()])
def test_dropout_takes_any_size(shape):
    dropped = CheapDropout(0.5)(torch.ones(shape))
    assert dropped.shape == shape
    assert set(dropped.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_takes_a_view_that_is_not_contiguous():
    values = torch.arange(1.0, 36.0).view(5, 7).T
    dropped = CheapDropout(0.5)(values)
    assert ((dropped == 0) | (dropped == 2 * values)).all()


@pytest.mark.parametrize("module", [CheapDropout(0.5).eval(), CheapDropout(0.0).train()])
def test_dropout_is_off_in_eval_mode_and_at_rate_zero(module):
    values = torch.randn(5, 7)
    assert torch.equal(module(values), values)


def test_the_same_seed_draws_the_same_mask():
    def draw(seed):
        torch.manual_seed(seed)
        return CheapDropout(0.5)(torch.ones(501))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_a_second_call_draws_another_mask():
    dropout = CheapDropout(0.5)
    assert not torch.equal(dropout(torch.ones(501)), dropout(torch.ones(501)))


def test_dropout_keeps_bfloat16():
    torch.manual_seed(9)
    values = torch.randn(301, 7).bfloat16()
    dropped = CheapDropout(0.1)(values)
    assert dropped.dtype is torch.bfloat16
    kept = dropped != 0
    assert 0.85 < kept.float().mean() < 0.95
    torch.testing.assert_close(dropped[kept].float(), values[kept].float() / 0.9, rtol=1e-2, atol=0)


def test_float32_linear_is_exact_under_autocast():
    torch.manual_seed(10)
    linear, values = nn.Linear(24, 2), torch.randn(3, 5, 24)
    exact = linear(values)
    ours = Float32Linear(linear)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(values).dtype is torch.bfloat16  # what it guards against
        result, of_half = ours(values), ours(values.bfloat16())
    assert result.dtype is of_half.dtype is torch.float32
    assert torch.equal(result, exact)
    assert torch.equal(of_half, linear(values.bfloat16().float()))


def test_float32_linear_shares_the_parameters():
    linear = nn.Linear(24, 2)
    ours = Float32Linear(linear)
    assert ours.weight is linear.weight and ours.bias is linear.bias
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours(torch.ones(3, 24)).sum().backward()
    torch.testing.assert_close(linear.weight.grad, torch.full((2, 24), 3.0))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("dropout", [nn.Dropout(0.5).eval(), nn.Dropout(0.0).train()], ids=["eval", "rate 0"])
@pytest.mark.parametrize("lengths", [None, [9, 4, 1]], ids=["full", "padded"])
def test_both_attentions_agree_in_values_and_gradients(dtype, tolerance, dropout, lengths):
    torch.manual_seed(11)
    B, H, T, K = 3, 2, 9, 5
    mask = None if lengths is None else (torch.arange(T) < torch.tensor(lengths)[:, None])[:, None, None]
    inputs, weights = torch.randn(3, B, H, T, K), torch.randn(B, H, T, K).to(dtype)
    found = []
    for attend in (attention_by_hand, attention_fused):
        leaves = [part.to(dtype).requires_grad_() for part in inputs]
        result = attend(*leaves, mask, dropout)
        (result * weights).sum().backward()
        found.append([result.detach(), *(leaf.grad for leaf in leaves)])
    for by_hand, fused in zip(*found):
        assert by_hand.dtype is dtype and by_hand.shape == (B, H, T, K)
        torch.testing.assert_close(by_hand, fused, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("attend", [attention_by_hand, attention_fused])
def test_attention_gives_padding_no_weight(attend):
    torch.manual_seed(12)
    query, key, value = torch.randn(3, 2, 3, 7, 5)
    mask = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None]
    result = attend(query, key, value, mask, nn.Dropout(0.0))
    key[1, :, 4:], value[1, :, 4:] = 1e4, -1e4
    torch.testing.assert_close(attend(query, key, value, mask, nn.Dropout(0.0)), result)


@pytest.mark.parametrize("attend", [attention_by_hand, attention_fused])
def test_attention_drops_in_training(attend):
    torch.manual_seed(13)
    query, key, value = torch.randn(3, 2, 3, 7, 5)
    dropout = nn.Dropout(0.5).train()
    assert not torch.equal(attend(query, key, value, None, dropout), attend(query, key, value, None, dropout))


def prepared_pair(mode: bool = False):
    """The same drawn model twice, the second one prepared for the CPU, and a padded batch."""
    plain, fast = (drawn(BertForQuestionAnswering(tiny_config())).train(mode) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 80, (3, 17), generator=generator)
    mask = (torch.arange(17) < torch.tensor([[17], [9], [12]])).long()
    return plain, prepare(fast, Machine(CPU, torch.float32)), (input_ids, mask, mask - (torch.arange(17) < 4).long())


def test_prepare_leaves_the_logits_unchanged():
    plain, fast, batch = prepared_pair()
    with torch.no_grad():
        for exact, ours in zip(plain(*batch), fast(*batch)):
            real = batch[1].bool()
            torch.testing.assert_close(ours[real], exact[real], atol=1e-5, rtol=1e-5)


def test_prepare_leaves_the_state_unchanged():
    plain, fast, _ = prepared_pair()
    state, prepared = plain.state_dict(), fast.state_dict()
    assert list(prepared) == list(state)
    assert all(torch.equal(prepared[name], state[name]) for name in state)
    assert [n for n, _ in fast.named_parameters()] == [n for n, _ in plain.named_parameters()]


@pytest.mark.parametrize("mode", [True, False])
def test_prepare_keeps_the_mode_of_every_module(mode):
    _, fast, _ = prepared_pair(mode)
    assert {module.training for module in fast.modules()} == {mode}


def test_prepare_replaces_every_dropout_and_keeps_its_rate():
    config = tiny_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3, qa_dropout=0.4)
    model = prepare(BertForQuestionAnswering(config), Machine(CPU, torch.float32))
    rates = [(type(module), module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    assert sorted(p for _, p in rates) == [0.2] * 3 + [0.3] * 2 + [0.4]
    assert {kind for kind, _ in rates} == {CheapDropout}


def test_a_prepared_model_drops_in_training_by_the_seed():
    _, fast, batch = prepared_pair(mode=True)

    def logits(seed):
        torch.manual_seed(seed)
        return fast(*batch)[0]

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_a_model_can_be_prepared_twice():
    plain, fast, batch = prepared_pair()
    again = prepare(fast, Machine(CPU, torch.float32))
    with torch.no_grad():
        torch.testing.assert_close(again(*batch)[0][0], plain(*batch)[0][0], atol=1e-5, rtol=1e-5)


def test_logits_are_float32_under_autocast():
    plain, fast, batch = prepared_pair()
    with torch.no_grad(), Machine(CPU, torch.bfloat16).autocast(fast):
        start_logits, end_logits = fast(*batch)
    assert start_logits.dtype is end_logits.dtype is torch.float32
    with torch.no_grad():
        exact = plain(*batch)[0]
    assert 0 < (start_logits - exact)[0].abs().max() < 0.3  # the encoder did run in bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_model_that_only_answers_takes_the_dtype_and_keeps_its_head(dtype):
    plain, _, batch = prepared_pair()
    machine = Machine(CPU, dtype)
    fast = prepare_to_answer(drawn(BertForQuestionAnswering(tiny_config())).eval(), machine)
    assert {parameter.dtype for parameter in fast.encoder.parameters()} == {dtype}
    with torch.no_grad(), machine.autocast(fast):
        assert not torch.is_autocast_enabled("cpu")
        ours, exact = torch.stack(fast(*batch)), torch.stack(plain(*batch))
    assert ours.dtype is torch.float32 and len(ours.unique()) > 60  # not in steps of bfloat16
    real = batch[1].bool()
    assert (ours - exact)[:, real].norm() <= (3e-2 if dtype is torch.bfloat16 else 1e-6) * exact[:, real].norm()


needs_packing = pytest.mark.skipif(
    not device.processor_flags() & device.PACKING, reason="this processor has no products of bfloat16"
)


@needs_packing
@pytest.mark.parametrize("shape", [(7, 64), (2, 33, 64)])
def test_a_packed_linear_map_is_the_linear_map(shape):
    torch.manual_seed(11)
    linear, x = nn.Linear(64, 48).bfloat16(), torch.randn(shape).bfloat16()
    with torch.no_grad():
        exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
        for activation, expected in (("none", exact), ("gelu", nn.functional.gelu(exact))):
            found = device.PackedLinear(linear, activation)(x)
            assert found.dtype is torch.bfloat16
            torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-3)  # one rounding to 8 bits


@needs_packing
def test_packing_adds_nothing_to_the_state_and_may_be_repeated():
    _, _, batch = prepared_pair()
    machine = Machine(CPU, torch.bfloat16)
    model = drawn(BertForQuestionAnswering(tiny_config())).eval()
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = []
    for _ in range(2):
        prepare_to_answer(model, machine)
        assert sum(isinstance(module, device.PackedLinear) for module in model.modules()) == 6 * len(
            model.encoder.layers
        )
        with torch.inference_mode():
            found.append(torch.stack(model(*batch)))
    assert torch.equal(*found)
    state = model.state_dict()
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[name], plain[name].to(state[name].dtype)) for name in plain)


def test_nothing_is_packed_on_a_processor_without_such_products(monkeypatch):
    monkeypatch.setattr(device, "processor_flags", set)
    model = prepare_to_answer(BertForQuestionAnswering(tiny_config()).eval(), Machine(CPU, torch.bfloat16))
    assert not any(isinstance(module, device.PackedLinear) for module in model.modules())


@pytest.mark.parametrize("mask", [True, False])
def test_attention_in_parts_is_attention(monkeypatch, mask):
    """Training on a CPU takes a few windows at a time; here two, two and one."""
    monkeypatch.setattr(device, "SCORES_BYTES", 2 * 3 * 11 * 11 * 4)
    found = []
    for attend in (device.attention_on_cpu, attention_by_hand):
        generator = torch.Generator().manual_seed(4)
        tensors = [torch.randn(5, 3, 11, 7, generator=generator).requires_grad_() for _ in range(3)]
        is_token = (torch.arange(11) < torch.tensor([11, 8, 5, 9, 10])[:, None])[:, None, None] if mask else None
        attended = attend(*tensors, is_token, nn.Dropout(0.0).train())
        (attended**2).sum().backward()
        found.append([attended, *(tensor.grad for tensor in tensors)])
    for ours, exact in zip(*found):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-5)


def test_keeping_memory_is_a_setting_of_the_process_and_harmless():
    device.keep_memory()
    assert float(torch.ones(10_000_000).sum()) == 1e7


@pytest.mark.parametrize(
    "flags, dtype",
    [
        ({"fpu", "avx2", "avx512f", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16", "amx_tile"}, "bfloat16"),
        ({"asimd", "bf16"}, "bfloat16"),
        ({"fpu", "avx2", "avx512f", "amx_tile"}, "float32"),
        (set(), "float32"),
    ],
)
def test_the_dtype_follows_from_the_processor_flags(monkeypatch, flags, dtype):
    monkeypatch.setattr(device, "processor_flags", lambda: flags)
    assert best_dtype(CPU) == dtype
    assert choose_machine("cpu", "auto") == Machine(CPU, getattr(torch, dtype))


@pytest.mark.parametrize("capability, dtype", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_the_dtype_follows_from_the_card(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert best_dtype(torch.device("cuda:0")) == dtype


def test_without_cuda_auto_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_machine("auto", "float32") == Machine(CPU, torch.float32)


@pytest.mark.parametrize(
    "words, flag",
    [(("cuda", "auto"), "--device"), (("cuda:1", "float32"), "--device"), (("cpu", "float16"), "--dtype")],
)
def test_what_the_machine_cannot_do_is_refused(monkeypatch, words, flag):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput) as caught:
        choose_machine(*words)
    assert caught.value.file == flag


def test_a_machine_prints_what_it_is():
    assert str(Machine(CPU, torch.bfloat16)) == "cpu, bfloat16"
