"""The stream of `ask`: JSON lines in, JSON lines out, in the same order and in constant memory.

{"id"?, "question", "context"}  ->  {"id", "score", "start", "end", "answer"}, or {"id", "error"} for a bad line
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, TextIO

from minibert.support.errors import BadInput
from minibert.support.files import parse_json
from minibert.support.streams import counted, json_line
from minibert.support.writing import replacing
from minibert.text.records import text_fault

UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")  # its byte order marks, as `open_text` reads them
WAIT_SECONDS = 0.05  # a part-filled batch of the stream is answered after this long

# Questions and their contexts -> the rows to write for each question.
Ask = Callable[[list[str], list[str]], list[list[dict[str, Any]]]]


def answer_stream(ask: Ask, source_name: str, output: str, batch_size: int) -> None:
    """Answer JSON lines in batches; BadInput at the end if any line was bad. "-" is stdin or stdout."""
    bad = 0
    with open_text(source_name, "r") as source, open_text(output, "w") as sink:
        for number, lines in enumerate(batches_of(source, batch_size)):
            if number == 0 and lines[0].startswith(UTF_16):
                raise BadInput(source_name, "", "is UTF-16; save it as UTF-8")
            records = [parse(line) for line in lines]
            good = [record for record in records if "error" not in record]
            bad += len(records) - len(good)
            answers = iter(ask([r["question"] for r in good], [r["context"] for r in good]) if good else [])
            for record in records:
                for row in [record] if "error" in record else next(answers):
                    sink.write(json_line({"id": record["id"]} | row) + "\n")
            sink.flush()
    if bad:
        raise BadInput(source_name, counted(bad, "line"), "could not be answered; the output says why")


def open_text(file: str, mode: Literal["r", "w"]) -> AbstractContextManager[TextIO]:
    """The file as UTF-8 text, or stdin or stdout for "-"."""
    encoding, errors = ("utf-8-sig", "surrogateescape") if mode == "r" else ("utf-8", "strict")
    if file == "-":
        stream: Any = sys.stdin if mode == "r" else sys.stdout
        stream.reconfigure(encoding=encoding, errors=errors)
        return nullcontext(stream)
    if mode == "w" and is_replaced(file):
        return replacing(Path(file))
    try:
        return open(file, mode, encoding=encoding, errors=errors)
    except OSError as error:
        raise BadInput(file, "", f"cannot be opened: {error.strerror}") from error


def is_replaced(file: str) -> bool:
    """Whether an output becomes a file of this name. A FIFO or a device, such as /dev/null, is written to as it is."""
    return not os.path.exists(file) or os.path.isfile(file) or os.path.isdir(file)


def has_answers(file: str) -> bool:
    """Whether a file is what `answer_stream` writes, by its first line. Other people's rows have answers, too."""
    with open(file, encoding="utf-8", errors="replace") as opened:
        line = opened.readline(1_000_000)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    ours = {"id", "score", "start", "end", "answer"}, {"id", "error"}
    return isinstance(record, dict) and record.keys() - {"confidence"} in ours


def batches_of(source: TextIO, size: int) -> Iterator[list[str]]:
    """Lists of up to `size` lines: full ones while the source is fast, part-filled ones 50 ms after their first line.

    A thread reads ahead by at most one batch, so that a slow source never delays the lines that have arrived.
    """
    lines: queue.Queue[str] = queue.Queue(maxsize=size)
    failures: list[Exception] = []

    def read() -> None:
        try:
            for line in source:
                if line.strip():
                    lines.put(line)
        except (OSError, ValueError) as error:
            failures.append(error)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while line := lines.get():
        batch, deadline = [line], time.monotonic() + WAIT_SECONDS
        while len(batch) < size and line:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            batch += [line] if line else []
        yield batch
        if not line:
            break
    if failures:
        raise OSError(f"the input ended early: {failures[0]}")


def parse(line: str) -> dict[str, Any]:
    """A record {id, question, context} of the stream, or {id, error} saying what is wrong with the line."""
    try:
        record = parse_json(line)
        if not isinstance(record, dict):
            return {"id": None, "error": "expected a JSON object"}
        json.dumps(record.get("id"), ensure_ascii=False).encode()  # the id is written again with the answer
    except (ValueError, RecursionError) as error:
        return {"id": None, "error": f"not JSON: {error}"}
    for key in ("question", "context"):
        if fault := text_fault(record.get(key), may_be_blank=key == "context"):
            return {"id": record.get("id"), "error": f"{key} {fault}"}
    return {"id": record.get("id"), "question": record["question"], "context": record["context"]}
