"""Data as other programs write it, through the commands: a few of the kinds whose tables are in tests/text.

The report that a case stands for is named beside it.
"""

import json
import shutil

import pytest

MILL = "The mill by the brook was built in 1788 by Jakob Renz. It still grinds spelt."


def record(name, text, context=MILL, **more):
    answers = [{"text": text, "answer_start": context.index(text)}]
    return {"id": name, "question": "What?", "answers": answers} | more


@pytest.fixture
def write(tmp_path):
    """Write a SQuAD file of records about one context."""

    def write(name, *records, context=MILL):
        content = {"data": [{"paragraphs": [{"context": context, "qas": list(records)}]}]}
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def train(command, tmp_path, tiny_folder):
    """One step on some files."""
    words = "--device cpu --dtype float32 --max_steps 1 --max_seq_length 40 --doc_stride 8".split()
    words += ["--model", tiny_folder, "--output_dir", tmp_path / "out", "--data"]
    return lambda *files: command("train", *words, *files)


@pytest.fixture
def score(command, tmp_path):
    """The scores of {id: answer}."""

    def score(data, predictions):
        (tmp_path / "p.json").write_text(json.dumps(predictions), "utf-8")
        return command("evaluate", "--score", tmp_path / "p.json", "--data", data).result

    return score


@pytest.mark.parametrize("ids", [(70211, 70212), ("70211", "70212")])
def test_integer_ids_score_as_strings(score, write, ids):  # FARM#580, COVID-QA
    scores = score(
        write("d.json", record(ids[0], "1788"), record(ids[1], "Jakob Renz")), {"70211": "1788", "70212": "Renz"}
    )
    assert scores == {"exact_match": 50.0, "f1": pytest.approx(83.33, abs=0.01), "total": 2}


def test_an_empty_answer_of_an_impossible_question_is_none(score, write):  # haystack#287; google-research/bert#436
    records = [record("a", "1788", is_impossible=False), record("b", "mill", is_impossible=False)]
    predictions = {"a": "1788", "b": ""}
    assert score(write("v1.json", *records), predictions) == {"exact_match": 50.0, "f1": 50.0, "total": 2}
    records[1] |= {"is_impossible": True, "answers": [{"text": "", "answer_start": -1}]}
    scores = score(write("v2.json", *records), predictions)
    assert (scores["exact"], scores["HasAns_total"], scores["NoAns_exact"]) == (100.0, 1, 100.0)


def test_files_of_several_languages_with_the_same_ids_train_together(train, write):
    done = train(*(write(name, record("1", "1788"), record("1", "spelt")) for name in ("en.json", "de.json")))
    assert done.code == 0 and '"questions": 4' in done.out and '"duplicate_questions": 3' in done.out


THAI = "\u0e01\u0e23\u0e38\u0e07 \u0e40\u0e17\u0e1e x \u0e21\u0e2b\u0e32"


def test_a_language_that_the_vocabulary_lacks_is_a_warning(train, write):  # transformers#3068
    done = train(write("d.json", record("1", "x", THAI), context=THAI))
    assert '"unknown_tokens": 3' in done.out and done.err.count("warning: 50.0% of the tokens are [UNK]") == 1


@pytest.mark.parametrize(
    ("words", "times"),
    [
        ("evaluate --ckpt MODEL --data DATA", 1),
        ("calibrate --ckpt MODEL --data DATA", 1),
        ("compare MODEL MODEL --data DATA", 2),  # two models
        ("windows --model MODEL --data DATA", 1),
        ("check --model MODEL --data DATA", 1),
        ("ask --ckpt MODEL --context_file TEXT --question What?", 1),
        ("ask --ckpt MODEL --context_file TEXT", 1),  # typed questions
        ("ask --ckpt MODEL --input LINES --batch_size 1", 1),
    ],
)
def test_every_command_that_reads_with_a_model_warns_of_a_language_that_it_lacks(
    command, tiny_folder, tmp_path, write, words, times
):
    files = {"MODEL": shutil.copytree(tiny_folder, tmp_path / "model"), "TEXT": tmp_path / "t.txt"}
    files |= {"DATA": write("d.json", record("1", "x", THAI), context=THAI), "LINES": tmp_path / "l.jsonl"}
    files["TEXT"].write_text(THAI, "utf-8")
    files["LINES"].write_text(2 * (json.dumps({"question": "What?", "context": THAI}) + "\n"), "utf-8")
    done = command(*(files.get(word, word) for word in words.split()), stdin=b"What?\nWho?\n\n")
    warning = f"warning: 50.0% of the tokens are [UNK]: the vocabulary of {files['MODEL']} lacks this language"
    if words.startswith("calibrate"):
        warning = warning.replace(str(files["MODEL"]), "the model")  # it loads the model itself
    assert done.err.count(warning) == done.err.count("are [UNK]") == times


@pytest.mark.parametrize(
    "words",
    [
        "evaluate --ckpt MODEL --data DATA",
        "calibrate --ckpt MODEL --data DATA",
        "compare MODEL predictions.json --data DATA",
        "windows --model MODEL --data DATA",
        "check --model MODEL --data DATA",
        "ask --ckpt MODEL --context_file TEXT OTHER --question LONG",
        "ask --ckpt MODEL --context_file TEXT",  # typed questions, of which the second is long
        "ask --ckpt MODEL --input LINES --batch_size 1",
    ],
)
def test_every_command_that_reads_with_a_model_warns_of_truncated_questions(
    command, tiny_folder, tmp_path, write, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    question = 70 * "a "
    files = {"MODEL": shutil.copytree(tiny_folder, tmp_path / "model"), "TEXT": tmp_path / "t.txt", "LONG": question}
    files |= {"DATA": write("d.json", record("1", "b", "a b c", question=question), context="a b c")}
    files |= {"LINES": tmp_path / "l.jsonl", "OTHER": tmp_path / "o.txt"}
    (tmp_path / "predictions.json").write_text('{"1": "b"}', "utf-8")
    for name in ("TEXT", "OTHER"):
        files[name].write_text("a b c", "utf-8")
    files["LINES"].write_text(2 * (json.dumps({"question": question, "context": "a b c"}) + "\n"), "utf-8")
    done = command(*(files.get(word, word) for word in words.split()), stdin=f"a ?\n{question}\n\n".encode())
    assert done.code == 0 and done.err.count("warning: questions are truncated") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("id,question,context,answer\n1,When?,Made in 1871.,1871\n", "is a CSV or TSV table, .*minibert check --data"),
        ('{"question": "q", "context": "c"}\n{"question": "r", "context": "c"}\n', "is JSON lines, .*minibert check"),
    ],
)
def test_another_format_is_named_in_one_line(train, tmp_path, content, says):
    (tmp_path / "d.csv").write_text(content, "utf-8")
    train(tmp_path / "d.csv").assert_refused(says)
