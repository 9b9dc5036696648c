"""Windows -> batches: windows of like length together, padded to the longest among them, as torch tensors.

Cut at random, a batch of 16 SQuAD windows is 45 % padding; grouped by length, 2 %. Which windows make up a batch is a
function of (seed, epoch) alone, so that a resumed run or another number of ranks sees the same ones. Next: `device.py`.
"""

import numpy as np
import torch
from torch import Tensor

from minibert.windows import Windows, ranges

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


def collate(windows: Windows, indices: np.ndarray) -> dict[str, Tensor]:
    """The batch of some windows, all int64: (B, T) input_ids, attention_mask and token_type_ids, (B,) labels."""
    first = windows.bounds[indices]
    lengths = windows.bounds[indices + 1] - first
    columns = np.arange(lengths.max())
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
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
