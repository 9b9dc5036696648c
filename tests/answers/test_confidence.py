"""confidence.py: the fit finds the weights that made the data, and answering.json is read back or refused."""

import json

import numpy as np
import pytest

from minibert.answers.confidence import (
    FEATURES,
    NULL_FEATURES,
    Answering,
    apply,
    features,
    fit_logistic,
    read_answering,
    write_answering,
)
from minibert.support.errors import BadInput
from tests.builders import make_prediction

WEIGHTS = {"bias": 2.0, "log_score": 0.5, "score": 1.5, "log_length": -1.0}
FITTED = Answering(-1.25, WEIGHTS, {"bias": 0.5, "null_odds": 1.5}, {"data": "held.json", "questions": 9})


def test_the_fit_finds_the_weights_that_drew_the_answers():
    draw = np.random.default_rng(0)
    log_scores = draw.normal(-2, 2, 40_000)
    rows = np.stack([np.ones(40_000), log_scores, draw.random(40_000), draw.normal(2, 1, 40_000)], axis=1)
    right = (draw.random(40_000) < apply(WEIGHTS, FEATURES, rows)).astype(float)
    assert fit_logistic(rows, right, FEATURES) == pytest.approx(WEIGHTS, abs=0.1)


@pytest.mark.parametrize("right", [[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
def test_answers_that_a_feature_separates_get_finite_weights(right):
    rows = np.stack([np.ones(6), np.arange(6) * 1e3, np.full(6, 0.5), np.full(6, 7.0)], axis=1)  # two do not vary
    weights = fit_logistic(rows, np.array(right, float), FEATURES)
    probabilities = apply(weights, FEATURES, rows)
    assert np.isfinite([*weights.values()]).all()
    assert ((probabilities > 0.5) == np.array(right, bool)).all()


def test_every_answer_has_features_and_a_confidence():
    spans = (0, 4, 2, 1), (5, 6, 1, 1), (0, 11, 0, 0)
    prediction = make_prediction("anna w made", *spans, null_sum=-1, scores=[0.5, 0.25, 0.0])
    expected = [[1, np.log(0.5), 0.5, np.log(4)], [1, np.log(0.25), 0.25, 0], [1, np.log(1e-30), 1e-30, np.log(11)]]
    np.testing.assert_allclose(features(prediction), expected, rtol=1e-6)
    sums = [2 + 0.5 * np.log(0.5) + 1.5 * 0.5 - np.log(4), 2 + 0.5 * np.log(0.25) + 1.5 * 0.25]
    np.testing.assert_allclose(FITTED.confidences(prediction)[:2], 1 / (1 + np.exp(-np.array(sums))), rtol=1e-6)
    assert FITTED.null_confidence(prediction) == pytest.approx(1 / (1 + np.exp(-(0.5 + 1.5 * -4))))
    empty = make_prediction("", null_sum=-1)
    assert FITTED.confidences(empty) == []
    assert FITTED.null_confidence(empty) == pytest.approx(1)
    assert (Answering().confidences(prediction), Answering().null_confidence(prediction)) == ([None] * 3, None)


@pytest.mark.parametrize("answering", [FITTED, Answering(None, WEIGHTS), Answering()])
def test_what_is_written_is_read_back(tmp_path, answering):
    assert read_answering(tmp_path) == Answering()
    write_answering(tmp_path, answering)
    assert read_answering(tmp_path) == answering
    assert [path.name for path in tmp_path.iterdir()] == ["answering.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "format"),
        ({}, "format"),
        ({"format": 2}, "format: .*update"),
        ({"format": 1, "null_score_diff_threshold": "0"}, "null_score_diff_threshold: .*number"),
        ({"format": 1, "null_score_diff_threshold": 10**400}, "null_score_diff_threshold"),
        ({"format": 1, "confidence": 1}, "confidence"),
        ({"format": 1, "confidence": WEIGHTS | {"margin": 1}}, "confidence"),
        ({"format": 1, "confidence": WEIGHTS | {"bias": True}}, "confidence"),
        ({"format": 1, "no_answer": dict.fromkeys(NULL_FEATURES)}, "no_answer"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, says):
    (tmp_path / "answering.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(BadInput, match=f"answering.json: {says}"):
        read_answering(tmp_path)
