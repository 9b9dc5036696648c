"""Ask a trained model.

    python ask.py --ckpt runs/first --question "Who made it?" --context "The clock was made by Anna Weiss."
    python ask.py --ckpt runs/first --context_file notes.txt                  asks on, until an empty line
    python ask.py --ckpt runs/first --input questions.jsonl --output -        {id?, question, context} a line

Answers of the stream come in the order of the questions, as {id, score, start, end, answer}; a bad line gives
{id, error}, and exit code 2 at the end. Memory does not grow with the input.
"""

import json
import queue
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from minibert.answering import QuestionAnswering, pipeline
from minibert.errors import BadInput, run_command
from minibert.flags import Flags, add_device_flags, add_window_flags, check_window_flags
from minibert.squad import finite, refuse, text_fault

WAIT_SECONDS = 0.05  # a part-filled batch of the stream is answered after this long


def read_flags() -> Namespace:
    flags = Flags(prog="python ask.py", description="Ask a model that was trained on SQuAD-format questions.")
    flags.add_model("--ckpt", required=True)
    flags.add("--question", metavar="Q", help="ask this; without it, ask on the terminal")
    flags.add("--context", metavar="TEXT", help="the text to find the answer in")
    flags.add("--context_file", metavar="FILE", help="a UTF-8 file that holds the text")
    flags.add("--top_k", type=flags.whole(1), default=1, metavar="N", help="show the N best answers")
    flags.add("--max_answer_length", type=flags.whole(1), default=30, help="longest answer, in tokens")
    flags.add("--json", action="store_true", help="print each answer as a line of JSON")
    flags.add("--input", metavar="FILE", help='JSON lines to answer; "-" is stdin')
    flags.add("--output", default="-", metavar="FILE", help='where their answers go; "-" is stdout')
    flags.add("--batch_size", type=flags.whole(1), default=32, help="questions of the stream answered at once")
    add_window_flags(flags)
    add_device_flags(flags, dtype="float32")
    args = flags.parse()
    check_window_flags(args)
    given = [name for name in ("context", "context_file", "input") if getattr(args, name) is not None]
    if len(given) != 1:
        raise BadInput("ask.py", "", "needs one of --context, --context_file and --input")
    if args.input and args.question is not None:
        raise BadInput("--question", "", "does not go with --input, which brings its own questions")
    files = Path(args.input or ""), Path(args.output)
    if all(file.is_file() for file in files) and files[0].samefile(files[1]):
        raise BadInput("--output", args.output, "is the input itself; name another file")
    return args


def main() -> None:
    args = read_flags()
    context = args.context if args.input is None else ""
    if args.context_file is not None:
        context = read_text(args.context_file)
    reader = pipeline(model=args.ckpt, revision=args.revision, device=args.device, dtype=args.dtype)
    check_window_flags(args, reader.model.config.max_position_embeddings)
    if args.input is not None:
        answer_stream(reader, args)
        return
    questions = [args.question] if args.question is not None else ask_on()
    for question in questions:
        answers = ask(reader, [question], [context], args)[0]
        for answer in answers if args.top_k > 1 else [answers]:
            if args.json:
                print(json.dumps(answer, ensure_ascii=False), flush=True)
            else:
                print(
                    f"{answer['answer']}   (score {answer['score']:.3f}, characters {answer['start']}-{answer['end']})"
                )


def ask(reader: QuestionAnswering, questions: list[str], contexts: list[str], args: Namespace) -> list:
    """The reader's results, under the flags of the command."""
    return reader(
        question=questions,
        context=contexts,
        top_k=args.top_k,
        doc_stride=args.doc_stride,
        max_answer_len=args.max_answer_length,
        max_seq_len=args.max_seq_length,
        max_question_len=args.max_query_length,
    )


def read_text(file: str) -> str:
    try:
        return Path(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(file, "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(file, f"byte {error.start}", "is not UTF-8; convert the file") from error


def ask_on() -> Iterator[str]:
    """Questions typed on the terminal, until an empty line or the end of the input."""
    sys.stdin.reconfigure(errors="replace")
    while True:
        print("question> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def answer_stream(reader: QuestionAnswering, args: Namespace) -> None:
    """Answer JSON lines in batches; BadInput at the end if any line was bad."""
    bad = 0
    with open_text(args.input, "r") as source, open_text(args.output, "w") as sink:
        for lines in batches_of(source, args.batch_size):
            records = [parse(line) for line in lines]
            good = [record for record in records if "error" not in record]
            answers = iter(
                ask(reader, [r["question"] for r in good], [r["context"] for r in good], args) if good else []
            )
            for record in records:
                if "error" in record:
                    bad += 1
                    rows = [{"error": record["error"]}]
                else:
                    rows = next(answers)
                for row in rows if isinstance(rows, list) else [rows]:
                    sink.write(json.dumps({"id": record.get("id")} | row, ensure_ascii=False) + "\n")
            sink.flush()
    if bad:
        raise BadInput(args.input, f"{bad} lines", "could not be answered; their output lines say why")


def open_text(file: str, mode: str) -> TextIO:
    """The file as UTF-8 text, or stdin or stdout for "-"."""
    if file == "-":
        stream = sys.stdin if mode == "r" else sys.stdout
        stream.reconfigure(encoding="utf-8", errors="replace" if mode == "r" else "strict")
        return nullcontext(stream)
    try:
        encoding, errors = ("utf-8-sig", "replace") if mode == "r" else ("utf-8", "strict")
        return open(file, mode, encoding=encoding, errors=errors)
    except OSError as error:
        raise BadInput(file, "", f"cannot be opened: {error.strerror}") from error


def batches_of(source: TextIO, size: int) -> Iterator[list[str]]:
    """Lists of up to `size` lines: full ones while the source is fast, part-filled ones 50 ms after their first line.

    A thread reads ahead by one batch at most, so that a slow source never holds up the lines that have come.
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
        raise OSError(f"the input broke off: {failures[0]}")


def parse(line: str) -> dict:
    """A record {id, question, context} of the stream, or {id, error} saying what is wrong with the line."""
    try:
        record = json.loads(line, parse_constant=refuse, parse_float=finite)
        if not isinstance(record, dict):
            return {"id": None, "error": "expected a JSON object"}
        json.dumps(record.get("id"), ensure_ascii=False).encode()  # an id must be fit to be written again
    except (ValueError, RecursionError) as error:
        return {"id": None, "error": f"not JSON: {error}"}
    for key in ("question", "context"):
        if fault := text_fault(record.get(key), may_be_blank=key == "context"):
            return {"id": record.get("id"), "error": f"{key} {fault}"}
    return {"id": record.get("id"), "question": record["question"], "context": record["context"]}


if __name__ == "__main__":
    run_command(main)
