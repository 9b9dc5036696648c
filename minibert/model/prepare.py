"""Put a finished model on a machine.

In: a model in float32 on the CPU, and a `Machine`. Out: the same model on its device, with the kernels that are fastest
there, ready for training (`prepare`) or for answering (`prepare_to_answer`).
"""

import dataclasses

import torch
from torch import Tensor, nn

from minibert.model.bert import BertForQuestionAnswering, attention_fused
from minibert.model.fast_cpu import layers_of, pack_weights, use_fast_kernels
from minibert.model.int8 import quantize
from minibert.support.machine import Machine


def prepare(model: BertForQuestionAnswering, machine: Machine) -> BertForQuestionAnswering:
    """Move a model to its device and choose its kernels. Its weights keep their dtype: training needs float32."""
    for layer in layers_of(model):
        layer.attention.attend = attention_fused
    if machine.device.type == "cpu":
        use_fast_kernels(model)  # optional: without this line everything works, but slower
    model.span_head = Float32Linear(model.span_head).train(model.training)
    return model.to(machine.device)


def prepare_to_answer(model: BertForQuestionAnswering, machine: Machine) -> BertForQuestionAnswering:
    """`prepare` for a model that will not be trained: all weights but the span head's are cast to the machine's dtype.

    This avoids a cast at every call, with similar rounding error. It is unsuitable for training, where updates smaller
    than the rounding would vanish. On a CPU the weights are also rearranged once, for faster products. For int8 only
    the products of the layers are in 8 bits.
    """
    is_int8 = machine.dtype is torch.int8
    dtype = torch.float32 if is_int8 else machine.dtype
    model.embeddings.to(dtype)
    model.encoder.to(dtype)
    prepare(model, machine)
    is_quantized = is_int8 and quantize(model)
    if machine.device.type == "cpu" and not is_quantized:
        pack_weights(model)  # optional, like `use_fast_kernels`
    return model


def set_dropout(model: BertForQuestionAnswering, rate: float) -> None:
    """Give all dropout layers one rate, before `prepare`. BERT has none before the span head, DistilBERT has."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
    model.dropout.p = rate if model.config.model_type == "distilbert" else 0.0
    model.config = dataclasses.replace(
        model.config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, qa_dropout=model.dropout.p
    )


class Float32Linear(nn.Linear):
    """A linear map that stays in float32 under autocast. It shares the parameters of the one it replaces.

    The span head needs it: bfloat16 has 8 significant bits, so logits near 6 would come in steps of 0.03, and many
    spans would tie.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return super().forward(hidden_states.float())
