"""Rows of what grows, or must not: the start of a process, many questions, an endless stream. Next: `__main__.py`."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.timing import compare, in_child, rate

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


GROWTH = """
import json, statistics, time
from dataclasses import replace
import numpy as np
from benchmarks.timing import peak_memory
from minibert.device import keep_memory
from minibert.spans import search
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.windows import make_windows
def timed(function, *arguments):
    seconds = []
    for _ in range(3):
        result = None  # not two at once
        begin = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - begin)
    return result, len(windows if function is search else result) / statistics.median(seconds)
examples, tokenizer = read_squad({data!r}), load_tokenizer({folder!r})
contexts = list(dict.fromkeys(example.context for example in examples))
place = dict(zip(contexts, np.random.default_rng(0).permutation(len(contexts))))
examples.sort(key=lambda example: place[example.context])  # the first thousand are like all of them
many = []
while len(many) < {count}:  # contexts that differ, or each would be encoded once for all copies
    many += [replace(example, context=f"{{example.context}} {{len(many)}}") for example in examples]
many = many[:{count}]
keep_memory()  # as the commands do
before = peak_memory()
windows, pre = timed(make_windows, many, tokenizer)
logits = np.random.default_rng(0).standard_normal((2, len(windows.ids)), np.float32) * 3
predictions, post = timed(search, windows, *logits, many)
print(json.dumps(dict(pre=pre, post=post, mib=peak_memory() - before)))
"""


def growth(bench: Bench) -> list[list[str]]:
    """Windows/s (the median of three) and MiB as the number of questions grows; minibert alone."""
    lines = []
    for count in (1_000, 10_000, 80_000):
        found = in_child(GROWTH.format(data=str(bench.data), folder=str(bench.folder), count=count))
        cells = [f"{found['pre']:.0f} pre", f"{found['post']:.0f} post", f"{found['mib']:.0f} MiB"]
        lines.append([f"{count} questions, windows/s", "", *cells])
    return lines


def stream(bench: Bench) -> list[list[str]]:
    """MiB of `ask.py --input`, in the middle and at the end of 100,000 short questions. Needs a trained model."""
    text = "Clock {} was made by Anna Weiss in 1871."
    records = ({"question": f"Who made clock {i}?", "context": text.format(i)} for i in range(100_000))
    with tempfile.TemporaryDirectory() as folder:
        source, sink = Path(folder) / "questions.jsonl", Path(folder) / "answers.jsonl"
        source.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        words = ["ask.py", "--ckpt", bench.folder, "--input", source, "--output", sink, "--dtype", "auto"]
        process, sizes = subprocess.Popen([sys.executable, *map(str, words)]), []
        begin = time.perf_counter()
        while process.poll() is None:
            time.sleep(1)
            pages = Path(f"/proc/{process.pid}/statm").read_text().split()
            sizes.append(int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if len(pages) > 1 else 0)
        seconds = time.perf_counter() - begin
        lines = sum(1 for _ in sink.open())
    cells = f"{sizes[len(sizes) // 10]:.0f} at a tenth", f"{sizes[-2]:.0f} at the end", f"{lines / seconds:.0f} lines/s"
    return [[f"memory of ask.py --input, {lines} lines, MiB", "", *cells]]
