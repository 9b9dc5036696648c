"""Ask a trained model.

    python ask.py --ckpt runs/first --question "Who made it?" --context "The clock was made by Anna Weiss."
    python ask.py --ckpt runs/first --context_file notes.txt letters/         asks for questions until an empty line
    python ask.py --ckpt runs/first --input questions.jsonl --output -        {id?, question, context} per line

`stream.py` describes the lines of the last form, in and out.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minibert.answers.documents import Found, find_answers, spans_needed
from minibert.answers.explain import PAGE, explain
from minibert.answers.inputs import pair
from minibert.answers.pipeline import QuestionAnswering, pipeline, to_dict
from minibert.answers.spans import MAX_ANSWER_LENGTH, N_BEST_SIZE, Prediction
from minibert.commands import flags
from minibert.commands.notes import WINDOWS, settings_of_run
from minibert.commands.stream import answer_stream, has_answers, is_replaced, open_text
from minibert.support.errors import BadInput
from minibert.support.files import decode, read_text
from minibert.support.hub import find_folder
from minibert.support.page import is_filled
from minibert.support.streams import json_line, printable, tell
from minibert.support.writing import check_target, write_atomically
from minibert.text.records import text_fault
from minibert.text.unread import warn_of_unread
from minibert.training.settings import DTYPES, PRECISION, CheckpointSettings, MachineSettings, WindowSettings, option

LOW_CONFIDENCE = 0.5  # below it, an answer is more likely wrong than right
SHOWN_AROUND = 60  # characters of the text on each side of an answer, on a terminal
TEXT_SUFFIXES = (".txt", ".md")  # of the files that are read in a folder


@dataclass(frozen=True, kw_only=True)
class AskOptions(CheckpointSettings, WindowSettings, MachineSettings):
    """Ask a model that was trained on SQuAD-format questions."""

    question: str | None = option(None, "ask this; without it, ask for questions on the terminal", metavar="Q")
    context: str | None = option(None, "the text to find the answer in", metavar="TEXT")
    context_file: Sequence[str] = option(
        (), 'UTF-8 files that hold the texts, or folders of .txt and .md files; "-" is stdin', metavar="FILE"
    )
    top_k: int = option(1, "show the N best answers", least=1)
    max_answer_length: int = option(MAX_ANSWER_LENGTH, "longest answer, in tokens", least=1)
    null_score_diff_threshold: float | None = option(
        None, 'say "no answer" when the null score exceeds the best answer\'s by more than this', least=-1e9
    )
    min_confidence: float | None = option(
        None, "show only answers of at least this confidence; needs a calibrated model", least=0, most=1
    )
    explain: str | None = option(
        None, "write a page of what the model computed for --question here", metavar="OUT.html"
    )
    json: bool = option(False, "print each answer as a line of JSON")
    input: str | None = option(None, 'JSON lines to answer; "-" is stdin', metavar="FILE")
    output: str = option("-", 'where their answers go; "-" is stdout', metavar="FILE")
    overwrite: bool = option(False, "replace a file at --output or --explain that holds something else")
    batch_size: int = option(32, "questions of the stream answered at once", least=1)
    dtype: str = option("float32", PRECISION, choices=DTYPES)


def main(words: Sequence[str] | None = None) -> None:
    given = flags.parse(AskOptions, "ask", words)
    options = flags.make(AskOptions, given)
    check(options)
    documents = read_documents(options)
    check_texts(options, documents)
    if options.explain is not None:
        check_explain(options.explain, documents)
    folder = find_folder(str(options.ckpt), options.revision)
    options = flags.make(AskOptions, settings_of_run(folder, given, WINDOWS))
    reader = pipeline(
        model=folder,
        device=options.device,
        dtype=options.dtype,
        top_k=searched(options),
        doc_stride=options.doc_stride,
        max_answer_len=options.max_answer_length,
        max_seq_len=options.max_seq_length,
        max_question_len=options.max_query_length,
    )
    if options.min_confidence is not None and reader.answering.confidence is None:
        raise BadInput("--min_confidence", "", "needs a calibrated model: minibert calibrate --ckpt DIR --data FILE")
    if options.explain is not None:  # first, because stdout may be closed
        (context,) = documents.values()
        file = Path(options.explain)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, explain(reader, str(options.question), context, options.max_answer_length))
    if options.input is not None:
        counts = Counter[str]()
        try:
            answer_stream(partial(ask_each, reader, options, counts), options.input, options.output, options.batch_size)
        finally:  # once, for all lines
            warn_of_unread(counts, str(options.ckpt))
    else:
        answer_questions(reader, documents, options)


def check(options: AskOptions) -> None:
    """BadInput for flags that do not go together."""
    if options.ckpt is None:
        raise BadInput("--ckpt", "", "name the model to ask")
    if [options.context is not None, bool(options.context_file), options.input is not None].count(True) != 1:
        raise BadInput("ask.py", "", "expected one of --context, --context_file and --input")
    if options.input is not None and options.question is not None:
        raise BadInput("--question", "", "does not go with --input, which brings its own questions")
    if options.input is None and options.output != "-":
        raise BadInput("--output", options.output, "goes with --input; other answers are printed on stdout")
    if options.explain is not None and options.question is None:
        raise BadInput("--explain", "", "shows one question; name it with --question")
    if "-" in options.context_file and options.question is None:
        raise BadInput("--question", "", "is missing; the questions cannot come from stdin, which is the text")
    if options.input is not None and flags.is_same_file(options.input, options.output):
        raise BadInput("--output", options.output, "is the input itself; name another file")
    if options.output != "-" and is_replaced(options.output):
        check_target(Path(options.output), partial(has_answers, options.output), options.overwrite)
    if options.explain is not None:
        file = Path(options.explain)
        check_target(file, partial(is_filled, PAGE, file), options.overwrite)


def check_explain(page: str, documents: dict[str, str]) -> None:
    """BadInput unless there is one text to explain, and the page would not replace it."""
    if len(documents) > 1:
        raise BadInput("--explain", "", f"shows one text, found {len(documents)}")
    if any(flags.is_same_file(page, file) for file in documents):
        raise BadInput("--explain", page, "is the text itself; name another file")


def read_documents(options: AskOptions) -> dict[str, str]:
    """The texts to search, by their names: files as they are named, and the text files of folders."""
    if options.context is not None:
        return {"": options.context}
    documents: dict[str, str] = {}
    for name in options.context_file:
        if name == "-":
            documents[name] = decode("stdin", sys.stdin.buffer.read())
        elif Path(name).is_dir():
            files = sorted(
                file for file in Path(name).rglob("*") if file.suffix.lower() in TEXT_SUFFIXES and file.is_file()
            )
            if not files:
                raise BadInput(name, "", f"expected a folder with files {' or '.join(TEXT_SUFFIXES)}, found none")
            documents |= {str(file): read_text(file) for file in files}
        else:
            documents[name] = read_text(name)
    return documents


def check_texts(options: AskOptions, documents: dict[str, str]) -> None:
    """BadInput with the flag or the file of a text that cannot be used. A document may be empty, a question not."""
    if options.question is not None and (fault := text_fault(options.question)):
        raise BadInput("--question", "", fault)
    for name, text in documents.items():
        if fault := text_fault(text, may_be_blank=True):
            raise BadInput({"": "--context", "-": "stdin"}.get(name, name), "", fault)


def answer_questions(reader: QuestionAnswering, documents: dict[str, str], options: AskOptions) -> None:
    """Print the answers to the question of the command line, or to those typed on the terminal."""
    if options.json:  # as the stream: JSON is UTF-8 whatever the terminal
        open_text("-", "w")
    names, texts = list(documents), list(documents.values())
    counts, told = Counter[str](), set[str]()
    for question in [options.question] if options.question is not None else typed_questions():
        spans = max(searched(options), spans_needed(options.top_k, len(texts), options.max_answer_length))
        predictions = reader.predictions(pair(question, texts), {"top_k": spans}, is_shown=True, counts=counts)
        warn_of_unread(counts, str(options.ckpt), told)
        for one in find_best(predictions, reader, options):
            if options.json:
                source = {"document": names[one.document]} if len(documents) > 1 else {}
                print(json_line(source | to_row(one)), flush=True)
            else:
                print(printable(in_words(one, names)), flush=True)
                if sys.stdout.isatty() and one.answer.text:
                    print(excerpt(one, texts[one.document]), flush=True)


def searched(options: AskOptions) -> int:
    """Spans of a text that are looked at: with `--min_confidence` more, because a lower answer can be the surer one."""
    return max(options.top_k, N_BEST_SIZE if options.min_confidence is not None else 1)


def ask_each(
    reader: QuestionAnswering, options: AskOptions, counts: Counter[str], questions: list[str], contexts: list[str]
) -> list[list[dict[str, Any]]]:
    """The answers to each question in its own context, as dicts. counts: adds up what `count_unread` counts."""
    predictions = reader.predictions(pair(questions, contexts), {}, counts=counts)
    return [[to_row(one) for one in find_best([prediction], reader, options)] for prediction in predictions]


def find_best(predictions: list[Prediction], reader: QuestionAnswering, options: AskOptions) -> list[Found]:
    """The `top_k` best answers over all documents, by the thresholds of the flags or the model."""
    thresholds = options.null_score_diff_threshold, options.min_confidence
    return find_answers(predictions, reader.answering, options.top_k, *thresholds)


def to_row(one: Found) -> dict[str, Any]:
    """An answer as JSON: the keys of the pipeline, and the confidence if the model is calibrated."""
    return to_dict(one.answer) | ({} if one.confidence is None else {"confidence": one.confidence})


def in_words(one: Found, names: list[str]) -> str:
    """An answer as one line of text."""
    facts = [f"score {one.answer.score:.3f}"]
    if one.confidence is not None:
        facts.insert(0, f"{'low ' * (one.confidence < LOW_CONFIDENCE)}confidence {one.confidence:.2f}")
    if not one.answer.text:
        return f"no answer in {'this text' if len(names) == 1 else 'these texts'}   ({', '.join(facts)})"
    facts.append(f"characters {one.answer.start}-{one.answer.end}")
    if len(names) > 1:
        facts.append(names[one.document])
    return f"{' '.join(one.answer.text.split())}   ({', '.join(facts)})"


def excerpt(one: Found, text: str) -> str:
    """The answer in its surroundings, highlighted for a terminal."""
    start, end = one.answer.start, one.answer.end
    before, after = text[max(0, start - SHOWN_AROUND) : start], text[end : end + SHOWN_AROUND]
    parts = [printable(" ".join(f"|{part}|".split()), "")[1:-1] for part in (before, text[start:end], after)]
    left = "…" if start > SHOWN_AROUND else ""
    right = "…" if end + SHOWN_AROUND < len(text) else ""
    return f"    {left}{parts[0]}\033[7m{parts[1]}\033[0m{parts[2]}{right}"


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
    line = sys.stdin.buffer.readline().decode(errors="replace")
    if not sys.stdin.isatty():  # a terminal has already shown what was typed
        print(printable(line.strip(), ""), file=sys.stderr, flush=True)
    return line
