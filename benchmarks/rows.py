"""The rows of the table: each function compares two sides, or runs one, and returns lines of five cells.

Arguments: `data`, a SQuAD file with answers; `model`, a model folder; `rounds`, how often to measure.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from torch import get_num_threads

from benchmarks.breakdown import PRODUCTS
from benchmarks.engines import ENGINES, missing
from benchmarks.measure import ROOT, Result, Side, cells, compare, matrix_peak, run_once, write_part
from benchmarks.ours import BASE, NO_DROPOUT, short_example
from minibert.answers.predict import load_trained
from minibert.support.errors import BadInput
from minibert.support.machine import choose_machine

DTYPE = choose_machine("cpu", "auto").dtype
Lines = list[list[str]]


def versus(work: str, peer: str, rounds: int, **arguments) -> tuple[list[Result], list[Result]]:
    """The results of a work by minibert and by a peer."""
    with Side("ours", work, **arguments) as ours, Side("theirs", work, peer=peer, **arguments) as theirs:
        return compare(ours, theirs, rounds)


def preprocessing(data: str, model: str, rounds: int) -> Lines:
    """Examples -> labelled windows."""
    results = {peer: versus("preprocessing", peer, rounds, data=data, model=model) for peer in "DT"}
    return [["preprocessing, windows/s", peer, *cells(*result, digits=0)] for peer, result in results.items()]


def training(
    data: str, model: str, rounds: int, what: str = "training", peers: str = "DT", count: int = 6, **changes
) -> Lines:
    """Steps on `count` batches of 16 windows; `changes` are to the model's config."""
    lines, peak = [], matrix_peak(DTYPE)
    for peer in peers:
        ours, theirs = versus("training", peer, rounds, data=data, model=model, count=count, changes=changes)
        lines.append([f"{what}, windows/s", peer, *cells(ours, theirs)])
    peak = max(peak, matrix_peak(DTYPE))
    seconds = statistics.median(result["seconds"] for result in ours)
    share = f"{100 * ours[0]['flops'] / seconds / peak:.0f} %"
    lines.append([f"{what}, tokens/s", "", f"{ours[0]['tokens'] / seconds:.0f}", "", ""])
    return [*lines, [f"{what}, share of the peak of {peak / 1e9:.0f} GFLOP/s", "", share, "", ""]]


def recipes(data: str, model: str, rounds: int) -> Lines:
    """Training steps by the recipes of the whole runs: minibert without dropout, T with 0.1 but not in attention."""
    steps = {"data": data, "model": model, "count": 12}
    changes = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0}
    with (
        Side("ours", "training", changes=NO_DROPOUT, **steps) as ours,
        Side("theirs", "training", peer="T", changes=changes, **steps) as theirs,
    ):
        result = compare(ours, theirs, rounds)
    return [["training, without dropout, and T with 0.1 but not in attention, windows/s", "T", *cells(*result)]]


def evaluation(data: str, model: str, rounds: int) -> Lines:
    """The whole evaluation of a part of the data; D, the slow peer, reads fewer questions."""
    lines = []
    for peer, questions in (("D", 600), ("T", 1500)):
        with tempfile.TemporaryDirectory() as folder:
            part = write_part(data, f"{folder}/part.json", questions)
            ours, theirs = versus("evaluation", peer, rounds, data=part, model=model)
        f1 = f"{ours[0]['f1']:.2f}", f"{theirs[0]['f1']:.2f}"
        lines.append([f"evaluation of {questions} questions, questions/s", peer, *cells(ours, theirs)])
        lines.append([f"evaluation of {questions} questions, F1", peer, *f1, ""])
    return lines


def postprocessing(data: str, model: str, rounds: int) -> Lines:
    """Logits of all windows -> the best answer to every question, out of the 20 best."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"data": data, "model": model, "file": f"{folder}/logits.npy"}
        for peer in "DT":
            ours, theirs = versus("postprocessing", peer, rounds, **arguments)
            lines.append(["post-processing, windows/s", peer, *cells(ours, theirs, digits=0)])
    same = statistics.mean(our == their for our, their in zip(ours[0]["texts"], theirs[0]["texts"]))
    return [*lines, ["post-processing: equal best answers", "T", f"{100 * same:.1f} %", "", ""]]


def latency(data: str, model: str, rounds: int) -> Lines:
    """One question with a context, 150 tokens together: text in, answer out."""
    results = {peer: versus("latency", peer, 3 * rounds, data=data, model=model) for peer in "DT"}
    return [["one question of 150 tokens, answers/s", peer, *cells(*result)] for peer, result in results.items()]


def breakdown(data: str, model: str, rounds: int) -> Lines:
    """Per cent of the time of training steps, of MiniLM's sizes and of BERT-base's, and of one question."""
    lines = []
    for what, count, changes in (("training", 6, {}), ("training, BERT-base sizes", 3, BASE)):
        result = run_once("breakdown", "training", data=data, model=model, count=count, changes=changes)
        of_peak = result["flops"] / result["kinds"][PRODUCTS] / matrix_peak(DTYPE)
        lines += shares(what, result["kinds"])
        lines.append([f"{what}: matrix products alone, share of the peak", "", f"{100 * of_peak:.0f} %", "", ""])
    kinds = run_once("breakdown", "latency", data=data, model=model)["kinds"]
    return lines + shares("one question of 150 tokens", kinds)


def shares(what: str, kinds: dict[str, float]) -> Lines:
    whole = sum(kinds.values())
    return [[f"{what}: {kind}", "", f"{100 * seconds / whole:.0f} %", "", ""] for kind, seconds in kinds.items()]


def new_process(words: list[str]) -> Result:
    """Run Python with these words; also what it prints."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return {"amount": 1, "seconds": time.perf_counter() - began, "printed": done.stdout}


def startup(data: str, model: str, rounds: int) -> Lines:
    """A new process: import, load model and tokenizer. torch's own import is the floor."""
    ours, theirs, torch = (["-m", "benchmarks.startup", side, model] for side in ("ours", "theirs", "torch"))
    results = compare(partial(new_process, ours), partial(new_process, theirs), rounds)
    torch_alone = 1 / statistics.median(new_process(torch)["seconds"] for _ in range(rounds))
    return [
        ["import and load, per second", "D, T", *cells(*results, digits=2)],
        ["import torch alone, per second", "", f"{torch_alone:.2f}", "", ""],
    ]


def memory(data: str, model: str, rounds: int) -> Lines:
    """MiB by which a process grows with the model and its training. Less is better."""
    lines = []
    for peer, size in (("D", 8), ("T", 16)):
        ours = run_once("ours", "memory", data=data, model=model, size=size)["mib"]
        theirs = run_once("theirs", "memory", peer=peer, data=data, model=model, size=size)["mib"]
        sizes = f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"
        lines.append([f"memory of training, batch {size}, MiB", peer, *sizes])
    return lines


def growth(data: str, model: str, rounds: int) -> Lines:
    """Windows per second and MiB as the number of questions grows; minibert alone."""
    lines = []
    for count in (1_000, 10_000, 80_000):
        with Side("ours", "growth", data=data, model=model, count=count) as ours:
            runs = [ours() for _ in range(3)]
        pre, post = (f"{statistics.median(run[name] for run in runs):.0f} {name}" for name in ("pre", "post"))
        lines.append([f"{count} questions, windows/s", "", pre, post, f"{runs[-1]['mib']:.0f} MiB"])
    return lines


def stream(data: str, model: str, rounds: int, count: int = 100_000) -> Lines:
    """MiB of `ask.py --input` after a tenth and at the end of many questions. Needs a trained model, and Linux."""
    text = "Clock {} was made by Anna Weiss in 1871."
    records = ({"question": f"Who made clock {i}?", "context": text.format(i)} for i in range(count))
    with tempfile.TemporaryDirectory() as folder:
        source, sink = Path(folder) / "questions.jsonl", Path(folder) / "answers.jsonl"
        source.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        words = ["ask.py", "--ckpt", model, "--input", source, "--output", sink, "--dtype", "auto"]
        began, sizes = time.perf_counter(), list[float]()
        process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT)
        while process.poll() is None:
            time.sleep(0.1)
            pages = Path(f"/proc/{process.pid}/statm").read_text().split()
            if len(pages) > 1 and int(pages[1]):  # 0 once the process has ended
                sizes.append(int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
        seconds = time.perf_counter() - began
        lines = len(sink.read_text("utf-8").splitlines())
    both = f"{sizes[len(sizes) // 10]:.0f} at a tenth", f"{sizes[-1]:.0f} at the end"
    return [[f"memory of ask.py --input, {lines} lines, MiB", "", *both, f"{lines / seconds:.0f} lines/s"]]


def left_out(what: str, reason: object) -> list[str]:
    return [what, "", "", "", f"left out: {reason}"]


def choose_engines(model: str) -> tuple[list[str], Lines]:
    """The other engines that are installed, and a line for each that is not; none if the head of the model is new."""
    try:
        load_trained(model)
    except BadInput as error:  # each side would draw another head
        return [], [left_out("other engines", error)]
    lacking = {engine: missing(engine) for engine in ENGINES}
    lines = [left_out(engine, f"pip install {' '.join(names)}") for engine, names in lacking.items() if names]
    return [engine for engine, names in lacking.items() if not names], lines


def answering(data: str, folder: str, rounds: int, questions: int) -> dict[str, tuple[str, str, int]]:
    """The works of answering: what each is called, its data and its rounds."""
    return {
        "latency": ("one question of 150 tokens, answers/s", data, 3 * rounds),
        "batch": ("a batch of 16 windows, windows/s", data, 3 * rounds),
        "evaluation": ("evaluation, questions/s", write_part(data, f"{folder}/part.json", questions), rounds),
    }


def int8(data: str, model: str, rounds: int, questions: int = 150) -> Lines:
    """minibert's int8 beside its other dtypes. Needs a trained model."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for other in ("float32", "bfloat16"):
            for work, (unit, file, turns) in answering(data, folder, rounds, questions).items():
                shared = {"data": file, "model": model, "folder": folder}
                ours, theirs = (Side("engines", work, engine=f"minibert {name}", **shared) for name in ("int8", other))
                with ours, theirs:
                    lines.append([f"int8: {unit}", f"minibert {other}", *cells(*compare(ours, theirs, turns))])
    return lines


def engines(data: str, model: str, rounds: int, questions: int = 200) -> Lines:
    """minibert beside other engines at the same precision."""
    names, lines = choose_engines(model)
    with tempfile.TemporaryDirectory() as folder:
        shared = {"model": model, "folder": folder}
        works = answering(data, folder, rounds, questions)
        if names:
            run_once("engines", "export", data=data, engines=names, **shared)
        for name in names:
            dtype = ENGINES[name].dtype
            sides = f"minibert {dtype}", name
            found = [run_once("engines", "difference", engine=side, data=data, **shared) for side in sides]
            what = f"logits up to {found[0]['largest']:.1f}, largest difference from minibert float32"
            lines.append([f"{dtype}: {what}", name, *(f"{result['difference']:.1e}" for result in found), ""])
            results = {}
            for work, (unit, file, turns) in works.items():
                ours, theirs = (Side("engines", work, engine=side, data=file, **shared) for side in sides)
                with ours, theirs:
                    results[work] = compare(ours, theirs, turns)
                lines.append([f"{dtype}: {unit}", name, *cells(*results[work])])
            evaluations = [side[0] for side in results["evaluation"]]
            scores = (f"{one['exact_match']:.2f} / {one['f1']:.2f}" for one in evaluations)
            lines.append([f"{dtype}: EM / F1 of {evaluations[0]['amount']} questions", name, *scores, ""])
    return lines


def first_answer(data: str, model: str, rounds: int) -> Lines:
    """Seconds of a new process that imports, loads and answers one question, ask.py in float32. Less is better."""
    names, lines = choose_engines(model)
    names = [name for name in names if name.startswith("ONNX Runtime")]
    example, ours = short_example(data, model), list[Result]()
    asked = example.question, example.context
    ask = ["ask.py", "--ckpt", model, "--device", "cpu", "--json", "--question", asked[0], "--context", asked[1]]
    with tempfile.TemporaryDirectory() as folder:
        if names:
            run_once("engines", "export", data=data, model=model, folder=folder, engines=names)
        for name in names:
            file = f"{folder}/{ENGINES[name].files[-1]}"  # the fused graph
            other = ["-m", "benchmarks.onnx_answer", file, *asked, str(get_num_threads())]
            ours, theirs = compare(partial(new_process, ask), partial(new_process, other), rounds)
            seconds = ([{"amount": result["seconds"], "seconds": 1} for result in side] for side in (ours, theirs))
            lines.append(["first answer of a new process, seconds", name, *cells(*seconds, digits=2)])
            is_equal = json.loads(ours[0]["printed"])["answer"] == theirs[0]["printed"].removesuffix("\n")
            lines.append(["the same answer as ask.py's", name, "", "yes" if is_equal else "no", ""])
    if ours:
        torch = ["-m", "benchmarks.startup", "torch", model]
        alone = statistics.median(new_process(torch)["seconds"] for _ in range(rounds))
        share = alone / statistics.median(result["seconds"] for result in ours)
        lines.append(["of ask.py's time, import torch alone", "", f"{alone:.2f} ({100 * share:.0f} %)", "", ""])
    return lines


ROWS = {
    "preprocessing": preprocessing,
    "training": training,
    "training_no_attention_dropout": partial(
        training, what="training, attention dropout 0", peers="T", attention_probs_dropout_prob=0.0
    ),
    "training_no_dropout": partial(training, what="training, no dropout", peers="T", **NO_DROPOUT),
    "training_recipes": recipes,
    "training_base": partial(training, what="training, BERT-base sizes", count=3, **BASE),
    "evaluation": evaluation,
    "postprocessing": postprocessing,
    "latency": latency,
    "breakdown": breakdown,
    "startup": startup,
    "memory": memory,
    "growth": growth,
    "stream": stream,
    "engines": engines,
    "int8": int8,
    "first_answer": first_answer,
}
