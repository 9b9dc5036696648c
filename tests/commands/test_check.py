"""`minibert check`: every fault in one run, the repaired copy, conversion, and what it refuses to overwrite."""

import json
import unicodedata
from pathlib import Path

import pytest

from minibert.support.errors import BadInput
from minibert.text.squad import read_squad
from tests.builders import ROOT, run, write_toy_squad

CONTEXT = (
    "Die M\u00fchle \U0001f600 am Bach wurde 1788 von \u201eJakob Renz\u201c gebaut. "
    "Sie mahlt bis heute Dinkel, und der Bach treibt sie."
)


def answer(text, start=None):
    return {"answers": [{"text": text, "answer_start": CONTEXT.index(text) if start is None else start}]}


BACH = CONTEXT.rindex("Bach")
HUMAN = {  # place -> (the fault, what is said of it, how a person repairs what --fix leaves)
    1: (answer("1788", 20), "the text is only at ", None),
    4: (answer("Bach", len(CONTEXT[:BACH].encode())), "offsets look like bytes", None),
    7: (answer("Bach", BACH + 1), "UTF-16 units", None),
    10: (answer("Bach", -1), "name one", answer("Bach")),
    13: (answer("am bach", 11), "differs in case", answer("am Bach")),
    16: (answer('"Jakob Renz"', 35), "quotation marks", answer("\u201eJakob Renz\u201c")),
    19: ({"question": " "}, "visible character", {"question": "Wer?"}),
    22: ({"id": ""}, "visible character", {"id": "q22"}),
    25: (answer("Dinkel", "NAN"), "NaN is not a JSON value", None),
}


def nine_faults() -> dict:
    records = [{"id": f"q{i}", "question": f"Frage {i}?"} | answer("Dinkel") for i in range(30)]
    for i, (fault, _, _) in HUMAN.items():
        records[i] |= fault
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": records}]}]}


def test_nine_human_faults_are_listed_in_one_run_and_need_one_round_by_hand(command, tmp_path):
    data, fixed = tmp_path / "data.json", tmp_path / "fixed.json"
    content = json.dumps(nine_faults(), ensure_ascii=False, indent=1).replace('"NAN"', "NaN")
    data.write_text(content, "utf-8")
    done = command("check", "--data", data)
    assert done.code == 2 and done.err == f"error: {data}: 9 faults, listed above\n"
    listed = [line for line in done.out.splitlines() if line.startswith("  ")]
    assert len(listed) == 9 and all(any(says in line for line in listed) for _, says, _ in HUMAN.values())
    nan_line = next(i for i, line in enumerate(content.splitlines(), 1) if "NaN" in line)
    assert listed[0].startswith(f"  line {nan_line}: ")
    assert all(any(f".qas[{i}] " in line for line in listed) for i in HUMAN if i != 25)

    done = command("check", "--data", data, "--fix", fixed)
    left = [i for i, (_, _, by_hand) in HUMAN.items() if by_hand]
    assert done.code == 2 and f"left to repair by hand: {len(left)}" in done.out and data.read_text("utf-8") == content
    changes = (tmp_path / "fixed.json.changes.txt").read_text("utf-8").splitlines()
    assert len(changes) == 5 and all(any(f"qas[{i}]" in line for line in changes) for i in (1, 4, 7, 25))

    copy = json.loads(fixed.read_text("utf-8"))
    records = copy["data"][0]["paragraphs"][0]["qas"]
    for i in left:
        records[i] |= HUMAN[i][2]
    fixed.write_text(json.dumps(copy), "utf-8")
    done = command("check", "--data", fixed)
    assert (done.code, done.err) == (0, "")
    assert [e.id for e in read_squad(fixed)] == [f"q{i}" for i in range(30)]
    assert {example.answers[0].start for example in read_squad(fixed) if example.id in ("q4", "q7")} == {BACH}


def test_an_accent_of_another_normalization_is_named_with_its_place(command, tmp_path):
    data = tmp_path / "data.json"
    record = {"id": "q", "question": "Was?"} | answer(unicodedata.normalize("NFD", "M\u00fchle"), 4)
    data.write_text(json.dumps([{"context": CONTEXT, "qas": [record]}]), "utf-8")
    done = command("check", "--data", data)
    assert done.code == 2 and "'M\u00fchle' is at 4: it differs in Unicode normalization" in done.out


ROWS = [
    {"id": i, "context": f"iron {i} of basel", "question": "what ?", "answers": {"text": ["iron"], "answer_start": [0]}}
    for i in range(3)
]


def test_rows_are_converted_and_the_copy_trains(command, tmp_path):
    data, out = tmp_path / "rows.json", tmp_path / "out.json"
    data.write_text("\n".join(map(json.dumps, ROWS)), "utf-8")
    with pytest.raises(BadInput, match="minibert check --data"):
        read_squad(data)
    done = command("check", "--data", data, "--fix", out)
    assert (done.code, done.err) == (0, "") and "flat rows" in done.out and "not SQuAD yet" not in done.out
    assert "not SQuAD yet" in command("check", "--data", data).out
    assert [(e.id, e.answers[0].text) for e in read_squad(out, training=True)] == [(str(i), "iron") for i in range(3)]


def test_an_infinite_number_in_a_table_is_a_fault_with_its_place_and_not_written(command, tmp_path):
    data, out = tmp_path / "rows.csv", tmp_path / "out.json"
    cells = (
        """[{'text': 'iron', 'answer_start': 0, 'score': 1e999}]""",
        """[{'text': 'iron', 'answer_start': -1e999}]""",
    )
    rows = [f'{i},iron of basel,what ?,"{cell}"\n' for i, cell in enumerate(cells)]
    data.write_text("".join(["id,context,question,answers\n", *rows]), "utf-8")
    done = command("check", "--data", data, "--fix", out)
    assert done.code == 2 and all(f"  data[0].paragraphs[0].qas[{i}] (id='{i}'): " in done.out for i in (0, 1))
    json.loads(out.read_text("utf-8"), parse_constant=lambda word: pytest.fail(word))


def test_one_fault_and_one_change_are_counted_in_the_singular(command, tmp_path):
    data = tmp_path / "data.json"
    record = {"id": "q", "question": "Was?"} | answer("1788", 20)
    data.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [record]}]}]}), "utf-8")
    done = command("check", "--data", data)
    assert done.err == f"error: {data}: 1 fault, listed above\n" and ": SQuAD, 1 fault\n" in done.out
    assert ": 1 change, listed in " in command("check", "--data", data, "--fix", tmp_path / "out.json").out


def test_a_table_without_answers_is_named_as_a_test_set(command, tmp_path):
    data = tmp_path / "rows\x9b.csv"
    data.write_text("question,context,solution\nwhat ?,iron of basel,iron\n", "utf-8")
    done = command("check", "--data", data)
    assert done.code == 0 and "rows\\x9b.csv: no question has an answer" in done.err


def test_the_report_as_json_counts_tokens_only_with_a_model(command, data, vocab_folder, tmp_path):
    other = write_toy_squad(tmp_path / "other.json", 5, seed=0)  # the first questions of `data`
    done = command("check", "--data", data, "--eval_data", other, "--json")
    report = done.result
    assert (done.code, done.err, report["questions"], report["faults"]) == (0, "", 25, [])
    assert report["leakage"]["questions"]["count"] == 5 and "windows" not in report
    assert "not counted" in command("check", "--data", data).out
    words = ["--data", data, "--model", vocab_folder]
    report = command("check", *words, "--json").result
    assert report["windows"]["exact"] == 25 and report["oracle"]["exact_match"] == 100.0
    text = command("check", *words).out
    assert "#####" in text and '"exact_match": 100.0' in text and "windows: {" in text


def test_repeated_ids_are_a_fault_only_in_data_to_score(command, tmp_path):
    """Files of several languages repeat their ids, and train together."""
    article = json.loads(write_toy_squad(tmp_path / "one.json", 3).read_text("utf-8"))["data"]
    (tmp_path / "two.json").write_text(json.dumps({"data": article + article[:1]}), "utf-8")
    done = command("check", "--data", tmp_path / "two.json")
    assert done.code == 0 and "repeated ids: 3 (q0, q1, q2)\n" in done.out
    assert done.err.endswith("two.json: ids repeat: train takes such a file, evaluate refuses it\n")
    report = command("check", "--data", tmp_path / "two.json", "--fix", tmp_path / "fixed.json", "--json").result
    assert report["repeated_ids"] == {"count": 3, "ids": ["q0", "q1", "q2"]} and report["questions"] == 6
    done = command("check", "--data", tmp_path / "one.json", "--eval_data", tmp_path / "two.json")
    assert done.code == 2 and done.out.count("the id was used before") == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.json", '{"data": []}'),
        ("d.json", '{"data": [{"paragraphs": []}]}'),
        ("d.json", "[]"),
        ("d.csv", "id,context,question,answer\n"),
    ],
)
def test_a_file_without_a_question_is_refused_and_not_repaired(command, data, tmp_path, name, content):
    (tmp_path / name).write_text(content, "utf-8")
    command("check", "--data", tmp_path / name, "--fix", tmp_path / "out.json").assert_refused(
        f"{name}: data: 0 questions"
    )
    assert not (tmp_path / "out.json").exists()
    command("check", "--data", data, "--eval_data", tmp_path / name).assert_refused(f"{name}: data: 0 questions")


def test_the_flag_for_unmarked_questions_decides_the_version(command, tmp_path):
    data = tmp_path / "data.json"
    records = [{"id": "a", "question": "Was?"} | answer("Dinkel"), {"id": "b", "question": "Wann?", "answers": []}]
    data.write_text(json.dumps([{"context": CONTEXT, "qas": records}]), "utf-8")
    assert "version: 2.0" in command("check", "--data", data, "--version_2_with_negative").out


def test_many_faults_are_in_a_file(command, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = nine_faults()
    for record in content["data"][0]["paragraphs"][0]["qas"]:
        record["question"] = ""
    (tmp_path / "data.json").write_text(json.dumps(content), "utf-8")
    done = command("check", "--data", tmp_path / "data.json")
    (listing,) = tmp_path.glob("*.faults.txt")
    assert str(listing) in done.out and len(listing.read_text("utf-8").splitlines()) == 30


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "--data: name the file"),
        ("--data none.json", "none.json: cannot be read"),
        ("--data d.json --eval_data none.json", "none.json: cannot be read"),
        ("--data d.json --fix d.json --overwrite", "is the data itself"),
        ("--data d.json --fix link.json --overwrite", "is the data itself"),
        ("--data y.changes.txt --fix y --overwrite", "is the data itself"),
        ("--data d.json --fix old.json", "old.json: holds something else, .*--overwrite"),
        ("--data d.json --fix x.json", "x.json.changes.txt: holds something else"),
        ("--data d.json --fix none/x.json", "does not exist"),
        ("--data d.json --fix .", "is not a regular file"),
    ],
)
def test_what_check_refuses_before_any_work(command, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    write_toy_squad(Path("d.json"), 3)
    for name in ("old.json", "x.json.changes.txt"):
        Path(name).write_text("mine", "utf-8")
    Path("link.json").hardlink_to("d.json")
    Path("y.changes.txt").hardlink_to("d.json")
    before = Path("d.json").read_bytes()
    command("check", *words.split()).assert_refused(says)
    assert Path("d.json").read_bytes() == before and Path("old.json").read_text("utf-8") == "mine"
    assert not Path("x.json").exists()


def test_overwrite_replaces_an_old_copy(command, data, tmp_path):
    (tmp_path / "old.json").write_text("old", "utf-8")
    assert command("check", "--data", data, "--fix", tmp_path / "old.json", "--overwrite").code == 0
    assert len(read_squad(tmp_path / "old.json")) == 25


def test_torch_is_not_loaded(vocab_folder):
    code = "import sys; from minibert.commands.check import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    done = run("-c", code, "--data", ROOT / "examples/dev.json", "--model", vocab_folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
