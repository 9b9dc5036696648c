"""minibert's side of each comparison: a function prepares a work and returns it. `python -m benchmarks.ours WORK JSON`.

In every work `data` is a SQuAD file with answers and `model` a model folder.
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.measure import Work, peak_memory, serve, training_flops
from minibert.answers.pipeline import pipeline
from minibert.answers.predict import predict_logits
from minibert.answers.spans import search
from minibert.evaluation.evaluate import evaluate_windows
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.config import load_config
from minibert.model.prepare import prepare, prepare_to_answer
from minibert.model.weights import load_model
from minibert.support.machine import Machine, choose_machine, keep_memory
from minibert.text.batches import collate, split, training_batches
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import Windows, make_windows
from minibert.training.step import learning_rate_at, make_optimizer, update

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}  # whatever the model was trained with
NO_DROPOUT = dict.fromkeys(DROPOUT, 0.0)
SETTINGS = {"n_best_size": 20, "max_answer_length": 30, "eval_batch_size": 64}
SETTINGS |= {"version_2_with_negative": False, "null_score_diff_threshold": 0.0}

# --- what the works share ---------------------------------------------------------------------------------------------


def load_windows(data: str, model: str) -> Windows:
    return make_windows(read_squad(data), load_tokenizer(model))


def sample_batches(windows: Windows, count: int, size: int = 16) -> list[np.ndarray]:
    """`count` of an epoch's batches, the shortest and the longest among them, evenly spread between."""
    batches = training_batches(windows.lengths, size, seed=0, epoch=0)
    batches.sort(key=lambda batch: windows.lengths[batch].max())
    return [batches[i] for i in np.linspace(0, len(batches) - 1, count).round().astype(int)]


def short_example(data: str, model: str) -> Example:
    """A question that makes one window of 150 tokens with its context, or the one that comes closest."""
    examples = read_squad(data)
    windows = make_windows(examples, load_tokenizer(model))
    return examples[windows.example[np.abs(windows.lengths - 150).argmin()]]


def changed_model(model: str, changes: dict) -> BertForQuestionAnswering:
    """The folder's model with BERT's dropout or another, or one of other sizes with random weights."""
    changed = BertForQuestionAnswering(replace(load_config(model), **DROPOUT | changes))
    if "hidden_size" not in changes:
        changed.load_state_dict(load_model(model).state_dict())
    return changed


def trainer(model: BertForQuestionAnswering, windows: Windows, machine: Machine, is_compiled: bool = False):
    """A function that takes one step on a batch, given as indices of windows, and returns its loss."""
    model = prepare(model.train(), machine)
    replica = torch.compile(model, dynamic=True) if is_compiled else model
    optimizer = make_optimizer(model, 1e-4, 0.01)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype is torch.float16)

    def step(batch: np.ndarray, learning_rate: float = 1e-4) -> torch.Tensor:
        parts = split(batch, windows.lengths, machine.most_positions)
        weighted = [(collate(windows, part), len(part) / len(batch)) for part in parts]
        loss, _ = update(replica, optimizer, scaler, weighted, learning_rate, 1.0, machine)
        return loss

    return step


def repeat(step: Callable, batches: list[np.ndarray], **sizes) -> Work:
    """The work of taking a step on each batch."""

    def work() -> dict:
        for batch in batches:
            step(batch)
        return {"amount": sum(map(len, batches))} | sizes

    return work


def measure_growth(windows: Windows, size: int, make_step: Callable[[], Callable]) -> Work:
    """MiB by which a process grows with a model and its training on the longest batch and 23 others."""
    longest, *others = sample_batches(windows, 24, size)[::-1]

    def work() -> dict:
        before = peak_memory()
        repeat(make_step(), [longest, *others[::2], *others[1::2]])()
        return {"mib": peak_memory() - before}

    return work


# --- the works --------------------------------------------------------------------------------------------------------


def training(data: str, model: str, count: int, changes: dict) -> Work:
    """Steps on `count` batches of 16 windows."""
    windows, machine = load_windows(data, model), choose_machine("cpu", "auto")
    keep_memory()
    batches, changed = sample_batches(windows, count), changed_model(model, changes)
    lengths = windows.lengths[np.concatenate(batches)]
    flops = training_flops(changed.config, lengths)
    return repeat(trainer(changed, windows, machine), batches, tokens=int(lengths.sum()), flops=flops)


def memory(data: str, model: str, size: int) -> Work:
    """MiB of training in batches of `size`."""
    windows, machine = load_windows(data, model), choose_machine("cpu", "auto")
    keep_memory()
    return measure_growth(windows, size, lambda: trainer(changed_model(model, {}), windows, machine))


def preprocessing(data: str, model: str) -> Work:
    """Examples -> labelled windows."""
    examples, tokenizer = read_squad(data), load_tokenizer(model)
    return lambda: {"amount": len(make_windows(examples, tokenizer))}


def postprocessing(data: str, model: str, file: str) -> Work:
    """Logits of all windows -> the 20 best answers to every question, and the text of the best one.

    The logits are saved in `file` for the peer, and taken from there if another side has saved them.
    """
    examples, machine = read_squad(data), choose_machine("cpu", "auto")
    windows = make_windows(examples, load_tokenizer(model))
    if not os.path.exists(file):
        np.save(file, np.stack(predict_logits(prepare_to_answer(load_model(model), machine), windows, machine)))
    logits = np.load(file)

    def work() -> dict:
        predictions = search(windows, *logits, examples)
        return {"amount": len(windows), "texts": [prediction.best().text for prediction in predictions]}

    return work


def evaluation(data: str, model: str) -> Work:
    """A file in, EM and F1 out; the model is loaded before."""
    machine = choose_machine("cpu", "auto")
    keep_memory()
    bert, tokenizer = prepare_to_answer(load_model(model), machine), load_tokenizer(model)

    def work() -> dict:
        examples = read_squad(data)
        scores = evaluate_windows(bert, examples, make_windows(examples, tokenizer), machine, **SETTINGS).scores
        return {"amount": len(examples), "f1": scores["f1"]}

    return work


def latency(data: str, model: str) -> Work:
    """Ten answers to one question, one after the other: text in, answer out."""
    example = short_example(data, model)
    bert, tokenizer = load_model(model), load_tokenizer(model)
    bert.new_parameters = []  # an untrained head is as fast as a trained one
    reader = pipeline(model=bert, tokenizer=tokenizer, dtype="auto")

    def work() -> dict:
        for _ in range(10):
            reader(question=example.question, context=example.context)
        return {"amount": 10}

    return work


def growth(data: str, model: str, count: int) -> Work:
    """Windows per second before and after the model, and MiB, for `count` questions in random order."""
    examples, tokenizer = read_squad(data), load_tokenizer(model)
    contexts = list(dict.fromkeys(example.context for example in examples))
    place = dict(zip(contexts, np.random.default_rng(0).permutation(len(contexts))))
    examples.sort(key=lambda example: place[example.context])  # so that the first thousand are like all of them
    many: list[Example] = []
    while len(many) < count:  # contexts that differ, because a repeated context is tokenised once
        many += [replace(example, context=f"{example.context} {len(many)}") for example in examples]
    many = many[:count]
    keep_memory()
    before = peak_memory()

    def work() -> dict:
        began = time.perf_counter()
        windows = make_windows(many, tokenizer)
        pre = len(windows) / (time.perf_counter() - began)
        logits = np.random.default_rng(0).standard_normal((2, len(windows.ids)), np.float32) * 3
        began = time.perf_counter()
        search(windows, *logits, many)
        post = len(windows) / (time.perf_counter() - began)
        return {"pre": pre, "post": post, "mib": peak_memory() - before}

    return work


def results(data: str, model: str, questions: int, steps: int, file: str) -> Work:
    """Save what must be equal in two checkouts: windows, logits, predictions, losses and trained weights."""

    def work() -> dict:
        examples = read_squad(data)[:questions]
        windows = make_windows(examples, load_tokenizer(model))
        names = "ids offsets bounds example context_start start_positions end_positions".split()
        arrays = {f"windows: {name}": getattr(windows, name) for name in names}
        machines = choose_machine("cpu", "float32"), choose_machine("cpu", "auto")
        for dtype, machine in {str(machine.dtype).removeprefix("torch."): machine for machine in machines}.items():
            torch.manual_seed(0)  # draws a new span head
            bert = prepare_to_answer(load_model(model), machine)
            flat = predict_logits(bert, windows, machine)
            answers = [answer for prediction in search(windows, *flat, examples) for answer in prediction.answers]
            arrays[f"{dtype}: logits"] = np.stack(flat)
            arrays[f"{dtype}: answer texts"] = np.array([answer.text for answer in answers])
            arrays[f"{dtype}: answer places"] = np.array([(answer.start, answer.end) for answer in answers])
            arrays[f"{dtype}: answer scores"] = np.array([answer.score for answer in answers])
            losses, weights = train(model, windows, machine, steps)
            arrays[f"{dtype}: losses of {steps} training steps"] = np.array(losses)
            arrays[f"{dtype}: weights after them, sha256"] = np.array(weights)
        np.savez(file, **arrays)
        return {}

    return work


def train(model: str, windows: Windows, machine: Machine, steps: int) -> tuple[list[float], list[str]]:
    """The losses of some steps with dropout and schedule, and a hash of each parameter at the end."""
    torch.manual_seed(0)  # draws a new span head
    bert, losses = changed_model(model, {}), []
    step = trainer(bert, windows, machine)
    batches = training_batches(windows.lengths, 16, seed=0, epoch=0)
    for i in range(steps):
        torch.manual_seed(i)
        losses.append(float(step(batches[i % len(batches)], learning_rate_at(i, steps, 0.1, 1e-4))))
    weights = (parameter.detach().numpy().tobytes() for parameter in bert.parameters())
    return losses, sorted(hashlib.sha256(weight).hexdigest() for weight in weights)


WORKS = (training, memory, preprocessing, postprocessing, evaluation, latency, growth, results)

if __name__ == "__main__":
    serve(WORKS)
