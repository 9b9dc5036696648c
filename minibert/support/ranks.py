"""The processes that torchrun starts ("ranks"): who writes, sums over all, gradients averaged.

Without torchrun there is one process, rank 0, and every function here does nothing or returns at once, so that the
callers need no second path. Use as `from minibert.support import ranks`.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minibert.support.errors import BadInput
from minibert.support.exits import is_rank
from minibert.support.hashes import fingerprint

T = TypeVar("T")
PACKAGE = Path(__file__).parents[1]


def join() -> None:
    """Connect to the other ranks, if torchrun started several.

    The connection stays until the process ends, which is at once: see `exits.leave`.
    """
    if is_rank() and not is_connected():
        if local_rank() < torch.cuda.device_count():  # otherwise `choose_machine` says so, unless all use the CPU
            torch.cuda.set_device(local_rank())
        # Two backends: gradients travel between GPUs, the small sums of `any_rank` between CPUs.
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except ValueError as error:  # a variable is missing or not a number
            what = f"{error}; start several processes with torchrun, or one without this variable"
            raise BadInput("WORLD_SIZE", os.environ["WORLD_SIZE"], what) from error


def is_connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_connected() else 0


def world_size() -> int:
    return dist.get_world_size() if is_connected() else 1


def local_rank() -> int:
    """This process's number on its machine, and that of the GPU it uses."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Whether this is rank 0, which alone prints and writes."""
    return rank() == 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place."""
    if is_connected():
        dist.all_reduce(tensor)
    return tensor


def any_rank(flag: bool) -> bool:
    """True on every rank if it is True on any."""
    return bool(sum_over_ranks(torch.tensor(int(flag))))


def check_equal(facts: dict[str, Any]) -> None:
    """BadInput on every rank, naming the first fact that the ranks do not share. Call it with the same names on each.

    Only digests of a fixed size are exchanged, so that ranks that differ cannot wait for each other's bytes.
    """
    if not is_connected():
        return
    files = sorted(PACKAGE.rglob("*.py"))
    code = {"version of torch": torch.__version__, "code of minibert": [fingerprint(file) for file in files]}
    for name, value in (code | facts).items():
        digest = hashlib.sha256(json.dumps([name, value], default=str).encode()).digest()
        mine = torch.tensor(list(digest), dtype=torch.int64)
        all_digests = [torch.zeros_like(mine) for _ in range(world_size())]
        dist.all_gather(all_digests, mine)
        if others := [r for r, other in enumerate(all_digests) if not torch.equal(other, mine)]:
            what = f"rank {rank()} differs from ranks {others}; start all of them with the same"
            raise BadInput("torchrun", name, what)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let rank 0 run a `with` block before the others: it downloads or writes, and the others find the result."""
    if is_connected() and not is_main():
        dist.barrier()
    yield
    if is_connected() and is_main():
        dist.barrier()


def replicate(model: nn.Module) -> nn.Module:
    """The model to call in training: with several ranks, its backward pass also averages the gradients over them."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if world_size() > 1 else model


def synced_at_last(replica: nn.Module, micro_batches: list[T]) -> Iterator[T]:
    """Yield a step's micro-batches; only the backward pass of the last one averages the gradients over the ranks."""
    with replica.no_sync() if isinstance(replica, DistributedDataParallel) else contextlib.nullcontext():
        yield from micro_batches[:-1]
    yield micro_batches[-1]
