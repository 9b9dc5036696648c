"""Tables over the rows of an evaluation: slices, differences of two systems, human agreement, suspect labels.

In: `Row`s, of one system or of two on the same questions. Out: plain numbers, scores in percent.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minibert.evaluation.intervals import paired_interval, permutation_p
from minibert.evaluation.properties import agreement
from minibert.evaluation.rows import Row
from minibert.text.records import Example

METRICS = {"exact_match": "exact match", "f1": "F1"}
MORE = math.inf
SHARES = {0.2: "0-20 %", 0.4: "20-40 %", 0.6: "40-60 %", 0.8: "60-80 %", MORE: "80-100 %"}
# By field of `Row`: its unit, and the groups by their upper bounds; without bounds each value is a group.
PROPERTIES: dict[str, tuple[str, dict[float, str]]] = {
    "question_word": ("", {}),
    "question_length": ("words", {7: "up to 7", 10: "8 to 10", 13: "11 to 13", 16: "14 to 16", MORE: "17 and more"}),
    "context_length": (
        "words",
        {80: "up to 80", 120: "81 to 120", 160: "121 to 160", 240: "161 to 240", MORE: "241 and more"},
    ),
    "answer_length": ("words", {0: "0", 1: "1", 2: "2", 4: "3 to 4", 9: "5 to 9", MORE: "10 and more"}),
    "position": ("of the text", SHARES),
    "overlap": ("of the question's words", SHARES),
    "windows": ("windows", {1: "1", 2: "2", 3: "3", MORE: "4 and more"}),
}


class Slice(NamedTuple):
    """Some of the questions, and their scores in percent."""

    name: str
    questions: int
    exact_match: float
    f1: float


def groups(rows: Sequence[Row], name: str) -> dict[str, list[int]]:
    """{label: indices of the rows} by one property, in the order of its bounds, else the largest group first.

    Unknown values are left out.
    """
    _, bounds = PROPERTIES[name]
    found: dict[str, list[int]] = {label: [] for label in bounds.values()}
    for i, row in enumerate(rows):
        value = getattr(row, name)
        if value is not None:
            label = next(label for bound, label in bounds.items() if value <= bound) if bounds else value
            found.setdefault(label, []).append(i)
    order = list(found) if bounds else sorted(found, key=lambda label: -len(found[label]))
    return {label: found[label] for label in order if found[label]}


def slices(rows: Sequence[Row]) -> dict[str, list[Slice]]:
    """The scores by question word, lengths, position, overlap and windows."""
    return {
        name: [
            Slice(label, len(group), *means([rows[i] for i in group])) for label, group in groups(rows, name).items()
        ]
        for name in PROPERTIES
    }


def percents(rows: Iterable[Row], metric: str) -> list[float]:
    """`exact_match` or `f1` of each row."""
    return [100 * getattr(row, metric) for row in rows]


def means(rows: Sequence[Row]) -> tuple[float, float]:
    """Exact match and F1."""
    total = len(rows)
    return 100 * sum(row.exact_match for row in rows) / total, 100 * sum(row.f1 for row in rows) / total


def difference(first: Sequence[Row], second: Sequence[Row], metric: str) -> dict[str, Any]:
    """Both systems' means, their difference in percentage points with its interval, and the p-value."""
    a, b = percents(first, metric), percents(second, metric)
    return {
        "a": sum(a) / len(a),
        "b": sum(b) / len(b),
        "difference": (sum(a) - sum(b)) / len(a),
        "interval": list(paired_interval(a, b)),
        "p": permutation_p(a, b),
    }


def human_ceiling(examples: Iterable[Example]) -> dict[str, float]:
    """How well annotators agree, in percent: {"exact_match", "f1", "questions"}; {} if no question has two answers.

    A person is compared with one answer fewer than a model is, so this is a low estimate of the ceiling.
    """
    pairs = [pair for example in examples if (pair := agreement(example))]
    if not pairs:
        return {}
    exact, overlap = 100 * np.array(pairs).mean(axis=0)
    return {"exact_match": float(exact), "f1": float(overlap), "questions": len(pairs)}


def suspects(rows: Iterable[Row]) -> list[Row]:
    """Questions whose label may be wrong, the likeliest first: the prediction shares no word with any annotated answer.

    Ranked by the confidence in the prediction (the score, where there is none), then by how little annotators agree.
    """
    wrong = [row for row in rows if row.f1 == 0]
    return sorted(wrong, key=lambda row: (-(row.certainty or 0.0), 1.0 if row.agreement is None else row.agreement))
