"""The peers' side of each comparison, as `ours.py` is minibert's. `peer` is "D" or "T"; see `peers.py`.

python -m benchmarks.theirs WORK JSON
"""

import os

import numpy as np
import torch
import transformers

from benchmarks import peers
from benchmarks.measure import Work, fastest, serve
from benchmarks.ours import DROPOUT, load_windows, measure_growth, repeat, sample_batches, short_example
from minibert.evaluation.scorer import score
from minibert.support.machine import choose_machine
from minibert.text.squad import read_squad
from minibert.text.windows import Windows

DTYPE = choose_machine("cpu", "auto").dtype  # minibert's, which T uses too


def load_tokenizer(model: str):
    return transformers.AutoTokenizer.from_pretrained(model)


def attentions(peer: str) -> tuple[str, ...]:
    """The attention implementations that a peer tries, the default one first."""
    return ("sdpa", "eager") if peer == "T" else ("sdpa",)


def trainer(peer: str, model: str, attention: str, windows: Windows, changes: dict, device: str = "cpu"):
    """A function that takes one step on a batch, given as indices of windows. On CUDA, T compiles its model."""
    bert = peers.load_model(model, attention, **DROPOUT | changes)
    if peer == "T" and device != "cpu":
        bert = torch.compile(bert, dynamic=True)
    on_cpu = torch.float32 if peer == "D" else DTYPE
    step = peers.trainer(bert, device, on_cpu if device == "cpu" else torch.bfloat16)
    return lambda batch: step(peers.padded(windows, batch, peers.MAX_LENGTH if peer == "D" else None))


def training(peer: str, data: str, model: str, count: int, changes: dict) -> Work:
    """Steps on `count` batches of 16 windows; D takes a third of their windows, mixed, in batches of 8."""
    windows = load_windows(data, model)
    batches = sample_batches(windows, count)
    if peer == "D":
        mixed = np.random.default_rng(0).permutation(np.concatenate(batches))
        batches = [mixed[first : first + 8] for first in range(0, len(mixed) // 3, 8)]
    steps = (trainer(peer, model, attention, windows, changes) for attention in attentions(peer))
    return fastest([repeat(step, batches) for step in steps])


def memory(peer: str, data: str, model: str, size: int) -> Work:
    """MiB of training in batches of `size`."""
    windows = load_windows(data, model)
    return measure_growth(windows, size, lambda: trainer(peer, model, "sdpa", windows, {}))


def preprocessing(peer: str, data: str, model: str) -> Work:
    """Examples -> labelled windows."""
    examples, tokenizer = read_squad(data), load_tokenizer(model)
    if peer == "D":
        return lambda: {"amount": len(peers.with_datasets(tokenizer, examples, True)[1])}
    return lambda: {"amount": len(peers.with_lists(tokenizer, examples, True)["input_ids"])}


def postprocessing(peer: str, data: str, model: str, file: str) -> Work:
    """minibert's logits of all windows -> the best answer's text to every question, out of the 20 best."""
    examples, windows = read_squad(data), load_windows(data, model)
    grid = np.full((2, len(windows), peers.MAX_LENGTH), -10_000.0, np.float32)
    grid[:, np.arange(peers.MAX_LENGTH) < windows.lengths[:, None]] = np.load(file)
    rows = peers.as_rows(peers.columns(examples))
    features = peers.as_rows(peers.with_lists(load_tokenizer(model), examples, False))
    if peer == "D":
        from datasets import Dataset

        rows, features = Dataset.from_list(rows), Dataset.from_list(features)
    return lambda: {"amount": len(windows), "texts": list(peers.n_best_answers(rows, features, grid).values())}


def evaluation(peer: str, data: str, model: str) -> Work:
    """A file in, EM and F1 out; the model is loaded before."""
    tokenizer = load_tokenizer(model)
    batch_size, dtype = (8, torch.float32) if peer == "D" else (64, DTYPE)

    def make(attention: str) -> Work:
        bert = peers.load_model(model, attention)

        def work() -> dict:
            examples = read_squad(data)
            if peer == "D":
                rows, features = peers.with_datasets(tokenizer, examples, False)
            else:
                rows, features = peers.as_rows(peers.columns(examples)), peers.with_lists(tokenizer, examples, False)
            logits = peers.predict(bert, tokenizer, features, batch_size, dtype, is_sorted=peer == "T")
            features = features if peer == "D" else peers.as_rows(features)
            return {"amount": len(examples), "f1": score(examples, peers.n_best_answers(rows, features, logits))["f1"]}

        return work

    return fastest([make(attention) for attention in attentions(peer)])


def latency(peer: str, data: str, model: str) -> Work:
    """Ten answers to one question, one after the other: text in, answer out."""
    columns, tokenizer = peers.columns([short_example(data, model)]), load_tokenizer(model)
    features = peers.featurizer(tokenizer, False, False)

    def make(bert: torch.nn.Module, autocast: torch.dtype = torch.float32) -> Work:
        def work() -> dict:
            for _ in range(10):
                found = features(columns)
                logits = peers.predict(bert, tokenizer, found, 1, autocast, is_sorted=False)
                peers.n_best_answers(peers.as_rows(columns), peers.as_rows(found), logits)
            return {"amount": 10}

        return work

    if peer == "D":
        return make(peers.load_model(model))
    cast = [make(peers.load_model(model, attention).to(DTYPE)) for attention in attentions(peer)]
    return fastest([*cast, make(peers.load_model(model), DTYPE)])


WORKS = (training, memory, preprocessing, postprocessing, evaluation, latency)

if __name__ == "__main__":
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    transformers.logging.set_verbosity_error()
    serve(WORKS)
