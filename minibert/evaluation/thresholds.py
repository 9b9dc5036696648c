"""Null odds and scores of questions -> the threshold above which "no answer" is predicted (SQuAD v2.0).

`official_best` is the sweep of the official script, kept with its faults so that published figures can be compared: it
looks for the best inside a group of equal null odds too, so it can report a score that no threshold gives, and it
starts with the threshold 0.0, whatever the odds are. `best_threshold` only reports what scoring at its threshold gives.
"""

from collections.abc import Iterable

import numpy as np


def official_best(questions: Iterable[tuple[float, float, bool, bool]]) -> tuple[float, float]:
    """(sum of scores, threshold) by the official script's sweep.

    questions: (null odds, score of the prediction, whether the question has answers, whether the prediction has text).
    Questions with equal odds are taken in the given order. All questions begin as "no answer", which is right where
    there are no answers; one after the other then gets its prediction, which can only lose there.
    """
    ordered = sorted(questions, key=lambda question: question[0])
    current = best = float(sum(not has_answer for _, _, has_answer, _ in ordered))
    threshold = 0.0
    for odds, score, has_answer, has_text in ordered:
        current += score if has_answer else -float(has_text)
        if current > best:
            best, threshold = current, odds
    return best, threshold


def best_threshold(null_odds: np.ndarray, answered: np.ndarray, unanswered: np.ndarray) -> tuple[float, float]:
    """(sum of scores, threshold): the best that one threshold can do; of equally good ones, the lowest.

    All arrays are (questions,): the null odds, the score of the best answer, and the score of "no answer", which is
    predicted where the odds exceed the threshold. A threshold lies midway between two questions' odds, so that a
    last-bit difference in the logits changes no prediction.
    """
    deciding = answered != unanswered  # the others score the same at any threshold
    if not deciding.any():
        return float(unanswered.sum()), 0.0
    order = np.argsort(null_odds[deciding])
    odds, gains = null_odds[deciding][order], (answered - unanswered)[deciding][order]
    is_last = np.append(odds[1:] != odds[:-1], True)  # of its group of equal odds: no threshold lies inside a group
    cuts = odds[is_last]
    sums = unanswered.sum() + np.concatenate([[0.0], np.cumsum(gains)[is_last]])
    below_all = min(cuts[0] - 1, np.nextafter(cuts[0], -np.inf))
    # Between neighbouring floats the mean can be rounded up to the higher one, which would then be answered too.
    midway = np.minimum(cuts[:-1] / 2 + cuts[1:] / 2, np.nextafter(cuts[1:], -np.inf))
    best = int(np.argmax(sums))
    return float(sums[best]), float(np.concatenate([[below_all], midway, cuts[-1:]])[best])
