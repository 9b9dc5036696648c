"""Fair comparison of two ways to do the same work: A B A B .., the median of the ratios, and their spread."""

import json
import multiprocessing
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Work = Callable[[], float]  # does the work once; returns how much it was, in any unit


@dataclass(frozen=True)
class Comparison:
    """Units per second of every round."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        return [our / their for our, their in zip(self.ours, self.theirs, strict=True)]

    def cells(self, digits: int = 1) -> list[str]:
        """Medians of both, and of the ratio with its lowest and highest round."""
        ratios = self.ratios
        return [
            f"{statistics.median(self.ours):.{digits}f}",
            f"{statistics.median(self.theirs):.{digits}f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        ]


def rate(work: Work) -> float:
    begin = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - begin)


def compare(ours: Work, theirs: Work, rounds: int) -> Comparison:
    """Both in turn, so that a slow minute of the machine meets both; the first round of each is not counted."""
    ours(), theirs()
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds)]
    return Comparison([our for our, _ in pairs], [their for _, their in pairs])


def faster(*works: Work) -> Work:
    """The fastest of several, by the better of two measured runs of each in turn: a tuned peer has tried them all."""
    for work in works:
        work()
    rates = [[rate(work) for work in works] for _ in range(2)]
    best = [max(of_work) for of_work in zip(*rates)]
    return works[best.index(max(best))]


def matrix_peak(dtype: torch.dtype = torch.bfloat16, device: str = "cpu", size: int = 2048) -> float:
    """The machine's own FLOP/s: the best of 20 products of two size x size matrices."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(20):
        begin = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


def training_flops(config, lengths) -> float:
    """FLOPs that the real tokens of these windows cost in training: 3 (2 P l + 4 L D l^2), P the linear weights."""
    D, L = config.hidden_size, config.num_hidden_layers
    P = L * (4 * D * D + 2 * D * config.intermediate_size)
    return float(sum(3 * (2 * P * T + 4 * L * D * T * T) for T in map(int, lengths)))


class Child:
    """A work in a process of its own, made there by `make(*arguments)`; it sleeps while the other side is measured.

    So that neither side's memory, threads or settings of the C library are the other's too.
    """

    def __init__(self, make: Callable[..., Work], *arguments):
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        self.pipe.recv()  # made: a peer may have tried out its variants, with nothing beside it

    def __call__(self) -> float:
        self.pipe.send(True)
        return self.pipe.recv()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()


def serve(pipe, make: Callable[..., Work], arguments: tuple) -> None:
    work = make(*arguments)
    pipe.send(True)
    while pipe.recv():
        pipe.send(work())


def in_child(code: str) -> dict:
    """Run Python code in a process of its own; its last line of stdout is JSON. "seconds" is its whole time."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds} | json.loads(done.stdout.splitlines()[-1] if done.stdout.strip() else "{}")


def peak_memory() -> int:
    """The most memory that this process has had so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux lets a process inherit `ru_maxrss` from the one that started it
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024**2
