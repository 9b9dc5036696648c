"""`ask`: one question, questions on a terminal, many documents, and the stream of JSON lines."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest

from minibert.answers.pipeline import pipeline
from minibert.commands import stream
from tests.builders import ROOT, run

SIZES = ["--max_seq_length", "40", "--doc_stride", "8"]
CONTEXT = 'The clock tower was made of copper in 1871 by Anna Weiss. "Café" 🎉 is by the river.'
WHO, WHAT = "Who made the tower?", "What is by the river?"
ONE = ["--question", WHO, "--context", CONTEXT]
GOOD = {"id": "good", "question": WHO, "context": CONTEXT}
OLD = '{"id": "old", "score": 1.0, "start": 0, "end": 0, "answer": ""}\n'


@pytest.fixture
def ask(command, tiny_folder):
    """Ask the tiny model."""
    return lambda *words, stdin=b"": command("ask", "--ckpt", tiny_folder, *SIZES, *words, stdin=stdin)


@pytest.fixture(scope="module")
def expected(tiny_folder):
    """The pipeline's answers under the command's settings."""
    reader = pipeline(model=tiny_folder)
    sizes = {"max_seq_len": 40, "doc_stride": 8, "max_answer_len": 30}

    def answers(question=WHO, context=CONTEXT, **options):
        found = reader(question=question, context=context, **sizes | options)
        return found if isinstance(found, list) else [found]

    return answers


def near(answers: list[dict], **more) -> list[dict]:
    """The answers, equal to those of another row of a batch, whose scores may differ in the last digits."""
    return [more | answer | {"score": pytest.approx(answer["score"], rel=1e-5)} for answer in answers]


def as_lines(*records) -> bytes:
    """JSON lines; a str is a line as it is."""
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records).encode()


# --- one question


def test_a_closed_stdout_does_not_cost_the_page(tiny_folder, tmp_path):
    words = [*ONE, "--ckpt", str(tiny_folder), "--explain", str(tmp_path / "page.html"), *SIZES]
    argv = ["minibert", "ask", *words]
    code = f"import os, sys; os.close(1); sys.argv = {argv!r}; from minibert.__main__ import main; main()"
    assert run("-c", code).returncode == 1 and (tmp_path / "page.html").is_file()


def test_one_question_prints_the_answer_with_its_score_and_place(ask, expected):
    done = ask(*ONE)
    (answer,) = expected()
    place = f"(score {answer['score']:.3f}, characters {answer['start']}-{answer['end']})"
    assert (done.code, done.out, done.err) == (0, f"{answer['answer']}   {place}\n", "")
    lines = ask(*ONE, "--top-k=3").out.splitlines()
    assert [line.partition("   (score")[0] for line in lines] == [best["answer"] for best in expected(top_k=3)]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--max_answer_length", "2"], {"max_answer_len": 2}),
        (["--max_query_length", "1"], {"max_question_len": 1}),
        (["--max_seq_length", "36"], {"max_seq_len": 36}),
        (["--doc-stride", "3"], {"doc_stride": 3}),
    ],
)
def test_json_prints_what_the_pipeline_gives_under_the_same_settings(ask, expected, words, options):
    context = CONTEXT + " The old stone bridge was made in 1902 by John of Basel."
    answers = expected(WHO, context, top_k=3000, **options)
    done = ask("--question", WHO, "--context", context, "--json", "--top_k", "3000", *words)
    assert done.records == near(answers)
    assert expected(WHO, context, top_k=3000) != answers  # the setting makes a difference here


@pytest.mark.parametrize(
    ("typed", "questions"), [(f"{WHO}\n  {WHAT}  \n\nnot asked\n", (WHO, WHAT)), (f"{WHAT}\n{WHO}", (WHAT, WHO))]
)
def test_questions_are_read_until_an_empty_line_or_the_end_of_the_input(ask, expected, typed, questions):
    done = ask("--context", CONTEXT, "--json", stdin=typed.encode())
    assert done.records == [answer for question in questions for answer in near(expected(question))]
    assert (done.code, done.err) == (0, "".join(f"question> {line}\n" for line in (*questions, "")))


def test_int8_is_a_dtype_of_the_command(ask):
    """Not the same answer, by another rounding of a model with random weights; but one of the text."""
    done = ask(*ONE, "--dtype", "int8", "--json")
    assert done.code == 0 and CONTEXT[done.result["start"] : done.result["end"]] == done.result["answer"] != ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_stream_in_utf_16_is_named(ask, encoding):
    ask("--input", "-", stdin=("\ufeff" + as_lines(GOOD).decode()).encode(encoding)).assert_refused(
        "is UTF-16; save it"
    )


def test_an_unprintable_question_does_not_end_the_session(ask):
    done = ask("--context", CONTEXT, stdin=b"\x01\x02\n" + WHO.encode() + b"\n\n")
    assert done.code == 0 and len(done.out.splitlines()) == 1 and "visible character" in done.err


def test_a_text_that_cannot_be_used_is_named_by_its_flag_or_file(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minibert.text.records.MOST_CHARACTERS", 99)
    for name, size in (("a.txt", 9), ("b.txt", 100)):
        (tmp_path / name).write_text("a" * size, "utf-8")
    ask("--context", CONTEXT[:90], "--question", " ").assert_refused(
        "^error: --question: must be a string with a visible"
    )
    ask("--context", "a" * 100, "--question", WHO).assert_refused("^error: --context: has 100 characters")
    ask("--context_file", "a.txt", "b.txt").assert_refused("^error: b.txt: has 100 characters")
    ask("--context_file", "-", "--question", WHO, stdin=b"a" * 100).assert_refused("^error: stdin: has 100 characters")
    (tmp_path / "b.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    ask("--context_file", "a.txt", "b.txt", "--question", WHO).assert_refused("b.txt: is a git-LFS pointer")


def test_an_empty_context_has_the_empty_answer(ask, expected):
    empty = {"score": pytest.approx(1), "start": 0, "end": 0, "answer": ""}
    assert ask("--question", WHO, "--context", "", "--json").records == [empty]
    stdin = as_lines(GOOD | {"context": ""}, GOOD)
    assert ask("--input", "-", stdin=stdin).records == [{"id": "good"} | empty, *near(expected(), id="good")]


TYPED = """
from minibert.commands.ask import typed_questions
print("asked", ascii(list(typed_questions())))
"""


def test_a_line_on_a_terminal_can_be_edited():
    pytest.importorskip("readline")
    pty = pytest.importorskip("pty")
    typed = b"Wo?\x1b[D\x1b[Dh\n\x1b[A\n"  # the left arrow twice; the line before
    typed += "Caf\u00e9?\n".encode() + b"\xffa\n\x04"  # Ctrl-D ends
    ours, terminal = pty.openpty()
    env = os.environ | {"TERM": "xterm", "LC_ALL": "C.UTF-8", "INPUTRC": os.devnull, "PYTHONUTF8": "1"}
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with subprocess.Popen([sys.executable, "-c", TYPED], cwd=ROOT, env=env, **streams) as child:
        os.close(terminal)
        watchdog = threading.Timer(60, child.kill)  # a test that fails must not hang
        watchdog.start()
        shown = b""
        with suppress(OSError):  # the terminal is closed when the child has ended
            while chunk := os.read(ours, 4096):
                shown += chunk
                if typed and shown.endswith(b"question> "):  # one line for each prompt
                    line, typed = re.match(rb"([^\n\x04]*[\n\x04])(.*)", typed, re.DOTALL).groups()
                    os.write(ours, line)
        watchdog.cancel()
    os.close(ours)
    asked = ["Who?", "Who?", "Caf\u00e9?", "\ufffda"]
    assert child.returncode == 0 and f"asked {asked!a}".encode() in shown, shown


def test_terminal_codes_in_an_answer_are_shown_and_not_obeyed(ask):
    done = ask("--question", WHO, "--context", "clock \x1b[2J tower", "--top_k", "9")
    assert done.code == 0 and "\x1b" not in done.out and "\\x1b[2J" in done.out


def test_an_answer_over_several_lines_is_one_line(ask):
    words = ["--question", WHO, "--context", "clock\n\ntower", "--top_k", "3"]
    assert "clock tower   (score " in ask(*words).out and len(ask(*words).out.splitlines()) == 3
    assert "clock\n\ntower" in [row["answer"] for row in ask(*words, "--json").records]


def test_explain_writes_a_page_beside_the_answer(ask, tmp_path):
    done = ask(*ONE, "--explain", tmp_path / "new/out.html")
    assert done.code == 0 and "(score" in done.out and "</html>" in (tmp_path / "new/out.html").read_text("utf-8")


# --- many documents, "no answer", confidence


def test_one_list_of_answers_over_files_folders_and_stdin(ask, tmp_path, monkeypatch):
    texts = {"notes/clock.txt": CONTEXT, "notes/deep/RIVER.MD": "The bridge is old. It was built by John."}
    (tmp_path / "notes/deep").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "notes/picture.png").write_bytes(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    texts["-"] = "Anna made it."
    words = ["--question", WHO, "--top_k", "5", "--json", "--context_file"]
    done = ask(*words, "notes", "-", stdin=b"Anna made it.")
    assert done.code == 0 and len(done.records) == 5
    assert all(texts[row["document"]][row["start"] : row["end"]] == row["answer"] for row in done.records)
    assert done.out == ask(*words, "-", "notes", stdin=b"Anna made it.").out  # the order of the files does not matter
    none = ask("--question", WHO, "--context_file", "notes", "--null_score_diff_threshold=-1000")
    assert none.out.startswith("no answer in these texts   (score ")


def test_no_answer_is_said_in_words_and_as_an_empty_answer(ask):
    flag = "--null_score_diff_threshold=-1000"
    assert ask(*ONE, flag).out.startswith("no answer in this text   (score ")
    (row,), (line,) = ask(*ONE, flag, "--json").records, ask("--input", "-", flag, stdin=as_lines(GOOD)).records
    assert (row["answer"], row["start"], row["end"], line["id"], line["answer"]) == ("", 0, 0, "good", "")


def test_a_calibrated_model_gives_confidences_and_its_threshold(command, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    answering = {"format": 1, "null_score_diff_threshold": 1000.0, "no_answer": None, "fitted_on": {}}
    answering["confidence"] = {"bias": 0.4, "log_score": 0.0, "score": 0.0, "log_length": 0.0}
    (folder / "answering.json").write_text(json.dumps(answering))
    words = ["ask", "--ckpt", folder, *ONE, *SIZES]
    assert "(confidence 0.60, score " in command(*words).out
    assert command(*words, "--json").result["confidence"] == pytest.approx(0.5987, abs=1e-4)
    assert command(*words, "--min_confidence", "0.7").out.startswith("no answer in this text")
    # Shorter answers are surer: the first that is sure enough may stand below the best.
    answering["confidence"] = {"bias": 5.0, "log_score": 0.0, "score": 0.0, "log_length": -2.0}
    (folder / "answering.json").write_text(json.dumps(answering))
    listed = command(*words, "--json", "--top_k", "20").records
    sure = max(row["confidence"] for row in listed)
    assert listed[0]["confidence"] < sure
    assert command(*words, "--json", "--min_confidence", sure).result == next(
        r for r in listed if r["confidence"] == sure
    )
    (folder / "answering.json").write_text(json.dumps(answering | {"null_score_diff_threshold": -1000.0}))
    assert command(*words).out.startswith("no answer in this text")
    assert not command(*words, "--null_score_diff_threshold", "1000").out.startswith("no answer")
    sure_of_none = {"null_score_diff_threshold": -1000.0, "no_answer": {"bias": 2.0, "null_odds": 0.0}}
    (folder / "answering.json").write_text(json.dumps(answering | sure_of_none))
    assert command(*words).out.startswith("no answer in this text   (confidence 0.88, score ")


# --- the stream


def test_json_has_no_code_that_a_terminal_obeys(ask):
    code = "\x1b\x7f\x9b\u202e"
    record = {"id": code, "question": WHO, "context": f"clock {code} tower caf\u00e9"}
    stream = ask("--input", "-", stdin=as_lines(record))
    one = ask("--question", WHO, "--context", record["context"], "--json", "--top_k", "9")
    assert stream.records[0]["id"] == code and any(code in row["answer"] for row in one.records)
    assert not set(code) & set(stream.out + one.out) and "caf\u00e9" in one.out


def test_the_stream_answers_in_order_and_passes_ids_through(ask, expected):
    ids = ["b", "a", 7, 2.5, None, ["x", 1], {"k": "é"}, "", "b", True]
    records = [{"id": i, "question": [WHO, WHAT][n % 2], "context": CONTEXT[: 40 + 5 * n]} for n, i in enumerate(ids)]
    more = {"error": "of an earlier program", "answer": "x", "score": None}  # keys that the stream does not read
    done = ask("--input", "-", "--batch_size", "4", stdin=as_lines(*(record | more for record in records)))
    assert (done.code, done.err) == (0, "")
    assert all(list(line) == ["id", "score", "start", "end", "answer"] for line in done.records)
    assert done.records == [near(expected(r["question"], r["context"]), id=r["id"])[0] for r in records]


@pytest.mark.parametrize(
    ("line", "line_id"),
    [
        ("{", None),
        ("[1, 2]", None),
        ("[" * 100_000, None),
        ('{"id": 9' + 5000 * "9" + "}", None),
        ({"id": 1}, 1),
        (GOOD | {"id": 4, "question": " "}, 4),
        (GOOD | {"id": 5, "question": 5}, 5),
        (GOOD | {"id": 7, "context": [CONTEXT]}, 7),
        (GOOD | {"id": [9], "context": "half a pair \ud83d"}, [9]),
        ('{"id": "\\ud83d", "question": "Who?", "context": "clock"}', None),
        ('{"id": {"\\ud83d": 1}, "question": " ", "context": "clock"}', None),
        ('{"id": 10, "question": "caf\udce9?", "context": "clock"}', 10),  # Latin-1, as the stream decodes it
        ('{"id": NaN, "question": "Who?", "context": "clock"}', None),
        ('{"id": 11, "question": "Who?", "question": "What?", "context": "clock"}', None),
        ('{"id": 1e999, "question": "Who?", "context": "clock"}', None),
    ],
    ids=lambda part: ascii(part)[:30],
)
def test_a_line_that_cannot_be_answered_says_why(line, line_id):
    record = stream.parse(line if isinstance(line, str) else json.dumps(line))
    assert list(record) == ["id", "error"] and record["id"] == line_id and record["error"]


@pytest.mark.parametrize("good", [[GOOD], []])
def test_bad_lines_are_reported_in_their_places_and_at_the_end(ask, expected, good):
    latin = b'{"id": 4, "question": "caf\xe9?", "context": "clock"}\n'
    done = ask("--input", "-", stdin=as_lines(*good, "{", {"id": 3}) + latin + as_lines(*good))
    answers = near(expected(), id="good")[: len(good)]
    bad = done.records[len(good) : len(good) + 3]
    assert [(list(line), line["id"]) for line in bad] == [(["id", "error"], name) for name in (None, 3, 4)]
    assert done.records == [*answers, *bad, *answers]
    assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1 and "3 lines" in done.err


@pytest.mark.parametrize(
    ("stdin", "words", "ids"),
    [
        (b"", [], []),
        (b"\n  \n" + as_lines(GOOD, "", "\t\r", GOOD), [], ["good", "good"]),
        (as_lines({"question": WHO, "context": CONTEXT}), [], [None]),
        (as_lines(GOOD | {"id": 1}, GOOD | {"id": 2}), ["--top_k", "3"], [1, 1, 1, 2, 2, 2]),
    ],
    ids=["no lines", "blank lines", "no id", "top_k"],
)
def test_the_lines_that_are_answered(ask, stdin, words, ids):
    done = ask("--input", "-", *words, stdin=stdin)
    assert (done.code, done.err, [line["id"] for line in done.records]) == (0, "", ids)


def test_the_stream_goes_from_file_to_file(ask, tmp_path):
    source, target = tmp_path / "questions.jsonl", tmp_path / "new/answers.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + as_lines(GOOD, GOOD | {"id": "é", "context": "Café"}))
    words = ["--input", source, "--output", target]
    assert ask(*words).code == 0 and target.is_file()  # in a folder that was not there
    target.write_text("old\n", "utf-8")
    done = ask(*words, "--overwrite")
    assert (done.code, done.out, done.err) == (0, "", "")
    first, second = target.read_text("utf-8").splitlines()
    assert json.loads(first)["id"] == "good" and second.startswith('{"id": "é"')  # readable, not escaped
    assert ask(*words).code == 0  # ours
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["answers.jsonl", "new", "questions.jsonl"]
    target.write_text(json.dumps(json.loads(first) | {"question": "of another program"}), "utf-8")
    ask(*words).assert_refused("answers.jsonl: .*--overwrite")


def test_answers_that_end_early_leave_the_old_file_and_stay_beside_it(ask, tmp_path, monkeypatch):
    source, target = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    source.write_bytes(as_lines(GOOD, GOOD))
    target.write_text(OLD, "utf-8")
    calls = iter([[[{"answer": "first"}]]])
    monkeypatch.setattr("minibert.commands.ask.ask_each", lambda *_: next(calls))  # the second batch raises
    with pytest.raises(StopIteration):
        ask("--input", source, "--output", target, "--batch_size", "1")
    assert target.read_text("utf-8") == OLD
    (left,) = tmp_path.glob(".tmp-answers.jsonl-*")
    assert json.loads(left.read_text("utf-8")) == {"id": "good", "answer": "first"}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_output_onto_the_input_by_another_name_loses_nothing(ask, tmp_path, link):
    source, other = tmp_path / "questions.jsonl", tmp_path / "link.jsonl"
    source.write_bytes(as_lines(GOOD))
    link(source, other)
    ask("--input", source, "--output", other, "--overwrite").assert_refused("--output: .*is the input itself")
    assert source.read_bytes() == as_lines(GOOD)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
def test_a_line_is_answered_while_the_input_stays_open_and_ctrl_c_ends_it(tiny_folder):
    words = [sys.executable, "ask.py", "--ckpt", str(tiny_folder), "--input", "-", *SIZES]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide an answer that is never flushed
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, cwd=ROOT, env=environment, **pipes) as child:
        watchdog = threading.Timer(60, child.kill)  # a test that fails must not hang
        watchdog.start()
        for name in ("first", "second"):
            began = time.monotonic()
            child.stdin.write(as_lines(GOOD | {"id": name}))
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["id"] == name
        assert time.monotonic() - began < 20  # the first one waited for the model
        child.send_signal(signal.SIGINT)
        assert child.stderr.read().strip() == b"stopped by Ctrl-C"
        watchdog.cancel()
    assert child.returncode == 130


# --- batches of the stream


def test_a_part_filled_batch_does_not_wait_for_more(monkeypatch):
    monkeypatch.setattr(stream, "WAIT_SECONDS", 1.0)  # for a thread that a busy machine holds up
    stop = threading.Event()

    def source():
        yield from ("a\n", "b\n", "c\n")
        stop.wait(20)

    began = time.monotonic()
    batches = stream.batches_of(source(), 2)
    assert [next(batches), next(batches)] == [["a\n", "b\n"], ["c\n"]]
    assert time.monotonic() - began < 5
    stop.set()
    assert list(batches) == []


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (6, 3), (7, 3), (5, 1)])
def test_all_lines_are_in_batches_of_at_most_the_size(count, size):
    lines = [f"{i}\n" for i in range(count)]
    batches = list(stream.batches_of(iter(lines), size))
    assert [line for batch in batches for line in batch] == lines
    assert all(0 < len(batch) <= size for batch in batches)


def test_a_source_that_fails_ends_the_stream_with_its_error():
    def failing():
        yield "a\n"
        raise OSError("the disk is gone")

    batches = stream.batches_of(failing(), 4)
    assert next(batches) == ["a\n"]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_the_stream_never_reads_far_ahead(monkeypatch):
    size, total, written, furthest = 16, 3_000, [], 0

    def source():
        nonlocal furthest
        for number in range(total):
            furthest = max(furthest, number + 1 - len(written))
            yield json.dumps({"id": number, "question": "Who?", "context": "x"})

    sink = SimpleNamespace(write=written.append, flush=lambda: None)
    monkeypatch.setattr(stream, "open_text", lambda _, mode: nullcontext(source() if mode == "r" else sink))
    stream.answer_stream(lambda questions, contexts: [[{"answer": text}] for text in contexts], "-", "-", size)
    assert [json.loads(line) for line in written] == [{"id": number, "answer": "x"} for number in range(total)]
    assert furthest <= 3 * size  # two batches and the queue between them
