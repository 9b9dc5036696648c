"""Intervals and p-values: against scipy on the same values, and the promises of swapping."""

import numpy as np
import pytest

from minibert.evaluation.intervals import interval, paired_interval, permutation_p


@pytest.fixture
def pair():
    """F1-like values of two systems on 300 questions; the first is better by 0.05 or so."""
    generator = np.random.default_rng(3)
    first = generator.choice([0, 0.4, 0.5, 2 / 3, 1], size=300, p=[0.2, 0.1, 0.1, 0.1, 0.5])
    return first, np.where(generator.random(300) < 0.2, generator.choice([0, 1], size=300, p=[0.45, 0.55]), first)


def test_the_intervals_are_those_of_scipy(pair):
    stats = pytest.importorskip("scipy.stats")
    first, second = pair
    for ours, values in ((interval(first), first), (paired_interval(first, second), first - second)):
        theirs = stats.bootstrap([values], np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
        # A 2.5 % quantile of 10,000 draws varies by sqrt(0.025 * 0.975 / 10,000) / density: 0.027 standard errors.
        assert ours == pytest.approx(tuple(theirs), abs=5 * 2**0.5 * 0.027 * values.std() / len(values) ** 0.5)


def test_the_p_value_is_that_of_scipy(pair):
    stats = pytest.importorskip("scipy.stats")
    first, second = pair
    theirs = stats.permutation_test(
        pair, lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=10_000, rng=1
    ).pvalue
    assert 0.002 < theirs < 0.3  # where a wrong count would show
    assert permutation_p(first, second) == pytest.approx(theirs, abs=5 * (2 * theirs / 10_000) ** 0.5)


def test_swapping_negates_the_interval_and_keeps_the_p_value(pair):
    first, second = pair
    low, high = paired_interval(first, second)
    assert paired_interval(second, first) == (-high, -low)
    assert str(paired_interval([0] * 50, [0] * 49 + [1])[1]) == "0.0"  # and not -0.0
    assert permutation_p(first, second) == permutation_p(second, first)


def test_equal_systems_differ_by_0_with_p_1(pair):
    assert paired_interval(pair[0], pair[0]) == (0, 0)
    assert permutation_p(pair[0], pair[0]) == 1


def test_a_difference_beyond_every_swap_has_the_least_p():
    assert permutation_p(np.ones(100), np.zeros(100)) == 1 / 10_001
