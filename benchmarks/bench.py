"""What all rows share: the data, the model's folder, and how often to measure. Next: `reading.py`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks import peers
from minibert.batches import training_batches
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.windows import make_windows


@dataclass
class Bench:
    """What all rows share: the data, the model's folder, and how often to measure."""

    data: Path
    folder: Path
    rounds: int

    @cached_property
    def examples(self):
        return read_squad(self.data)

    @cached_property
    def windows(self):
        return make_windows(self.examples, load_tokenizer(self.folder))

    @cached_property
    def tokenizer(self):
        return peers.load_tokenizer(self.folder)

    def batches(self, count: int, size: int = 16) -> list[np.ndarray]:
        """`count` of an epoch's batches, the shortest and the longest among them, evenly spread between."""
        batches = training_batches(self.windows.lengths, size, seed=0, epoch=0)
        batches.sort(key=lambda batch: self.windows.lengths[batch].max())
        return [batches[i] for i in np.linspace(0, len(batches) - 1, count).round().astype(int)]
