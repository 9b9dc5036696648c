"""Windows -> padded batches of tensors, and the plan of which batches each training step takes.

A tensor is rectangular, so a window that is shorter than the longest of its batch is filled up with padding, and the
model computes on padding as on tokens. Batches of windows of similar length need little; in batches drawn at random, a
large part of the positions would be padding.

In: `Windows`. Out: batches, each a dict of tensors. Next: `model/bert.py`, which computes on them.
"""

import math
import sys
from typing import Any

import numpy as np
import torch

from minibert.support import ranks
from minibert.text.windows import Windows, flat_rows

BLOCK = 16  # tokens; the width of a batch is rounded up to a multiple
POOL = 50  # batches sorted by length together: enough for little padding, few enough to stay random

Batch = dict[str, Any]  # tensors by name; `attention_mask` may be None


def epoch_windows(windows: Windows, empty_windows: float, seed: int, epoch: int) -> np.ndarray:
    """Indices of the windows that an epoch takes: all with an answer, and a share, drawn anew, of those without."""
    is_empty = (windows.end_positions == 0).all(1)
    count = round(empty_windows * is_empty.sum())
    drawn = np.random.default_rng([seed, epoch]).permutation(np.flatnonzero(is_empty))[:count]
    return np.sort(np.concatenate([np.flatnonzero(~is_empty), drawn]))


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of the windows of each batch of an epoch: shuffled, sorted by length within pools, shuffled again.

    The batch with the most tokens, padding included, comes first, so that most runs that do not fit in a GPU's memory
    fail within the first steps. And the allocator's blocks are large enough for all later batches.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for first in range(0, len(order), POOL * batch_size):
        pool = order[first : first + POOL * batch_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    batches = [batches[i] for i in generator.permutation(len(batches))]
    largest = max(range(len(batches)), key=lambda i: lengths[batches[i]].max() * len(batches[i]))
    batches.insert(0, batches.pop(largest))
    return batches


def prediction_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Indices of the windows of each batch, from the longest to the shortest: nothing is random, almost no padding."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def split(indices: np.ndarray, lengths: np.ndarray, most_positions: int) -> list[np.ndarray]:
    """A batch in as few parts as keep to `most_positions`, padding included; a window is never cut."""
    most_windows = max(1, most_positions // padded_width(lengths[indices]))
    return np.array_split(indices, math.ceil(len(indices) / most_windows))


def padded_width(lengths: np.ndarray) -> int:
    """The longest window's length, rounded up to a multiple of BLOCK."""
    return math.ceil(lengths.max() / BLOCK) * BLOCK


def collate(windows: Windows, indices: np.ndarray) -> Batch:
    """The batch of some windows, all int64: input_ids, attention_mask and token_type_ids (B, T), start_positions and
    end_positions (B, A).

    T is the length of the longest of these windows, rounded up to a multiple of BLOCK, but at most that of the longest
    in the data, beyond which the model may have no positions. Matrix units multiply whole blocks, and few distinct
    shapes let the allocator reuse its memory. Without padding, attention_mask is None: attention without a mask has
    faster kernels on a GPU.
    """
    first = windows.bounds[indices]
    lengths = windows.bounds[indices + 1] - first
    columns = np.arange(min(padded_width(lengths), windows.lengths.max()))
    is_token = columns < lengths[:, None]  # (B, T)
    input_ids = np.full(is_token.shape, windows.pad_id, np.int64)
    input_ids[is_token] = windows.ids[flat_rows(first, lengths)]
    is_context = is_token & (columns >= windows.context_start[indices, None])
    arrays = {
        "input_ids": input_ids,
        "attention_mask": is_token.astype(np.int64),
        "token_type_ids": is_context.astype(np.int64),
        "start_positions": windows.start_positions[indices],
        "end_positions": windows.end_positions[indices],
    }
    batch: Batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if is_token.all():
        batch["attention_mask"] = None
    return batch


class Plan:
    """Which windows each step of a run takes, and which of them go to this rank.

    Of a long document, most windows do not hold the answer. Each epoch takes all windows that hold one and a share of
    the others, `empty_windows`, drawn anew.

    An epoch's list of batches depends on (seed, epoch) only. Each step takes the next `gradient_accumulation_steps` x
    ranks of them as its micro-batches, and the ranks take turns among those. So R ranks compute in one step what one
    process computes with R times the accumulation.

    A micro-batch of more than `most_positions`, padding included, is computed in parts. The step is the same, because
    each part counts by its windows (see `training/step.py`), but the memory is that of the largest part.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        gradient_accumulation_steps: int,
        seed: int,
        most_positions: int = sys.maxsize,
        empty_windows: float = 1.0,
    ):
        self.windows, self.batch_size, self.seed, self.most_positions = windows, batch_size, seed, most_positions
        self.empty_windows = empty_windows
        self.micro_batches_per_step = gradient_accumulation_steps * ranks.world_size()
        taken = len(epoch_windows(windows, empty_windows, seed, epoch=0))
        self.steps_per_epoch = math.ceil(math.ceil(taken / batch_size) / self.micro_batches_per_step)
        self.epoch, self.batches = -1, list[np.ndarray]()  # the epoch whose batches are at hand

    def __repr__(self) -> str:
        return f"<plan of {self.steps_per_epoch} steps an epoch, batches of {self.batch_size} of {self.windows!r}>"

    def micro_batches(self, step: int) -> list[np.ndarray]:
        """Indices of the windows of each micro-batch of a step, on all ranks; step 0 is the first of the run."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            taken = epoch_windows(self.windows, self.empty_windows, self.seed, epoch)
            batches = training_batches(self.windows.lengths[taken], self.batch_size, self.seed, epoch)
            self.batches = [taken[batch] for batch in batches]
        first = step_of_epoch * self.micro_batches_per_step
        return self.batches[first : first + self.micro_batches_per_step]

    def own_parts(self, step: int) -> tuple[list[tuple[Batch, int]], int]:
        """This rank's parts of a step, each with how many of its windows count; and the windows of the whole step.

        An epoch's last step may have fewer micro-batches than there are ranks. A rank without one takes a window that
        does not count: averaging the gradients waits for every rank.
        """
        all_indices = self.micro_batches(step)
        own = all_indices[ranks.rank() :: ranks.world_size()]
        parts = [part for indices in own for part in split(indices, self.windows.lengths, self.most_positions)]
        counted = [(collate(self.windows, part), len(part)) for part in parts]
        return counted or [(collate(self.windows, all_indices[0][:1]), 0)], sum(map(len, all_indices))
