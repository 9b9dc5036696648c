"""Ranks: several processes that train one model. The same code for one process, where every call is a no-op.

Started by `torchrun --nproc_per_node 2 train.py ..`, which sets RANK, WORLD_SIZE and LOCAL_RANK. Next: `batches.py`.
"""

import contextlib
import os
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def local_rank() -> int:
    """This process's number on its machine: the CUDA card it takes."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextlib.contextmanager
def ranks() -> Iterator[None]:
    """Join the other processes for the length of a `with` block, if torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
        # Both: gradients travel between the cards, small agreements between the processors.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        # Never let DistributedDataParallel hold the last reference to the group: it frees it under Python's lock, and
        # that waits for a thread of gloo's, which may be waiting for the lock to free a tensor.
        ranks.group = dist.group.WORLD
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            # A thread of gloo's may still have to free the last tensor, for which it needs Python's lock; one that
            # asks for the lock while Python shuts down aborts the process. Asleep, we leave it the lock.
            time.sleep(0.1)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def total(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def agree(is_wanted: bool) -> bool:
    """True on every rank if it is True on any."""
    return bool(total(torch.tensor(int(is_wanted))))


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let rank 0 go through a `with` block before the others: it downloads and writes, they find it done."""
    if dist.is_initialized() and not is_main():
        dist.barrier()
    yield
    if dist.is_initialized() and is_main():
        dist.barrier()


def replicate(model: nn.Module) -> nn.Module:
    """The model to call in training: its backward pass also averages the gradients over the ranks."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if world_size() > 1 else model


def averaging(replica: nn.Module, is_last: bool):
    """A context for one backward pass of a step: only the last one of a step averages the gradients over the ranks."""
    is_plain = is_last or not isinstance(replica, DistributedDataParallel)
    return contextlib.nullcontext() if is_plain else replica.no_sync()
