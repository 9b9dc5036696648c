"""Optional: answer on a CPU with linear maps that multiply 8-bit integers, 1.7 to 2 times as fast as float32.

A CPU multiplies four times as many 8-bit integers at once as float32 numbers, and reads a quarter of the memory.
Each linear map of a layer becomes

    weight, once    row j is s[j] times integers from -127 to 127, with s[j] = max |row j| / 127
    input           at every call, an offset plus a step times integers from 0 to 255, between its least and its
                    largest value: "dynamic" quantisation (the scheme of Jacob et al., 2017, without their training)
    output          the integer products, summed exactly in 32 bits and multiplied by s[j] and the step: float32

All else (embeddings, attention, LayerNorm, GELU, span head) stays in float32.

Without AVX512-VNNI a CPU adds two products in 16 bits before it widens the sum, and 2 * 255 * 127 = 64,770 would
overflow silently. On such a CPU the largest integer is 63: 2 * 255 * 63 = 32,130 is below 2**15 = 32,768.

One token is quantised apart from the others: [CLS], in the feed-forward. There its values reach three to five times
those of any other token (measured on a trained MiniLM), so that a common range would leave the others a fraction of the
steps.

In: a model of `bert.py` in float32. Out: the same model with other maps in its layers; it cannot be trained.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.model.bert import BertForQuestionAnswering, FeedForward
from minibert.model.fast_cpu import layers_of, linear_maps
from minibert.support.machine import processor_flags
from minibert.support.streams import first_line, tell


def largest_integer() -> int:
    """The largest integer of a quantised weight, for which no sum overflows on this CPU.

    FBGEMM, which multiplies, uses the 32-bit sums of AVX512-VNNI, and not those of AVX-VNNI.
    """
    return 127 if "avx512_vnni" in processor_flags() else 63


class Int8Linear(nn.Linear):
    """A linear map with a second copy of its weight, in 8 bits. It has no gradient.

    Raises RuntimeError or AttributeError where torch has no such product.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        weight = linear.weight.detach()  # (out, in)
        least = torch.finfo(torch.float32).tiny  # a row may be all 0
        scales = (weight.abs().amax(dim=1) / largest_integer()).clamp(min=least)
        with warnings.catch_warnings():
            # torch has announced that tensors of quantised dtypes will go, and has no other product that is as fast.
            # Once they are gone, the AttributeError or RuntimeError here leads to float32 and a line that says so.
            warnings.simplefilter("ignore")
            quantized = torch.quantize_per_channel(weight, scales, torch.zeros(len(scales)).long(), 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(quantized, linear.bias.detach())

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(.., in) -> (.., out), float32. Raises FloatingPointError for values that are not finite."""
        try:
            return torch.ops.quantized.linear_dynamic(hidden_states, self.packed)
        except RuntimeError as error:
            if hidden_states.isfinite().all():
                raise
            what = "expected finite hidden states, found an overflow before an int8 product; use another model"
            raise FloatingPointError(what) from error


class ClsApart(FeedForward):
    """A feed-forward that computes the first token of each window apart, so that int8 inputs have two ranges."""

    def __init__(self, feed_forward: FeedForward):
        nn.Module.__init__(self)
        self.expand, self.contract = feed_forward.expand, feed_forward.contract
        self.gelu = nn.GELU()  # a packed model has it in its first map, which int8 replaces

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return torch.cat([super().forward(hidden_states[:, :1]), super().forward(hidden_states[:, 1:])], dim=1)


def quantize(model: BertForQuestionAnswering) -> bool:
    """Replace the linear maps of all layers by int8 ones, and return True.

    If torch has no int8 product for this CPU, or a probe gives another product, nothing is changed, a warning says why,
    and False is returned.
    """
    layers = layers_of(model)
    maps = [place for layer in layers for place in linear_maps(layer)]
    try:
        check_product(maps[0][2])
        replacements = [Int8Linear(linear) for _, _, linear in maps]
    except (RuntimeError, AttributeError) as error:
        tell(f"warning: answering in float32, not int8: {first_line(error)}")
        return False
    for (parent, name, _), replacement in zip(maps, replacements):
        setattr(parent, name, replacement)
    for layer in layers:
        layer.feed_forward = ClsApart(layer.feed_forward)
    return True


def check_product(linear: nn.Linear) -> None:
    """Compare an int8 product with the exact one; RuntimeError if they differ by more than rounding to 7 bits."""
    probe = torch.linspace(-1, 1, 2 * linear.in_features).view(2, -1)
    with torch.no_grad():
        exact = F.linear(probe, linear.weight)
        if not (Int8Linear(linear)(probe) - linear.bias - exact).norm() <= 0.05 * exact.norm():
            raise RuntimeError("the int8 product differs from the exact one")
