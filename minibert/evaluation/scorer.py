"""Exact match and F1 by the rules of both official SQuAD scorers.

In: examples and {id: predicted text}. Out: percentages under the official keys. The rules are those of the evaluation
scripts of SQuAD v1.1 and v2.0 (https://rajpurkar.github.io/SQuAD-explorer); with `metric_language`, texts are
normalized and split by the rules of another language (`languages.py`).
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from minibert.evaluation import languages
from minibert.evaluation.thresholds import best_threshold, official_best
from minibert.support.errors import BadInput
from minibert.support.streams import counted, tell
from minibert.text.records import Example
from minibert.text.squad import has_impossible

OFFICIAL_THRESHOLD = 1.0  # of null odds: the default of --na-prob-thresh, made for probabilities
PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: dashes and curly quotes stay
ARTICLES = re.compile(r"\b(a|an|the)\b")


@lru_cache(maxsize=1024)  # each answer is compared with several others, by two metrics
def normalize(text: str, metric_language: str | None = None) -> str:
    """Lower-case, remove ASCII punctuation, then remove articles, then collapse whitespace.

    Punctuation is removed without a space: "well-known" becomes "wellknown".
    """
    if metric_language:
        return languages.normalize(text, metric_language)
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, gold: str, metric_language: str | None = None) -> float:
    """1.0 if both normalize to the same text, else 0.0."""
    return float(normalize(prediction, metric_language) == normalize(gold, metric_language))


def f1(prediction: str, gold: str, metric_language: str | None = None) -> float:
    """Harmonic mean of precision and recall over the words of both normalized texts, as bags.

    Two texts without words score 0, as in the v1.1 script; v2.0 has a rule of its own for them in `score_question`.
    """
    predicted, expected = words(prediction, metric_language), words(gold, metric_language)
    common = sum((Counter(predicted) & Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def words(text: str, metric_language: str | None = None) -> list[str]:
    """What F1 counts."""
    return languages.words(text, metric_language) if metric_language else normalize(text).split()


def score_question(
    example: Example, prediction: str, is_version_2: bool, metric_language: str | None = None
) -> tuple[float, float, str]:
    """Exact match and F1 of one prediction, each the best over the answers, and the answer of the best F1.

    v2.0: what counts is the list of answers, not `is_impossible`. An answer whose normalized text is empty is ignored.
    Where the prediction or all answers are empty, F1 is 1 if both are, else 0.
    """
    golds = list(dict.fromkeys(gold.text for gold in example.answers))  # annotators often agree: score an answer once
    if is_version_2:
        golds = [gold for gold in golds if normalize(gold, metric_language)] or [""]
    exact = [exact_match(prediction, gold, metric_language) for gold in golds]
    is_empty = is_version_2 and not normalize(prediction, metric_language)
    f1s = exact if is_empty else [f1(prediction, gold, metric_language) for gold in golds]
    best = max(range(len(golds)), key=lambda i: (f1s[i], exact[i]))
    return max(exact), f1s[best], golds[best]


def score(
    examples: Sequence[Example],
    predictions: Mapping[Any, str],
    null_odds: Mapping[Any, float] | None = None,
    threshold: float = OFFICIAL_THRESHOLD,
    metric_language: str | None = None,
) -> dict[str, float]:
    """Official scores, in percent. The v2.0 rules hold if a question is marked as impossible or has no answers.

    predictions, null_odds: by the questions' ids; a number stands for its text. null_odds, threshold: see
    `score_version_2`; v1.1 has neither. metric_language: a key of `LANGUAGES`.
    """
    languages.check_language(metric_language)
    predictions = by_text_id(predictions, "predictions")
    null_odds = None if null_odds is None else by_text_id(null_odds, "null odds")
    if not has_golds(examples):
        raise BadInput("data", "", "has no answers and no is_impossible: there is nothing to score against")
    if needs_version_2(examples, True):
        return score_version_2(examples, predictions, null_odds, threshold, metric_language)
    if null_odds is not None:
        raise BadInput("null odds", "", "every question has an answer, as in SQuAD v1.1, which knows no null odds")
    return score_version_1(examples, predictions, metric_language)


def by_text_id(values: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The values with their ids as strings, as examples have them; BadInput if two ids become one."""
    texts = {str(key): value for key, value in values.items()}
    if len(texts) < len(values):
        again = Counter(map(str, values)).most_common(1)[0][0]
        raise BadInput(name, again, "is the id of two entries, as a number and as a string; remove one")
    return texts


def has_golds(examples: Sequence[Example]) -> bool:
    """Whether there is anything to score against; a test set has none."""
    return any(example.answers or example.is_impossible for example in examples)


def needs_version_2(examples: Sequence[Example], version_2_with_negative: bool) -> bool:
    """Whether the v2.0 rules hold: a question is marked as impossible, or with the flag, has no answers."""
    return has_impossible(examples) or (version_2_with_negative and not all(example.answers for example in examples))


def score_version_1(
    examples: Sequence[Example], predictions: Mapping[str, str], metric_language: str | None = None
) -> dict[str, float]:
    """{"exact_match", "f1", "total"}. A missing prediction scores 0 and is counted on stderr.

    Raises BadInput for a question without answers.
    """
    if unanswered := [example.id for example in examples if not example.answers]:
        found = f"no answers and no is_impossible in {counted(len(unanswered), 'question')}"
        what = f"{found}; use --version_2_with_negative"
        raise BadInput("data", unanswered[0], what)
    answered = [example for example in examples if example.id in predictions]
    if missing := len(examples) - len(answered):
        surplus = len(predictions) - len(answered)
        others = f"; {counted(surplus, 'prediction')} for questions that are not in the data" if surplus else ""
        total = counted(len(examples), "question")
        tell(f"{missing} of {total} without a prediction: score 0{others}")
    rows = [score_question(example, predictions[example.id], False, metric_language)[:2] for example in answered]
    return mean_scores(rows + missing * [(0.0, 0.0)], ("exact_match", "f1", "total"))


def score_version_2(
    examples: Sequence[Example],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    threshold: float = OFFICIAL_THRESHOLD,
    metric_language: str | None = None,
    best_answers: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """exact, f1 and total, then the same for the questions with answers (HasAns_) and without (NoAns_).

    With null odds, a question whose odds exceed `threshold` counts as "no answer", as with the official --na-prob-file
    and --na-prob-thresh, and the scores end with those of `score_thresholds`; there, best_answers are the predictions
    before any threshold has replaced one with "". Raises BadInput for a missing prediction or missing null odds;
    predictions for other questions are counted on stderr.
    """
    check_complete(examples, predictions, "prediction")
    if surplus := len(predictions) - len({example.id for example in examples}):
        tell(f"{counted(surplus, 'prediction')} for questions that are not in the data")
    if null_odds is not None:
        check_complete(examples, null_odds, "null odds")
    rows = []
    for example in examples:
        exact, f1_score, _ = score_question(example, predictions[example.id], True, metric_language)
        if null_odds is not None and null_odds[example.id] > threshold:
            exact = f1_score = float(not example.answers)
        rows.append((exact, f1_score))
    scores = mean_scores(rows, ("exact", "f1", "total"))
    for prefix, has_answer in (("HasAns", True), ("NoAns", False)):
        if part := [row for example, row in zip(examples, rows) if bool(example.answers) is has_answer]:
            scores |= mean_scores(part, (f"{prefix}_exact", f"{prefix}_f1", f"{prefix}_total"))
    if null_odds is not None:
        scores |= score_thresholds(examples, predictions, best_answers or predictions, null_odds, metric_language)
    return scores


def mean_scores(rows: Sequence[tuple[float, float]], names: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 in percent, and the number of questions, under these names."""
    total = len(rows)
    exact_sum, f1_sum = (sum(row[i] for row in rows) for i in (0, 1))
    return dict(zip(names, (100 * exact_sum / total, 100 * f1_sum / total, total)))


def check_complete(examples: Sequence[Example], values: Mapping[str, object], what: str) -> None:
    """BadInput if a question has no entry in `values`."""
    if missing := [example.id for example in examples if example.id not in values]:
        none = f"the question has no {what}, {len(missing)} of {len(examples)} have none"
        found = f"{none}; SQuAD v2.0 needs one for each question"
        raise BadInput("predictions" if what == "prediction" else "null odds", missing[0], found)


def score_thresholds(
    examples: Sequence[Example],
    predictions: Mapping[str, str],
    best_answers: Mapping[str, str],
    null_odds: Mapping[str, float],
    metric_language: str | None,
) -> dict[str, float]:
    """The best scores that a threshold gives on these questions; optimistic, because it is chosen on them.

    `best_exact`, `best_exact_thresh`, `best_f1` and `best_f1_thresh` are the official script's, over the predictions.
    The same with `best_reachable_` are over the best answers, and each is what scoring at its threshold gives. See
    `thresholds.py`.
    """
    by_id = {example.id: example for example in examples}
    asked = [by_id[name] for name in null_odds if name in by_id]  # in the order of the null odds
    odds = [null_odds[one.id] for one in asked]
    has_answer, has_text = [bool(one.answers) for one in asked], [bool(predictions[one.id]) for one in asked]
    predicted, answered = (
        np.array([score_question(one, texts.get(one.id, ""), True, metric_language)[:2] for one in asked])
        for texts in (predictions, best_answers)
    )
    unanswered = 1.0 - np.array(has_answer, np.float64)  # the score of "no answer" above a threshold
    official: dict[str, float] = {}
    reachable: dict[str, float] = {}
    for i, metric in enumerate(("exact", "f1")):
        best, threshold = official_best(zip(odds, predicted[:, i].tolist(), has_answer, has_text))
        official |= {f"best_{metric}": 100.0 * best / len(asked), f"best_{metric}_thresh": threshold}
        best, threshold = best_threshold(np.array(odds, np.float64), answered[:, i], unanswered)
        reachable |= {f"best_reachable_{metric}": 100.0 * best / len(asked)}
        reachable |= {f"best_reachable_{metric}_thresh": threshold}
    return official | reachable
