"""Windows -> batches: windows of like length together, padded to the longest among them, as torch tensors.

Cut at random, a batch of 16 SQuAD windows is 45 % padding; grouped by length, 2 %. Which windows make up a batch is a
function of their lengths, batch_size, seed and epoch alone: a resumed run, or one on more ranks, sees the same ones.
Next: `device.py`.
"""

import math

import numpy as np
import torch
from torch import Tensor

from minibert import distributed
from minibert.windows import Windows, ranges

BLOCK = 16  # tokens
POOL = 50  # batches sorted together: enough for like lengths, few enough to stay random


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of the windows of each batch of an epoch: shuffled, sorted within pools of 50 batches, shuffled again.

    The longest batch comes first, so that memory runs out at once or never.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    batches = []
    for first in range(0, len(order), POOL * batch_size):
        pool = order[first : first + POOL * batch_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    batches = [batches[i] for i in generator.permutation(len(batches))]
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i]].max() * len(batches[i]))  # padded
    batches.insert(0, batches.pop(longest))
    return batches


def prediction_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """All windows from the longest to the shortest: nothing is random, and the padding is next to none."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def collate(windows: Windows, indices: np.ndarray) -> dict[str, Tensor | None]:
    """The batch of some windows, all int64: (B, T) input_ids, attention_mask and token_type_ids, (B,) labels.

    T is the longest window's length, rounded up: matrix units work on whole blocks, and memory is used again for the
    same few shapes. Without any padding attention_mask is None, which spares a GPU the slower kernels.
    """
    first = windows.bounds[indices]
    lengths = windows.bounds[indices + 1] - first
    width = -(-lengths.max() // BLOCK) * BLOCK
    columns = np.arange(min(width, windows.lengths.max()))  # never wider than the model has positions
    is_token = columns < lengths[:, None]  # (B, T)
    input_ids = np.full(is_token.shape, windows.pad_id, np.int64)
    input_ids[is_token] = windows.ids[ranges(first, lengths)]
    is_context = is_token & (columns >= windows.context_start[indices, None])
    arrays = {
        "input_ids": input_ids,
        "attention_mask": is_token.astype(np.int64),
        "token_type_ids": is_context.astype(np.int64),
        "start_positions": windows.start_positions[indices],
        "end_positions": windows.end_positions[indices],
    }
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return batch | ({"attention_mask": None} if is_token.all() else {})


class Plan:
    """Which windows every step of a run takes, and which of them this rank.

    An epoch's list of batches is cut into steps of `gradient_accumulation_steps` x ranks micro-batches and dealt to the
    ranks in turn, so that N ranks take in one step what one process takes with N times the accumulation.
    """

    def __init__(self, windows: Windows, batch_size: int, gradient_accumulation_steps: int, seed: int):
        self.windows, self.batch_size, self.seed = windows, batch_size, seed
        self.micro_batches_per_step = gradient_accumulation_steps * distributed.world_size()
        batches = math.ceil(len(windows) / batch_size)
        self.steps_per_epoch = math.ceil(batches / self.micro_batches_per_step)
        self.epoch, self.batches = -1, []

    def step(self, number: int) -> list[np.ndarray]:
        """The micro-batches of a step of the run, counted from 0, on all ranks: indices of windows."""
        epoch, index = divmod(number, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self.batches = training_batches(self.windows.lengths, self.batch_size, self.seed, epoch)
        size = self.micro_batches_per_step
        return self.batches[index * size : (index + 1) * size]

    def share(self, number: int) -> tuple[list[tuple[dict[str, Tensor], int]], int]:
        """This rank's micro-batches of a step, each with its weight 1; and the windows of the whole step.

        A rank that gets none in an epoch's last step takes the first one with weight 0: every rank must take part in
        the averaging of the gradients.
        """
        of_step = self.step(number)
        mine = of_step[distributed.rank() :: distributed.world_size()]
        weighted = [(indices, 1) for indices in mine] or [(of_step[0], 0)]
        return [(collate(self.windows, indices), weight) for indices, weight in weighted], sum(map(len, of_step))
