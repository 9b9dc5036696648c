"""AdamW's parameter groups, and the learning rate as a pure function of the step. Next: `checkpoint.py`."""

import math

import torch
from torch import nn


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2017) with decay on matrices only.

    Biases and LayerNorm have one dimension: pulling them towards zero would move what they centre, not regularise.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    # Fused: one pass over memory for all parameters, where the plain loop makes about ten.
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def learning_rate_at(update: int, total: int, warmup_ratio: float, peak: float) -> float:
    """Linear warm-up from 0 over the first ceil(warmup_ratio * total) updates, then linear decay to 0 at `total`."""
    warmup = math.ceil(warmup_ratio * total)
    if update < warmup:
        return peak * update / warmup
    return peak * max(0, total - update) / max(1, total - warmup)
