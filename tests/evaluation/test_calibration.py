"""calibration.py: the measures on small cases by hand, and on answers whose claims are true."""

import numpy as np
import pytest

from minibert.evaluation.calibration import brier_score, calibration_error, reliability, risk_at, risk_coverage


def test_measures_by_hand():
    confidence, right = np.array([1.0, 0.9, 0.62, 0.61]), np.array([1.0, 0.0, 1.0, 0.0])
    rows = reliability(confidence, right, bins=10)
    assert [row for row in rows if row[0]] == [(2, pytest.approx(0.615), 0.5), (2, pytest.approx(0.95), 0.5)]
    assert rows[9][0] == 2 and rows[0] == (0, 0.0, 0.0)
    assert calibration_error(confidence, right, bins=10) == pytest.approx((2 * 0.115 + 2 * 0.45) / 4)
    assert brier_score(confidence, right) == pytest.approx((0.81 + 0.38**2 + 0.61**2) / 4)
    coverage, risk = risk_coverage(confidence[[2, 0, 3, 1]], right[[2, 0, 3, 1]])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert risk_at(confidence, right, 0.5) == 0.5 and risk_at(confidence, right, 0.0) == 0.0


def test_equally_sure_answers_count_with_their_mean_in_any_order():
    for right in ([1, 0, 0, 0], [0, 0, 0, 1]):
        _, risk = risk_coverage(np.full(4, 0.3), np.array(right, float))
        np.testing.assert_allclose(risk, 0.75)


def test_claims_that_are_true_have_almost_no_error_and_doubled_odds_have():
    draw = np.random.default_rng(0)
    truth = draw.random(200_000)
    right = (draw.random(200_000) < truth).astype(float)
    assert calibration_error(truth, right) < 0.005
    too_sure = truth**2 / (truth**2 + (1 - truth) ** 2)
    assert calibration_error(too_sure, right) == pytest.approx(np.abs(too_sure - truth).mean(), abs=0.01)
    assert brier_score(truth, right) < brier_score(too_sure, right)
    assert risk_at(truth, right, 0.8) == risk_at(too_sure, right, 0.8)  # the order of the answers is the same
