"""thresholds.py: the official sweep, and ours, on constructed ties and on drawn questions."""

import random

import numpy as np
import pytest

from minibert.evaluation.scorer import score, score_question
from minibert.evaluation.thresholds import best_threshold, official_best
from minibert.support.errors import BadInput
from minibert.text.records import Example, Gold


def official_rule(scores, has_answer, texts, odds):
    """The sweep as the official script states it, over dicts by id: (percent, threshold)."""
    best = current = sum(not has_answer[name] for name in has_answer)
    threshold = 0.0
    for name in sorted(odds, key=odds.get):
        if name in scores:
            current += scores[name] if has_answer[name] else (-1 if texts[name] else 0)
            best, threshold = (current, odds[name]) if current > best else (best, threshold)
    return 100.0 * best / len(scores), threshold


def at(threshold: float, odds: np.ndarray, answered: np.ndarray, unanswered: np.ndarray) -> float:
    return float(np.where(odds > threshold, unanswered, answered).sum())


@pytest.mark.parametrize(
    ("questions", "official", "ours"),
    [
        # (null odds, score, has answers): each question's prediction has text
        ([(0, 1, True), (0, 0, False)], (2, 0), 1),  # a tie: the official best lies inside it, at no threshold
        ([(0, 0, False), (0, 1, True)], (1, 0), 1),  # the same tie in another order
        ([(-3, 1, True), (2, 0, False)], (2, -3), 2),
        ([(-3, 0, False), (-1, 1, True)], (1, 0), 1),  # nothing beats "no answer": the official threshold stays 0
        ([(5, 0, True)], (0, 0), 0),
    ],
)
def test_the_official_best_may_be_out_of_reach_and_ours_never_is(questions, official, ours):
    assert official_best((odds, value, has, True) for odds, value, has in questions) == official
    odds, answered, has = np.array(questions, dtype=float).T
    total, threshold = best_threshold(odds, answered, 1 - has)
    assert total == ours == at(threshold, odds, answered, 1 - has)


def test_a_threshold_lies_between_floats_that_are_neighbours():
    low = 1.0
    odds = np.array([low, np.nextafter(low, 2)])
    assert best_threshold(odds, np.array([1.0, 0.0]), np.array([0.0, 1.0])) == (2, low)
    assert best_threshold(np.array([-1e300, 1e300]), np.array([1.0, 0.0]), np.array([0.0, 1.0])) == (2, 0)
    total, threshold = best_threshold(np.array([1e300]), np.array([0.0]), np.array([1.0]))
    assert total == 1 and threshold < 1e300


def test_drawn_questions_with_ties_are_swept_as_every_threshold_says():
    draw = random.Random(1871)
    unreachable = 0
    for _ in range(300):
        names = [f"q{i}" for i in range(draw.randint(1, 9))]
        has = {name: draw.random() < 0.5 for name in names}
        texts = {name: draw.choice(("x", "x", "")) for name in names}
        scores = {name: draw.choice((0.0, 0.5, 1.0)) if has[name] else float(not texts[name]) for name in names}
        odds = {name: draw.choice((-2.5, -1.0, 0.0, 0.5, 3.0)) for name in draw.sample(names, len(names))}
        best, threshold = official_best((odds[name], scores[name], has[name], bool(texts[name])) for name in odds)
        assert (100 * best / len(names), threshold) == official_rule(scores, has, texts, odds)
        arrays = [np.array([part[name] for name in names], float) for part in (odds, scores)]
        arrays.append(np.array([not has[name] for name in names], float))
        total, threshold = best_threshold(*arrays)
        brute = max(at(value, *arrays) for value in (-9, *arrays[0]))
        assert total == pytest.approx(brute) == pytest.approx(at(threshold, *arrays))
        unreachable += best > brute + 0.1
    assert unreachable > 10


def test_the_scores_with_null_odds_end_with_both_sweeps():
    draw = random.Random(0)
    examples = [Example(f"q{i}", "", "?", "red clock", (Gold("red clock", 0),) if i % 3 else ()) for i in range(60)]
    texts = {one.id: draw.choice(("red clock", "clock", "")) for one in examples}
    odds = {one.id: float(draw.randint(-2, 2) + (0 if one.answers else 2)) for one in examples} | {"another": -9.0}
    scores = score(examples, texts, odds)
    has = {one.id: bool(one.answers) for one in examples}
    for i, metric in enumerate(("exact", "f1")):
        raw = {one.id: score_question(one, texts[one.id], True)[i] for one in examples}
        official = scores[f"best_{metric}"], scores[f"best_{metric}_thresh"]
        assert official == official_rule(raw, has, texts, odds)
        kept = [float(not has[name]) if odds[name] > 1.0 else value for name, value in raw.items()]
        assert scores[metric] == pytest.approx(100 * sum(kept) / 60)
        reached = score(examples, texts, odds, scores[f"best_reachable_{metric}_thresh"])[metric]
        assert scores[metric] < scores[f"best_reachable_{metric}"] == pytest.approx(reached)
    names = ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]
    assert list(scores)[9:13] == names and len(scores) == 17


def test_no_answer_is_wrong_where_an_answer_has_no_word_of_its_own():
    """The official script asks whether there are answers, not what "" is worth beside them."""
    examples = [Example("a", "", "?", "z .", (Gold(".", 2),)), Example("b", "", "?", "b", (Gold("b", 0),))]
    examples.append(Example("c", "", "?", "c", (), True))
    scores = score(examples, {"a": "z", "b": "b", "c": "c"}, {"a": 5.0, "b": -1.0, "c": 9.0})
    assert scores["exact"] == scores["best_reachable_exact"] == pytest.approx(200 / 3)


def test_null_odds_may_be_integers_of_any_size():
    examples = [Example("q1", "", "?", "clock", (Gold("clock", 0),)), Example("q2", "", "?", "clock", (), True)]
    scores = score(examples, {"q1": "clock", "q2": "clock"}, {"q1": -(10**30), "q2": 10**30})
    assert (scores["best_exact"], scores["best_reachable_exact"], scores["best_reachable_exact_thresh"]) == (
        100,
        100,
        0,
    )


def test_null_odds_that_do_not_fit_the_questions_are_refused():
    answered = Example("q1", "", "?", "clock", (Gold("clock", 0),))
    impossible = Example("q2", "", "?", "clock", (), True)
    for examples, texts, odds, says in (
        ([answered, impossible], {"q1": "clock", "q2": ""}, {"q1": 0.0}, r"q2: .*null odds, 1 of 2"),
        ([answered], {"q1": "clock"}, {"q1": 0.0}, r"v1\.1"),
        ([answered, impossible], {"q1": ""}, {"q1": 0.0, "q2": 0.0}, r"q2: .*prediction, 1 of 2"),
    ):
        with pytest.raises(BadInput, match=says):
            score(examples, texts, odds)
