"""Logits of all windows -> the best legal spans of every question.

In: a start logit and an end logit for every token, in the flat layout of `Windows`. Out: a `Prediction` per question.

A span is legal if both its tokens lie in the context, its end is not before its start, and it has at most
`max_answer_length` tokens. Its value is start logit + end logit. `search_plain` is this rule as a loop for one
question; `search` finds the same spans for many questions, by array operations.

Why every pair is tried: the usual shortcut pairs the 20 highest starts with the 20 highest ends of a window. The best
legal span need not be among those pairs, and all of them may be illegal.

Why "no answer" takes the smallest [CLS] sum over the windows: most windows of a long context rightly say "not here",
and one window that holds the answer must outweigh them. In that window the [CLS] sum is low. The null odds of SQuAD
v2.0 are the smallest sum minus the best span's.

Answers stand in the order of their logit sums, each within one window. Their `score` is another measure: it compares an
answer's two tokens with every token of the context, each at its largest logit over the windows (see
`token_probabilities`). Where windows disagree, a lower answer can have the higher score.

Here the lesson ends. `predict.py` is where the logits come from.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minibert.text.records import Example
from minibert.text.windows import Windows, flat_rows

N_BEST_SIZE = 20
MAX_ANSWER_LENGTH = 30  # tokens
EVAL_BATCH_SIZE = 64  # windows in a batch of prediction
CHUNK = 256  # windows searched together: their arrays fit in the CPU's cache
NO_COMPARISON = 1e9  # null odds of a context without tokens: above any threshold, and JSON has no infinity


def search_plain(
    windows: Windows,
    question: int,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    n_best_size: int = N_BEST_SIZE,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> list[tuple[float, int, int]]:
    """The best legal spans of one question: (logit sum, first token, last token), best first.

    question: the index of its example. Logits: (tokens of all windows,), in the order of `windows.ids`.

    Tokens are counted in the context, so a span is the same pair in every window that holds it. An example: the context
    "anna weiss made it" in one window, spans of at most 2 tokens, and the logit sum of each legal span:

                       end      anna    weiss     made       it
        start        logit       2.0      5.0     -3.0      0.0
        anna           6.0       8.0     11.0
        weiss          1.0                6.0     -2.0
        made          -1.0                        -4.0     -1.0
        it            -2.0                                 -2.0

    The three best are (11.0, 0, 1) "anna weiss", (8.0, 0, 0) "anna" and (6.0, 1, 1) "weiss".
    """
    best: dict[tuple[int, int], float] = {}
    for i in np.flatnonzero(windows.example == question):
        rows = slice(windows.bounds[i] + windows.context_start[i], windows.bounds[i + 1] - 1)  # without the last [SEP]
        starts, ends = start_logits[rows], end_logits[rows]
        shift = int(windows.first_token[i])
        for first in range(len(starts)):
            for last in range(first, min(first + max_answer_length, len(ends))):
                span = first + shift, last + shift
                # The same span in two windows counts once, with the better sum: the context around it differs.
                best[span] = max(best.get(span, -math.inf), float(starts[first] + ends[last]))
    # Equal sums: the lower start first, then the shorter span.
    ranked = sorted(best, key=lambda span: (-best[span], span))
    return [(best[span], *span) for span in ranked[:n_best_size]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A span as text: context[start:end] == text.

    Its `score`, where "null" stands for "no answer":

        logit[token]  the largest of this token in all windows that hold it
        logit[null]   that of the [CLS] whose start + end sum is smallest
        p             softmax of these logits over the context's tokens and null: one for starts, one for ends
        score         p_start[first token] * p_end[last token]
    """

    text: str
    start: int
    end: int
    score: float
    start_logit: float
    end_logit: float

    @property
    def logit_sum(self) -> float:
        return self.start_logit + self.end_logit


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction:
    """The best legal spans of one question, best first, and the null answer; no spans if the context has no token.

    The spans stay arrays until they are read: most callers want one of 20.
    """

    context: str
    characters: np.ndarray  # (spans, 2) first character, and the one after the last; no two rows are equal
    logits: np.ndarray  # (spans, 2) of the start and of the end
    scores: np.ndarray  # (spans,)
    null: Answer  # "no answer"; see the top of this file

    def __repr__(self) -> str:
        return f"<Prediction {self.best().text!r}, the best of {len(self.scores)}>"

    def answer(self, i: int) -> Answer:
        start, end = self.characters[i].tolist()
        return Answer(self.context[start:end], start, end, float(self.scores[i]), *self.logits[i].tolist())

    @property
    def answers(self) -> list[Answer]:
        return [self.answer(i) for i in range(len(self.scores))]

    @property
    def null_odds(self) -> float:
        """The logit sum of "no answer" minus that of the best span (SQuAD v2.0)."""
        return self.null.logit_sum - sum(self.logits[0].tolist()) if len(self.scores) else NO_COMPARISON

    def best(self, allow_null: bool = False, threshold: float = 0.0) -> Answer:
        """The best answer. The null answer if there is no span, or if it is allowed and its odds exceed `threshold`."""
        is_null = not len(self.scores) or (allow_null and self.null_odds > threshold)
        return self.null if is_null else self.answer(0)


def after_marks(context: str, end: int) -> int:
    """The end of an answer, moved over combining marks.

    An accent can be a character of its own, which an uncased tokenizer drops: it lies outside every token. But "cafe"
    without its accent is another text.
    """
    while end < len(context) and unicodedata.category(context[end]).startswith("M"):
        end += 1
    return end


def search(
    windows: Windows,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    examples: Sequence[Example],
    n_best_size: int = N_BEST_SIZE,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> list[Prediction]:
    """A `Prediction` for each example, with the spans of `search_plain`. Logits: (tokens of all windows,) float32.

    Why array operations: the loop takes 7 seconds of CPU time per 1,000 windows, this form 0.04. An evaluation of
    SQuAD's dev-v1.1 (10,822 windows) ends more than a minute earlier, whatever device the model runs on.
    `SQUAD_DIR=FOLDER pytest -n 0 -m slow -s tests/answers/test_spans.py` prints both.
    """
    bounds = np.searchsorted(windows.example, np.arange(len(examples) + 1))  # the first window of each question
    predictions: list[Prediction] = []
    first = 0
    while first < len(examples):
        # As many questions as have at most CHUNK windows together, or one question that has more.
        stop = max(first + 1, int(np.searchsorted(bounds, bounds[first] + CHUNK, side="right")) - 1)
        chunk = Chunk(windows, start_logits, end_logits, bounds[first : stop + 1])
        spans = best_spans(chunk, n_best_size, max_answer_length)
        predictions += make_predictions(chunk, spans, examples[first:stop])
        first = stop
    return predictions


class Chunk:
    """Some questions: their logits, and where their context tokens lie, in rows of the flat arrays and in slots.

    A token that two windows share has two rows and one slot. Each question has a slot for every token of its context,
    and after them a slot for "no answer". `bounds` is the first window of each question, and of the question after.
    """

    def __init__(self, windows: Windows, start_logits: np.ndarray, end_logits: np.ndarray, bounds: np.ndarray):
        self.start_logits, self.end_logits, self.offsets = start_logits, end_logits, windows.offsets
        selected = slice(bounds[0], bounds[-1])
        first_window = bounds[:-1] - bounds[0]  # (questions,)
        self.question = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))  # (windows,)
        cls_row = windows.bounds[:-1][selected]  # (windows,)
        self.first_row = cls_row + windows.context_start[selected]  # (windows,) of the context
        self.length = windows.bounds[1:][selected] - 1 - self.first_row  # (windows,) tokens of the context
        token = windows.first_token[selected]
        self.slot_counts = np.maximum.reduceat(token + self.length, first_window) + 1  # (questions,)
        self.null_slot = np.cumsum(self.slot_counts) - 1  # (questions,) the last of each question
        self.question_slot = self.null_slot - self.slot_counts + 1  # (questions,) the first of each question
        self.first_slot = self.question_slot[self.question] + token  # (windows,) of the context
        self.token_row = flat_rows(self.first_row, self.length)  # (tokens,) of all windows' contexts
        self.token_slot = flat_rows(self.first_slot, self.length)  # (tokens,)
        null_order = np.lexsort([start_logits[cls_row] + end_logits[cls_row], self.question])
        self.null_row = cls_row[null_order[first_window]]  # (questions,) the [CLS] with the smallest sum


@dataclass(frozen=True, slots=True)
class Spans:
    """The best spans of a chunk's questions, best first within each question; all fields are (spans,)."""

    question: np.ndarray
    row: np.ndarray  # of the first token
    slot: np.ndarray  # of the first token
    extra_tokens: np.ndarray  # tokens after the first


def best_spans(chunk: Chunk, count: int, max_length: int) -> Spans:
    """The `count` best legal spans of each question.

    In each window: take the best span of each start. Keep the `count` starts with the highest sums. The count-th best
    span among all spans of these starts is a lower bound: nothing below it can be in the result. Search again with that
    bound. `rank` then merges the windows.
    """
    longest = max(1, chunk.length.max())
    max_length = min(max_length, longest)
    columns = np.arange(longest + max_length - 1)  # so many that the last start has max_length ends, too
    is_context = columns < chunk.length[:, None]
    rows = np.where(is_context, chunk.first_row[:, None] + columns, 0)
    start, end = (np.where(is_context, logits[rows], -np.inf) for logits in (chunk.start_logits, chunk.end_logits))
    start = start[:, :longest]  # (windows, longest)
    ends = np.lib.stride_tricks.sliding_window_view(end, max_length, axis=1)  # (windows, longest, max_length), a view
    best = start + ends.max(axis=2)  # (windows, longest), of each start

    windows = np.arange(len(best))[:, None]  # (windows, 1)
    top_starts = np.argpartition(best, -min(count, longest))[:, -count:]  # (windows, count), or fewer columns
    top_sums = (start[windows, top_starts, None] + ends[windows, top_starts]).reshape(len(best), -1)
    bound = np.partition(top_sums, -min(count, top_sums.shape[1]))[:, -count:].min(axis=1, keepdims=True)
    bound = np.maximum(bound, np.finfo(np.float32).min)  # a pair that is not legal has the sum -inf

    window, first = np.nonzero(best >= bound)  # (starts,) each
    sums = start[window, first, None] + ends[window, first]  # (starts, max_length)
    i, extra_tokens = np.nonzero(sums >= bound[window])  # more than `count` spans if some tie with the last
    return rank(chunk, window[i], first[i], extra_tokens, sums[i, extra_tokens], count)


def rank(
    chunk: Chunk, window: np.ndarray, first: np.ndarray, extra_tokens: np.ndarray, sums: np.ndarray, count: int
) -> Spans:
    """Of some spans (a window, a token of its context, the tokens after it), the `count` best of each question."""
    question, slot = chunk.question[window], chunk.first_slot[window] + first
    order = np.lexsort([extra_tokens, slot, -sums, question])  # the last key is the first to decide
    # Of the same span from two windows keep the first in this order, which is the better one.
    span = slot * (extra_tokens.max(initial=0) + 1) + extra_tokens
    _, kept = np.unique(span[order], return_index=True)
    order = order[np.sort(kept)]
    place = np.arange(len(order)) - np.searchsorted(question[order], question[order])  # 0 for a question's best span
    order = order[place < count]
    return Spans(question[order], (chunk.first_row[window] + first)[order], slot[order], extra_tokens[order])


def make_predictions(chunk: Chunk, spans: Spans, examples: Sequence[Example]) -> list[Prediction]:
    """The spans of each question with their characters, logits and scores, and its null answer."""
    starts, ends, last_row = chunk.start_logits, chunk.end_logits, spans.row + spans.extra_tokens
    start_p, end_p = token_probabilities(chunk, starts), token_probabilities(chunk, ends)
    null_scores = start_p[chunk.null_slot] * end_p[chunk.null_slot]
    nulls = zip(null_scores.tolist(), starts[chunk.null_row].tolist(), ends[chunk.null_row].tolist())

    characters = np.stack([chunk.offsets[spans.row, 0], chunk.offsets[last_row, 1]], axis=1)
    logits = np.stack([starts[spans.row], ends[last_row]], axis=1)
    scores = start_p[spans.slot] * end_p[spans.slot + spans.extra_tokens]
    bounds = np.searchsorted(spans.question, np.arange(len(examples) + 1)).tolist()
    predictions = []
    for example, a, b, null in zip(examples, bounds, bounds[1:], nulls):
        slices, kept = different_slices(example.context, characters[a:b])
        predictions.append(
            Prediction(example.context, slices, logits[a:b][kept], scores[a:b][kept], Answer("", 0, 0, *null))
        )
    return predictions


def different_slices(context: str, characters: np.ndarray) -> tuple[np.ndarray, list[int] | slice]:
    """The different slices of the context that the spans cover, and the index of the first span of each.

    An end is moved over combining marks. So two spans cover the same slice where a mark is a token of its own; also
    where several tokens are made from one character.
    """
    if context.isascii():  # no marks, and a token for each character at most
        return characters, slice(None)
    first: dict[tuple[int, int], int] = {}
    for i, (start, end) in enumerate(characters.tolist()):
        first.setdefault((start, after_marks(context, end)), i)
    return np.array(list(first), characters.dtype).reshape(-1, 2), list(first.values())


def token_probabilities(chunk: Chunk, logits: np.ndarray) -> np.ndarray:
    """(slots,) softmax over the slots of each question. A token in several windows counts once, with its largest logit.

    Why a score compares only answers in one context: the softmax divides by a sum over that context. Another context
    has another denominator, so 0.9 here and 0.8 there say nothing about each other.
    """
    values = np.full(chunk.null_slot[-1] + 1, -np.inf, np.float32)
    values[chunk.null_slot] = logits[chunk.null_row]
    np.maximum.at(values, chunk.token_slot, logits[chunk.token_row])
    # The maximum is subtracted because exp overflows for large logits.
    weights = np.exp(values - np.repeat(np.maximum.reduceat(values, chunk.question_slot), chunk.slot_counts))
    weights /= np.repeat(np.add.reduceat(weights, chunk.question_slot, dtype=np.float64), chunk.slot_counts)
    return weights
