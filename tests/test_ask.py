"""`ask.py`: one question, questions on a terminal, and the stream of JSON lines."""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from conftest import ROOT, run
from safetensors.torch import load_file, save_file

from minibert.answering import pipeline
from minibert.errors import run_command

WINDOWS = ["--max_seq_length", "40", "--doc_stride", "8"]
CONTEXT = "The clock tower was made of copper in 1871 by Anna Weiss. “Café” 🎉 is by the river."
WHO, WHAT = "Who made the tower?", "What is by the river?"


def load_script():
    spec = importlib.util.spec_from_file_location("ask_script", ROOT / "ask.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


script = load_script()


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command in this process: its exit code, stdout and stderr."""

    def command(*words, stdin: bytes = b"") -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["ask.py", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            run_command(script.main)
        out = stdout.buffer.getvalue().decode("utf-8")
        return SimpleNamespace(code=ended.value.code, out=out, err=capsys.readouterr().err)

    return command


@pytest.fixture(scope="module")
def expected(tiny_folder):
    """The pipeline's answer under the command's settings."""
    reader = pipeline(model=tiny_folder)
    sizes = {"max_seq_len": 40, "doc_stride": 8, "max_answer_len": 30}
    return lambda question, context, **options: reader(question=question, context=context, **sizes | options)


def assert_refused(done: SimpleNamespace) -> None:
    assert done.code == 2
    assert done.out == ""
    assert [line for line in done.err.splitlines() if "error:" in line] == done.err.splitlines()[-1:]
    assert "Traceback" not in done.err


def as_lines(*records) -> bytes:
    """JSON lines; a str is a line as it is."""
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records).encode()


def read_lines(text: str) -> list[dict]:
    """Strict JSON lines."""
    return [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in text.splitlines()]


# One question


def test_one_question_prints_the_answer(ask, expected, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--question", WHO, "--context", CONTEXT, *WINDOWS)
    answer = expected(WHO, CONTEXT)
    place = f"(score {answer['score']:.3f}, characters {answer['start']}-{answer['end']})"
    assert (done.code, done.out, done.err) == (0, f"{answer['answer']}   {place}\n", "")


@pytest.mark.parametrize("spelling", [["--top_k", "3"], ["--top-k", "3"], ["--top-k=3"]])
def test_top_k_prints_as_many_lines_under_either_spelling(ask, expected, tiny_folder, spelling):
    done = ask("--ckpt", tiny_folder, "--question", WHO, "--context", CONTEXT, *WINDOWS, *spelling)
    assert [line.partition("   (score")[0] for line in done.out.splitlines()] == [
        answer["answer"] for answer in expected(WHO, CONTEXT, top_k=3)
    ]


@pytest.mark.parametrize("top_k", [1, 2])
def test_json_prints_what_the_pipeline_gives(ask, expected, tiny_folder, top_k):
    words = ["--question", WHO, "--context", CONTEXT, *WINDOWS, "--json", "--top_k", top_k]
    answers = expected(WHO, CONTEXT, top_k=top_k)
    assert read_lines(ask("--ckpt", tiny_folder, *words).out) == (answers if top_k > 1 else [answers])


@pytest.mark.parametrize(
    "words, options",
    [
        ([], {}),
        (["--max_answer_length", "2"], {"max_answer_len": 2}),
        (["--max_query_length", "1"], {"max_question_len": 1}),
        (["--doc-stride", "3"], {"doc_stride": 3}),
    ],
)
def test_sizes_reach_the_reader(ask, expected, tiny_folder, words, options):
    context = CONTEXT + " The old stone bridge was made in 1902 by John of Basel."
    words = ["--question", WHO, "--context", context, *WINDOWS, "--json", "--top_k", "3000", *words]
    answers = expected(WHO, context, top_k=3000, **options)
    assert read_lines(ask("--ckpt", tiny_folder, *words).out) == answers
    others = {} if options else {"max_answer_len": 15}  # so that the size makes a difference here
    assert answers != expected(WHO, context, top_k=3000, **others)


def test_a_context_file_may_begin_with_a_byte_order_mark(ask, expected, tiny_folder, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_bytes(b"\xef\xbb\xbf" + CONTEXT.replace(". ", ".\r\n").encode())
    done = ask("--ckpt", tiny_folder, "--question", WHO, "--context_file", file, *WINDOWS, "--json")
    assert read_lines(done.out) == [expected(WHO, CONTEXT.replace(". ", ".\r\n"))]


def test_questions_are_read_on_until_an_empty_line(ask, expected, tiny_folder):
    stdin = f"{WHO}\n  {WHAT}  \n\nnot asked\n".encode()
    done = ask("--ckpt", tiny_folder, "--context", CONTEXT, *WINDOWS, "--json", stdin=stdin)
    assert read_lines(done.out) == [expected(WHO, CONTEXT), expected(WHAT, CONTEXT)]
    assert (done.code, done.err) == (0, "question> " * 3)


def test_questions_are_read_on_until_the_end_of_the_input(ask, expected, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--context", CONTEXT, *WINDOWS, "--json", stdin=WHO.encode())
    assert read_lines(done.out) == [expected(WHO, CONTEXT)]


def test_an_empty_context_has_the_empty_answer(ask, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--question", WHO, "--context", "", *WINDOWS, "--json")
    assert [line | {"score": 1} for line in read_lines(done.out)] == [{"score": 1, "start": 0, "end": 0, "answer": ""}]


# What is refused


@pytest.mark.parametrize(
    "words",
    [
        ["--ckpt", "TINY", "--question", WHO],
        ["--ckpt", "TINY", "--question", WHO, "--context", CONTEXT, "--context_file", "FILE"],
        ["--ckpt", "TINY", "--context", CONTEXT, "--input", "FILE"],
        ["--ckpt", "TINY", "--question", WHO, "--input", "FILE"],
        ["--ckpt", "TINY", "--question", "", "--input", "FILE"],
        ["--question", WHO, "--context", CONTEXT],
        ["--ckpt", "TINY", "--question", WHO, "--context", CONTEXT, "--top_k", "0"],
        ["--ckpt", "TINY", "--question", WHO, "--context", CONTEXT, "--top_k", "two"],
        ["--ckpt", "TINY", "--question", WHO, "--context", CONTEXT, "--top", "2"],
        ["--ckpt", "TINY", "--question", WHO, "--context", CONTEXT, "--max_seq_length", "71"],
        ["--ckpt", "TINY", "--question", WHO, "--context", CONTEXT, "--max_seq_length", "40", "--doc_stride", "37"],
        ["--ckpt", "TINY", "--question", " ", "--context", CONTEXT],
        ["--ckpt", "TINY", "--question", "half a pair \udcff", "--context", CONTEXT],
        ["--ckpt", "TINY", "--question", WHO, "--context_file", "MISSING"],
        ["--ckpt", "TINY", "--question", WHO, "--context_file", "LATIN"],
        ["--ckpt", "TINY", "--input", "MISSING"],
        ["--ckpt", "TINY", "--input", "FILE", "--output", "TINY"],
        ["--ckpt", "MISSING", "--question", WHO, "--context", CONTEXT],
        ["--ckpt", "HEADLESS", "--question", WHO, "--context", CONTEXT],
    ],
    ids=lambda words: " ".join(words[-4:]).encode("ascii", "replace").decode(),
)
def test_bad_flags_and_files_are_refused(ask, tiny_folder, tmp_path, words):
    paths = {name: tmp_path / name.lower() for name in ("FILE", "MISSING", "LATIN", "HEADLESS")} | {"TINY": tiny_folder}
    paths["FILE"].write_bytes(as_lines({"question": WHO, "context": CONTEXT}))
    paths["LATIN"].write_bytes("Café".encode("latin-1"))
    if "HEADLESS" in words:
        make_headless(tiny_folder, paths["HEADLESS"])
    sizes = [] if "--max_seq_length" in words else WINDOWS
    assert_refused(ask(*(str(paths.get(word, word)) for word in [*words, *sizes])))


def make_headless(folder, target) -> None:
    """A copy of a model folder without its span head."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("qa_outputs")}
    save_file(encoder, target / "model.safetensors", {"format": "pt"})


def test_the_exit_code_reaches_the_shell():
    done = run("ask.py", "--ckpt", "nowhere", "--question", WHO)
    assert_refused(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr))


# The stream


def test_the_stream_answers_in_order_and_passes_ids_through(ask, expected, tiny_folder):
    ids = ["b", "a", 7, 2.5, None, ["x", 1], {"k": "é"}, "", "b", True]
    records = [{"id": i, "question": [WHO, WHAT][n % 2], "context": CONTEXT[: 40 + 5 * n]} for n, i in enumerate(ids)]
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, "--batch_size", "4", stdin=as_lines(*records))
    assert (done.code, done.err) == (0, "")
    for line, record in zip(read_lines(done.out), records, strict=True):
        assert list(line) == ["id", "score", "start", "end", "answer"]
        answer = expected(record["question"], record["context"])
        assert line == {"id": record["id"]} | answer | {"score": pytest.approx(answer["score"], abs=1e-5)}


def test_the_stream_gives_a_missing_id_as_null(ask, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, stdin=as_lines({"question": WHO, "context": CONTEXT}))
    assert [line["id"] for line in read_lines(done.out)] == [None]


def test_the_stream_reads_nothing_but_its_three_keys(ask, tiny_folder):
    record = {"id": 1, "question": WHO, "context": CONTEXT}
    more = record | {"error": "of an earlier program", "answer": "x", "score": None}
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, stdin=as_lines(record, more))
    first, second = read_lines(done.out)
    assert (done.code, second) == (0, first)


GOOD = {"id": "good", "question": WHO, "context": CONTEXT}
BAD_LINES = [
    ("{", None),
    ("[1, 2]", None),
    ('"text"', None),
    ("null", None),
    ("[" * 100_000, None),
    ('{"id": 9' + 5000 * "9" + "}", None),
    ({"id": 1}, 1),
    ({"id": 2, "question": WHO}, 2),
    ({"id": 3, "context": CONTEXT}, 3),
    ({"id": 4, "question": " ", "context": CONTEXT}, 4),
    ({"id": 5, "question": 5, "context": CONTEXT}, 5),
    ({"id": 6, "question": WHO, "context": None}, 6),
    ({"id": 7, "question": WHO, "context": [CONTEXT]}, 7),
    ({"id": 8, "question": "half a pair \ud83d", "context": CONTEXT}, 8),
    ({"id": [9], "question": WHO, "context": "\ud83d"}, [9]),
]


@pytest.mark.parametrize(
    "line, line_id", BAD_LINES, ids=lambda part: str(part)[:30].encode("ascii", "replace").decode()
)
def test_a_bad_line_is_reported_in_its_place(ask, tiny_folder, line, line_id):
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, stdin=as_lines(GOOD, line, GOOD))
    first, middle, last = read_lines(done.out)
    assert first == last and first["id"] == "good" and first["answer"] in CONTEXT
    assert list(middle) == ["id", "error"]
    assert middle["id"] == line_id and middle["error"]
    assert done.code == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and "1 lines" in done.err


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "\\ud83d", "question": "Who?", "context": "clock"}',
        '{"id": NaN, "question": "Who?", "context": "clock"}',
        '{"id": {"\\ud83d": 1}, "question": " ", "context": "clock"}',
    ],
)
def test_an_id_that_json_cannot_hold_does_not_stop_the_stream(ask, tiny_folder, line):
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, stdin=as_lines(line, GOOD))
    first, second = read_lines(done.out)
    assert done.code in (0, 2) and "Traceback" not in done.err
    assert set(first) in ({"id", "error"}, {"id", "score", "start", "end", "answer"})
    assert second["id"] == "good" and second["answer"] in CONTEXT


def test_a_stream_of_bad_lines_alone_is_reported(ask, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, stdin=as_lines("{", "[]", {"id": 3}))
    assert [set(line) for line in read_lines(done.out)] == [{"id", "error"}] * 3
    assert done.code == 2 and "3 lines" in done.err


def test_blank_lines_are_skipped(ask, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, stdin=b"\n  \n" + as_lines(GOOD, "", "\t\r", GOOD))
    assert done.code == 0 and len(read_lines(done.out)) == 2


def test_no_lines_are_no_answers(ask, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_the_stream_answers_an_empty_context_with_the_empty_answer(ask, tiny_folder):
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, stdin=as_lines(GOOD | {"context": ""}, GOOD))
    empty, full = read_lines(done.out)
    assert empty | {"score": 0} == {"id": "good", "score": 0, "start": 0, "end": 0, "answer": ""}
    assert full["answer"] in CONTEXT and full["answer"]


def test_the_stream_gives_top_k_lines_for_each_question(ask, tiny_folder):
    stdin = as_lines(GOOD | {"id": 1}, GOOD | {"id": 2})
    done = ask("--ckpt", tiny_folder, "--input", "-", *WINDOWS, "--top_k", "3", stdin=stdin)
    assert [line["id"] for line in read_lines(done.out)] == [1, 1, 1, 2, 2, 2]


def test_the_stream_goes_from_file_to_file(ask, tiny_folder, tmp_path):
    source, target = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    source.write_bytes(as_lines(GOOD, GOOD | {"id": "é", "context": "Café"}))
    target.write_text("old\n", "utf-8")
    done = ask("--ckpt", tiny_folder, "--input", source, "--output", target, *WINDOWS)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert [(line["id"], line["answer"] != "") for line in read_lines(target.read_text("utf-8"))] == [
        ("good", True),
        ("é", True),
    ]
    assert "é" in target.read_text("utf-8")  # readable, not escaped


def test_the_input_file_may_begin_with_a_byte_order_mark(ask, tiny_folder, tmp_path):
    source = tmp_path / "questions.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + as_lines(GOOD))
    done = ask("--ckpt", tiny_folder, "--input", source, *WINDOWS)
    assert (done.code, [line["id"] for line in read_lines(done.out)]) == (0, ["good"])


@pytest.mark.parametrize("spelling", ["same", "relative", "symlink", "hard link"])
def test_output_onto_the_input_is_refused_and_loses_nothing(ask, tiny_folder, tmp_path, monkeypatch, spelling):
    source, other = tmp_path / "questions.jsonl", tmp_path / "link.jsonl"
    source.write_bytes(as_lines(GOOD))
    if spelling == "symlink":
        other.symlink_to(source)
    elif spelling == "hard link":
        os.link(source, other)
    else:
        monkeypatch.chdir(tmp_path)
        other = source if spelling == "same" else f"../{tmp_path.name}/questions.jsonl"
    assert_refused(ask("--ckpt", tiny_folder, "--input", source, "--output", other, *WINDOWS))
    assert source.read_bytes() == as_lines(GOOD)


def test_a_missing_input_leaves_the_output_alone(ask, tiny_folder, tmp_path):
    target = tmp_path / "answers.jsonl"
    target.write_text("old\n", "utf-8")
    assert_refused(ask("--ckpt", tiny_folder, "--input", tmp_path / "no.jsonl", "--output", target, *WINDOWS))
    assert target.read_text("utf-8") == "old\n"


def test_a_line_is_answered_while_the_input_stays_open_and_ctrl_c_ends_it(tiny_folder):
    words = [sys.executable, "ask.py", "--ckpt", str(tiny_folder), "--input", "-", *WINDOWS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide an answer that is never flushed
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, env=environment, **pipes) as child:
        watchdog = threading.Timer(60, child.kill)  # a test that fails must not hang
        watchdog.start()
        try:
            waits = []
            for name in ("first", "second"):
                began = time.monotonic()
                child.stdin.write(as_lines(GOOD | {"id": name}))
                child.stdin.flush()
                assert json.loads(child.stdout.readline())["id"] == name
                waits.append(time.monotonic() - began)
            child.send_signal(signal.SIGINT)
            child.wait(30)
            err = child.stderr.read().decode()
        finally:
            watchdog.cancel()
            child.kill()
    assert waits[1] < 1.5  # the first one waited for the model
    assert (child.returncode, err.strip()) == (130, "error: stopped by Ctrl-C")


# Batches of the stream


def endless(stop: threading.Event, *lines):
    """Some lines, then silence until the test is over."""
    yield from lines
    stop.wait(20)


def test_a_part_filled_batch_does_not_wait_for_more():
    stop, began = threading.Event(), time.monotonic()
    batches = script.batches_of(endless(stop, "a\n", "b\n", "c\n"), 2)
    assert [next(batches), next(batches)] == [["a\n", "b\n"], ["c\n"]]
    assert time.monotonic() - began < 5
    stop.set()
    assert list(batches) == []


@pytest.mark.parametrize("count, size", [(0, 3), (1, 3), (6, 3), (7, 3), (5, 1)])
def test_a_fast_source_fills_its_batches(count, size):
    lines = [f"{i}\n" for i in range(count)]
    batches = list(script.batches_of(iter(lines), size))
    assert [line for batch in batches for line in batch] == lines
    assert all(0 < len(batch) <= size for batch in batches)


def test_a_source_that_fails_ends_the_stream_with_its_error():
    def failing():
        yield "a\n"
        raise OSError("the disk is gone")

    found = []

    def consume():
        try:
            found.extend(script.batches_of(failing(), 4))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "the consumer waits for ever"
    assert found[0] == ["a\n"] and isinstance(found[-1], OSError)


def test_the_stream_never_reads_far_ahead(monkeypatch):
    size, total = 16, 20_000
    read = written = furthest = 0

    def source():
        nonlocal read, furthest
        for number in range(total):
            read += 1
            furthest = max(furthest, read - written)
            yield json.dumps({"id": number, "question": "Who?", "context": "x"}) + "\n"

    def reader(question, context, **_):
        return [{"answer": text} for text in context]

    class Sink:
        def write(self, line):
            nonlocal written
            assert json.loads(line) == {"id": written, "answer": "x"}
            written += 1

        def flush(self):
            pass

    monkeypatch.setattr(script, "open_text", lambda _, mode: nullcontext(source() if mode == "r" else Sink()))
    flags = {"top_k": 1, "doc_stride": 8, "max_answer_length": 30, "max_seq_length": 40, "max_query_length": 64}
    script.answer_stream(reader, SimpleNamespace(input="-", output="-", batch_size=size, **flags))
    assert written == total
    assert furthest <= 3 * size  # two batches and the queue between them
