"""One update: its loss, its order, the schedule and the optimizer's groups."""

import shutil

import numpy as np
import pytest
import torch

from minibert.model.bert import BertForQuestionAnswering, span_loss
from minibert.support.machine import Machine
from minibert.text.batches import collate
from minibert.text.squad import read_squad
from minibert.text.windows import make_windows
from minibert.training.step import learning_rate_at, loss_weight, make_optimizer, update
from tests.builders import draw_weights, lone_batch, tiny_config, write_toy_squad

CPU = Machine(torch.device("cpu"), torch.float32)
PEAK = 3e-4


@pytest.fixture
def windows(tmp_path, tokenizer):
    """21 windows of different lengths."""
    return make_windows(read_squad(write_toy_squad(tmp_path / "toy.json", 21)), tokenizer, 64, 16)


def still_model() -> BertForQuestionAnswering:
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return draw_weights(BertForQuestionAnswering(config)).train()


def take_step(model, windows, batches, scaler=None, max_grad_norm=1.0, optimizer=None):
    """One update of a model by these batches of window numbers; (loss, gradient norm, optimizer)."""
    optimizer = optimizer or make_optimizer(model, PEAK, 0.01)
    total = sum(len(batch) for batch in batches)
    micro_batches = [(collate(windows, batch), loss_weight(len(batch), total)) for batch in batches]
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    loss, norm = update(model, optimizer, scaler, micro_batches, 1e-3, max_grad_norm, CPU)
    return float(loss), float(norm), optimizer


def test_the_loss_of_a_step_is_the_mean_over_its_windows(windows):
    model, alone = still_model(), []
    for i in range(7):
        batch = lone_batch(windows, i)
        logits = model(batch["input_ids"], None, batch["token_type_ids"])
        alone.append(span_loss(*logits, batch["start_positions"], batch["end_positions"]).item())
    loss, *_ = take_step(model, windows, [np.arange(4), np.arange(4, 7)])
    assert loss == pytest.approx(sum(alone) / 7, abs=1e-5)


@pytest.mark.parametrize("count", [16, 18, 21])  # whole micro-batches; a short last one; one that is missing
def test_two_batches_of_4_equal_one_batch_of_8(windows, count):
    results = {}
    for size in (4, 8):
        model, optimizer, losses = still_model(), None, []
        for first in range(0, count, 8):
            step = np.arange(first, min(first + 8, count))
            batches = [step[i : i + size] for i in range(0, len(step), size)]
            loss, norm, optimizer = take_step(model, windows, batches, optimizer=optimizer)
            losses += [loss, norm]
        results[size] = losses
    assert results[4] == pytest.approx(results[8], rel=1e-4)


def test_two_ranks_average_to_one_step(windows):
    """Each rank's gradient by itself, averaged as DistributedDataParallel does, is the gradient of the whole step."""
    batches, gradients = [np.arange(5), np.arange(5, 8)], []
    for weights in ([5 / 8, 3 / 8], [loss_weight(5, 8, ranks=2), 0.0], [0.0, loss_weight(3, 8, ranks=2)]):
        model = still_model()
        for batch, weight in zip((collate(windows, batch) for batch in batches), weights):
            positions = batch["start_positions"], batch["end_positions"]
            logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
            (span_loss(*logits, *positions, batch["attention_mask"]) * weight).backward()
        gradients.append(model.encoder.layers[0].attention.value.weight.grad)
    torch.testing.assert_close((gradients[1] + gradients[2]) / 2, gradients[0])


@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_the_gradient_is_unscaled_before_it_is_clipped(windows, scale):
    """AdamW's weights hardly show the order, because it divides by the gradient's size. Its first average does."""
    model = still_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
    plain_norm = take_step(still_model(), windows, [np.arange(6)])[1]
    _, norm, optimizer = take_step(model, windows, [np.arange(6)], scaler, max_grad_norm=0.25)
    assert norm == pytest.approx(plain_norm, rel=1e-4) and norm > 0.25
    averages = torch.cat([optimizer.state[parameter]["exp_avg"].flatten() for parameter in model.parameters()])
    assert float(averages.norm()) == pytest.approx(0.1 * 0.25, rel=1e-3)  # (1 - beta1) x the clipped gradient


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_trains_as_the_plain_one(windows):
    """Batches of several widths, with padding and without."""
    losses = []
    for is_compiled in (False, True):
        model, optimizer = still_model(), None
        called = torch.compile(model, dynamic=True) if is_compiled else model
        losses.append([])
        for first in range(0, 20, 3):
            loss, _, optimizer = take_step(called, windows, [np.arange(first, first + 3)], optimizer=optimizer)
            losses[-1].append(loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(set(losses[0])) == 7


@pytest.mark.parametrize(
    "step, total, warmup_ratio, share_of_peak",
    [
        (0, 20, 0.25, 0.0),
        (5, 20, 0.25, 1.0),  # the end of the warm-up
        (19, 20, 0.25, 1 / 15),  # the last update still moves the weights
        (20, 20, 0.25, 0.0),
        (0, 7, 0.0, 1.0),
        (0, 7, 1.0, 0.0),
        (6, 7, 1.0, 6 / 7),
        (2, 21, 0.1, 2 / 3),  # 2.1 updates of warm-up are 3
        (4, 21, 0.1, 17 / 18),
        (0, 1, 0.0, 1.0),
    ],
)
def test_the_rate_rises_to_the_peak_and_falls_to_zero(step, total, warmup_ratio, share_of_peak):
    assert learning_rate_at(step, total, warmup_ratio, PEAK) == pytest.approx(share_of_peak * PEAK, abs=1e-15)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5, 0.0])
def test_lower_layers_learn_at_a_share_of_the_rate_of_those_above(windows, layer_decay):
    """The first step of AdamW moves each weight by its rate, whatever its gradient."""
    model = still_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    take_step(model, windows, [np.arange(4)], optimizer=make_optimizer(model, PEAK, 0.0, layer_decay))
    heights = {"span_head.": 0, "encoder.layers.1.": 0, "encoder.layers.0.": 1, "embeddings.": 2}
    for name, parameter in model.named_parameters():
        (height,) = (height for start, height in heights.items() if name.startswith(start))
        moved = (parameter.detach() - before[name]).abs().max().item()
        if not name.endswith(("key.bias", "span_head.bias", "layers.1.feed_forward_norm.bias")):  # have no gradient
            assert moved == pytest.approx(1e-3 * layer_decay**height, rel=1e-2), name


def test_only_matrices_decay_and_every_parameter_is_in_one_group():
    model = BertForQuestionAnswering(tiny_config())
    optimizer = make_optimizer(model, 0.1, 0.5)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"], group["amsgrad"]) == (0.1, (0.9, 0.999), 1e-8, False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        is_exempt = name.endswith("bias") or "norm" in name
        torch.testing.assert_close(parameter.detach(), (1.0 if is_exempt else 0.95) * before[name])
