"""Rows of training: windows a second, share of the processor's peak, memory. Next: `breakdown.py`."""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.timing import Child, Work, compare, faster, in_child, matrix_peak, training_flops
from minibert.batches import collate
from minibert.config import BertConfig, load_config
from minibert.device import choose_machine, keep_memory, prepare
from minibert.model import BertForQuestionAnswering
from minibert.optim import make_optimizer
from minibert.training import train_step
from minibert.weights import load_model

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
NO_ATTENTION_DROPOUT = {"attention_probs_dropout_prob": 0.0}


def our_steps(bench: Bench, batches: list[np.ndarray], changes: dict) -> Work:
    """The work of training on these batches by minibert's own step."""
    machine = choose_machine("cpu", "auto")
    keep_memory()
    model = prepare(our_model(bench, **changes).train(), machine)
    optimizer, scaler = make_optimizer(model, 1e-4, 0.01), torch.amp.GradScaler("cpu", enabled=False)

    def work() -> int:
        for batch in batches:
            train_step(model, [(collate(bench.windows, batch), 1)], len(batch), optimizer, scaler, machine, 1.0)
        return sum(map(len, batches))

    return work


def our_model(bench: Bench, **changes) -> BertForQuestionAnswering:
    """The folder's model, with another attention dropout or, with random weights, of other sizes."""
    model = BertForQuestionAnswering(changed_config(bench, changes))
    if not set(changes) - set(NO_ATTENTION_DROPOUT):
        model.load_state_dict(load_model(bench.folder).state_dict())
    return model


def changed_config(bench: Bench, changes: dict) -> BertConfig:
    return replace(load_config(bench.folder), **changes)


def steps_of_d(bench: Bench, batches: list[np.ndarray], changes: dict) -> Work:
    return their_steps(bench, batches, their_model(bench, "sdpa", **changes), 384, torch.float32)


def steps_of_t(bench: Bench, batches: list[np.ndarray], changes: dict) -> Work:
    both = (their_model(bench, attention, **changes) for attention in ("sdpa", "eager"))
    return faster(*(their_steps(bench, batches, model, None, torch.bfloat16) for model in both))


def their_steps(bench: Bench, batches, model, width: int | None, dtype: torch.dtype) -> Work:
    step = peers.trainer(model, "cpu", dtype)

    def work() -> int:
        for batch in batches:
            step(peers.padded(bench.windows, batch, width))
        return sum(map(len, batches))

    return work


def their_model(bench: Bench, attention: str, **changes):
    folder = bench.folder
    if set(changes) - set(NO_ATTENTION_DROPOUT):
        folder = Path(tempfile.mkdtemp())
        (folder / "config.json").write_bytes((bench.folder / "config.json").read_bytes())
    return peers.load_model(folder, attention, **changes)


def compare_training(bench: Bench, what: str, names: str, count: int, of_d: int, **changes) -> list[list[str]]:
    """Lines for the peers in `names`, on `count` batches of 16; D takes `of_d` of their windows in batches of 8."""
    batches = bench.batches(count)
    mixed = np.random.default_rng(0).permutation(np.concatenate(batches))[:of_d]
    peak, lines = matrix_peak(), []
    for name in names:
        make, theirs = (steps_of_d, np.split(mixed, of_d // 8)) if name == "D" else (steps_of_t, batches)
        with Child(our_steps, bench, batches, changes) as ours, Child(make, bench, theirs, changes) as their_work:
            found = compare(ours, their_work, bench.rounds)
        lines.append([f"{what}, windows/s", name, *found.cells()])
    lengths = bench.windows.lengths[np.concatenate(batches)]
    config = changed_config(bench, changes)
    windows_per_second = statistics.median(found.ours)
    peak = max(peak, matrix_peak())
    share = windows_per_second * training_flops(config, lengths) / len(lengths) / peak
    lines.append([f"{what}, tokens/s", "", f"{windows_per_second * lengths.mean():.0f}", "", ""])
    lines.append([f"{what}, share of the peak of {peak / 1e9:.0f} GFLOP/s", "", f"{100 * share:.0f} %", "", ""])
    return lines


def training(bench: Bench) -> list[list[str]]:
    return compare_training(bench, "training", "DT", 6, 32)


def training_no_attention_dropout(bench: Bench) -> list[list[str]]:
    return compare_training(bench, "training, attention dropout 0", "T", 6, 0, **NO_ATTENTION_DROPOUT)


def training_base(bench: Bench) -> list[list[str]]:
    return compare_training(bench, "training, BERT-base sizes", "DT", 3, 8, **BASE)


MEMORY = """
import json
from pathlib import Path
from benchmarks.bench import Bench
from benchmarks.timing import peak_memory
from benchmarks.training import our_steps, steps_of_d, their_model, their_steps
import torch
bench = Bench(Path({data!r}), Path({folder!r}), 1)
longest, *others = bench.batches(24, {size})[::-1]
bench.windows
before = peak_memory()
{work}()
print(json.dumps(dict(mib=peak_memory() - before)))
"""
IN_ORDER = "[longest, *others[::2], *others[1::2]]"
OUR_WORK = f"our_steps(bench, {IN_ORDER}, {{}})"
WORK_OF = {
    "D": f"steps_of_d(bench, {IN_ORDER}, {{}})",
    "T": f"their_steps(bench, {IN_ORDER}, their_model(bench, 'sdpa'), None, torch.bfloat16)",
}


def memory(bench: Bench) -> list[list[str]]:
    """MiB by which a process grows by model and training: the longest batch first, then 23 others. Less is better."""

    def growth(size: int, work: str) -> float:
        code = MEMORY.format(data=str(bench.data), folder=str(bench.folder), size=size, work=work)
        return in_child(code)["mib"]

    lines = []
    for name, size in (("D", 8), ("T", 16)):
        ours, theirs = growth(size, OUR_WORK), growth(size, WORK_OF[name])
        cells = f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"
        lines.append([f"memory of training, batch {size}, MiB", name, *cells])
    return lines
