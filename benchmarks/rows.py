"""What is measured: each function of `ROWS` returns the lines of one row of the table."""

import json
import statistics
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import peers
from benchmarks.timing import Child, Work, compare, faster, in_child, matrix_peak, rate, training_flops
from minibert.answering import evaluate, pipeline, predict_logits
from minibert.batches import collate, training_batches
from minibert.config import load_config
from minibert.device import choose_machine, keep_memory, prepare, prepare_to_answer
from minibert.folders import find_folder
from minibert.metrics import score
from minibert.model import BertForQuestionAnswering
from minibert.optim import make_optimizer
from minibert.spans import search
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.training import train_step
from minibert.weights import load_model
from minibert.windows import make_windows

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
NO_ATTENTION_DROPOUT = {"attention_probs_dropout_prob": 0.0}


@dataclass
class Bench:
    """What all rows share: the data, the model's folder, and how often to measure."""

    data: Path
    folder: Path
    rounds: int

    @cached_property
    def examples(self):
        return read_squad(self.data)

    @cached_property
    def windows(self):
        return make_windows(self.examples, load_tokenizer(self.folder))

    @cached_property
    def tokenizer(self):
        return peers.load_tokenizer(self.folder)

    def batches(self, count: int, size: int = 16) -> list[np.ndarray]:
        """`count` of an epoch's batches, the shortest and the longest among them, evenly spread between."""
        batches = training_batches(self.windows.lengths, size, seed=0, epoch=0)
        batches.sort(key=lambda batch: self.windows.lengths[batch].max())
        return [batches[i] for i in np.linspace(0, len(batches) - 1, count).round().astype(int)]


# --- text in ----------------------------------------------------------------------------------------------------------


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


# --- training ---------------------------------------------------------------------------------------------------------


def our_steps(bench: Bench, batches: list[np.ndarray], changes: dict) -> Work:
    """The work of training on these batches by minibert's own step."""
    machine = choose_machine("cpu", "auto")
    keep_memory()
    model = prepare(our_model(bench, **changes).train(), machine)
    optimizer, scaler = make_optimizer(model, 1e-4, 0.01), torch.amp.GradScaler("cpu", enabled=False)

    def work() -> int:
        for batch in batches:
            train_step(model, [(collate(bench.windows, batch), 1)], len(batch), optimizer, scaler, machine, 1.0)
        return sum(map(len, batches))

    return work


def our_model(bench: Bench, **changes) -> BertForQuestionAnswering:
    """The folder's model, with another attention dropout or, with random weights, of other sizes."""
    config = type(load_config(bench.folder))(**vars(load_config(bench.folder)) | changes)
    model = BertForQuestionAnswering(config)
    if not set(changes) - set(NO_ATTENTION_DROPOUT):
        model.load_state_dict(load_model(bench.folder).state_dict())
    return model


def steps_of_d(bench: Bench, batches: list[np.ndarray], changes: dict) -> Work:
    return their_steps(bench, batches, their_model(bench, "sdpa", **changes), 384, torch.float32)


def steps_of_t(bench: Bench, batches: list[np.ndarray], changes: dict) -> Work:
    both = (their_model(bench, attention, **changes) for attention in ("sdpa", "eager"))
    return faster(*(their_steps(bench, batches, model, None, torch.bfloat16) for model in both))


def their_steps(bench: Bench, batches, model, width: int | None, dtype: torch.dtype) -> Work:
    step = peers.trainer(model, "cpu", dtype)

    def work() -> int:
        for batch in batches:
            step(peers.padded(bench.windows, batch, width))
        return sum(map(len, batches))

    return work


def their_model(bench: Bench, attention: str, **changes):
    folder = bench.folder
    if set(changes) - set(NO_ATTENTION_DROPOUT):
        folder = Path(tempfile.mkdtemp())
        (folder / "config.json").write_bytes((bench.folder / "config.json").read_bytes())
    return peers.load_model(folder, attention, **changes)


def compare_training(bench: Bench, what: str, names: str, count: int, of_d: int, **changes) -> list[list[str]]:
    """Lines for the peers in `names`, on `count` batches of 16; D takes `of_d` of their windows in batches of 8."""
    batches = bench.batches(count)
    mixed = np.random.default_rng(0).permutation(np.concatenate(batches))[:of_d]
    peak, lines = matrix_peak(), []
    for name in names:
        make, theirs = (steps_of_d, np.split(mixed, of_d // 8)) if name == "D" else (steps_of_t, batches)
        with Child(our_steps, bench, batches, changes) as ours, Child(make, bench, theirs, changes) as their_work:
            found = compare(ours, their_work, bench.rounds)
        lines.append([f"{what}, windows/s", name, *found.cells()])
    lengths = bench.windows.lengths[np.concatenate(batches)]
    config = type(load_config(bench.folder))(**vars(load_config(bench.folder)) | changes)
    windows_per_second = statistics.median(found.ours)
    peak = max(peak, matrix_peak())
    share = windows_per_second * training_flops(config, lengths) / len(lengths) / peak
    lines.append([f"{what}, tokens/s", "", f"{windows_per_second * lengths.mean():.0f}", "", ""])
    lines.append([f"{what}, share of the peak of {peak / 1e9:.0f} GFLOP/s", "", f"{100 * share:.0f} %", "", ""])
    return lines


def training(bench: Bench) -> list[list[str]]:
    return compare_training(bench, "training", "DT", 6, 32)


def training_no_attention_dropout(bench: Bench) -> list[list[str]]:
    return compare_training(bench, "training, attention dropout 0", "T", 6, 0, **NO_ATTENTION_DROPOUT)


def training_base(bench: Bench) -> list[list[str]]:
    return compare_training(bench, "training, BERT-base sizes", "DT", 3, 8, **BASE)


# --- evaluation -------------------------------------------------------------------------------------------------------

EVALUATION = SimpleNamespace(eval_batch_size=64, n_best_size=20, max_answer_length=30, null_score_diff_threshold=0.0)


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


# --- one answer -------------------------------------------------------------------------------------------------------


def latency(bench: Bench) -> list[list[str]]:
    """One question with a context, 150 tokens together: text in, answer out."""
    i = int(np.flatnonzero(bench.windows.lengths == 150)[0])
    example = bench.examples[bench.windows.example[i]]
    model, tokenizer = load_model(bench.folder), load_tokenizer(bench.folder)
    model.new_parameters = []  # an untrained head is as fast as a trained one
    reader = pipeline(model=model, tokenizer=tokenizer, dtype="auto")
    features = peers.featurizer(bench.tokenizer, False, False)
    columns = peers.columns([example])

    def ours() -> int:
        for _ in range(10):
            reader(question=example.question, context=example.context)
        return 10

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


STARTUP = {
    "torch": "import torch",
    "ours": "import minibert; minibert.load_model({folder!r}); minibert.load_tokenizer({folder!r})",
    "theirs": "from transformers import AutoModelForQuestionAnswering as M, AutoTokenizer as T; "
    "M.from_pretrained({folder!r}); T.from_pretrained({folder!r})",
}


def startup(bench: Bench) -> list[list[str]]:
    """A new process: import, load model and tokenizer. torch's own import is the floor."""
    code = {name: text.format(folder=str(bench.folder)) for name, text in STARTUP.items()}

    def work(name: str):
        return lambda: bool(in_child(code[name]))

    found = compare(work("ours"), work("theirs"), bench.rounds)
    floor = statistics.median(rate(work("torch")) for _ in range(bench.rounds))
    return [
        ["import and load, a second of it", "D, T", *found.cells(2)],
        ["import torch alone", "", f"{floor:.2f}", "", ""],
    ]


MEMORY = """
import json
from pathlib import Path
from benchmarks.rows import Bench, our_steps, steps_of_d, their_model, their_steps
from benchmarks.timing import peak_memory
import torch
bench = Bench(Path({data!r}), Path({folder!r}), 1)
longest, *others = bench.batches(24, {size})[::-1]
bench.windows
before = peak_memory()
{work}()
print(json.dumps(dict(mib=peak_memory() - before)))
"""
IN_ORDER = "[longest, *others[::2], *others[1::2]]"
OUR_WORK = f"our_steps(bench, {IN_ORDER}, {{}})"
WORK_OF = {
    "D": f"steps_of_d(bench, {IN_ORDER}, {{}})",
    "T": f"their_steps(bench, {IN_ORDER}, their_model(bench, 'sdpa'), None, torch.bfloat16)",
}


def memory(bench: Bench) -> list[list[str]]:
    """MiB by which a process grows by model and training: the longest batch first, then 23 others. Less is better."""

    def growth(size: int, work: str) -> float:
        code = MEMORY.format(data=str(bench.data), folder=str(bench.folder), size=size, work=work)
        return in_child(code)["mib"]

    lines = []
    for name, size in (("D", 8), ("T", 16)):
        ours, theirs = growth(size, OUR_WORK), growth(size, WORK_OF[name])
        cells = f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"
        lines.append([f"memory of training, batch {size}, MiB", name, *cells])
    return lines


# --- growth -----------------------------------------------------------------------------------------------------------

GROWTH = """
import json, time
from dataclasses import replace
import numpy as np
from benchmarks.timing import peak_memory
from minibert.spans import search
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.windows import make_windows
examples, tokenizer = read_squad({data!r}), load_tokenizer({folder!r})
many = []
while len(many) < {count}:  # contexts that differ, or each would be encoded once for all copies
    many += [replace(example, context=f"{{example.context}} {{len(many)}}") for example in examples]
many = many[:{count}]
before, begin = peak_memory(), time.perf_counter()
windows = make_windows(many, tokenizer)
pre = len(windows) / (time.perf_counter() - begin)
logits = np.random.default_rng(0).standard_normal((2, len(windows.ids)), np.float32) * 3
begin = time.perf_counter()
predictions = search(windows, *logits, many)
post = len(windows) / (time.perf_counter() - begin)
print(json.dumps(dict(pre=pre, post=post, mib=peak_memory() - before)))
"""


def growth(bench: Bench) -> list[list[str]]:
    """Windows/s and MiB as the number of questions grows; minibert alone."""
    lines = []
    for count in (1_000, 10_000, 80_000):
        found = in_child(GROWTH.format(data=str(bench.data), folder=str(bench.folder), count=count))
        cells = [f"{found['pre']:.0f} pre", f"{found['post']:.0f} post", f"{found['mib']:.0f} MiB"]
        lines.append([f"{count} questions, windows/s", "", *cells])
    return lines


ROWS = {
    function.__name__: function
    for function in (
        preprocessing,
        training,
        training_no_attention_dropout,
        training_base,
        evaluation,
        postprocessing,
        latency,
        startup,
        memory,
        growth,
    )
}


def make_bench(data: str, model: str, rounds: int) -> Bench:
    return Bench(Path(data), find_folder(model), rounds)
