"""Ask a trained model.

    python ask.py --ckpt runs/first --question "Who made it?" --context "The clock was made by Anna Weiss."
    python ask.py --ckpt runs/first --context_file notes.txt                  asks for questions until an empty line
    python ask.py --ckpt runs/first --input questions.jsonl --output -        {id?, question, context} per line

The stream's answers come in the order of the questions, as {id, score, start, end, answer}; a bad line gives
{id, error}, and exit code 2 at the end. Memory does not grow with the input.
"""

import functools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from minibert.answers.explain import explain
from minibert.answers.pipeline import QuestionAnswering, pipeline
from minibert.answers.spans import MAX_ANSWER_LENGTH
from minibert.commands import flags
from minibert.support.errors import BadInput
from minibert.support.files import check_target, finite, read_text, refuse, replacing, write_atomically
from minibert.support.streams import printable, tell
from minibert.text.squad import text_fault
from minibert.training.settings import CheckpointSettings, MachineSettings, WindowSettings, option

WAIT_SECONDS = 0.05  # a part-filled batch of the stream is answered after this long


@dataclass(frozen=True, kw_only=True)
class AskOptions(CheckpointSettings, WindowSettings, MachineSettings):
    """Ask a model that was trained on SQuAD-format questions."""

    question: str | None = option(None, "ask this; without it, ask for questions on the terminal", metavar="Q")
    context: str | None = option(None, "the text to find the answer in", metavar="TEXT")
    context_file: str | None = option(None, "a UTF-8 file that holds the text", metavar="FILE")
    top_k: int = option(1, "show the N best answers", least=1)
    max_answer_length: int = option(MAX_ANSWER_LENGTH, "longest answer, in tokens", least=1)
    explain: str | None = option(
        None, "write a page of what the model computed for --question here", metavar="OUT.html"
    )
    json: bool = option(False, "print each answer as a line of JSON")
    input: str | None = option(None, 'JSON lines to answer; "-" is stdin', metavar="FILE")
    output: str = option("-", 'where their answers go; "-" is stdout', metavar="FILE")
    overwrite: bool = option(False, "replace a file at --output that holds something else")
    batch_size: int = option(32, "questions of the stream answered at once", least=1)
    dtype: str = option(
        "float32",
        "precision of the matrix products; auto: the fastest that the hardware has",
        choices=("auto", "float32", "bfloat16", "float16"),
    )


def main(words: Sequence[str] | None = None) -> None:
    options = flags.make(AskOptions, flags.parse(AskOptions, "ask", words))
    if options.ckpt is None:
        raise BadInput("--ckpt", "", "name the model to ask")
    if [options.context, options.context_file, options.input].count(None) != 2:
        raise BadInput("ask.py", "", "expected one of --context, --context_file and --input")
    if options.input is not None and options.question is not None:
        raise BadInput("--question", "", "does not go with --input, which brings its own questions")
    if options.explain is not None and options.question is None:
        raise BadInput("--explain", "", "shows one question; name it with --question")
    if options.input is not None and flags.is_same_file(options.input, options.output):
        raise BadInput("--output", options.output, "is the input itself; name another file")
    if options.output != "-" and is_replaced(options.output):
        check_target(Path(options.output), functools.partial(has_answers, options.output), options.overwrite)
    context = options.context
    if options.context_file is not None:
        context = read_text(options.context_file)
    reader = pipeline(model=options.ckpt, revision=options.revision, device=options.device, dtype=options.dtype)
    if options.input is not None:
        answer_stream(reader, options)
    else:
        answer_questions(reader, str(context), options)
    if options.explain is not None:
        page = explain(reader, str(options.question), str(context), options.max_answer_length)
        write_atomically(Path(options.explain), page)


def answer_questions(reader: QuestionAnswering, context: str, options: AskOptions) -> None:
    """Print the answers to the question of the command line, or to those typed on the terminal."""
    if options.json:  # as the stream: JSON is UTF-8 whatever the terminal
        open_text("-", "w")
    for question in [options.question] if options.question is not None else typed_questions():
        for answer in ask(reader, [question], [context], options)[0]:
            if options.json:
                print(json.dumps(answer, ensure_ascii=False), flush=True)
            else:
                place = f"score {answer['score']:.3f}, characters {answer['start']}-{answer['end']}"
                print(printable(f"{answer['answer']}   ({place})"), flush=True)


def ask(
    reader: QuestionAnswering, questions: list[str], contexts: list[str], options: AskOptions
) -> list[list[dict[str, Any]]]:
    """The `top_k` best answers to each question, as dicts."""
    answers = reader(
        question=questions,
        context=contexts,
        top_k=options.top_k,
        doc_stride=options.doc_stride,
        max_answer_len=options.max_answer_length,
        max_seq_len=options.max_seq_length,
        max_question_len=options.max_query_length,
    )
    return [answer if isinstance(answer, list) else [answer] for answer in answers]


def typed_questions() -> Iterator[str]:
    """Questions typed on the terminal, until an empty line or the end of the input."""
    read_line = terminal_line if sys.stdin.isatty() and sys.stdout.isatty() else input_line
    while line := read_line("question> ").strip():
        if fault := text_fault(line):
            tell(f"the question {fault}")
        else:
            yield line


def terminal_line(prompt: str) -> str:
    """A line typed on a terminal, with line editing and history where Python has readline; "" at the end."""
    with suppress(ImportError):  # Windows has none, and edits lines itself
        import readline  # noqa: F401 (makes `input` use it)
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    with suppress(EOFError):
        return input(prompt)
    return ""


def input_line(prompt: str) -> str:
    """A line of stdin, with the prompt on stderr: `input` would print it among the answers."""
    print(prompt, end="", file=sys.stderr, flush=True)
    # As bytes, because what is typed may not be of the terminal's encoding.
    return sys.stdin.buffer.readline().decode(errors="replace")


def answer_stream(reader: QuestionAnswering, options: AskOptions) -> None:
    """Answer JSON lines in batches; BadInput at the end if any line was bad."""
    bad = 0
    source_name = str(options.input)
    with open_text(source_name, "r") as source, open_text(options.output, "w") as sink:
        for lines in batches_of(source, options.batch_size):
            records = [parse(line) for line in lines]
            good = [record for record in records if "error" not in record]
            questions, contexts = [r["question"] for r in good], [r["context"] for r in good]
            answers = iter(ask(reader, questions, contexts, options) if good else [])
            for record in records:
                bad += "error" in record
                for row in [{"error": record["error"]}] if "error" in record else next(answers):
                    sink.write(json.dumps({"id": record.get("id")} | row, ensure_ascii=False) + "\n")
            sink.flush()
    if bad:
        raise BadInput(source_name, f"{bad} lines", "could not be answered; their output lines say why")


def open_text(file: str, mode: Literal["r", "w"]) -> AbstractContextManager[TextIO]:
    """The file as UTF-8 text, or stdin or stdout for "-"."""
    if file == "-":
        stream: Any = sys.stdin if mode == "r" else sys.stdout
        stream.reconfigure(encoding="utf-8", errors="surrogateescape" if mode == "r" else "strict")
        return nullcontext(stream)
    if mode == "w" and is_replaced(file):
        return replacing(Path(file))
    try:
        encoding, errors = ("utf-8-sig", "surrogateescape") if mode == "r" else ("utf-8", "strict")
        return open(file, mode, encoding=encoding, errors=errors)
    except OSError as error:
        raise BadInput(file, "", f"cannot be opened: {error.strerror}") from error


def is_replaced(file: str) -> bool:
    """Whether an output becomes a file of this name. A FIFO or a device, such as /dev/null, is written to as it is."""
    return not os.path.exists(file) or os.path.isfile(file) or os.path.isdir(file)


def has_answers(file: str) -> bool:
    """Whether a file is what `answer_stream` writes, by its first line."""
    with open(file, encoding="utf-8", errors="replace") as opened:
        return opened.readline(1000).startswith('{"id": ')


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
        record = json.loads(line, parse_constant=refuse, parse_float=finite)
        if not isinstance(record, dict):
            return {"id": None, "error": "expected a JSON object"}
        json.dumps(record.get("id"), ensure_ascii=False).encode()  # the id is written again with the answer
    except (ValueError, RecursionError) as error:
        return {"id": None, "error": f"not JSON: {error}"}
    for key in ("question", "context"):
        if fault := text_fault(record.get(key), may_be_blank=key == "context"):
            return {"id": record.get("id"), "error": f"{key} {fault}"}
    return {"id": record.get("id"), "question": record["question"], "context": record["context"]}
