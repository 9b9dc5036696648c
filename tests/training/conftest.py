"""The fixtures of `forks.py`, and the parts of a checkpoint, for every file of this folder."""

import contextlib

import pytest
import torch

from minibert.model.bert import BertForQuestionAnswering
from minibert.training.step import make_optimizer
from tests.builders import draw_weights, tiny_config

with contextlib.suppress(ImportError):  # Windows cannot fork, and goes without these
    from tests.training.forks import job, start, train, whole  # noqa: F401


@pytest.fixture(scope="module")
def parts(tokenizer):
    """A model with an optimizer that has taken a step."""
    model = draw_weights(BertForQuestionAnswering(tiny_config()))
    optimizer = make_optimizer(model, 1e-3, 0.01)
    torch.stack(model(torch.randint(5, 50, (2, 9)))).square().sum().backward()
    optimizer.step()
    return model, tokenizer, optimizer
