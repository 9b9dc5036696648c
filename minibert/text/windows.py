"""Examples -> windows: pieces of text that fit the model, each with the label that training needs.

A model with 512 positions cannot read a longer text at once. So a context is split into windows (others call them
features), and each window holds the whole question and as many context tokens as fit. With "who" as the question,
"a b c d e f g h i" as the context, "g h" as the answer, `max_seq_length` 9 and `doc_stride` 2:

    token      0    1     2   3 4 5 6 7   8
    window 0  [CLS] who [SEP] a b c d e [SEP]    label (0, 0): not here
    window 1  [CLS] who [SEP] d e f g h [SEP]    label (6, 7)
    window 2  [CLS] who [SEP] g h i [SEP]        label (3, 4)

Why windows overlap: an answer that one window's end cuts in two stands whole in the next, if it is not longer than the
overlap. And a token near an edge has context on both sides in one of its windows. `doc_stride` is this overlap, as in
Hugging Face's tokenizers. Google's run_squad used the same word for the step from one window to the next.

Why a window without the answer is kept: a prediction searches every window of a question, and most windows of a long
text do not hold the answer. A model that never saw such a window in training has not learned to choose [CLS] there.

Why a token carries its character offsets: an answer is a slice of the original text. Joining tokens back into text
would lose case, spacing and accents ("Café" may be the tokens caf ##e), so the text is never edited or rebuilt.

In: `Example`s and a `Tokenizer`. Out: `Windows`, numpy arrays, of which `batches.py` makes tensors. Next in the lesson:
`model/bert.py`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minibert.text.records import Example, Gold
from minibert.text.tokenizer import Tokenizer

MAX_SEQ_LENGTH = 384  # tokens of a window; attention costs grow with the square
DOC_STRIDE = 128  # tokens that neighbouring windows share
MOST_ANSWERS = 16  # of a question; later ones get no label
MAX_QUERY_LENGTH = 64  # tokens of a question; the rest of a longer one is dropped

Span = tuple[int, int]  # first and last token, both included


def window_bounds(context_length: int, room: int, overlap: int) -> Iterator[tuple[int, int]]:
    """The context tokens of each window, as (first, stop): at most `room`, of which the next window repeats `overlap`.

    The last window is the first that reaches the end of the context; an empty context has one empty window.

    >>> list(window_bounds(context_length=9, room=5, overlap=2))
    [(0, 5), (3, 8), (6, 9)]
    """
    first = 0
    while first + room < context_length:
        yield first, first + room
        first += room - overlap
    yield first, context_length


def answer_characters(gold: Gold) -> tuple[int, int]:
    """First character of an answer in the context and the one after its last, outer whitespace left out."""
    text, start = gold
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def answer_span(offsets: np.ndarray, start: int, end: int) -> Span | None:
    """The smallest span of tokens that covers the characters start .. end - 1; None if no token has one of them.

    offsets: (tokens, 2) first character of each token and the one after its last, both in ascending order. The span is
    wider than the answer where the answer begins or ends inside a token, as "fe" in "the cafes" does:

    >>> offsets = np.array([[0, 3], [4, 7], [7, 8], [8, 9]])  # the caf ##e ##s
    >>> answer_span(offsets, start=6, end=8)
    (1, 2)
    """
    first = bisect_right(offsets[:, 1], start)  # the first token that ends after the answer starts
    last = bisect_left(offsets[:, 0], end) - 1  # the last token that starts before the answer ends
    return (first, last) if first <= last else None


def window_label(span: Span | None, first: int, stop: int, context_start: int) -> Span:
    """The answer's first and last token in a window of the context tokens first .. stop - 1, from `context_start` on.

    Token 0 is [CLS]: (0, 0) says that the window does not hold the whole answer.

    >>> [window_label((6, 7), first, stop, context_start=3) for first, stop in [(0, 5), (3, 8), (6, 9)]]
    [(0, 0), (6, 7), (3, 4)]
    """
    if span is None or span[0] < first or span[1] >= stop:
        return 0, 0
    return span[0] - first + context_start, span[1] - first + context_start


@dataclass(frozen=True)
class Window:
    """One window of n tokens, as a view."""

    example: int  # index of its question
    ids: np.ndarray  # (n,)
    offsets: np.ndarray  # (n, 2) characters of the context; (0, 0) outside it
    context_start: int  # the context's tokens are context_start .. n - 2
    start_position: int  # the first answer's label: token indices in this window, end inclusive, (0, 0) = not here
    end_position: int


@dataclass(frozen=True, repr=False, eq=False)
class Windows:
    """All windows as flat arrays: window i is rows bounds[i] .. bounds[i + 1] - 1 of `ids` and `offsets`.

    Windows of one question stand together, in the order of the questions. Every question has at least one.

    Labels have A columns, as many as the most answers of any question (1 to `most_answers`). A question with fewer
    answers fills its row by repeating them in order: with A = 3, two become first, second, first. An answer that two
    annotators gave counts twice.
    """

    ids: np.ndarray  # (tokens of all windows,) int32
    offsets: np.ndarray  # (tokens of all windows, 2) int32
    bounds: np.ndarray  # (N + 1,), int64 like all that follow
    example: np.ndarray  # (N,) index of the window's question
    first_token: np.ndarray  # (N,) index, in the context, of the window's first context token
    context_start: np.ndarray  # (N,) index, in the window, of the same token
    start_positions: np.ndarray  # (N, A) labels
    end_positions: np.ndarray  # (N, A)
    pad_id: int

    def __len__(self) -> int:
        return len(self.example)

    def __getitem__(self, i: int) -> Window:
        rows = slice(self.bounds[i], self.bounds[i + 1])
        label = int(self.start_positions[i, 0]), int(self.end_positions[i, 0])
        return Window(int(self.example[i]), self.ids[rows], self.offsets[rows], int(self.context_start[i]), *label)

    def __repr__(self) -> str:
        return f"<{len(self)} windows of {len(np.unique(self.example))} questions, {len(self.ids)} tokens>"

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each window, special ones included."""
        return np.diff(self.bounds)


def make_windows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    max_seq_length: int = MAX_SEQ_LENGTH,
    doc_stride: int = DOC_STRIDE,
    max_query_length: int = MAX_QUERY_LENGTH,
    most_answers: int = MOST_ANSWERS,
) -> Windows:
    """Tokenise questions and contexts, and make each question's windows with their labels.

    A question is stripped, then truncated to `max_query_length` tokens, or to fewer, so that a window has room for at
    least one token of the context. Windows with room for no more than `doc_stride` overlap by half of that room.
    """
    contexts = list(dict.fromkeys(example.context for example in examples))
    encoded_contexts = dict(zip(contexts, tokenizer.encode(contexts)))  # each once for all its questions
    encoded_questions = tokenizer.encode([example.question.strip() for example in examples])
    cls, sep = np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)
    nowhere = np.zeros((max_seq_length, 2), np.int32)  # offsets of tokens outside the context
    ids, offsets, rows, labels = [cls[:0]], [nowhere[:0]], [], []  # the empty ones, for no examples at all
    columns = min(most_answers, max([1, *(len(example.answers) for example in examples)]))  # A

    for number, (example, (question_ids, _)) in enumerate(zip(examples, encoded_questions)):
        context_ids, context_offsets = encoded_contexts[example.context]
        question_ids = question_ids[: min(max_query_length, max_seq_length - 4)]  # [CLS], two [SEP], a context token
        context_start = 1 + len(question_ids) + 1  # after [CLS] question [SEP]
        room = max_seq_length - context_start - 1  # a [SEP] follows
        overlap = doc_stride if doc_stride < room else room // 2

        answers = [answer_characters(gold) for gold in example.answers[:most_answers]]
        spans = [answer_span(context_offsets, *answer) for answer in answers] or [None]
        for first, stop in window_bounds(len(context_ids), room, overlap):
            ids += [cls, question_ids, sep, context_ids[first:stop], sep]
            offsets += [nowhere[:context_start], context_offsets[first:stop], nowhere[:1]]
            rows.append((number, first, context_start, context_start + stop - first + 1))
            own_labels = [window_label(span, first, stop, context_start) for span in spans]
            labels.append([own_labels[k % len(own_labels)] for k in range(columns)])

    example_index, first_token, context_starts, lengths = np.array(rows, np.int64).reshape(-1, 4).T
    label_array = np.array(labels, np.int64).reshape(-1, columns, 2)
    return Windows(
        ids=np.concatenate(ids),
        offsets=np.concatenate(offsets),
        bounds=np.concatenate([[0], np.cumsum(lengths)]),
        example=example_index,
        first_token=first_token,
        context_start=context_starts,
        start_positions=label_array[..., 0],
        end_positions=label_array[..., 1],
        pad_id=tokenizer.pad_id,
    )


def flat_rows(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The row numbers first[i] .. first[i] + lengths[i] - 1 for each i in turn, to index flat arrays with.

    >>> flat_rows(np.array([2, 7]), np.array([3, 2])).tolist()
    [2, 3, 4, 7, 8]
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - lengths), lengths)
