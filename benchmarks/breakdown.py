"""Where minibert's time goes, by torch's profiler on a CPU. A side: `python -m benchmarks.breakdown WORK JSON`."""

import functools
import time
from collections.abc import Callable

import torch

from benchmarks.measure import Work, serve
from benchmarks.ours import latency, training

PRODUCTS = "matrix products"
KINDS = {  # torch's operations by the beginnings of their names; the first kind that fits counts
    PRODUCTS: ("aten::mm", "aten::bmm", "aten::addmm", "mkldnn::_linear"),
    "fused attention": ("aten::_scaled_dot_product",),
    "softmax": ("aten::_softmax",),
    "GELU": ("aten::gelu",),
    "LayerNorm": ("aten::native_layer_norm",),
    "casts and copies": ("aten::copy_", "aten::cat"),
    "dropout, residual and other sums": ("aten::mul", "aten::add", "aten::lt_", "aten::sum", "aten::div"),
    "clipping and AdamW": ("aten::linalg_vector_norm", "aten::_foreach", "aten::_fused_adamw"),
}
REST = "the rest: smaller operations, the random bits, numpy, Python"


def profiled(make: Callable[..., Work]) -> Callable[..., Work]:
    """The same work, which also reports `kinds`: the seconds of each kind of operation."""

    @functools.wraps(make)
    def prepare(**arguments) -> Work:
        work = make(**arguments)

        def profile() -> dict:
            work()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                began = time.perf_counter()
                result = work()
                whole = time.perf_counter() - began
            kinds = dict.fromkeys(KINDS, 0.0)
            for event in profiler.key_averages():
                kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), None)
                if kind:
                    kinds[kind] += event.self_cpu_time_total / 1e6
            return result | {"kinds": kinds | {REST: whole - sum(kinds.values())}}

        return profile

    return prepare


if __name__ == "__main__":
    serve(map(profiled, (training, latency)))
