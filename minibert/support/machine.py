"""The device and dtype to compute with, and what this CPU can do.

In: `--device`, `--dtype` and `--deterministic`. Out: a `Machine`, which a model and its batches are moved to. The
choice follows from what the hardware and torch say, never from a timing: the same machine always chooses the same.
"""

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minibert.support.errors import BadInput
from minibert.support.ranks import local_rank
from minibert.support.streams import first_line

MOST_POSITIONS = 2048  # whose activations a CPU's cache mostly holds
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h


@dataclass(frozen=True)
class Machine:
    """The device to compute on, and the dtype of the matrix products there; int8 only for answering, on a CPU."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self, model: nn.Module) -> contextlib.AbstractContextManager:
        """A context in which matrix products run in `dtype`; weights, loss and optimizer stay in float32.

        Does nothing if the weights already have this dtype, or for int8, whose products are modules of their own.
        """
        if next(model.parameters()).dtype is self.dtype or self.dtype is torch.int8:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def most_positions(self) -> int:
        """The tokens, padding included, that a model computes on at once.

        On a CPU, a part of a batch that stays in the cache needs less memory and less time. A GPU is faster on whole
        batches.
        """
        return MOST_POSITIONS if self.device.type == "cpu" else sys.maxsize

    def load(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the device. From pinned memory the copy runs while the GPU computes."""
        if self.device.type == "cpu":
            return batch
        return {
            name: None if tensor is None else tensor.pin_memory().to(self.device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def __str__(self) -> str:
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}"


def choose_machine(device: str = "auto", dtype: str = "auto", is_deterministic: bool = False) -> Machine:
    """Resolve the flags `--device`, `--dtype` and `--deterministic`; BadInput if this machine cannot do it.

    Deterministic kernels are slower, and give the same bits in every run on one machine. float32 means float32: TF32,
    which multiplies with 10 bits, stays off, as is torch's default; bfloat16 is faster and less precise.
    """
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    device, dtype = str(device), str(dtype).removeprefix("torch.")
    if device not in ("auto", "cpu", "cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))):
        raise BadInput("--device", device, "must be auto, cpu, cuda, or one of this machine's cuda:0, cuda:1, ..")
    if dtype not in ("auto", "float32", "bfloat16", "float16", "int8"):
        raise BadInput("--dtype", dtype, "must be auto, float32, bfloat16, float16 or int8")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput("--device", device, "this machine has no CUDA device; use cpu")
    if device == "cuda":
        device = f"cuda:{local_rank()}"
        if local_rank() >= torch.cuda.device_count():
            what = f"process {local_rank()} of this machine has no GPU; start at most {torch.cuda.device_count()}"
            raise BadInput("--device", "cuda", f"{what}, or use --device cpu")
    chosen = torch.device(device)
    if dtype == "auto":
        dtype = best_dtype(chosen)
    if dtype == "int8" and chosen.type != "cpu":
        raise BadInput("--dtype", dtype, "is for answering on a CPU; add --device cpu, or use bfloat16 or float16")
    if dtype == "float16" and chosen.type == "cpu":
        raise BadInput("--dtype", dtype, "is very slow on a CPU; use bfloat16 or float32")
    return Machine(chosen, getattr(torch, dtype))


def best_dtype(device: torch.device) -> str:
    """bfloat16 if the hardware multiplies it natively, float16 (with a scaled loss) on older GPUs, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if has_fast_bfloat16() else "float32"


def has_fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products, and torch's CPU kernels may use them.

    Without such instructions oneDNN emulates them, slower than float32. With them, the variables ATEN_CPU_CAPABILITY
    and ONEDNN_MAX_CPU_ISA can still keep torch and oneDNN from using them.
    """
    features = processor_flags()
    is_arm = "bf16" in features
    is_x86 = bool(features & {"avx512_bf16", "amx_bf16"})
    is_x86 |= getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()  # for systems that list no features
    if is_x86 and torch.backends.cpu.get_cpu_capability() in ("NO AVX", "DEFAULT", "AVX2"):
        return False
    ask_onednn = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", torch.backends.mkldnn.is_available)
    return (is_arm or is_x86) and bool(ask_onednn())


def processor_flags() -> set[str]:
    """The features that Linux lists for this CPU; an empty set on other systems."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}


def try_compiler(device: torch.device) -> None:
    """BadInput if torch cannot compile for this device: on a CPU it needs a C++ compiler, for CUDA Triton."""
    try:
        torch.compile(torch.sin)(torch.ones(1, device=device))
    except Exception as error:  # what torch's compiler raises has no public class
        raise BadInput("--compile", "", f"torch cannot compile here ({first_line(error)}); leave it out") from error


def keep_memory() -> None:
    """Have malloc keep freed memory for the next tensors; a command calls this once. Only glibc has these settings.

    By default glibc returns large blocks to the system and requests them again at every step. The system clears each
    page of a new block: a tenth of the time of training on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has no such function
        libc.mallopt(M_MMAP_MAX, 0)  # no separate mapping for any tensor
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # return nothing to the system
