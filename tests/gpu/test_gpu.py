"""A GPU gives what the CPU gives in float32: logits, attention with gradients, and whole trainings.

Without a GPU the CPU runs the same lines with tiny sizes. `python -m benchmarks.gpu` measures the speed.
"""

import statistics

import pytest
import torch

from benchmarks.ours import BASE, trainer
from minibert.model.bert import BertForQuestionAnswering, attention_by_hand, attention_fused
from minibert.model.prepare import prepare, prepare_to_answer
from minibert.support.machine import Machine
from minibert.text.batches import collate, prediction_batches, training_batches
from minibert.text.squad import read_squad
from minibert.text.windows import Windows, make_windows
from minibert.training.step import make_optimizer, update
from tests.builders import tiny_config, write_toy_squad

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def cases(*dtypes: torch.dtype) -> pytest.MarkDecorator:
    """These dtypes on a GPU, and all but float16, which is very slow there, on a CPU."""
    devices = {"cpu": (), "cuda": CUDA}
    return pytest.mark.parametrize(
        "machine",
        [
            pytest.param(Machine(torch.device(device), dtype), marks=marks, id=f"{device}-{dtype}")
            for device, marks in devices.items()
            for dtype in dtypes
            if (device, dtype) != ("cpu", torch.float16)
        ],
    )


def new_model(device: torch.device, **changes) -> BertForQuestionAnswering:
    """The same random model each time, of BERT-base's sizes for a GPU."""
    torch.manual_seed(0)
    return BertForQuestionAnswering(tiny_config(**(BASE if device.type == "cuda" else {}) | changes))


@pytest.fixture(scope="module")
def windows(tmp_path_factory, tokenizer) -> Windows:
    """Windows of 13 to 45 tokens."""
    file = write_toy_squad(tmp_path_factory.mktemp("gpu") / "toy.json", 90, seed=1)
    return make_windows(read_squad(file), tokenizer)


@torch.inference_mode()
@cases(torch.float32, torch.bfloat16, torch.float16)
@pytest.mark.parametrize("prepare_it", [prepare, prepare_to_answer])
def test_logits_equal_those_of_float32_on_the_cpu(machine, prepare_it, windows):
    batch = collate(windows, prediction_batches(windows.lengths, 7)[3])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert inputs["attention_mask"] is not None
    is_token = inputs["attention_mask"].bool()
    exact = torch.stack(new_model(machine.device).eval()(**inputs))[:, is_token]
    model = prepare_it(new_model(machine.device).eval(), machine)
    with machine.autocast(model):
        logits = torch.stack(model(**machine.load(inputs))).cpu()[:, is_token]
    error = float((logits - exact).norm() / exact.norm())
    assert error < (1e-4 if machine.dtype is torch.float32 else 2e-2)


@cases(torch.float32, torch.bfloat16, torch.float16)
def test_fused_attention_equals_attention_by_hand(machine):
    B, H, T, K = (4, 12, 176, 64) if machine.device.type == "cuda" else (4, 2, 19, 5)
    lengths = torch.tensor([T, T // 2, 3, T - 1])
    mask = (torch.arange(T) < lengths[:, None])[:, None, None].to(machine.device)
    results = []
    for attend in (attention_by_hand, attention_fused):
        generator = torch.Generator().manual_seed(1)
        inputs = [
            torch.randn(B, H, T, K, generator=generator).to(machine.device, machine.dtype).requires_grad_()
            for _ in range(3)
        ]
        attended = attend(*inputs, mask, torch.nn.Dropout(0.0))
        (attended.float() ** 2).sum().backward()
        results.append([attended.detach().float(), *(tensor.grad.float() for tensor in inputs)])
    bound = 1e-5 if machine.dtype is torch.float32 else 2e-2
    for by_hand, fused in zip(*results):
        assert float((by_hand - fused).norm() / by_hand.norm()) < bound


def losses(windows: Windows, machine: Machine, steps: int, is_compiled: bool = False, **changes) -> list[float]:
    """The losses of the first steps of a training."""
    step = trainer(new_model(machine.device, **changes), windows, machine, is_compiled)
    epochs = (training_batches(windows.lengths, 6, seed=0, epoch=epoch) for epoch in range(steps))
    batches = [batch for epoch in epochs for batch in epoch][:steps]
    return [float(loss) for loss in [step(batch) for batch in batches]]


@cases(torch.bfloat16, torch.float16)
def test_a_training_in_half_precision_follows_float32(machine, windows):
    steps = 200 if machine.device.type == "cuda" else 15
    float32 = Machine(machine.device, torch.float32)
    half, full = (losses(windows, kind, steps, **STILL)[-10:] for kind in (machine, float32))
    assert statistics.mean(half) == pytest.approx(statistics.mean(full), rel=0.05)


@CUDA
def test_a_compiled_model_trains_as_the_plain_one(windows):
    machine = Machine(torch.device("cuda"), torch.float32)
    plain, compiled = (losses(windows, machine, 5, is_compiled, **STILL) for is_compiled in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-3)


@CUDA
def test_float16_gradients_that_overflow_change_no_weight_and_lower_the_scale(windows):
    machine = Machine(torch.device("cuda"), torch.float16)
    model = prepare(new_model(machine.device).train(), machine)
    optimizer, scaler = make_optimizer(model, 1e-3, 0.0), torch.amp.GradScaler("cuda", init_scale=2.0**40)
    before = [parameter.clone() for parameter in model.parameters()]
    batch = collate(windows, prediction_batches(windows.lengths, 7)[3])
    update(model, optimizer, scaler, [(batch, 1.0)], 1e-3, 1.0, machine)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
    assert scaler.get_scale() == 2.0**39
