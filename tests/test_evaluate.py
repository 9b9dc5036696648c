"""`evaluate.py`: scores of a file of predictions, and scores of a model with the files that it writes."""

import importlib.util
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, run
from safetensors.torch import load_file, save_file

from minibert.errors import run_command
from minibert.squad import read_squad

DEV = ROOT / "examples" / "dev.json"
WINDOWS = ["--max_seq_length", "40", "--doc_stride", "8"]
CONTEXT = (
    "The clock tower was made of copper in 1871 by Anna Weiss. John is the king of Basel, and the queen of Lyon "
    "was in Paris by day. The red school by the river is made of old stone, the blue bridge is wood."
)


def load_script():
    spec = importlib.util.spec_from_file_location("evaluate_script", ROOT / "evaluate.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


script = load_script()


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Run the command in this process: its exit code, stdout, stderr, and the JSON of its last line."""

    def command(*words) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_command(script.main)
        out, err = capsys.readouterr()
        scores = json.loads(out.splitlines()[-1]) if out else None
        return SimpleNamespace(code=ended.value.code, out=out, err=err, scores=scores)

    return command


def assert_refused(done) -> None:
    assert done.code == 2
    assert done.out == ""
    assert [line for line in done.err.splitlines() if "error:" in line] == done.err.splitlines()[-1:]
    assert "Traceback" not in done.err


def write(file, content):
    file.write_text(json.dumps(content), "utf-8")
    return file


def squad(*qas, context: str = CONTEXT) -> dict:
    return {"version": "x", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def question(name: str, text: str, *answers: str, **more) -> dict:
    golds = [{"text": answer, "answer_start": CONTEXT.index(answer)} for answer in answers]
    return {"id": name, "question": text, "answers": golds} | more


V1 = squad(
    question("q1", "Who made the tower?", "Anna Weiss", "by Anna Weiss"),
    question("q2", "Who is the king?", "John"),
    question("q3", "What is the bridge?", "wood"),
)
V2 = squad(
    question("q1", "Who made the tower?", "Anna Weiss", is_impossible=False),
    question("q2", "Who is the king of Paris?", is_impossible=True),
    question("q3", "What is the bridge?", "wood", is_impossible=False),
)
BARE = squad(question("q1", "Who made the tower?"), question("q2", "Who is the king?"))


@pytest.fixture
def v1(tmp_path):
    return write(tmp_path / "v1.json", V1)


@pytest.fixture
def v2(tmp_path):
    return write(tmp_path / "v2.json", V2)


# The scorer


def test_perfect_predictions_score_100_and_load_no_torch(tmp_path):
    perfect = {example.id: example.answers[-1].text for example in read_squad(DEV)}
    file = write(tmp_path / "predictions.json", perfect)
    done = run("-X", "importtime", "evaluate.py", "--score", file, "--data", DEV)
    assert done.returncode == 0
    scores = {"exact_match": 100.0, "f1": 100.0, "total": len(perfect)}
    assert json.loads(done.stdout.splitlines()[-1]) == scores
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "minibert" in loaded
    assert not loaded & {"torch", "tokenizers", "transformers"}


def test_missing_predictions_score_zero_and_are_counted(evaluate, v1, tmp_path):
    done = evaluate("--score", write(tmp_path / "p.json", {"q2": "John", "other": "x"}), "--data", v1)
    assert done.code == 0
    assert done.scores == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 / 3), "total": 3}
    assert "2 of 3" in done.err and "Traceback" not in done.err


def test_scores_are_percentages_with_part_marks(evaluate, v1, tmp_path):
    texts = {"q1": "The Anna", "q2": "king John", "q3": "WOOD!"}
    done = evaluate("--score", write(tmp_path / "p.json", texts), "--data", v1)
    assert done.scores == {
        "exact_match": pytest.approx(100 / 3),
        "f1": pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3),
        "total": 3,
    }


def test_version_2_has_the_official_keys(evaluate, v2, tmp_path):
    texts = {"q1": "by Anna Weiss", "q2": "", "q3": ""}
    done = evaluate("--score", write(tmp_path / "p.json", texts), "--data", v2)
    assert done.scores == {
        "exact": pytest.approx(100 / 3),
        "f1": pytest.approx(100 * (0.8 + 1 + 0) / 3),
        "total": 3,
        "HasAns_exact": 0.0,
        "HasAns_f1": pytest.approx(40.0),
        "HasAns_total": 2,
        "NoAns_exact": 100.0,
        "NoAns_f1": 100.0,
        "NoAns_total": 1,
    }


def test_version_2_needs_every_prediction(evaluate, v2, tmp_path):
    done = evaluate("--score", write(tmp_path / "p.json", {"q1": "Anna Weiss", "q3": "wood"}), "--data", v2)
    assert_refused(done)
    assert "q2" in done.err


def test_version_2_only_warns_of_surplus_predictions(evaluate, v2, tmp_path):
    texts = {"q1": "Anna Weiss", "q2": "", "q3": "wood", "q4": "x"}
    done = evaluate("--score", write(tmp_path / "p.json", texts), "--data", v2)
    assert (done.code, done.scores["exact"]) == (0, 100.0)
    assert done.err.startswith("1 ")


def test_confirming_version_2_on_version_1_data_is_only_noted(evaluate, v1, tmp_path):
    texts = {"q1": "Anna Weiss", "q2": "John", "q3": "wood"}
    file = write(tmp_path / "p.json", texts)
    done = evaluate("--score", file, "--data", v1, "--version_2_with_negative")
    assert (done.code, done.scores) == (0, {"exact_match": 100.0, "f1": 100.0, "total": 3})
    assert "v1.1" in done.err


def test_predictions_for_data_without_answers_cannot_be_scored(evaluate, tmp_path):
    bare = write(tmp_path / "bare.json", BARE)
    assert_refused(evaluate("--score", write(tmp_path / "p.json", {"q1": "x", "q2": "y"}), "--data", bare))


# The model


@pytest.mark.parametrize("data", [V1, V2], ids=["v1.1", "v2.0"])
def test_a_model_is_scored_as_its_written_predictions_are(evaluate, tiny_folder, tmp_path, data):
    file, out = write(tmp_path / "data.json", data), tmp_path / "new" / "out.json"
    done = evaluate("--ckpt", tiny_folder, "--data", file, "--predictions", out, *WINDOWS)
    assert done.code == 0
    assert done.scores.pop("eval_loss") > 0
    assert done.scores == evaluate("--score", out, "--data", file).scores
    names = {"out.json", "nbest_predictions.json"} | ({"null_odds.json"} if data is V2 else set())
    assert {path.name for path in out.parent.iterdir()} == names
    for name in names:
        assert list(json.loads((out.parent / name).read_text("utf-8"))) == ["q1", "q2", "q3"]


@pytest.mark.parametrize("threshold, empty", [("-1000000", 3), ("1000000", 0)])
def test_the_threshold_reaches_scores_and_files(evaluate, tiny_folder, v2, tmp_path, threshold, empty):
    out = tmp_path / "out.json"
    words = ["--data", v2, "--predictions", out, "--null_score_diff_threshold", threshold, *WINDOWS]
    done = evaluate("--ckpt", tiny_folder, *words)
    assert list(json.loads(out.read_text("utf-8")).values()).count("") == empty
    assert done.scores["NoAns_exact"] == (100.0 if empty else 0.0)


def test_n_best_size_and_max_answer_length_reach_the_file(evaluate, tiny_folder, v1, tmp_path):
    words = ["--data", v1, "--predictions", tmp_path / "out.json", *WINDOWS]
    evaluate("--ckpt", tiny_folder, *words, "--n_best_size", 4, "--max_answer_length", 1)
    n_best = json.loads((tmp_path / "nbest_predictions.json").read_text("utf-8"))
    assert [len(rows) for rows in n_best.values()] == [4, 4, 4]
    assert all(row["text"] and " " not in row["text"] for rows in n_best.values() for row in rows)


def test_scores_do_not_depend_on_the_batch_size(evaluate, tiny_folder, v1):
    words = ["--ckpt", tiny_folder, "--data", v1, *WINDOWS, "--dtype", "float32"]
    assert evaluate(*words, "--eval_batch_size", 1).scores == pytest.approx(evaluate(*words).scores, abs=1e-5)


def test_data_without_answers_is_predicted_and_not_scored(evaluate, tiny_folder, tmp_path):
    bare, out = write(tmp_path / "bare.json", BARE), tmp_path / "out.json"
    done = evaluate("--ckpt", tiny_folder, "--data", bare, "--predictions", out, *WINDOWS)
    assert done.code == 0
    assert not {"exact_match", "f1", "exact", "eval_loss"} & set(done.scores)
    assert "no answers" in done.err
    texts = json.loads(out.read_text("utf-8"))
    assert list(texts) == ["q1", "q2"] and all(text in CONTEXT for text in texts.values())


# Settings of the run


@pytest.fixture
def run_folder(tiny_folder, v1, tmp_path):
    """A run with one checkpoint, which notes the data and the windows that it was trained with."""
    run = tmp_path / "run"
    shutil.copytree(tiny_folder, run / "checkpoint-7")
    settings = {"eval_data": str(v1), "max_seq_length": 44, "doc_stride": 9, "max_query_length": 5, "dtype": "bfloat16"}
    write(run / "checkpoint-7" / "trainer_state.json", {"step": 7, "settings": settings | {"learning_rate": 1e-4}})
    (run / "latest").write_text("checkpoint-7\n", "utf-8")
    return run


def flags_of(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    return script.read_flags()


@pytest.mark.parametrize("place", ["", "checkpoint-7"])
def test_data_and_windows_come_from_the_run(monkeypatch, run_folder, v1, place):
    args = flags_of(monkeypatch, "--ckpt", run_folder / place)
    assert (args.data, args.max_seq_length, args.doc_stride, args.max_query_length) == (str(v1), 44, 9, 5)
    assert args.ckpt == run_folder / "checkpoint-7"


def test_flags_go_before_the_settings_of_the_run(monkeypatch, run_folder, v2):
    words = ["--data", v2, "--max_seq_length", 50, "--doc-stride=3", "--max_query_length", 6]
    args = flags_of(monkeypatch, "--ckpt", run_folder, *words)
    assert (args.data, args.max_seq_length, args.doc_stride, args.max_query_length) == (str(v2), 50, 3, 6)


def test_a_published_model_has_the_usual_windows(monkeypatch, tiny_folder, v1):
    args = flags_of(monkeypatch, "--ckpt", tiny_folder, "--data", v1)
    assert (args.max_seq_length, args.doc_stride, args.max_query_length) == (384, 128, 64)


def test_a_run_is_scored_as_it_was_trained(evaluate, run_folder, tiny_folder, v1):
    done = evaluate("--ckpt", run_folder)
    windows = ["--max_seq_length", 44, "--doc_stride", 9, "--max_query_length", 5]
    assert done.code == 0 and done.scores["total"] == 3
    assert done.scores == evaluate("--ckpt", tiny_folder, "--data", v1, *windows).scores


@pytest.mark.parametrize(
    "state",
    [
        [],
        "text",
        {"settings": None},
        {"settings": [1]},
        {"settings": {"max_seq_length": "wide"}},
        {"settings": {"eval_data": 3}},
    ],
    ids=str,
)
def test_a_damaged_note_of_the_run_is_refused(evaluate, run_folder, state):
    write(run_folder / "checkpoint-7" / "trainer_state.json", state)
    assert_refused(evaluate("--ckpt", run_folder))


# What is refused


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--data", "V1"],
        ["--ckpt", "TINY", "--score", "PREDICTIONS", "--data", "V1"],
        ["--ckpt", "TINY"],
        ["--score", "PREDICTIONS"],
        ["--score", "MISSING", "--data", "V1"],
        ["--score", "PREDICTIONS", "--data", "MISSING"],
        ["--score", "V1", "--data", "V1"],
        ["--score", "PREDICTIONS", "--data", "PREDICTIONS"],
        ["--score", "FOLDER", "--data", "V1"],
        ["--ckpt", "TINY", "--data", "MISSING", *WINDOWS],
        ["--ckpt", "MISSING", "--data", "V1", *WINDOWS],
        ["--ckpt", "FOLDER", "--data", "V1", *WINDOWS],
        ["--ckpt", "HEADLESS", "--data", "V1", *WINDOWS],
        ["--ckpt", "TINY", "--data", "V1"],  # 384 tokens are more than the model has positions for
        ["--ckpt", "TINY", "--data", "V1", "--max_seq_length", "40", "--doc_stride", "37"],
        ["--ckpt", "TINY", "--data", "V1", *WINDOWS, "--n_best_size", "0"],
        ["--ckpt", "TINY", "--data", "V1", *WINDOWS, "--eval_batch_size", "0"],
        ["--ckpt", "TINY", "--data", "V1", *WINDOWS, "--null_score_diff_threshold", "nan"],
        ["--ckpt", "TINY", "--data", "V1", *WINDOWS, "--dtype", "float16", "--device", "cpu"],
        ["--ckpt", "TINY", "--data", "V1", *WINDOWS, "--n_best", "3"],
    ],
    ids=" ".join,
)
def test_bad_flags_and_files_are_refused(evaluate, tiny_folder, v1, tmp_path, words):
    paths = {name: tmp_path / name.lower() for name in ("MISSING", "FOLDER", "HEADLESS")} | {"TINY": tiny_folder}
    paths |= {"V1": v1, "PREDICTIONS": write(tmp_path / "predictions.json", {"q1": "x", "q2": "y", "q3": "z"})}
    paths["FOLDER"].mkdir()
    if "HEADLESS" in words:
        make_headless(tiny_folder, paths["HEADLESS"])
    assert_refused(evaluate(*(paths.get(word, word) for word in words)))


def make_headless(folder, target) -> None:
    """A copy of a model folder without its span head."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("qa_outputs")}
    save_file(encoder, target / "model.safetensors", {"format": "pt"})


def test_an_output_folder_that_cannot_be_made_is_one_line(evaluate, tiny_folder, v1):
    done = evaluate("--ckpt", tiny_folder, "--data", v1, *WINDOWS, "--predictions", v1 / "out.json")
    assert done.code in (1, 2)
    assert done.err.splitlines()[-1].startswith("error: ") and "Traceback" not in done.err
