"""Rows from text to scores: preprocessing, post-processing, the whole evaluation, one answer. Next: `training.py`."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.timing import Child, Work, compare, faster
from minibert.answering import evaluate, pipeline, predict_logits
from minibert.device import choose_machine, keep_memory, prepare, prepare_to_answer
from minibert.metrics import score
from minibert.spans import search
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.weights import load_model
from minibert.windows import make_windows

EVALUATION = SimpleNamespace(eval_batch_size=64, n_best_size=20, max_answer_length=30, null_score_diff_threshold=0.0)


def preprocessing(bench: Bench) -> list[list[str]]:
    """Examples -> labelled windows."""
    tokenizer = load_tokenizer(bench.folder)
    windows = bench.windows
    theirs = peers.with_lists(bench.tokenizer, bench.examples[:2000], True)
    count = len(theirs["start_positions"])
    assert np.array_equal(windows.start_positions[:count], theirs["start_positions"])
    assert np.array_equal(windows.end_positions[:count], theirs["end_positions"])

    def ours() -> int:
        return len(make_windows(bench.examples, tokenizer))

    peer_works = {
        "D": lambda: len(peers.with_datasets(bench.tokenizer, bench.examples, True)[1]),
        "T": lambda: len(peers.with_lists(bench.tokenizer, bench.examples, True)["input_ids"]),
    }
    return [
        ["preprocessing, windows/s", name, *compare(ours, theirs, bench.rounds).cells(0)]
        for name, theirs in peer_works.items()
    ]


def row_dicts(columns: dict[str, list]) -> list[dict]:
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def postprocessing(bench: Bench) -> list[list[str]]:
    """Logits of all windows -> the 20 best answers of every question."""
    machine = choose_machine("cpu", "auto")
    windows = bench.windows
    flat = predict_logits(prepare(load_model(bench.folder), machine), windows, machine)
    grid = np.full((2, len(windows), 384), -10_000.0, np.float32)
    is_token = np.arange(384) < windows.lengths[:, None]
    grid[:, is_token] = flat
    lists = peers.with_lists(bench.tokenizer, bench.examples, False)
    rows, examples = row_dicts(lists), row_dicts(peers.columns(bench.examples))
    texts = peers.n_best_answers(examples, rows, grid)
    predictions = search(windows, *flat, bench.examples)
    same = np.mean([p.best().text == texts[e.id] for e, p in zip(bench.examples, predictions)])

    def ours() -> int:
        search(windows, *flat, bench.examples)
        return len(windows)

    def with_t() -> int:
        peers.n_best_answers(examples, rows, grid)
        return len(windows)

    lines = [["post-processing, windows/s", "T", *compare(ours, with_t, bench.rounds).cells(0)]]
    from datasets import Dataset

    data, features = Dataset.from_list(examples), Dataset.from_dict(lists)
    found = compare(ours, lambda: len(peers.n_best_answers(data, features, grid)) and len(windows), bench.rounds)
    lines.append(["post-processing, windows/s", "D", *found.cells(0)])
    lines.append(["post-processing: equal best answers", "T", f"{100 * same:.1f} %", "", ""])
    return lines


def our_evaluation(bench: Bench, file: Path, scores: Path) -> Work:
    """A file in, EM and F1 out; the model is loaded before."""
    machine = choose_machine("cpu", "auto")
    keep_memory()
    model, tokenizer = prepare_to_answer(load_model(bench.folder), machine), load_tokenizer(bench.folder)

    def work() -> int:
        examples = read_squad(file)
        found, _ = evaluate(model, examples, make_windows(examples, tokenizer), machine, EVALUATION)
        scores.write_text(json.dumps(found))
        return len(examples)

    return work


def evaluation_of_d(bench: Bench, file: Path, scores: Path) -> Work:
    peer = peers.load_model(bench.folder)

    def work() -> int:
        examples = read_squad(file)
        rows, features = peers.with_datasets(bench.tokenizer, examples, False)
        logits = peers.predict(peer, bench.tokenizer, features, 8, "cpu", torch.float32, is_sorted=False)
        scores.write_text(json.dumps(score(examples, peers.n_best_answers(rows, features, logits))))
        return len(examples)

    return work


def evaluation_of_t(bench: Bench, file: Path, scores: Path) -> Work:
    def make(attention: str) -> Work:
        peer = peers.load_model(bench.folder, attention)

        def work() -> int:
            examples = read_squad(file)
            features = peers.with_lists(bench.tokenizer, examples, False)
            logits = peers.predict(peer, bench.tokenizer, features, 64, "cpu", torch.bfloat16, is_sorted=True)
            rows = row_dicts(peers.columns(examples))
            scores.write_text(json.dumps(score(examples, peers.n_best_answers(rows, row_dicts(features), logits))))
            return len(examples)

        return work

    return faster(make("sdpa"), make("eager"))


def evaluation(bench: Bench) -> list[list[str]]:
    """D, the slow one, reads fewer questions."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make, count in (("D", evaluation_of_d, 600), ("T", evaluation_of_t, 1500)):
            file, *scores = (Path(folder) / f"{name}-{part}.json" for part in ("data", "ours", "theirs"))
            write_part(bench, file, count)
            with Child(our_evaluation, bench, file, scores[0]) as ours, Child(make, bench, file, scores[1]) as theirs:
                found = compare(ours, theirs, bench.rounds)
            f1 = [f"{json.loads(path.read_text())['f1']:.2f}" for path in scores]
            lines.append([f"evaluation of {count} questions, questions/s", name, *found.cells()])
            lines.append([f"evaluation of {count} questions, F1", name, *f1, ""])
    return lines


def write_part(bench: Bench, file: Path, count: int) -> None:
    """A SQuAD file of `count` questions from all over the data."""
    content = json.loads(bench.data.read_text("utf-8"))
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    kept = []
    for i in np.random.default_rng(0).permutation(len(paragraphs)):
        kept.append(paragraphs[i] | {"qas": paragraphs[i]["qas"][:count]})
        count -= len(kept[-1]["qas"])
        if not count:
            break
    file.write_text(json.dumps({"version": "1.1", "data": [{"title": "part", "paragraphs": kept}]}), "utf-8")


def short_example(bench: Bench):
    """A question that makes one window of 150 tokens with its context."""
    i = int(np.flatnonzero(bench.windows.lengths == 150)[0])
    return bench.examples[bench.windows.example[i]]


def our_answers(bench: Bench) -> Work:
    """Ten answers, one after the other."""
    example = short_example(bench)
    model, tokenizer = load_model(bench.folder), load_tokenizer(bench.folder)
    model.new_parameters = []  # an untrained head is as fast as a trained one
    reader = pipeline(model=model, tokenizer=tokenizer, dtype="auto")

    def work() -> int:
        for _ in range(10):
            reader(question=example.question, context=example.context)
        return 10

    return work


def latency(bench: Bench) -> list[list[str]]:
    """One question with a context, 150 tokens together: text in, answer out."""
    example, ours = short_example(bench), our_answers(bench)
    features = peers.featurizer(bench.tokenizer, False, False)
    columns = peers.columns([example])

    def theirs(peer, dtype: torch.dtype):
        def work() -> int:
            for _ in range(10):
                found = features(columns)
                logits = peers.predict(peer, bench.tokenizer, found, 1, "cpu", dtype, is_sorted=False)
                peers.n_best_answers(row_dicts(columns), row_dicts(found), logits)
            return 10

        return work

    # float32 in the second line means no autocast: these weights are bfloat16 themselves.
    in_half = [peers.load_model(bench.folder, attention).bfloat16() for attention in ("sdpa", "eager")]
    tuned = faster(
        *(theirs(model, torch.float32) for model in in_half),
        theirs(peers.load_model(bench.folder), torch.bfloat16),
    )
    return [
        ["one question of 150 tokens, answers/s", name, *compare(ours, their_work, 3 * bench.rounds).cells()]
        for name, their_work in (("D", theirs(peers.load_model(bench.folder), torch.float32)), ("T", tuned))
    ]
