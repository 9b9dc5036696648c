"""Data as other programs write it, through the commands. The reports that each case stands for are named beside it."""

import json

import pytest

from minibert.text.squad import read_squad

MILL = "The mill by the brook was built in 1788 by Jakob Renz. It still grinds spelt."
SMALL = "--device cpu --dtype float32 --max_steps 1 --max_seq_length 40 --doc_stride 8".split()


def record(name, text, **more):
    answers = [{"text": text, "answer_start": MILL.index(text)}]
    return {"id": name, "question": "What?", "answers": answers} | more


@pytest.fixture
def write(tmp_path):
    """Write a SQuAD file of records about one context, or any other content."""

    def write(name, *records, context=MILL):
        content = {"data": [{"paragraphs": [{"context": context, "qas": list(records)}]}]}
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("ids", [(70211, 70212), ("70211", "70212")])
def test_integer_ids_score_as_strings(command, write, tmp_path, ids):  # FARM#580, COVID-QA
    data = write("d.json", record(ids[0], "1788"), record(ids[1], "Jakob Renz"))
    (tmp_path / "p.json").write_text('{"70211": "1788", "70212": "Renz"}', "utf-8")
    done = command("evaluate", "--score", tmp_path / "p.json", "--data", data)
    assert done.result == {"exact_match": 50.0, "f1": pytest.approx(83.33, abs=0.01), "total": 2}


def test_a_mark_that_is_false_everywhere_changes_nothing(command, write, tiny_folder):  # google-research/bert#436
    words = ["--ckpt", tiny_folder, "--dtype", "float32", "--device", "cpu"]
    records = [record("1", "grinds spelt"), record("2", "by the brook")]
    without = command("evaluate", *words, "--data", write("without.json", *records))
    marked = [one | {"is_impossible": False} for one in records]
    with_mark = command("evaluate", *words, "--data", write("with.json", *marked))
    assert with_mark.result == without.result and {"exact_match", "f1"} <= set(with_mark.result)


def test_an_empty_answer_of_an_impossible_question_is_none(command, write, tmp_path):  # haystack#287
    empty = {"id": "b", "question": "Who?", "answers": [{"text": "", "answer_start": -1}], "is_impossible": True}
    data = write("d.json", record("a", "1788", is_impossible=False), empty)
    (tmp_path / "p.json").write_text('{"a": "1788", "b": ""}', "utf-8")
    done = command("evaluate", "--score", tmp_path / "p.json", "--data", data)
    assert (done.result["exact"], done.result["HasAns_total"], done.result["NoAns_exact"]) == (100.0, 1, 100.0)


def test_paragraphs_without_articles_train(command, tmp_path, tiny_folder):  # simpletransformers#74
    (tmp_path / "d.json").write_text(json.dumps([{"context": MILL, "qas": [record("1", "Jakob Renz")]}]), "utf-8")
    done = command(
        "train", "--data", tmp_path / "d.json", "--model", tiny_folder, "--output_dir", tmp_path / "o", *SMALL
    )
    assert done.code == 0, done.err


def test_outer_whitespace_is_counted(command, write, vocab_folder):  # haystack#492, COVID-QA
    answers = [[{"text": text, "answer_start": start}] for text, start in ((" Jakob Renz", 43), ("1788 ", 34))]
    data = write("d.json", *(record(str(i), "1788", answers=one) for i, one in enumerate(answers)))
    done = command("windows", "--data", data, "--model", vocab_folder)
    assert (
        done.err == (f"warning: {data}: answers stand at answer_start only without their outer whitespace: 2\n")
        and done.result["questions"] == 2
    )
    assert [example.answers[0].text for example in read_squad(data)] == ["Jakob Renz", "1788"]


def test_a_language_that_the_vocabulary_lacks_is_a_warning(command, write, tmp_path, tiny_folder):  # transformers#3068
    thai = "\u0e01\u0e23\u0e38\u0e07 \u0e40\u0e17\u0e1e x \u0e21\u0e2b\u0e32"
    one = record("1", "mill") | {"answers": [{"text": "x", "answer_start": thai.index("x")}]}
    data = write("d.json", one, context=thai)
    done = command("train", "--data", data, "--model", tiny_folder, "--output_dir", tmp_path / "o", *SMALL)
    share = json.loads(next(line for line in done.out.splitlines() if line.startswith("data: "))[6:])
    assert share["unknown_tokens"] == 3 and "warning: 50.0% of the tokens are [UNK]" in done.err


def test_files_of_several_languages_with_the_same_ids_train_together(command, write, tmp_path, tiny_folder):
    files = [write(name, record("1", "1788"), record("1", "spelt")) for name in ("en.json", "de.json")]
    done = command("train", "--data", *files, "--model", tiny_folder, "--output_dir", tmp_path / "o", *SMALL)
    assert done.code == 0 and '"questions": 4' in done.out and '"duplicate_questions": 3' in done.out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("id,question,context,answer\n1,When?,Made in 1871.,1871\n", "is a CSV or TSV table, .*minibert check --data"),
        ('{"question": "q", "context": "c"}\n{"question": "r", "context": "c"}\n', "is JSON lines, .*minibert check"),
        ("PAR1", "is Parquet, .*pandas.read_parquet"),
    ],
)
def test_another_format_is_named_in_one_line(command, tmp_path, tiny_folder, content, says):
    (tmp_path / "d.csv").write_text(content, "utf-8")
    words = ["--data", tmp_path / "d.csv", "--model", tiny_folder, "--output_dir", tmp_path / "o"]
    command("train", *words, *SMALL).assert_refused(says)
