"""One update of the weights. Training repeats it; `loop.py` has what stands around it.

The loss of a step is the mean over its N windows. They may come in several micro-batches, when N windows do not fit in
memory at once, and on several ranks (processes, each with a copy of the model). `span_loss` is the mean over the n
windows of one micro-batch, which therefore weighs n / N:

    loss = sum over all micro-batches of n / N * span_loss

The sum over the micro-batches of a rank comes by itself: every backward pass adds to the gradients. Then
DistributedDataParallel takes the mean of the gradients over the R ranks, which divides by R, so the weight of a
micro-batch is n * R / N. A short last batch counts by its windows, not as a whole batch.

For example, two ranks with batches of 3 and 5 windows: N = 8 and R = 2, so the weights are 0.75 and 1.25, and the
average of the two weighted gradients is (3 * g1 + 5 * g2) / 8, the mean over the eight windows.

In: batches of `text/batches.py`. Next in the lesson: `answers/spans.py`, from logits to answers.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from minibert.model.bert import BertForQuestionAnswering, span_loss
from minibert.support.machine import Machine
from minibert.text.batches import Batch


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    micro_batches: Iterable[tuple[Batch, float]],
    learning_rate: float,
    max_grad_norm: float,
    machine: Machine,
) -> tuple[Tensor, Tensor]:
    """Change the weights once, by the gradient of all micro-batches.

    micro_batches: pairs of a batch and its `loss_weight`. machine: the device, and the dtype of autocast. Returns the
    sum of the weighted losses (its mean over the ranks is the step's loss) and the norm of the gradient before
    clipping; both are scalars on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["layer_share"]  # see `make_optimizer`
    step_loss = torch.zeros((), device=machine.device)
    for batch, weight in micro_batches:
        batch = machine.load(batch)
        # Autocast runs the matrix products in bfloat16 or float16. Weights, loss and optimizer stay in float32.
        with machine.autocast(model):
            start_logits, end_logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        positions = batch["start_positions"], batch["end_positions"]
        loss = span_loss(start_logits, end_logits, *positions, batch["attention_mask"]) * weight
        # Gradients below 3e-8 underflow to 0 in float16. The scaler multiplies the loss, and with it every gradient, by
        # a large power of two. In bfloat16 and float32 its factor is 1.
        scaler.scale(loss).backward()
        step_loss += loss.detach()
    # Unscale before clipping. In the other order the norm would be thousands of times too large, and every gradient
    # would be clipped to max_grad_norm / scale. Plain gradient descent would hardly move. AdamW divides a gradient by
    # its recent size, which hides the error until that size is near eps.
    scaler.unscale_(optimizer)
    # A longer gradient is shortened, its direction kept. Otherwise one unusual batch would dominate AdamW's averages:
    # its large square would shrink the steps of hundreds of updates.
    gradient_norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    scaler.step(optimizer)  # skips the update if a gradient overflowed
    scaler.update()  # after an overflow halves the factor; after 2,000 good steps in a row doubles it
    optimizer.zero_grad(set_to_none=True)
    return step_loss, gradient_norm


def loss_weight(windows: int, windows_in_step: int, ranks: int = 1) -> float:
    """The factor n * R / N of one micro-batch's mean loss; see the equation above."""
    return windows * ranks / windows_in_step


def learning_rate_at(step: int, total_steps: int, warmup_ratio: float, peak: float) -> float:
    """Linear warm-up from 0 over the first ceil(warmup_ratio * total_steps) updates, then linear decay to 0.

    A warm-up, because AdamW's averages are unreliable in the first steps and the new span head sends random gradients
    into the pre-trained weights. A decay, because small last updates settle in a minimum that large ones jump across.
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * step / warmup
    return peak * (total_steps - step) / (total_steps - warmup)


def make_optimizer(
    model: BertForQuestionAnswering, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2017), with weight decay on matrices only.

    A LayerNorm gain belongs near 1 and a bias only shifts; decay towards 0 would distort both. Embeddings are matrices
    and do decay.

    layer_decay: each layer learns at this share of the rate of the layer above it, and the embeddings at this share of
    the lowest layer's (Howard and Ruder, 2018). Low layers hold what pre-training learned of language, which every task
    needs; the top one holds more of what only the pre-training tasks need.
    """
    parts = [model.span_head, *reversed(model.encoder.layers), model.embeddings]  # from the top
    groups = []
    for depth, part in enumerate(parts):
        share = layer_decay ** max(0, depth - 1)  # the head learns as fast as the top layer
        matrices = [p for p in part.parameters() if p.dim() > 1]
        vectors = [p for p in part.parameters() if p.dim() == 1]
        groups += [
            {"params": matrices, "weight_decay": weight_decay, "layer_share": share},
            {"params": vectors, "weight_decay": 0.0, "layer_share": share},
        ]
    # Fused: one pass over memory, where the plain loop makes a pass for each of its operations.
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
