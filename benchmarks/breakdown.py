"""Rows that say where minibert's own time goes, by torch's profiler, on a CPU. Next: `growth.py`."""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.reading import our_answers
from benchmarks.timing import Child, matrix_peak, training_flops
from benchmarks.training import BASE, changed_config, our_steps

PRODUCTS = "matrix products"
KINDS = {  # torch's operations by the beginnings of their names; the first that fits
    PRODUCTS: ("aten::mm", "aten::bmm", "aten::addmm", "mkldnn::_linear"),
    "fused attention": ("aten::_scaled_dot_product",),
    "softmax": ("aten::_softmax",),
    "GELU": ("aten::gelu",),
    "LayerNorm": ("aten::native_layer_norm",),
    "conversions and copies": ("aten::copy_", "aten::cat"),
    "dropout, residual and other sums": ("aten::mul", "aten::add", "aten::lt_", "aten::sum", "aten::div"),
    "clipping and AdamW": ("aten::linalg_vector_norm", "aten::_foreach", "aten::_fused_adamw"),
}
REST = "the rest: smaller operations, the random bits, numpy, Python"


def profiled(make: Callable, *arguments) -> Callable[[], dict[str, float]]:
    """A work that returns the seconds that its run takes for each kind of operation."""
    work = make(*arguments)

    def seconds_of_kinds() -> dict[str, float]:
        work()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            begin = time.perf_counter()
            work()
            whole = time.perf_counter() - begin
        seconds = dict.fromkeys(KINDS, 0.0)
        for event in profile.key_averages():
            kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), None)
            if kind:
                seconds[kind] += event.self_cpu_time_total / 1e6
        return seconds | {REST: whole - sum(seconds.values())}

    return seconds_of_kinds


def breakdown(bench: Bench) -> list[list[str]]:
    """Per cent of the time of training steps, of MiniLM's sizes and of BERT-base's, and of one question."""
    lines = []
    for what, count, changes in (("training", 6, {}), ("training, BERT-base sizes", 3, BASE)):
        batches = bench.batches(count)
        with Child(profiled, our_steps, bench, batches, changes) as work:
            seconds = work()
        flops = training_flops(changed_config(bench, changes), bench.windows.lengths[np.concatenate(batches)])
        of_peak = flops / seconds[PRODUCTS] / matrix_peak()
        lines += shares(what, seconds)
        lines.append([f"{what}: matrix products alone, share of the peak", "", f"{100 * of_peak:.0f} %", "", ""])
    with Child(profiled, our_answers, bench) as work:
        lines += shares("one question of 150 tokens", work())
    return lines


def shares(what: str, seconds: dict[str, float]) -> list[list[str]]:
    whole = sum(seconds.values())
    return [[f"{what}: {kind}", "", f"{100 * of_kind / whole:.0f} %", "", ""] for kind, of_kind in seconds.items()]
