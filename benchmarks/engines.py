"""Other engines that answer on a CPU, beside minibert: ONNX Runtime and OpenVINO, each with the same model folder.

`export` writes the files that the engines read (see `engine_files.py`), `load_run` makes one of them a function: the
arrays of a batch -> start and end logits. Only the forward pass differs. Tokenizer, windows, batches, their parts and
the span search are minibert's for every engine.

python -m benchmarks.engines WORK JSON
"""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.engine_files import INPUTS, OUTPUTS, write_fused, write_int8, write_openvino_int8, write_plain
from benchmarks.measure import Work, fastest, serve
from benchmarks.ours import SETTINGS, load_windows, sample_batches, short_example
from minibert.answers.pipeline import QuestionAnswering, pipeline
from minibert.evaluation.evaluate import evaluate_windows
from minibert.model.bert import BertConfig
from minibert.model.config import load_config
from minibert.support.machine import keep_memory
from minibert.text.batches import collate
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import Windows, make_windows

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


def missing(engine: str) -> list[str]:
    """The packages that an engine needs and that are not installed."""
    return [package for package in ENGINES[engine].packages if not find_spec(package)]


# --- the works --------------------------------------------------------------------------------------------------------


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
