"""Other engines that answer on a CPU, beside minibert: ONNX Runtime and OpenVINO, each with the same model folder.

`export` writes the files that the engines read, `load_run` makes one of them a function: the arrays of a batch ->
start and end logits. Only the forward pass differs. Tokenizer, windows, batches and span search are minibert's for
every engine, which favours the engines: their users write that part themselves, or take a slower one.

ONNX Runtime reads the graph of `transformers`' model as it was exported, and the same after its own optimizer, which
fuses embeddings, attention, residual sums with LayerNorm, and bias with GELU; the faster of the two counts. Its int8
quantizes the activations while it computes. OpenVINO fuses by itself. Its int8 has fixed ranges of the activations,
which `nncf` measures on windows of the data itself; that favours it too. OpenVINO also reads ONNX Runtime's int8 graph,
but computes it slower than float32.

python -m benchmarks.engines WORK JSON
"""

import inspect
import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.measure import Work, fastest, serve
from benchmarks.ours import SETTINGS, load_windows, sample_batches, short_example
from minibert.answers.pipeline import QuestionAnswering, pipeline
from minibert.evaluation.evaluate import evaluate_windows
from minibert.model.bert import BertConfig
from minibert.model.config import load_config
from minibert.support.machine import keep_memory, processor_flags
from minibert.text.batches import collate
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import Windows, make_windows

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
CALIBRATION_WINDOWS = 300  # nncf's own default
OPSET = 17  # the lowest that has LayerNormalization; ONNX Runtime's optimizer knows its graphs

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]  # int64 (B, T) by name -> float32 start and end logits (B, T)

# --- a file -> a function ---------------------------------------------------------------------------------------------


def onnxruntime_run(file: str) -> Run:
    """The function of an .onnx file, by ONNX Runtime with torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda arrays: session.run(list(OUTPUTS), {name: arrays[name] for name in names})


def openvino_run(file: str, precision: str | None = None) -> Run:
    """The function of an .onnx or .xml file, by OpenVINO with torch's number of threads; None: its own precision."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    settings |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    names = [node.any_name for node in compiled.inputs]
    request = compiled.create_infer_request()

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        results = request.infer({name: arrays[name] for name in names}, share_inputs=True)
        return [results[name] for name in OUTPUTS]

    return run


class Engine(NamedTuple):
    """An engine at one precision: the packages it needs, minibert's dtype to compare with, the files it can run."""

    packages: tuple[str, ...]
    dtype: str
    files: tuple[str, ...]  # the fastest counts
    load_run: Callable[[str], Run]


ONNX, OPENVINO = ("onnx", "onnxruntime"), ("onnx", "openvino")  # `onnx` writes the files
ENGINES = {
    "ONNX Runtime float32": Engine(ONNX, "float32", ("plain.onnx", "fused.onnx"), onnxruntime_run),
    "ONNX Runtime int8": Engine(ONNX, "int8", ("plain-int8.onnx", "fused-int8.onnx"), onnxruntime_run),
    "OpenVINO float32": Engine(OPENVINO, "float32", ("plain.onnx",), partial(openvino_run, precision="f32")),
    "OpenVINO default": Engine(OPENVINO, "auto", ("plain.onnx",), openvino_run),
    "OpenVINO int8": Engine((*OPENVINO, "nncf"), "int8", ("openvino-int8.xml",), openvino_run),
}


class OtherModel(torch.nn.Module):
    """An engine in the place of minibert's model: (B, T) int64 tensors in, start and end logits (B, T) float32 out."""

    def __init__(self, config: BertConfig, run: Run):
        super().__init__()
        self.config, self.run = config, run
        self.none = torch.nn.Parameter(torch.zeros(0))  # float32: `Machine.autocast` asks for a model's dtype

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        arrays = {name: tensor.numpy() for name, tensor in zip(INPUTS, (input_ids, mask, token_type_ids))}
        return tuple(map(torch.from_numpy, self.run(arrays)))


def load_readers(engine: str, model: str, folder: str) -> list[QuestionAnswering]:
    """minibert's reader, or for another engine one reader for each of its files in `folder`, with that as its model."""
    if engine.startswith("minibert "):
        return [pipeline(model=model, dtype=engine.removeprefix("minibert "))]
    readers = []
    for file in ENGINES[engine].files:
        reader = pipeline(model=model, dtype="float32")
        reader.model = OtherModel(load_config(model), ENGINES[engine].load_run(f"{folder}/{file}")).eval()
        readers.append(reader)
    return readers


# --- a model folder -> the files --------------------------------------------------------------------------------------


def missing(engine: str) -> list[str]:
    """The packages that an engine needs and that are not installed."""
    return [package for package in ENGINES[engine].packages if not find_spec(package)]


def export(data: str, model: str, folder: str, engines: list[str]) -> Work:
    """Write the files of some engines into `folder`, and minibert's tokenizer as tokenizer.json."""

    def work() -> dict:
        warnings.simplefilter("ignore")  # the tracer's, about Python values that do not change here
        logging.disable(logging.WARNING)
        load_tokenizer(model).backend.save(f"{folder}/tokenizer.json")
        files = {file for engine in engines for file in ENGINES[engine].files}
        write_plain(model, f"{folder}/plain.onnx")
        if files & {"fused.onnx", "fused-int8.onnx"}:
            write_fused(f"{folder}/plain.onnx", model, f"{folder}/fused.onnx")
        for file in sorted(files & {"plain-int8.onnx", "fused-int8.onnx"}):
            write_int8(f"{folder}/{file.replace('-int8', '')}", f"{folder}/{file}")
        if "openvino-int8.xml" in files:
            write_openvino_int8(f"{folder}/plain.onnx", data, model, f"{folder}/openvino-int8.xml")
        return {}

    return work


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


# --- the works --------------------------------------------------------------------------------------------------------


def latency(data: str, model: str, engine: str, folder: str) -> Work:
    """Ten answers to one question, one after the other: text in, answer out."""
    example = short_example(data, model)

    def make(reader: QuestionAnswering) -> Work:
        def work() -> dict:
            for _ in range(10):
                reader(question=example.question, context=example.context)
            return {"amount": 10}

        return work

    return fastest([make(reader) for reader in load_readers(engine, model, folder)])


def batch(data: str, model: str, engine: str, folder: str) -> Work:
    """Five times the logits of one batch of 16 windows of similar length, neither the shortest nor the longest."""
    keep_memory()
    windows = load_windows(data, model)
    _, chosen, _ = sample_batches(windows, 3)

    def make(reader: QuestionAnswering) -> Work:
        def work() -> dict:
            for _ in range(5):
                logits(reader, windows, chosen)
            return {"amount": 5 * len(chosen)}

        return work

    return fastest([make(reader) for reader in load_readers(engine, model, folder)])


def logits(reader: QuestionAnswering, windows: Windows, indices: np.ndarray) -> torch.Tensor:
    """(2, B, T) start and end logits of one batch."""
    tensors = collate(windows, indices)
    with torch.inference_mode(), reader.machine.autocast(reader.model):
        return torch.stack(reader.model(**{name: tensors[name] for name in INPUTS}))


def evaluation(data: str, model: str, engine: str, folder: str) -> Work:
    """A file in, EM and F1 out; the model is loaded before."""
    keep_memory()

    def make(reader: QuestionAnswering) -> Work:
        def work() -> dict:
            examples = read_squad(data)
            windows = make_windows(examples, reader.tokenizer)
            scores = evaluate_windows(reader.model, examples, windows, reader.machine, **SETTINGS).scores
            return {"amount": len(examples), "exact_match": scores["exact_match"], "f1": scores["f1"]}

        return work

    return fastest([make(reader) for reader in load_readers(engine, model, folder)])


def difference(data: str, model: str, engine: str, folder: str) -> Work:
    """The largest difference from minibert's float32 logits, in a batch with padding, by all files of an engine."""
    windows = load_windows(data, model)
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), 16)).astype(int)  # of any lengths
    is_token = torch.from_numpy(np.arange(windows.lengths[chosen].max()) < windows.lengths[chosen][:, None])

    def all_logits(name: str) -> list[torch.Tensor]:
        every = (logits(reader, windows, chosen) for reader in load_readers(name, model, folder))
        return [values[:, :, : is_token.size(1)][:, is_token] for values in every]

    def work() -> dict:
        (expected,) = all_logits("minibert float32")
        largest = max(float((values - expected).abs().max()) for values in all_logits(engine))
        return {"difference": largest, "largest": float(expected.abs().max())}

    return work


WORKS = (export, latency, batch, evaluation, difference)

if __name__ == "__main__":
    serve(WORKS)
