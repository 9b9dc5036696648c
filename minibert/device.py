"""What this machine does best: dtype, attention and dropout, set on a finished model from outside.

The choices follow from processor flags and the kind of device, never from timing, so that two runs on one machine are
the same run. `model.py` knows nothing of all this. Next: `spans.py`.
"""

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minibert.distributed import local_rank
from minibert.errors import BadInput
from minibert.model import BertForQuestionAnswering, Layer, SelfAttention, attention_by_hand, attention_fused

SCORES_BYTES = 8 * 2**20  # of attention scores that training on a CPU works on at once
PACKING = {"avx512_bf16", "amx_bf16"}  # the processors whose products of bfloat16 gain from packed weights
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


@dataclass(frozen=True)
class Machine:
    """The device to compute on, and the dtype of the matrix products there."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self, model: nn.Module):
        """A context in which matrix products run in `dtype`; the model's weights, loss and optimizer stay in float32.

        Nothing to do where they are of this dtype themselves.
        """
        if next(model.parameters()).dtype is self.dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def load(self, batch: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """The batch on the device. From pinned memory the copy runs beside the computation."""
        if self.device.type == "cpu":
            return batch
        return {
            name: None if tensor is None else tensor.pin_memory().to(self.device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def __str__(self) -> str:
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}"


def choose_machine(device: str = "auto", dtype: str = "auto", is_deterministic: bool = False) -> Machine:
    """Resolve the flags `--device`, `--dtype` and `--deterministic`; BadInput where the machine cannot do it.

    Deterministic kernels are slower, and give the same bits in every run on one machine. float32 means float32: TF32,
    which multiplies with 10 bits, stays off as torch has it; for less precision there is bfloat16, at twice its speed.
    """
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    if str(device) not in ("auto", "cpu", "cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))):
        raise BadInput("--device", str(device), "must be auto, cpu, cuda, or one of this machine's cuda:0, cuda:1, ..")
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise BadInput("--dtype", str(dtype), "must be auto, float32, bfloat16 or float16")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput("--device", device, "this machine has no CUDA device; use cpu")
    if device == "cuda":
        device = f"cuda:{local_rank()}"
    found = torch.device(device)
    if dtype == "auto":
        dtype = best_dtype(found)
    if dtype == "float16" and found.type == "cpu":
        raise BadInput("--dtype", dtype, "is very slow on a processor; use bfloat16 or float32")
    return Machine(found, getattr(torch, dtype))


def best_dtype(device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it, float16 (with a scaled loss) on older cards, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if processor_flags() & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def processor_flags() -> set[str]:
    """The features that Linux lists for this processor; none elsewhere. Emulated bfloat16 is slower than float32."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}


def keep_memory() -> None:
    """Have this process keep the memory that tensors free, for the tensors that follow; a command calls it, once.

    Left to itself, the C library of most Linux systems hands large blocks back, and gets them anew at every step, page
    by page, set to zero: a tenth of the time of training on a CPU. No effect elsewhere.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)  # no block of its own for any tensor
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # give nothing back


def prepare(model: BertForQuestionAnswering, machine: Machine) -> BertForQuestionAnswering:
    """Move a model to its device and give it the attention and the dropout that are fastest there."""
    on_cpu = machine.device.type == "cpu"
    for module in list(model.modules()):
        if isinstance(module, SelfAttention):
            module.attend = attention_on_cpu if on_cpu else attention_fused
        if isinstance(getattr(module, "dropout", None), nn.Dropout) and on_cpu:
            module.dropout = CheapDropout(module.dropout.p)
    model.span_head = Float32Linear(model.span_head)
    model.train(model.training)  # the new modules take the model's mode
    return model.to(machine.device)


def prepare_to_answer(model: BertForQuestionAnswering, machine: Machine) -> BertForQuestionAnswering:
    """`prepare` for a model that is not trained any more: all but its span head takes the machine's dtype for good.

    That spares every call the conversions of autocast, and rounds about as much. In training small updates would be
    lost. The span head stays float32, as in training. On a CPU the weights of the layers are packed as well.
    """
    model.embeddings.to(machine.dtype)
    model.encoder.to(machine.dtype)
    if machine.device.type == "cpu" and machine.dtype is torch.bfloat16 and processor_flags() & PACKING:
        for layer in model.encoder.layers:
            pack(layer)
    return prepare(model, machine)


def pack(layer: Layer) -> None:
    """Give a layer packed linear maps, the first of the feed-forward with its GELU."""
    for module in (layer.attention, layer.feed_forward):
        for name, linear in list(module.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(module, name, PackedLinear(linear, "gelu" if name == "expand" else "none"))
    layer.feed_forward.gelu = nn.Identity()


def attention_on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout) -> Tensor:
    """By hand in training, fused otherwise.

    The fused kernel has no dropout on a CPU (it falls back to a slow path), and its bfloat16 backward pass is slower
    than plain matrix products. By hand there are several passes over the scores, (B, H, T, T): a few windows at a time
    those take less memory, and find more of it in the processor's cache.
    """
    if not dropout.training:
        return attention_fused(query, key, value, mask, dropout)
    B, H, T, _ = query.shape
    few = max(1, SCORES_BYTES // (H * T * T * query.element_size()))  # windows
    masks = [None] * B if mask is None else mask.split(few)
    parts = zip(query.split(few), key.split(few), value.split(few), masks)
    return torch.cat([attention_by_hand(*part, dropout) for part in parts])


class CheapDropout(nn.Dropout):
    """Dropout from 16 random bits an element, several times cheaper on a CPU than torch's one draw for each.

    The keep rate is rounded to a multiple of 2**-16 and the scale is its inverse, so the mean is kept but for the
    rounding of the dtype. The bits come from numpy's SFC64, at twice the speed of torch's generator, which seeds it.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        kept = round((1 - self.p) * 2**16)
        if not self.training or kept == 2**16:
            return hidden_states
        generator = np.random.SFC64(int(torch.randint(2**62, ())))
        words = generator.random_raw(-(-hidden_states.numel() // 4)).view(np.int16)
        bits = torch.from_numpy(words)[: hidden_states.numel()].view(hidden_states.shape)
        # 1 or 0 in place of the bits: as int16 they turn into floating point several times faster than as bool.
        mask = bits.lt_(kept - 2**15) * hidden_states.new_tensor(2**16 / kept)
        return hidden_states * mask


class SameLinear(nn.Linear):
    """A linear map on another one's parameters."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias


class Float32Linear(SameLinear):
    """One that autocast leaves in float32.

    bfloat16 has 8 bits: logits of 6.2 would come in steps of 0.03, and many spans would tie.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return super().forward(hidden_states.float())


class PackedLinear(SameLinear):
    """One that keeps a copy of its weight in the order in which the processor's matrix unit reads it.

    `nn.Linear` would put the weight in that order at every call: for one short window as much work as the product.
    The product goes through `activation`, "none" or "gelu", before it is rounded and written. It has no gradient.
    """

    def __init__(self, linear: nn.Linear, activation: str):
        super().__init__(linear)
        self.activation = activation
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, hidden_states: Tensor) -> Tensor:
        # What torch's own compiler calls; there is no public name for it.
        return torch.ops.mkldnn._linear_pointwise(hidden_states, self.packed, self.bias, self.activation, [], "none")
