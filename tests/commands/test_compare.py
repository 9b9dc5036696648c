"""`compare`: two files of predictions or models on the same questions."""

import json
import shutil

import pytest

from minibert.text.squad import read_squad
from tests.builders import run, write_toy_squad

PUBLISHED = ["predictions-v1.1-bert-ensemble.json", "predictions-v1.1-logistic-regression.json"]


@pytest.mark.slow
def test_published_predictions_differ_beyond_chance_both_ways(command, squad_dir):
    one, other = ([squad_dir / name for name in names] for names in (PUBLISHED, PUBLISHED[::-1]))
    a, b = (command("compare", *files, "--data", squad_dir / "dev-v1.1.json").result for files in (one, other))
    for name, difference in (("exact_match", 86.20624408703878 - 40.14191106906339), ("f1", 41.2140431429)):
        assert a[name]["difference"] == pytest.approx(difference)
        low, high = a[name]["interval"]
        assert 0 < low < difference < high < difference + 2
        assert b[name] == {
            "a": a[name]["b"],
            "b": a[name]["a"],
            "difference": -a[name]["difference"],
            "interval": [-high, -low],
            "p": a[name]["p"],
        }
        assert a[name]["p"] == 1 / 10_001
    assert (a["won"], a["lost"]) == (b["lost"], b["won"])
    flipped = [
        part | {"difference": -part["difference"], "interval": [-x for x in part["interval"][::-1]]}
        for part in b["slices"]
    ]
    assert sorted(map(str, a["slices"])) == sorted(map(str, flipped))


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


def test_files_are_compared_without_torch_and_bad_ones_refused(command, tmp_path):
    data = write_toy_squad(tmp_path / "toy.json", 4)
    (tmp_path / "a.json").write_text(json.dumps({"q1": "clock"}), "utf-8")
    done = run("-X", "importtime", "-m", "minibert", "compare", *[tmp_path / "a.json"] * 2, "--data", data)
    assert json.loads(done.stdout.splitlines()[-1])["f1"]["p"] == 1
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "minibert" in loaded and "torch" not in loaded
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
