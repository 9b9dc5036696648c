"""thresholds.py: the official sweep, and ours, on constructed ties, drawn questions and published predictions."""

import random

import numpy as np
import pytest

from minibert.evaluation.predictions import read_predictions
from minibert.evaluation.scorer import score, score_question
from minibert.evaluation.thresholds import best_threshold, official_best
from minibert.support.errors import BadInput
from minibert.text.squad import Example, Gold, read_squad


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
        ([(5, 1, True)], (1, 5), 1),
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


def test_published_predictions_with_constructed_null_odds(squad_dir):
    """Null odds that know something, half of them tied; the official rule is applied to figures of its own."""
    examples = read_squad(squad_dir / "dev-v2.0-half.json")
    predictions = read_predictions(squad_dir / "predictions-v2.0-half-bert-single.json")
    draw = random.Random(0)
    odds = {one.id: draw.gauss(-2.0 if one.answers else 2.0, 3.0) for one in examples}
    odds = {name: float(round(value)) if i % 2 else value for i, (name, value) in enumerate(odds.items())}
    odds["of another file"] = -9.0
    scores = score(examples, predictions, odds)
    has = {one.id: bool(one.answers) for one in examples}
    for i, metric in enumerate(("exact", "f1")):
        raw = {one.id: score_question(one, predictions[one.id], True)[i] for one in examples}
        official = scores[f"best_{metric}"], scores[f"best_{metric}_thresh"]
        assert official == official_rule(raw, has, predictions, odds)
        kept = [float(not has[name]) if odds[name] > 1.0 else value for name, value in raw.items()]
        assert scores[metric] == 100.0 * sum(kept) / len(kept)
        threshold = scores[f"best_reachable_{metric}_thresh"]
        assert score(examples, predictions, odds, threshold)[metric] == pytest.approx(
            scores[f"best_reachable_{metric}"]
        )
        assert scores[f"best_reachable_{metric}"] > scores[metric]
    assert [name for name in scores if "best" in name][:4] == [
        "best_exact",
        "best_exact_thresh",
        "best_f1",
        "best_f1_thresh",
    ]


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
    texts = {"q1": "clock", "q2": "clock"}
    with pytest.raises(BadInput, match=r"q2: .*null odds, 1 of 2"):
        score([answered, impossible], texts, {"q1": 0.0})
    with pytest.raises(BadInput, match=r"v1\.1"):
        score([answered], texts, {"q1": 0.0})
    with pytest.raises(BadInput, match=r"q2: .*prediction, 1 of 2"):
        score([answered, impossible], {"q1": ""}, {"q1": 0.0, "q2": 0.0})
