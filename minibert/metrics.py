"""Exact match and F1 by the rules of both official SQuAD scorers, written anew.

In: examples and {id: predicted text}. Out: percentages, under the official keys.
Rules: the evaluation scripts of SQuAD v1.1 and v2.0 (https://rajpurkar.github.io/SQuAD-explorer). Next: `tokenizer.py`.
"""

import re
import string
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from minibert.errors import BadInput
from minibert.squad import Example, is_version_2, read_json

PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: dashes and curly quotes stay
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower-case, drop ASCII punctuation, then the articles, then surplus blanks, in this order.

    Punctuation leaves no blank behind: "well-known" becomes "wellknown".
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 if both have the same normal form, else 0.0."""
    return float(normalize(prediction) == normalize(gold))


def f1(prediction: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the words of both normal forms, as bags.

    Two empty forms score 0 here, as in the v1.1 script; `score_version_2` treats them apart.
    """
    predicted, wanted = normalize(prediction).split(), normalize(gold).split()
    common = sum((Counter(predicted) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def score(examples: Sequence[Example], predictions: dict[str, str]) -> dict[str, float]:
    """Official scores, in percent, of a file's predictions: v2.0's where the file is v2.0, else v1.1's."""
    return (score_version_2 if is_version_2(examples) else score_version_1)(examples, predictions)


def score_version_1(examples: Sequence[Example], predictions: dict[str, str]) -> dict[str, float]:
    """{"exact_match", "f1", "total"}: the best over each question's answers, for each metric by itself.

    A missing prediction scores 0 and is counted on stderr.
    """
    if unanswered := [example.id for example in examples if not example.answers]:
        raise BadInput("data", unanswered[0], f"{len(unanswered)} questions have no answers to score against")
    exact_sum = f1_sum = missing = 0
    for example in examples:
        prediction = predictions.get(example.id)
        if prediction is None:
            missing += 1
            continue
        exact_sum += max(exact_match(prediction, gold.text) for gold in example.answers)
        f1_sum += max(f1(prediction, gold.text) for gold in example.answers)
    if missing:
        print(f"{missing} of {len(examples)} questions have no prediction and score 0", file=sys.stderr)
    total = len(examples)
    return {"exact_match": 100 * exact_sum / total, "f1": 100 * f1_sum / total, "total": total}


def score_version_2(examples: Sequence[Example], predictions: dict[str, str]) -> dict[str, float]:
    """The v2.0 keys: exact, f1, total, then the same for the questions with and without an answer.

    A question has an answer if its list of answers is not empty. Gold answers without a word in their normal
    form do not count, and where an answer or the prediction is empty, F1 is 1 only if both are.
    Raises BadInput for a missing prediction; surplus ones only cause a line on stderr.
    """
    missing = [example.id for example in examples if example.id not in predictions]
    if missing:
        raise BadInput("predictions", missing[0], f"no prediction for {len(missing)} of {len(examples)} questions")
    surplus = len(predictions) - len({example.id for example in examples})
    if surplus:
        print(f"{surplus} predictions are for questions that are not in the data", file=sys.stderr)
    rows = []
    for example in examples:
        prediction = predictions[example.id]
        golds = [gold.text for gold in example.answers if normalize(gold.text)] or [""]
        if normalize(prediction):
            best_f1 = max(f1(prediction, gold) for gold in golds)
        else:
            best_f1 = float(normalize(prediction) == normalize(golds[0]))
        rows.append((bool(example.answers), max(exact_match(prediction, gold) for gold in golds), best_f1))
    scores = mean_scores(rows, "")
    for prefix, has_answer in (("HasAns_", True), ("NoAns_", False)):
        part = [row for row in rows if row[0] is has_answer]
        if part:
            scores |= mean_scores(part, prefix)
    return scores


def mean_scores(rows: list[tuple[bool, float, float]], prefix: str) -> dict[str, float]:
    """Percentages of (has answer, exact, f1) rows, their keys behind a prefix."""
    total = len(rows)
    exact_sum, f1_sum = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return {
        f"{prefix}exact": 100.0 * exact_sum / total,
        f"{prefix}f1": 100.0 * f1_sum / total,
        f"{prefix}total": total,
    }


def read_predictions(file: str | Path) -> dict[str, str]:
    """A predictions file, {id: text}. Raises BadInput for anything else."""
    predictions = read_json(file)
    if not isinstance(predictions, dict) or "data" in predictions:
        raise BadInput(file, "", "expected a predictions file, one object {question id: answer text}")
    for key, text in predictions.items():
        if not isinstance(text, str):
            raise BadInput(file, key, f"the answer must be a string, not {text!r}")
    return predictions
