"""An evaluation as one HTML page: scores, curves, slices, and every question with its text and answers.

In: examples, their rows and, from a model, n best answers, windows and logits. Out: the page, which needs no network.
To keep it small, texts are stored once, answers as offsets into them, and only tokens of some probability are kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minibert.answers.spans import Chunk, token_probabilities
from minibert.evaluation.analysis import METRICS, PROPERTIES, difference, human_ceiling, percents, slices, suspects
from minibert.evaluation.calibration import calibration_error, reliability, risk_coverage
from minibert.evaluation.intervals import interval
from minibert.evaluation.rows import ERRORS, NBest, Row
from minibert.support.page import fill_page
from minibert.text.records import Example
from minibert.text.windows import Windows

PAGE = Path(__file__).with_name("report.html")
SHOWN_ANSWERS = 5
LEAST_PROBABILITY = 0.02  # of a token to be kept; more would double the page
QUESTIONS_TOGETHER = 64
LOSS_POINTS = 400  # of a curve
RISK_POINTS = 100
DEVLIN, RAJPURKAR = "Devlin et al. 2019, arXiv:1810.04805", "Rajpurkar et al. 2016, arXiv:1606.05250"
# By the id of a file's first question: its number of questions, and published results on the whole file, in percent.
PUBLISHED: dict[str, tuple[int, list[tuple[str, float, float, str]]]] = {
    "56be4db0acb8001400a502ec": (
        10570,
        [
            ("BERT-large", 84.1, 90.9, f"{DEVLIN}, table 2"),
            ("BERT-base", 80.8, 88.5, f"{DEVLIN}, table 2"),
            ("DistilBERT", 77.7, 85.8, "Sanh et al. 2019, arXiv:1910.01108, table 2"),
            ("logistic regression", 40.0, 51.0, f"{RAJPURKAR}, table 5"),
        ],
    ),
    "56ddde6b9a695914005b9628": (
        11873,
        [("BERT-large", 78.7, 81.9, f"{DEVLIN}, table 3")],
    ),
}


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """What a report is about: names to show, and what only a model has."""

    system: str
    data: str
    command: str  # that makes the page again
    n_best: Mapping[str, NBest] = field(default_factory=dict)
    windows: Windows | None = None
    logits: tuple[np.ndarray, np.ndarray] | None = None
    metrics: Sequence[Mapping[str, Any]] = ()  # the lines of the run's metrics.jsonl
    explain: str = ""  # the command that explains one answer, without its question and context


def trust(rows: Sequence[Row]) -> dict[str, Any]:
    """How far the certainties can be trusted: [mean certainty, share right, questions] of each bin, their mean distance
    (ECE), and [share of questions answered, share of those wrong] if only the surest are answered."""
    known = [(row.certainty, row.exact_match) for row in rows if row.certainty is not None]
    if not known:
        return {"reliability": [], "calibration_error": 0.0, "risk": []}
    sure, right = np.array(known, float).T
    coverage, risk = risk_coverage(sure, right)
    shown = np.unique(np.linspace(0, len(risk) - 1, RISK_POINTS).round().astype(int))
    return {
        "reliability": [[claimed, share, count] for count, claimed, share in reliability(sure, right) if count],
        "calibration_error": calibration_error(sure, right),
        "risk": np.stack([coverage, risk], axis=1)[shown].tolist(),
    }


def make_report(
    examples: Sequence[Example], rows: Sequence[Row], source: Source, other: tuple[str, Sequence[Row]] | None = None
) -> str:
    """The page. other: a second system's name and rows, on the same questions."""
    # Calibrated on v1.1 data, a model has no confidence for "no answer", and a score cannot stand in for one.
    if any(row.score is not None and row.confidence is None for row in rows):
        rows = [replace(row, confidence=None) for row in rows]
    size, published = PUBLISHED.get(examples[0].id, (0, []))
    parts = {name: part for name, part in slices(rows).items() if part}
    data = {
        "system": source.system,
        "data": source.data,
        "command": source.command,
        "explain": source.explain,
        "total": len(rows),
        "scores": [score_of(rows, metric) for metric in METRICS],
        "human": human_ceiling(examples),
        "published": published,
        "is_whole": size == len(rows),
        "curves": curves(source.metrics),
        "slices": [[name.replace("_", " "), PROPERTIES[name][0], part] for name, part in parts.items()],
        "errors": list(ERRORS),
        "certainty": "confidence" if any(row.confidence is not None for row in rows) else "score",
        **trust(rows),
        "explorer": explorer(examples, rows, source, other),
        "other": comparison(rows, *other) if other else None,
    }
    return fill_page(PAGE, data)


def score_of(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    values = percents(rows, metric)
    return {"title": METRICS[metric].capitalize(), "value": sum(values) / len(values), "interval": interval(values)}


def comparison(rows: Sequence[Row], name: str, others: Sequence[Row]) -> dict[str, Any]:
    """The second system's name, and of each metric: title, A, B, A - B, the ends of its interval, p-value."""
    lines = []
    for metric, title in METRICS.items():
        one = difference(rows, others, metric)
        lines.append([title.capitalize(), one["a"], one["b"], one["difference"], *one["interval"], one["p"]])
    return {"name": name, "differences": lines}


def curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The loss, thinned out, and the scores of the evaluations, by step."""
    losses = [[line["step"], line["loss"]] for line in metrics if "loss" in line]
    scored = [line for line in metrics if "f1" in line]
    every = max(1, len(losses) // LOSS_POINTS)
    exact = [[line["step"], line.get("exact_match", line.get("exact"))] for line in scored]
    return {"loss": losses[::every], "exact": exact, "f1": [[line["step"], line["f1"]] for line in scored]}


def explorer(
    examples: Sequence[Example], rows: Sequence[Row], source: Source, other: tuple[str, Sequence[Row]] | None
) -> dict[str, Any]:
    """Texts once, and of each question its columns, in the order that the page's script expects."""
    contexts = {text: i for i, text in enumerate(dict.fromkeys(example.context for example in examples))}
    titles = {title: i for i, title in enumerate(dict.fromkeys(example.title for example in examples))}
    words = {word: i for i, word in enumerate(dict.fromkeys(row.question_word for row in rows))}
    places = {row.id: place for place, row in enumerate(suspects(rows), start=1)}
    heat = token_heat(source.windows, source.logits, len(rows)) if source.windows and source.logits else []
    questions = []
    for i, (example, row) in enumerate(zip(examples, rows)):
        golds = Counter((gold.start, gold.start + len(gold.text)) for gold in example.answers)
        answers = [
            [*answer_of(example, answer["text"], answer["start"], answer["end"]), round(answer["score"], 4)]
            for answer in source.n_best.get(example.id, ())[:SHOWN_ANSWERS]
        ]
        second = []
        if other:
            b = other[1][i]
            second = [*answer_of(example, b.prediction, b.start, b.end), round(100 * b.f1), ERRORS.index(b.error)]
        questions.append(
            [
                contexts[example.context],
                titles[example.title],
                words[row.question_word],
                example.id,
                example.question,
                [[*place, count] for place, count in golds.items()],
                answer_of(example, row.prediction, row.start, row.end),
                ERRORS.index(row.error),
                round(100 * row.f1),
                None if row.certainty is None else round(row.certainty, 4),
                places.get(row.id, 0),
                answers,
                heat[i] if heat else [],
                second,
            ]
        )
    return {"contexts": list(contexts), "titles": list(titles), "words": list(words), "questions": questions}


def answer_of(example: Example, text: str, start: int | None, end: int | None) -> list[Any]:
    """[start, end, ""] where the text is a slice of the context, else [-1, -1, text]."""
    if text and start is not None and example.context[start:end] == text:
        return [start, end, ""]
    return [-1, -1, text]


def token_heat(windows: Windows, logits: tuple[np.ndarray, np.ndarray], questions: int) -> list[list[int]]:
    """Of each question, for each likely token: first character, length, p(start) and p(end) in percent."""
    bounds = np.searchsorted(windows.example, np.arange(questions + 1))
    heat: list[list[int]] = []
    for first in range(0, questions, QUESTIONS_TOGETHER):
        chunk = Chunk(windows, *logits, bounds[first : first + QUESTIONS_TOGETHER + 1])
        starts, ends = (token_probabilities(chunk, values) for values in logits)
        offsets = np.zeros((len(starts), 2), np.int64)
        offsets[chunk.token_slot] = windows.offsets[chunk.token_row]
        is_kept = np.maximum(starts, ends) >= LEAST_PROBABILITY
        columns = [offsets[:, 0], offsets[:, 1] - offsets[:, 0], np.rint(100 * starts), np.rint(100 * ends)]
        table = np.stack(columns, axis=1).astype(int)  # (slots, 4)
        for begin, stop in zip(chunk.question_slot, chunk.null_slot):
            heat.append(table[begin:stop][is_kept[begin:stop]].ravel().tolist())
    return heat
