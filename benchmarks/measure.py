"""Run two sides in turn (A B A B ..), and report the median of the ratios with the lowest and the highest.

Each side is a process of its own, `python -m benchmarks.MODULE WORK ARGUMENTS`: neither side's memory, threads or
settings of the C library affect the other. It prepares its work, then does it once for each line that arrives on stdin
and answers with one line of JSON. Between its turns it waits for the next line and uses no processor time.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, Any]  # "amount": units of work done; "seconds" that it took; and what else a work reports
Work = Callable[[], Result]


class Side:
    """A process that runs a work of a benchmark module. `Side("ours", "training", data=..)`; call it for one run."""

    def __init__(self, module: str, *words: str, **arguments: Any):
        command = [sys.executable, "-m", f"benchmarks.{module}", *words, json.dumps(arguments)]
        self.name = " ".join((module, *words))
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()  # it answers when it is ready

    def __call__(self) -> Result:
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Result:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: ended with code {self.process.wait()}; see its error above")
        return json.loads(line)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()


def serve(works: Iterable[Callable[..., Work]]) -> None:
    """The other end of `Side`: prepare the work that the command line names, and do it whenever a line arrives."""
    name, arguments = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # only answers may go to the pipe
    work = next(work for work in works if work.__name__ == name)(**json.loads(arguments))
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds} | result), file=answers, flush=True)


def run_once(module: str, *words: str, **arguments: Any) -> Result:
    """The result of a side's first run."""
    with Side(module, *words, **arguments) as side:
        return side()


def compare(ours: Work, theirs: Work, rounds: int) -> tuple[list[Result], list[Result]]:
    """Run both in turn, so that a slow minute of the machine affects both; the first run of each is not counted."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return [our for our, _ in pairs], [their for _, their in pairs]


def cells(ours: list[Result], theirs: list[Result], digits: int = 1) -> list[str]:
    """Medians of both rates, in units per second, and of their ratio with its lowest and highest round."""
    our_rates, their_rates = ([result["amount"] / result["seconds"] for result in side] for side in (ours, theirs))
    ratios = [our / their for our, their in zip(our_rates, their_rates)]
    medians = [f"{statistics.median(rates):.{digits}f}" for rates in (our_rates, their_rates)]
    return [*medians, f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"]


def fastest(works: list[Work]) -> Work:
    """The fastest of several, by the better of two runs of each in turn after a first one."""
    if len(works) == 1:
        return works[0]
    seconds = np.zeros((3, len(works)))
    for turn in range(3):
        for i, work in enumerate(works):
            began = time.perf_counter()
            work()
            seconds[turn, i] = time.perf_counter() - began
    return works[int(seconds[1:].min(axis=0).argmin())]


def matrix_peak(dtype: torch.dtype, device: str = "cpu", size: int = 2048) -> float:
    """The machine's own FLOP/s: the best product of two size x size matrices in a second."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best, end = 0.0, time.perf_counter() + 1
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def training_flops(config, lengths: np.ndarray) -> float:
    """FLOPs that the real tokens of these windows cost in training: 3 (2 P T + 4 L D T^2), P the linear weights."""
    D, L = config.hidden_size, config.num_hidden_layers
    P = L * (4 * D * D + 2 * D * config.intermediate_size)
    T = lengths.astype(np.float64)
    return float(np.sum(3 * (2 * P * T + 4 * L * D * T * T)))


def peak_memory() -> int:
    """The most memory that this process has had so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux `ru_maxrss` may be that of the parent process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) // 1024
    import resource  # Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024**2


def write_part(data: str, file: str, questions: int) -> str:
    """Write a SQuAD file with `questions` questions of paragraphs drawn from all over the data; return its name."""
    articles = json.loads(Path(data).read_text("utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    part: list[dict] = []
    for i in np.random.default_rng(0).permutation(len(paragraphs)):
        part.append(paragraphs[i] | {"qas": paragraphs[i]["qas"][:questions]})
        questions -= len(part[-1]["qas"])
        if not questions:
            break
    Path(file).write_text(json.dumps({"data": [{"title": "part", "paragraphs": part}]}), "utf-8")
    return file


def print_line(cells: Iterable[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def print_head(cells: list[str]) -> None:
    print_line(cells)
    print_line(["---"] * len(cells))
