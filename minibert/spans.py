"""Logits of all windows -> the best legal answers of every question, by array operations.

A span is legal if both its tokens lie in the context, its end is not before its start, and it has at most
`max_answer_length` tokens. The search is exact: no span is left out but those that a bound proves to be worse.
In: flat logits, in the layout of `Windows`. Out: a `Prediction` per question. Next: `answering.py`.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minibert.squad import Example
from minibert.windows import Windows, ranges

CHUNK = 256  # windows searched together: their arrays stay in the processor's cache
NOTHING_TO_COMPARE = 1e9  # null odds of a context without a token: above any threshold, and JSON has no infinity


@dataclass(frozen=True, slots=True)
class Answer:
    """context[start:end] == text, and how sure the model is; `score` is p(start) * p(end)."""

    text: str
    start: int
    end: int
    score: float
    start_logit: float
    end_logit: float

    @property
    def logit_sum(self) -> float:
        return self.start_logit + self.end_logit


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The best legal spans of one question, best first (none for a context without a token), and the case against them.

    They stay arrays until somebody reads them: of 20 spans most callers want the first.
    """

    context: str
    places: np.ndarray  # (spans, 2) first character, and the one after the last
    logits: np.ndarray  # (spans, 2) of the start and of the end
    scores: np.ndarray  # (spans,)
    # "No answer": the lowest [CLS] logits of all windows. Most windows of a long text rightly say "not here"; one that
    # doubts it is enough.
    null: Answer

    def answer(self, i: int) -> Answer:
        return cut(self.context, *self.places[i].tolist(), float(self.scores[i]), *self.logits[i].tolist())

    @property
    def answers(self) -> list[Answer]:
        return [self.answer(i) for i in range(len(self.scores))]

    @property
    def null_odds(self) -> float:
        """How far "no answer" is above the best answer, in logits; above a threshold, it wins (SQuAD v2.0)."""
        return self.null.logit_sum - sum(self.logits[0].tolist()) if len(self.scores) else NOTHING_TO_COMPARE

    def best(self, allow_null: bool = False, threshold: float = 0.0) -> Answer:
        """The best answer, or the null answer where it is allowed and its odds exceed the threshold."""
        is_null = not len(self.scores) or (allow_null and self.null_odds > threshold)
        return self.null if is_null else self.answer(0)


def search(
    windows: Windows,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    examples: Sequence[Example],
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> list[Prediction]:
    """The `n_best_size` best legal spans of each question over all its windows. Logits are flat, float32.

    The same span in two windows counts once, the better one. Ties: the lower start, then the shorter span.
    """
    first_window = np.searchsorted(windows.example, np.arange(len(examples) + 1))
    predictions, q = [], 0
    while q < len(examples):
        # As many questions as have CHUNK windows together, or one that has more.
        stop = max(q + 1, int(np.searchsorted(first_window, first_window[q] + CHUNK, side="right")) - 1)
        places = Places(windows, first_window[q : stop + 1])
        spans = best_spans(places, start_logits, end_logits, n_best_size, max_answer_length)
        predictions += make_predictions(windows, places, *spans, start_logits, end_logits, examples[q:stop])
        q = stop
    return predictions


class Places:
    """Where the contexts' tokens of some questions stand: in the flat rows, and in each question's own context."""

    def __init__(self, windows: Windows, bounds: np.ndarray):
        mine = np.arange(bounds[0], bounds[-1])
        self.first_window = bounds[:-1] - bounds[0]  # (questions,), as the windows are counted here
        self.question = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))  # (windows,), and so are the next four
        self.cls_row = windows.bounds[mine]
        self.row = self.cls_row + windows.context_start[mine]  # of the first context token
        self.length = windows.bounds[mine + 1] - 1 - self.row
        self.token = windows.first_token[mine]  # which one of the context that is


def best_spans(places: Places, start_logits, end_logits, count: int, longest: int) -> tuple[np.ndarray, ...]:
    """The `count` best legal spans of each question, as `sort_spans` returns them.

    The best span of each start is one span of its window. So the `count` starts with the best ones hold `count` spans
    at least as good as all others, and the count-th best of what they hold bounds what has to be looked at.
    """
    columns = np.arange(max(1, places.length.max()))
    is_context = columns < places.length[:, None]  # (windows, T)
    rows = np.where(is_context, places.row[:, None] + columns, 0)
    start, end = (np.where(is_context, logits[rows], -np.inf) for logits in (start_logits, end_logits))
    longest = min(longest, len(columns))
    ends = np.lib.stride_tricks.sliding_window_view(widen(end, longest - 1), longest, axis=1)  # (windows, T, longest)
    best = start + sliding_max(end, longest)
    bound = np.full((len(best), 1), np.finfo(np.float32).min)
    if count < len(columns):
        window, first = np.arange(len(best))[:, None], np.argpartition(best, -count)[:, -count:]
        sums = (start[window, first, None] + ends[window, first]).reshape(len(best), -1)  # (windows, count * longest)
        bound = np.maximum(bound, np.partition(sums, -count)[:, -count, None])
    window, first = np.nonzero(best >= bound)
    sums = start[window, first, None] + ends[window, first]  # (starts, longest)
    i, more = np.nonzero(sums >= bound[window])  # with all that tie with the last one: the sort decides
    return sort_spans(places, window[i], first[i], more, sums[i, more], count)


def sliding_max(values: np.ndarray, width: int) -> np.ndarray:
    """The maximum over each column and the width - 1 that follow it, by doubling."""
    done = 1
    while done < width:
        step = min(done, width - done)
        values = np.maximum(values, widen(values[:, step:], step))
        done += step
    return values


def widen(values: np.ndarray, columns: int) -> np.ndarray:
    return np.concatenate([values, np.full((len(values), columns), -np.inf, values.dtype)], axis=1)


def sort_spans(places: Places, window, first, more, sums, count: int) -> tuple[np.ndarray, ...]:
    """Of the spans first .. first + more of some windows, the `count` best of each question, best first.

    Returns, (spans,) each: question, flat row of the first token, which one of the context that is, and `more`.
    """
    question, token = places.question[window], places.token[window] + first
    order = np.lexsort([more, token, -sums, question])
    # Of the same span in two windows the better one comes first, and is kept.
    same = (question * (token.max(initial=0) + 1) + token) * (more.max(initial=0) + 1) + more
    _, kept = np.unique(same[order], return_index=True)
    order = order[np.sort(kept)]
    rank = np.arange(len(order)) - np.searchsorted(question[order], question[order])
    order = order[rank < count]
    return question[order], (places.row[window] + first)[order], token[order], more[order]


def make_predictions(windows, places, question, row, token, more, start_logits, end_logits, examples):
    """A `Prediction` for each example from its sorted spans."""
    null_sums = start_logits[places.cls_row] + end_logits[places.cls_row]
    null_row = places.cls_row[np.lexsort([null_sums, places.question])[places.first_window]]
    start_p, start_null, base = token_probabilities(places, start_logits, null_row)
    end_p, end_null, _ = token_probabilities(places, end_logits, null_row)
    scores = start_p[base[question] + token] * end_p[base[question] + token + more]

    characters = np.stack([windows.offsets[row, 0], windows.offsets[row + more, 1]], axis=1)
    logits = np.stack([start_logits[row], end_logits[row + more]], axis=1)
    bounds = np.searchsorted(question, np.arange(len(examples) + 1)).tolist()
    nulls = zip((start_null * end_null).tolist(), start_logits[null_row].tolist(), end_logits[null_row].tolist())
    return [
        Prediction(example.context, characters[a:b], logits[a:b], scores[a:b], Answer("", 0, 0, *null))
        for example, a, b, null in zip(examples, bounds, bounds[1:], nulls)
    ]


def token_probabilities(places: Places, logits, null_row) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Softmax over every token of a context once, with the larger logit where windows overlap, and the null entry.

    Returns all questions' probabilities, those of their null entries, and where each one's context begins in the first.
    """
    contexts = np.maximum.reduceat(places.token + places.length, places.first_window)  # tokens of each
    base = np.cumsum(contexts + 1) - contexts - 1
    values = np.full(base[-1] + contexts[-1] + 1, -np.inf, np.float32)
    values[base + contexts] = logits[null_row]
    target = ranges(base[places.question] + places.token, places.length)
    np.maximum.at(values, target, logits[ranges(places.row, places.length)])
    # Less the maximum: large logits would overflow.
    weights = np.exp(values - np.repeat(np.maximum.reduceat(values, base), contexts + 1))
    weights /= np.repeat(np.add.reduceat(weights, base, dtype=np.float64), contexts + 1)
    return weights, weights[base + contexts], base


def cut(context: str, start: int, end: int, score: float, start_logit: float, end_logit: float) -> Answer:
    """The answer between two characters of the context, its end moved over combining marks: they belong to a letter."""
    while end < len(context) and unicodedata.category(context[end])[0] == "M":
        end += 1
    return Answer(context[start:end], start, end, score, start_logit, end_logit)
