"""The optimizer's groups, and the learning rate as a function of the step."""

import pytest
import torch
from conftest import tiny_config

from minibert.model import BertForQuestionAnswering
from minibert.optim import learning_rate_at, make_optimizer

PEAK = 3e-4


@pytest.fixture(scope="module")
def model():
    return BertForQuestionAnswering(tiny_config())


@pytest.mark.parametrize(
    "update, total, warmup_ratio, share_of_peak",
    [
        (0, 20, 0.25, 0.0),
        (2, 20, 0.25, 2 / 5),
        (4, 20, 0.25, 4 / 5),
        (5, 20, 0.25, 1.0),  # the end of the warm-up
        (11, 20, 0.25, 9 / 15),
        (19, 20, 0.25, 1 / 15),  # the last update still moves
        (20, 20, 0.25, 0.0),
        (33, 20, 0.25, 0.0),  # never negative
        (0, 7, 0.0, 1.0),
        (6, 7, 0.0, 1 / 7),
        (0, 7, 1.0, 0.0),
        (6, 7, 1.0, 6 / 7),
        (7, 7, 1.0, 0.0),
        (2, 21, 0.1, 2 / 3),  # 2.1 updates of warm-up are 3
        (3, 21, 0.1, 1.0),
        (4, 21, 0.1, 17 / 18),
        (0, 1, 0.1, 0.0),
        (0, 1, 0.0, 1.0),
    ],
)
def test_the_rate_rises_to_the_peak_and_falls_to_zero(update, total, warmup_ratio, share_of_peak):
    assert learning_rate_at(update, total, warmup_ratio, PEAK) == pytest.approx(share_of_peak * PEAK, abs=1e-15)


@pytest.mark.parametrize("total, warmup_ratio", [(1, 0.5), (13, 0.1), (50, 0.0), (50, 1.0), (400, 0.33)])
def test_the_rate_stays_between_zero_and_the_peak(total, warmup_ratio):
    rates = [learning_rate_at(update, total, warmup_ratio, PEAK) for update in range(total + 5)]
    assert all(0 <= rate <= PEAK for rate in rates)
    assert rates[total:] == [0.0] * 5


def test_every_parameter_is_in_exactly_one_group(model):
    groups = make_optimizer(model, PEAK, 0.01).param_groups
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())


def test_only_matrices_decay(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in make_optimizer(model, PEAK, 0.07).param_groups:
        for parameter in group["params"]:
            is_exempt = names[id(parameter)].endswith("bias") or "norm" in names[id(parameter)]
            assert group["weight_decay"] == (0.0 if is_exempt else 0.07), names[id(parameter)]


def test_decay_shrinks_matrices_and_leaves_biases(model):
    optimizer = make_optimizer(model, 0.1, 0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        share = 0.95 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), share * before[name])


def test_the_constants_are_those_of_adamw_for_bert(model):
    for group in make_optimizer(model, PEAK, 0.01).param_groups:
        assert (group["lr"], group["betas"], group["eps"], group["amsgrad"]) == (PEAK, (0.9, 0.999), 1e-8, False)
