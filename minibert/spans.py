"""Logits of all windows -> the best legal answers of every question, by array operations.

A span is legal if both its tokens lie in the context, its end is not before its start, and it has at most
`max_answer_length` tokens. Every legal span of every window is looked at: nothing is sampled or pruned by a heuristic.
In: flat logits, in the layout of `Windows`. Out: a `Prediction` per question. Next: `answering.py`.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minibert.squad import Example
from minibert.windows import Windows

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


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answers to one question, best first (none for a context without a token), and the case against them all."""

    answers: list[Answer]
    # "No answer": the lowest [CLS] logits of all windows. Most windows of a long text rightly say "not here"; one that
    # doubts it is enough.
    null: Answer

    @property
    def null_odds(self) -> float:
        """How far "no answer" is above the best answer, in logits; above a threshold, it wins (SQuAD v2.0)."""
        return self.null.logit_sum - self.answers[0].logit_sum if self.answers else NOTHING_TO_COMPARE

    def best(self, allow_null: bool = False, threshold: float = 0.0) -> Answer:
        """The best answer, or the null answer where it is allowed and its odds exceed the threshold."""
        is_null = not self.answers or (allow_null and self.null_odds > threshold)
        return self.null if is_null else self.answers[0]


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
    predictions = []
    for q, example in enumerate(examples):
        mine = np.arange(first_window[q], first_window[q + 1])
        # The context's tokens of each window stand in these flat rows; `shift` makes a row a token of the context.
        begins, ends = windows.bounds[mine] + windows.context_start[mine], windows.bounds[mine + 1] - 1
        shifts = windows.first_token[mine] - begins
        spans = []
        for begin, end, shift in zip(begins, ends, shifts):
            starts, lasts = best_spans(start_logits[begin:end], end_logits[begin:end], n_best_size, max_answer_length)
            spans.append(np.stack([starts + begin, lasts + begin, np.full(len(starts), shift)]))
        start_rows, end_rows, shift = merge(np.concatenate(spans, axis=1), start_logits, end_logits)[:, :n_best_size]

        cls_rows = windows.bounds[mine]
        null_row = cls_rows[np.argmin(start_logits[cls_rows] + end_logits[cls_rows])]
        start_p, start_null_p = token_probabilities(start_logits, begins, ends, shifts, null_row)
        end_p, end_null_p = token_probabilities(end_logits, begins, ends, shifts, null_row)
        scores = start_p[start_rows + shift] * end_p[end_rows + shift]

        characters = zip(windows.offsets[start_rows, 0].tolist(), windows.offsets[end_rows, 1].tolist())
        columns = zip(characters, scores.tolist(), start_logits[start_rows].tolist(), end_logits[end_rows].tolist())
        answers = [cut(example.context, *column) for column in columns]
        null = Answer(
            "", 0, 0, float(start_null_p * end_null_p), *map(float, (start_logits[null_row], end_logits[null_row]))
        )
        predictions.append(Prediction(answers, null))
    return predictions


def best_spans(start: np.ndarray, end: np.ndarray, count: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last token of the `count` best spans of one window, best first; start and end are (tokens,) logits."""
    longest = min(longest, len(start))
    if not longest:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # band[i, d] is the span of tokens i .. i + d: a band of the square of all pairs, flattened in the order of ties.
    padded = np.concatenate([end, np.full(longest - 1, -np.inf, end.dtype)])
    band = (start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)).ravel()
    count = min(count, longest * len(start) - longest * (longest - 1) // 2)  # as many as there are legal spans
    worst = np.partition(band, -count)[-count]
    candidates = np.flatnonzero(band >= worst)  # all that tie with the last one too: the sort decides
    best = candidates[np.argsort(-band[candidates], kind="stable")[:count]]
    return best // longest, best // longest + best % longest


def merge(spans: np.ndarray, start_logits: np.ndarray, end_logits: np.ndarray) -> np.ndarray:
    """Sort the spans of all windows of a question, best first, and keep the better of two equal ones.

    spans is (3, candidates): flat row of the start, of the end, and what makes a row a token of the context.
    """
    start, end = spans[0] + spans[2], spans[1] + spans[2]
    order = np.lexsort([end, start, -(start_logits[spans[0]] + end_logits[spans[1]])])
    _, first = np.unique(start[order] << 32 | end[order], return_index=True)
    return spans[:, order[np.sort(first)]]


def token_probabilities(logits, begins, ends, shifts, null_row) -> tuple[np.ndarray, np.float32]:
    """Softmax over every token of the context once, with the larger logit where windows overlap, and the null entry."""
    tokens = np.full(ends[-1] + shifts[-1] + 1, -np.inf, np.float32)
    for begin, end, shift in zip(begins, ends, shifts):
        part = tokens[begin + shift : end + shift]
        np.maximum(part, logits[begin:end], out=part)
    tokens[-1] = logits[null_row]
    weights = np.exp(tokens - tokens.max())  # without the maximum, large logits would overflow
    probabilities = weights / weights.sum()
    return probabilities[:-1], probabilities[-1]


def cut(context: str, place: tuple[int, int], score: float, start_logit: float, end_logit: float) -> Answer:
    """The answer between two characters of the context, its end moved over combining marks: they belong to a letter."""
    start, end = place
    while end < len(context) and unicodedata.category(context[end])[0] == "M":
        end += 1
    return Answer(context[start:end], start, end, score, start_logit, end_logit)
