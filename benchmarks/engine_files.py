"""A model folder -> the files that other engines read: ONNX graphs, plain, fused and int8, and OpenVINO's int8 model.

ONNX Runtime reads the graph of `transformers`' model as it was exported, or the same after its own optimizer, which
fuses embeddings, attention, residual sums with LayerNorm, and bias with GELU. Its int8 quantizes the activations while
it computes. OpenVINO's int8 has fixed ranges of the activations, which `nncf` measures on windows of the data itself;
that favours it. OpenVINO also reads ONNX Runtime's int8 graph, but computes it slower than float32.
"""

import inspect
import logging
import os

import numpy as np
import torch

from benchmarks.ours import load_windows
from minibert.model.config import load_config
from minibert.support.machine import processor_flags
from minibert.text.batches import collate

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
CALIBRATION_WINDOWS = 300  # nncf's own default
OPSET = 17  # the lowest that has LayerNormalization; ONNX Runtime's optimizer knows its graphs


def write_plain(model: str, target: str) -> None:
    """Export `transformers`' model of the folder. Eager attention: the optimizer finds no other kind in a graph."""
    from benchmarks import peers

    bert = peers.load_model(model, "eager").eval()
    names = [name for name in INPUTS if name in inspect.signature(bert.forward).parameters]  # DistilBERT has two

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.bert(**dict(zip(names, tensors)))
            return output.start_logits, output.end_logits

    mask = (torch.arange(16) < torch.tensor([[16], [10]])).long()  # (2, 16): padding, or the mask would be left out
    tensors = {"input_ids": mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    axes = {name: {0: "batch", 1: "tokens"} for name in (*names, *OUTPUTS)}
    with torch.inference_mode():
        torch.onnx.export(
            Logits(),
            tuple(tensors[name] for name in names),
            target,
            dynamo=False,  # the optimizer's patterns are those of this exporter
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
        )


def write_fused(source: str, model: str, target: str) -> None:
    """Let ONNX Runtime's optimizer replace parts of the graph by its kernels for BERT."""
    from onnxruntime.transformers.optimizer import optimize_model

    config = load_config(model)
    sizes = {"num_heads": config.num_attention_heads, "hidden_size": config.hidden_size}
    optimize_model(source, model_type="bert", opt_level=0, **sizes).save_model_to_file(target)


def write_int8(source: str, target: str) -> None:
    """Quantize the weights of ONNX Runtime's graph, one range for each column; activations while it computes."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    flags = processor_flags()
    quantize_dynamic(
        source,
        target,
        per_channel=True,
        reduce_range="avx2" in flags and not flags & {"avx512_vnni", "avx_vnni"},  # where sums of two products saturate
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # of the results of fused operations
    )


def write_openvino_int8(source: str, data: str, model: str, target: str) -> None:
    """Quantize weights and activations for OpenVINO by nncf, which measures the ranges on windows of the data."""
    os.environ["NNCF_CI"] = "1"  # or it reports its use to its makers
    import nncf
    import openvino

    windows = load_windows(data, model)
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), CALIBRATION_WINDOWS)).astype(int)
    graph = openvino.Core().read_model(source)
    names = [node.any_name for node in graph.inputs]

    def arrays(i: int) -> dict[str, np.ndarray]:
        batch = collate(windows, np.array([i]))
        ids = batch["input_ids"]
        batch |= {"attention_mask": torch.ones_like(ids)} if batch["attention_mask"] is None else {}
        return {name: batch[name].numpy() for name in names}

    nncf.set_log_level(logging.ERROR)
    dataset = nncf.Dataset(chosen.tolist(), arrays)
    quantized = nncf.quantize(graph, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(chosen))
    openvino.save_model(quantized, target, compress_to_fp16=False)
