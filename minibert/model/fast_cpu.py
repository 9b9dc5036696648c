"""Optional kernels for the CPU: the results of `bert.py`, up to rounding and the random stream of dropout, but faster.

In: a model of `bert.py` on a CPU. Out: the same model with some functions and modules replaced. `prepare.py` calls
`use_fast_kernels`, and for answering `pack_weights`; without these lines everything works, but slower. What each buys:

    attention_on_cpu  Training, and answering in bfloat16: avoids a fused kernel where it is slower than plain products.
    CheapDropout      Training with dropout: spends 16 random bits on an element instead of a whole draw of torch's
                      generator. What these two gain: `python -m benchmarks --data FILE`, rows `training` and
                      `training_no_dropout`.
    PackedLinear      Answering: for one short window, rearranging the weights takes as long as the product. What it
                      gains: row `latency`.
"""

import itertools
import platform

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.model.bert import BertForQuestionAnswering, Layer, attention_by_hand, attention_fused
from minibert.support.machine import has_fast_bfloat16, processor_flags
from minibert.support.streams import first_line, tell

SCORES_BYTES = 8 * 2**20  # of attention scores that are worked on at once
# Whether torch's fused attention in bfloat16 is slower than plain products. Measured with AVX512-BF16 alone; with AMX,
# and on other CPUs, the fused one is kept.
IS_FUSED_SLOW = "avx512_bf16" in processor_flags() and "amx_bf16" not in processor_flags()


def use_fast_kernels(model: BertForQuestionAnswering) -> None:
    """Replace attention and dropout."""
    for layer in layers_of(model):
        layer.attention.attend = attention_on_cpu
    for module in list(model.modules()):
        dropout = getattr(module, "dropout", None)
        if isinstance(dropout, nn.Dropout):
            module.dropout = CheapDropout(dropout.p)
    model.train(model.training)  # gives the new modules the model's mode


def layers_of(model: BertForQuestionAnswering) -> list[Layer]:
    return [module for module in model.modules() if isinstance(module, Layer)]


def attention_on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: nn.Dropout) -> Tensor:
    """Attention by hand, a few windows at a time, in training, and on some CPUs in bfloat16; fused otherwise.

    On a CPU the fused kernel has no dropout, and its backward pass in bfloat16 is slower than plain matrix products; on
    some, its forward pass is, too (IS_FUSED_SLOW). By hand, several operations pass over the scores (B, H, T, T). The
    scores of a few windows stay in the cache between these passes, and take less memory.
    """
    if not dropout.training and not (IS_FUSED_SLOW and query.dtype is torch.bfloat16):
        return attention_fused(query, key, value, mask, dropout)
    B, H, T, _ = query.shape
    windows = max(1, SCORES_BYTES // (H * T * T * query.element_size()))  # in each chunk
    masks = [None] * B if mask is None else mask.split(windows)
    chunks = zip(query.split(windows), key.split(windows), value.split(windows), masks)
    return torch.cat([attention_by_hand(*chunk, dropout) for chunk in chunks])


class CheapDropout(nn.Dropout):
    """Dropout that spends 16 random bits on each element.

    The keep rate is rounded to a multiple of 2**-16, and kept elements are divided by the rounded rate, which preserves
    the mean. numpy's SFC64 makes the bits at twice the speed of torch's generator. torch's generator gives the seed, so
    that `torch.manual_seed` decides the mask.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        keep = round((1 - self.p) * 2**16)  # of the 2**16 values that 16 bits can have
        if not self.training or keep == 2**16:
            return hidden_states
        generator = np.random.SFC64(int(torch.randint(2**62, ())))
        words = generator.random_raw(-(-hidden_states.numel() // 4)).view(np.int16)  # 4 in each 64-bit word
        bits = torch.from_numpy(words)[: hidden_states.numel()].view(hidden_states.shape)
        # `lt_` leaves 1 or 0 in the same int16: several times faster to convert to floating point than a bool.
        mask = bits.lt_(keep - 2**15) * hidden_states.new_tensor(2**16 / keep)
        return hidden_states * mask


class PackedLinear(nn.Linear):
    """A linear map with a second copy of its weight, in the order in which the CPU's matrix unit reads it.

    `nn.Linear` rearranges the weight at every call. `activation`, "none" or "gelu", is applied to the product before it
    is rounded and written to memory. Has no gradient. Raises RuntimeError or AttributeError if this torch or this CPU
    has no such kernel.
    """

    def __init__(self, linear: nn.Linear, activation: str):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.activation = activation
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, hidden_states: Tensor) -> Tensor:
        # The operator that torch's own compiler calls; it has no public name.
        return torch.ops.mkldnn._linear_pointwise(hidden_states, self.packed, self.bias, self.activation, [], "none")


def pack_weights(model: BertForQuestionAnswering) -> None:
    """Replace the linear maps of all layers by packed ones, the feed-forward's first one together with its GELU.

    Does nothing on a CPU other than x86 (nobody has measured whether packing gains anything on arm), or without fast
    products of the weights' dtype. If packing or the probe fails, warns and changes nothing.
    """
    layers = layers_of(model)
    is_slow = layers[0].feed_forward.expand.weight.dtype is torch.bfloat16 and not has_fast_bfloat16()
    if is_slow or platform.machine().lower() not in ("x86_64", "amd64"):
        return
    try:
        replacements = [packed_modules(layer) for layer in layers]
        for _, _, module in replacements[0]:
            if isinstance(module, PackedLinear):
                check_product(module)
    except (RuntimeError, AttributeError) as error:  # AttributeError: torch has no operator of this name
        tell(f"warning: weights stay unpacked, so that answering is slower: {first_line(error)}")
        return
    for parent, name, module in itertools.chain(*replacements):
        setattr(parent, name, module)


def packed_modules(layer: Layer) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, replacement) of what packing changes in a layer."""
    replacements: list[tuple[nn.Module, str, nn.Module]] = [(layer.feed_forward, "gelu", nn.Identity())]
    for parent, name, linear in linear_maps(layer):
        replacements.append((parent, name, PackedLinear(linear, "gelu" if name == "expand" else "none")))
    return replacements


def linear_maps(layer: Layer) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, map) of the linear maps of a layer, which faster ones can replace."""
    parents = (layer.attention, layer.feed_forward)
    children = [(parent, name, child) for parent in parents for name, child in parent.named_children()]
    return [(parent, name, child) for parent, name, child in children if isinstance(child, nn.Linear)]


def check_product(linear: PackedLinear) -> None:
    """Compare a packed product with the plain one; RuntimeError if they differ by more than their dtype's rounding."""
    tolerance = 0.02 if linear.weight.dtype is torch.bfloat16 else 1e-4
    probe = torch.linspace(-1, 1, 2 * linear.in_features, dtype=linear.weight.dtype).view(2, -1)
    with torch.no_grad():
        plain = F.linear(probe, linear.weight, linear.bias)
        plain = F.gelu(plain) if linear.activation == "gelu" else plain
        if not torch.allclose(linear(probe), plain, rtol=tolerance, atol=tolerance):
            raise RuntimeError("the packed product differs from the plain one")
