"""The losses of the latest steps, kept on the device until a line of metrics.jsonl needs them.

Reading a value makes the CPU wait for the device. So each step only adds to tensors there, and the first step
that diverged is noted there too. In: what `step.update` returns. Out: the sum over the steps and ranks.
"""

import torch
from torch import Tensor

from minibert.support import ranks

MOST_SKIPS = 25  # in a row: a loss that float16 cannot hold at any scale has diverged


class RecentLosses:
    """The loss summed over some steps, the gradient norm of the last update, and the first step that diverged."""

    def __init__(self, device: torch.device):
        self.sum = torch.zeros((), device=device)  # this rank's share
        self.norm = torch.zeros((), device=device)
        self.diverged_at = torch.zeros((), device=device, dtype=torch.int64)  # 0: none did
        self.skips = 0  # updates in a row that GradScaler skipped

    def restart(self, total: float = 0.0) -> None:
        """Begin at this sum over all ranks, in equal shares."""
        self.sum.fill_(total / ranks.world_size())

    def add(self, step: int, loss: Tensor, norm: Tensor, is_update: bool) -> None:
        """Add the loss of a step. is_update: whether it changed the weights."""
        self.skips = 0 if is_update else self.skips + 1
        self.sum += loss / ranks.world_size()
        if is_update:
            self.norm = norm
        is_sound = torch.isfinite(loss) & torch.isfinite(self.norm) & (self.skips <= MOST_SKIPS)
        is_first = ~is_sound & (self.diverged_at == 0)
        self.diverged_at = torch.where(is_first, step, self.diverged_at)

    def read(self, step: int) -> tuple[float, int]:
        """The sum over all ranks, and the step that diverged, 0 if none did. The CPU waits for the device.

        step: the latest, which is named where only another rank diverged.
        """
        total, diverged_at = float(ranks.sum_over_ranks(self.sum.clone())), int(self.diverged_at)
        if not ranks.any_rank(diverged_at > 0):
            return total, 0
        return total, diverged_at or step
