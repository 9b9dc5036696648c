"""`compare`: two files of predictions or models on the same questions."""

import json
import shutil

import pytest

from minibert.commands.compare import compare
from minibert.evaluation.rows import make_rows
from minibert.text.squad import read_squad
from tests.builders import run, write_toy_squad


def test_swapping_the_systems_negates_the_differences_and_changes_nothing_else(tmp_path):
    examples = read_squad(write_toy_squad(tmp_path / "toy.json", 60))
    first, second = (
        make_rows(
            examples, {one.id: one.answers[0].text if i % every else "x" for i, one in enumerate(examples)}, False
        )
        for every in (5, 2)
    )
    one, other = compare(first, second), compare(second, first)

    def swapped(part: dict) -> dict:
        low, high = part["interval"]
        sides = {"a": part["b"], "b": part["a"]} if "a" in part else {}
        return part | sides | {"difference": -part["difference"], "interval": [-high, -low]}

    for metric in ("exact_match", "f1"):
        low, high = one[metric]["interval"]
        assert 0 < low < one[metric]["difference"] < high and one[metric]["difference"] == pytest.approx(30)
        assert swapped(one[metric]) == other[metric]
    assert len(one["slices"]) > 3
    assert sorted(map(str, map(swapped, one["slices"]))) == sorted(map(str, other["slices"]))
    assert (one["won"], one["lost"]) == (other["lost"], other["won"]) and len(one["won"]) == 24


def test_a_model_answers_and_a_folder_holds_predictions(command, tmp_path, tiny_folder):
    data = write_toy_squad(tmp_path / "toy.json", 6)
    truth = {example.id: example.answers[0].text for example in read_squad(data)}
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "predictions.json").write_text(json.dumps(truth), "utf-8")
    done = command("compare", tmp_path / "outputs", shutil.copytree(tiny_folder, tmp_path / "model"), "--data", data)
    assert (done.code, done.result["exact_match"]["a"], done.result["total"]) == (0, 100.0, 6)
    assert done.result["exact_match"]["b"] < 100 and done.result["lost"] == []
    assert len(done.result["won"]) == round(6 - 6 * done.result["exact_match"]["b"] / 100)
    assert all(question in done.out for question in done.result["won"][:5])


def test_a_question_without_answers_is_unanswerable_though_the_file_does_not_mark_it(command, tmp_path, tiny_folder):
    data = write_toy_squad(tmp_path / "toy.json", 3)
    content = json.loads(data.read_text("utf-8"))
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    data.write_text(json.dumps(content), "utf-8")
    done = command("compare", tiny_folder, tiny_folder, "--data", data)
    assert (done.code, done.result["total"], done.result["f1"]["difference"]) == (0, 3, 0.0)


def test_files_are_compared_without_torch_and_bad_ones_refused(command, tmp_path):
    data = write_toy_squad(tmp_path / "toy.json", 4)
    (tmp_path / "a.json").write_text(json.dumps({"q1": "clock"}), "utf-8")
    done = run("-X", "importtime", "-m", "minibert", "compare", *[tmp_path / "a.json"] * 2, "--data", data)
    assert json.loads(done.stdout.splitlines()[-1])["f1"]["p"] == 1
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "minibert" in loaded and "torch" not in loaded
    assert f"{tmp_path / 'a.json'}: 3 of 4 questions have no prediction" in done.stderr
    (tmp_path / "b.json").write_text(json.dumps({"x": "clock"}), "utf-8")
    command("compare", tmp_path / "a.json", tmp_path / "b.json", "--data", data).assert_refused("b.json")
    command("compare", tmp_path / "a.json", "--data", data).assert_refused("SYSTEM")
    command("compare", *[tmp_path / "a.json"] * 2).assert_refused("--data")


def test_terminal_codes_in_ids_and_names_are_shown_and_not_obeyed(command, tmp_path, monkeypatch):
    code = "\x1b[2J\x9b\u202e"
    monkeypatch.chdir(tmp_path)
    data = json.loads(write_toy_squad(tmp_path / "toy.json", 1).read_text("utf-8"))
    record = data["data"][0]["paragraphs"][0]["qas"][0]
    record["id"] += code
    for name, text in (("a", code), (code, record["answers"][0]["text"])):
        (tmp_path / name).write_text(json.dumps({record["id"]: text}), "utf-8")
    (tmp_path / "toy.json").write_text(json.dumps(data), "utf-8")
    done = command("compare", "a", code, "--data", "toy.json")
    assert done.code == 0 and not set(code) - set("[2J") & set(done.out) and "\\x1b" in done.out


def test_bad_questions_are_dropped_when_asked(command, data, tmp_path):
    (tmp_path / "predictions.json").write_text(json.dumps({f"q{i}": "clock" for i in range(25)}), "utf-8")
    content = json.loads(data.read_text("utf-8"))
    content["data"][0]["paragraphs"][1]["qas"][0]["answers"][0]["answer_start"] = 999
    data.write_text(json.dumps(content), "utf-8")
    words = ["compare", tmp_path / "predictions.json", tmp_path / "predictions.json", "--data", data]
    command(*words).assert_refused("999")
    done = command(*words, "--skip_bad_records")
    assert done.code == 0 and done.result["total"] == 24 and "dropped 1 question" in done.err
