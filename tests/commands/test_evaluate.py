"""`evaluate`: scores of a file of predictions, and scores of a model with the files that it writes."""

import json
import os
import shutil

import pytest

from minibert.support.hashes import fingerprint
from minibert.text.squad import read_squad
from minibert.training.settings import Settings
from tests.builders import ROOT, run, write_toy_squad
from tests.commands.damage import damage

DEV = ROOT / "examples" / "dev.json"
SIZES = ["--max_seq_length", "40", "--doc_stride", "8"]
IDS = ["q0", "q1", "q2", "q3"]


def load(file):
    return json.loads(file.read_text("utf-8"))


def read_lines(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def files(tmp_path):
    """SQuAD files of four questions: with answers, with two impossible ones, and without any answer."""
    v1, v2 = (write_toy_squad(tmp_path / f"v{n}.json", 4, version_2=n == 2) for n in (1, 2))
    bare = json.loads(v1.read_text("utf-8"))
    for paragraph in bare["data"][0]["paragraphs"]:
        paragraph["qas"][0]["answers"] = []
    (tmp_path / "bare.json").write_text(json.dumps(bare), "utf-8")
    return {"V1": v1, "V2": v2, "BARE": tmp_path / "bare.json"}


@pytest.fixture
def evaluate(command, tiny_folder):
    """Evaluate the tiny model in float32, unless the words name something else."""
    return lambda *words: command("evaluate", "--ckpt", tiny_folder, "--dtype", "float32", "--device", "cpu", *words)


# --- the scorer


def test_perfect_predictions_score_100_and_load_no_torch(tmp_path):
    perfect = {example.id: example.answers[-1].text for example in read_squad(DEV)}
    (tmp_path / "predictions.json").write_text(json.dumps(perfect), "utf-8")
    done = run("-X", "importtime", "evaluate.py", "--score", tmp_path / "predictions.json", "--data", DEV)
    assert done.returncode == 0
    scores = {"exact_match": 100.0, "f1": 100.0, "total": len(perfect)}
    assert json.loads(done.stdout.splitlines()[-1]) == scores
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "minibert" in loaded
    assert not loaded & {"torch", "transformers"}


def test_chinese_is_scored_by_characters_when_asked(command, tmp_path):  # xtreme#28, DRCD#6
    context, gold = "長江發源於青藏高原，全長約六千三百公里。", "約六千三百公里"
    question = {"id": "1", "question": "?", "answers": [{"text": gold, "answer_start": context.index(gold)}]}
    content = {"data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}
    (tmp_path / "d.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "p.json").write_text(json.dumps({"1": gold[1:]}), "utf-8")
    words = ["--score", tmp_path / "p.json", "--data", tmp_path / "d.json"]
    for more, f1, rules in (([], 0.0, "official rules"), (["--metric_language", "zh"], 12 / 13, "rules of --metric_")):
        done = command("evaluate", *words, *more)
        assert done.result == {"exact_match": 0.0, "f1": pytest.approx(100 * f1), "total": 1}
        assert f"SQuAD v1.1 by the {rules}" in done.err and done.err.count("\n") == 1


def test_an_unknown_language_and_an_analysis_by_other_rules_are_refused(command, tmp_path):
    words = ["--score", tmp_path / "p.json", "--data", DEV, "--metric_language", "chinese"]
    command("evaluate", *words).assert_refused("--metric_language: invalid choice: 'chinese'.*'zh'")
    command("evaluate", *words[:-1], "zh", "--intervals").assert_refused("--metric_language: .*official rules")


@pytest.mark.parametrize("data", ["V1", "V2"])
def test_the_analysis_of_a_model_and_of_its_written_predictions(evaluate, command, files, tmp_path, data):
    out, page, other = tmp_path / "p.json", tmp_path / "new" / "model.html", tmp_path / "other.html"
    words = ["--data", files[data], "--intervals"]
    plain = evaluate("--data", files[data], *SIZES).result
    more = ["--predictions", out, "--rows", tmp_path / "a.jsonl", "--report", page]
    model = evaluate(*words, *SIZES, *more).result
    more = ["--rows", tmp_path / "b.jsonl", "--report", other, "--against", out]
    scored = command("evaluate", "--score", out, *words, *more).result
    intervals = {key: model[key] for key in ("exact_match_interval", "f1_interval")}
    assert model == plain | intervals and all(low <= high for low, high in intervals.values())
    assert {key: scored[key] for key in intervals} == intervals
    ours, theirs = (read_lines(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert [row["id"] for row in ours] == IDS and all(row["windows"] for row in ours)
    for one, another in zip(ours, theirs):  # the n best are read from the file beside it; windows are not known
        assert one | {"windows": None, "error": ""} == another | {"error": ""}
        assert one["error"] in (another["error"], "unreachable")
    assert "minibert evaluate --ckpt " in page.read_text("utf-8") and str(page) in page.read_text("utf-8")
    assert '"other": {"name": "p"' in other.read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rows", "rows.txt"], r"\.csv or \.jsonl"),
        (["--rows", "V1"], r"\.csv or \.jsonl"),
        (["--report", "V1"], "is the file at --data"),
        (["--against", "V2"], "--report"),
        (["--null_odds", "odds.json"], "--null_odds: .*--score"),
        (["--data", "BARE", "--rows", "rows.csv"], "no answers"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(evaluate, files, words, says):
    words = [files.get(word, word) for word in words]
    evaluate("--data", files["V1"], *words, *SIZES).assert_refused(says)


def test_data_that_lies_where_the_n_best_answers_go_is_refused(evaluate, files, tmp_path):
    data = shutil.copy(files["V1"], tmp_path / "nbest_predictions.json")
    for output in (["--predictions", tmp_path / "p.json"], ["--predictions", data]):
        evaluate("--data", data, *output, "--overwrite", *SIZES).assert_refused("nbest_predictions.json: is the ")
    assert read_squad(data) == read_squad(files["V1"])


@pytest.mark.parametrize("flag", ["--calibration", "--null_score_diff_threshold=1", "--predictions=out.json"])
def test_what_a_file_of_predictions_cannot_give_is_refused(command, files, flag):
    command("evaluate", "--score", "p.json", "--data", files["V1"], flag).assert_refused(flag.partition("=")[0])


# --- the model


KOREAN = ["--metric_language", "ko"]  # F1 over characters: other figures on the toy data too


@pytest.mark.parametrize(("data", "more"), [("V1", []), ("V2", []), ("V2", KOREAN)])
def test_a_model_is_scored_as_its_written_predictions_are(evaluate, command, files, tmp_path, data, more):
    out = tmp_path / "new" / "out.json"
    done = evaluate("--data", files[data], "--predictions", out, *SIZES, *more)
    scores = done.result
    assert done.code == 0 and scores.pop("eval_loss") > 0 and (more[-1] if more else "official") in done.err
    odds = ["--null_odds", out.parent / "null_odds.json"] if data == "V2" else []
    scored = command("evaluate", "--score", out, "--data", files[data], *odds, *more)
    # What a threshold can reach is swept over the best answers by the first, and over the predictions by the second.
    first, second = ({k: v for k, v in one.items() if "reachable" not in k} for one in (scores, scored.result))
    assert first == second
    assert (first["f1"] != command("evaluate", "--score", out, "--data", files[data], *odds).result["f1"]) == bool(more)
    assert ("best_f1_thresh" in first) == ("best on this data:" in scored.out) == (data == "V2")
    names = {"out.json", "nbest_predictions.json"} | ({"null_odds.json"} if data == "V2" else set())
    assert {path.name for path in out.parent.iterdir()} == names
    assert all(list(load(out.parent / name)) == IDS for name in names)


def test_the_flags_reach_the_scores_and_the_files(evaluate, files, tmp_path):
    words = ["--data", files["V2"], "--predictions", tmp_path / "out.json", *SIZES]
    flags = ["--null_score_diff_threshold", "-1000000", "--n_best_size", 4, "--max_answer_length", 1]
    assert evaluate(*words, *flags).result["NoAns_exact"] == 100.0
    assert list(load(tmp_path / "out.json").values()) == [""] * 4
    n_best = load(tmp_path / "nbest_predictions.json")
    assert [len(rows) for rows in n_best.values()] == [5, 5, 5, 5]  # with the null answer
    assert all(" " not in row["text"] for rows in n_best.values() for row in rows)


def test_data_without_answers_is_predicted_and_not_scored(evaluate, files, tmp_path):
    out = tmp_path / "out.json"
    flag = "--version_2_with_negative"
    done = evaluate("--data", files["BARE"], "--predictions", tmp_path / "v2" / "predictions.json", *SIZES, flag)
    assert "nothing to score" in done.err and flag not in done.err and (tmp_path / "v2/null_odds.json").is_file()
    done = evaluate("--data", files["BARE"], "--predictions", out, *SIZES)
    assert f'nothing to score; "no answer" is not predicted without {flag}' in done.err
    assert (done.code, done.result) == (0, {"total": 4})
    assert "no answers" in done.err
    for example in read_squad(files["BARE"]):
        assert load(out)[example.id] in example.context


# --- the settings of a run

SAVED = {"max_seq_length": 44, "doc_stride": 9, "max_query_length": 5}
OTHERS = {"max_seq_length": 30, "doc_stride": 3, "max_query_length": 6}


@pytest.fixture
def run_folder(tiny_folder, files, tmp_path):
    """A run with one checkpoint, which notes its evaluation data and the sizes of its windows."""
    checkpoint = shutil.copytree(tiny_folder, tmp_path / "run" / "checkpoint-7")
    settings = Settings(data="x.json", eval_data=files["V1"], learning_rate=1e-4, **SAVED)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"settings": settings.to_json()}), "utf-8")
    (tmp_path / "run" / "latest").write_text("checkpoint-7\n", "utf-8")
    return tmp_path / "run"


def as_words(sizes: dict) -> list:
    return [word for name, value in sizes.items() for word in (f"--{name.replace('_', '-')}", value)]


def test_a_run_is_scored_as_it_was_trained_unless_flags_say_otherwise(evaluate, run_folder, files):
    others = ["--data", files["V2"], *as_words(OTHERS)]
    saved, given = evaluate("--ckpt", run_folder).result, evaluate("--ckpt", run_folder, *others).result
    assert saved == evaluate("--data", files["V1"], *as_words(SAVED)).result
    assert saved["eval_loss"] != evaluate("--data", files["V1"], *as_words(OTHERS)).result["eval_loss"]
    assert given == evaluate(*others).result


def test_a_shorter_length_needs_no_second_flag_beside_the_overlap_of_the_run(evaluate, run_folder, files):
    shorter = evaluate("--ckpt", run_folder, "--max_seq_length", 12).result
    assert shorter == evaluate("--data", files["V1"], "--max_seq_length", 12, "--max_query_length", 5).result


def test_a_run_is_asked_as_it_was_trained_unless_flags_say_otherwise(command, run_folder, tiny_folder):
    words = (
        "--question",
        "Who made the clock ?",
        "--context",
        "the clock was made by anna weiss in basel . " * 9,
        "--json",
    )

    def ask(folder, *sizes):
        return command("ask", "--ckpt", folder, *words, "--top_k", 999, *sizes).out

    saved, given = ask(run_folder), ask(run_folder, *as_words(OTHERS))
    assert saved == ask(tiny_folder, *as_words(SAVED)) and given == ask(tiny_folder, *as_words(OTHERS))
    assert saved != ask(tiny_folder)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("settings/max_seq_length", "wide", "trainer_state.json: settings.max_seq_length"),
        ("", [], "--data"),
        ("", {"epoch": 2.0, "global_step": 7}, "--data"),  # of another program: nothing is taken from it
    ],
)
def test_a_damaged_note_of_the_run_is_refused_and_another_programs_left_alone(evaluate, run_folder, path, value, says):
    damage(run_folder / "checkpoint-7/trainer_state.json", path, value)
    evaluate("--ckpt", run_folder).assert_refused(says)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO")
def test_a_checkpoint_cannot_name_a_pipe_to_be_read_for_ever(evaluate, run_folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    damage(run_folder / "checkpoint-7/trainer_state.json", "settings/eval_data", str(tmp_path / "pipe"))
    evaluate("--ckpt", run_folder).assert_refused(
        "the run's --eval_data: not found, not readable, or no regular file; name the data"
    )


def test_the_evaluation_data_of_a_run_is_compared_with_what_it_noted(evaluate, run_folder, files):
    state = run_folder / "checkpoint-7/trainer_state.json"
    for sha256, warnings in ((fingerprint(files["V1"])["sha256"], 0), ("0" * 64, 1)):
        damage(state, "facts", {"eval_sha256": sha256})
        assert evaluate("--ckpt", run_folder).err.count("is not the file that the run was scored on") == warnings


def test_nan_in_the_state_of_another_program_is_none_of_our_business(evaluate, run_folder, files):
    (run_folder / "checkpoint-7/trainer_state.json").write_text('{"log_history": [{"grad_norm": NaN}]}', "utf-8")
    assert evaluate("--ckpt", run_folder, "--data", files["V1"]).code == 0


@pytest.mark.parametrize("name", ["predictions.json", "nbest_predictions.json"])
def test_a_file_that_is_not_of_predictions_is_replaced_only_when_asked(evaluate, files, tmp_path, name):
    (tmp_path / name).write_text('{"mine": {"precious": 1}}', "utf-8")
    words = ["--data", files["V1"], "--predictions", tmp_path / "predictions.json"]
    evaluate(*words).assert_refused("--overwrite")
    assert load(tmp_path / name) == {"mine": {"precious": 1}}
    assert evaluate(*words, "--overwrite").code == 0
    assert evaluate(*words).code == 0  # ours


def test_files_beside_other_predictions_are_replaced_only_when_asked(evaluate, files, tmp_path):
    """The n-best answers and the null odds have fixed names, whatever the predictions are called."""
    words = ["--data", files["V2"], "--null_score_diff_threshold", "1000000", *SIZES, "--predictions"]
    assert evaluate(*words, tmp_path / "a.json").code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    evaluate(*words, tmp_path / "b.json").assert_refused("nbest_predictions.json: .*--overwrite")
    (tmp_path / "b.json").write_text(json.dumps({name: "other" for name in IDS}), "utf-8")
    evaluate(*words, tmp_path / "b.json").assert_refused("nbest_predictions.json: .*--overwrite")
    (tmp_path / "b.json").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert evaluate(*words, tmp_path / "a.json").code == 0
    (tmp_path / "nbest_predictions.json").unlink()
    evaluate(*words, tmp_path / "b.json").assert_refused("null_odds.json: .*--overwrite")


def test_predictions_to_set_beside_are_read_before_the_work(evaluate, files, tmp_path):
    (tmp_path / "other.json").write_text('{"x": "of another question"}', "utf-8")
    # A length that the model does not have: whoever looks at it first says so.
    words = ["--data", files["V1"], "--report", tmp_path / "r.html", "--max_seq_length", "7000", "--against"]
    evaluate(*words, tmp_path / "no.json").assert_refused("no.json: cannot be read")
    evaluate(*words, tmp_path / "other.json").assert_refused("other.json: has no prediction for any question")


def test_scores_are_printed_even_if_the_predictions_cannot_be_written(evaluate, files, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minibert.support.writing.sync_to_disk", full)
    done = evaluate("--data", files["V1"], "--predictions", tmp_path / "out.json")
    assert done.code == 1 and "f1" in done.result and "No space left" in done.err
    assert not list(tmp_path.glob("*predictions*")) and not list(tmp_path.glob(".tmp-*"))


def test_predictions_are_written_even_if_nobody_reads_the_scores(evaluate, command, files, tmp_path, monkeypatch):
    def dead(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("minibert.commands.evaluate.print", dead, raising=False)
    assert evaluate("--data", files["V1"], "--predictions", tmp_path / "out.json").code == 1
    assert load(tmp_path / "out.json")
    words = ["--score", tmp_path / "out.json", "--data", files["V1"], "--rows", tmp_path / "rows.csv"]
    assert command("evaluate", *words).code == 1 and (tmp_path / "rows.csv").is_file()


def test_bad_records_are_dropped_when_asked(evaluate, files, tmp_path):
    content = load(files["V1"])
    content["data"][0]["paragraphs"][0]["qas"][0]["question"] = " "
    (tmp_path / "bad.json").write_text(json.dumps(content), "utf-8")
    evaluate("--data", tmp_path / "bad.json").assert_refused("question")
    done = evaluate("--data", tmp_path / "bad.json", "--skip_bad_records")
    assert done.code == 0 and "dropped 1 question for 1 fault" in done.err
