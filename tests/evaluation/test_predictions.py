"""predictions.py: what a predictions file may be, and what is in the files that an evaluation writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from minibert.evaluation.predictions import (
    Evaluation,
    n_best_rows,
    read_n_best,
    read_null_odds,
    read_predictions,
    write_predictions,
)
from minibert.support.errors import BadInput
from tests.builders import make_prediction

CONTEXT = "the caf\u00e9 clock"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"q1": 7}', "q1: .*string"),
        ('{"q1": null}', "q1: .*string"),
        ('{"predictions": {"q1": "%s"}}' % ("long " * 99), "predictions: .*string, found .{1,99}; .*one object"),
        ('["clock"]', "one object"),
        ('{"data": []}', "one object"),
        ('{"q1": "a", "q1": "b"}', "'q1' .*twice"),
        ("", "empty"),
        ('{"q1": ', "line 1"),
    ],
)
def test_a_predictions_file_that_is_refused(tmp_path, content, message):
    file = tmp_path / "predictions.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_predictions(file)
    assert caught.value.file == str(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"q0": "x"}, "q0: .*number"), ([], "one object"), ({"q0": 1e301}, "q0"), ({"q0": True}, "q0: .*number")],
)
def test_a_file_of_null_odds_that_is_refused(tmp_path, content, message):
    (tmp_path / "odds.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        read_null_odds(tmp_path / "odds.json")


def test_n_best_of_another_run_are_not_taken_and_other_files_refused(tmp_path):
    file = tmp_path / "nbest_predictions.json"
    assert read_n_best(file, {"q1": "clock"}) is None
    n_best = {"q1": [{"text": "clock", "start": 0, "end": 5, "score": 0.5}]}
    for content, texts, expected in ((n_best, {"q1": "clock", "q2": ""}, n_best), (n_best, {"q1": "tower"}, None)):
        file.write_text(json.dumps(content))
        assert read_n_best(file, texts) == expected
    wrong = ("text", 1), ("start", None), ("end", 1.5), ("score", "high"), ("score", 10**400), ("confidence", "high")
    for content in ([], {"q1": "clock"}, *({"q1": [n_best["q1"][0] | {key: value}]} for key, value in wrong)):
        file.write_text(json.dumps(content))
        with pytest.raises(BadInput, match=r"nbest_predictions.json: .*remove it"):
            read_n_best(file, {})


PREDICTIONS = {
    "sure": make_prediction(CONTEXT, (4, 8, 3, 2), (9, 14, 3, 1), (4, 14, 3, 0.5), null_sum=-3),
    "unsure": make_prediction(CONTEXT, (9, 14, 1, 0), (4, 8, 0.25, 0.5), null_sum=1.5),
    "no token": make_prediction(CONTEXT, null_sum=2),
}


def read_strictly(file: Path):
    """JSON without NaN and Infinity."""
    return json.loads(file.read_text("utf-8"), parse_constant=lambda word: pytest.fail(f"{word} in {file.name}"))


@pytest.mark.parametrize("is_v2", [False, True], ids=["v1.1", "v2.0"])
def test_the_files_of_an_evaluation(tmp_path, is_v2):
    texts = {name: prediction.best(is_v2).text for name, prediction in PREDICTIONS.items()}
    assert texts == {"sure": "caf\u00e9", "unsure": "" if is_v2 else "clock", "no token": ""}
    file = tmp_path / "new" / "run" / "out.json"
    write_predictions(file, Evaluation({}, PREDICTIONS, texts, is_v2))
    assert read_predictions(file) == texts and "caf\u00e9" in file.read_text("utf-8")
    contents = {path.name: read_strictly(path) for path in file.parent.iterdir()}
    assert contents.keys() == {"out.json", "nbest_predictions.json"} | ({"null_odds.json"} if is_v2 else set())
    assert all(list(content) == list(PREDICTIONS) for content in contents.values())  # every id, in order

    keys = ["text", "start", "end", "score", "start_logit", "end_logit", "probability"]
    for name, rows in contents["nbest_predictions.json"].items():
        sums = np.array([row["start_logit"] + row["end_logit"] for row in rows])
        assert all(list(row) == keys and CONTEXT[row["start"] : row["end"]] == row["text"] for row in rows)
        assert [row["probability"] for row in rows] == pytest.approx(np.exp(sums) / np.exp(sums).sum())
        assert list(sums) == sorted(sums, reverse=True)
        assert rows[0]["text"] == texts[name]
        # The null answer is listed where it can be predicted.
        assert [row["text"] for row in rows].count("") == (is_v2 or name == "no token")
        assert len(rows) == len(PREDICTIONS[name].scores) + (is_v2 or name == "no token")
    if is_v2:  # the sum of "no answer" minus the best sum
        assert contents["null_odds.json"] == {"sure": -8, "unsure": 0.5, "no token": 1e9}


def test_probabilities_of_enormous_logits_are_finite():
    prediction = make_prediction(CONTEXT, (4, 8, 4e4, 5e4), (9, 14, 4e4, 4e4), null_sum=-3e4)
    rows = n_best_rows(prediction, is_version_2=True)
    assert [row["probability"] for row in rows] == [1, 0, 0]


def test_files_that_cannot_be_written_raise_oserror_and_leave_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "nbest_predictions.json").mkdir()
    for file in (tmp_path / "file" / "out.json", tmp_path / "out.json"):
        with pytest.raises(OSError):
            write_predictions(file, Evaluation({}, PREDICTIONS, dict.fromkeys(PREDICTIONS, ""), False))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]
