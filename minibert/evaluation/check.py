"""What a data file holds: counts, duplicates, leakage, contradictions, token lengths, and the best score possible.

The oracle answers each question with the gold span that scores best, through the reader, the windows and the scorer. So
it shows what windows, labels and `max_answer_length` cost before any model is trained. In: examples and perhaps a
tokenizer. Out: dicts of plain numbers and short lists.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from minibert.answers.spans import MAX_ANSWER_LENGTH, after_marks
from minibert.evaluation.scorer import f1, has_golds, needs_version_2, normalize, score, score_question
from minibert.text.records import Example
from minibert.text.tokenizer import Tokenizer
from minibert.text.unread import count_unread
from minibert.text.windows import MOST_ANSWERS, Windows, answer_characters, answer_span, make_windows

SHOWN = 20  # ids listed of each kind
LABELLED = ("exact", "widened", "narrowed")  # outcomes of answers that tokens cover

Key = tuple[str, str]  # a question and its context


def question_key(example: Example) -> Key:
    """What makes two questions the same: words and context, not case and spacing."""
    return " ".join(example.question.split()).casefold(), example.context


def count_examples(examples: Sequence[Example], version_2_with_negative: bool = False) -> dict[str, Any]:
    """Questions, contexts, answers, and what of them stands twice or contradicts itself."""
    groups: dict[Key, list[Example]] = {}
    for example in examples:
        groups.setdefault(question_key(example), []).append(example)
    return {
        "version": "2.0" if needs_version_2(examples, version_2_with_negative) else "1.1",
        "questions": len(examples),
        "contexts": len({example.context for example in examples}),
        "answers": sum(len(example.answers) for example in examples),
        "unanswered": sum(not example.answers for example in examples),
        "duplicate_questions": listed(again.id for first, *others in groups.values() for again in others),
        "contradictory_duplicates": listed(group[0].id for group in groups.values() if contradict(group)),
        "disjoint_answers": listed(example.id for example in examples if is_divided(example)),
    }


def listed(ids: Iterable[str]) -> dict[str, Any]:
    """How many, and the first of them."""
    names = list(ids)
    return {"count": len(names), "ids": names[:SHOWN]}


def repeated_ids(examples: Sequence[Example]) -> dict[str, Any]:
    """The ids of several questions, which a file that is scored must not have."""
    uses = Counter(example.id for example in examples)
    return listed(name for name, count in uses.items() if count > 1)


def is_divided(example: Example) -> bool:
    """Whether two of the question's first MOST_ANSWERS answers share neither a character of the context nor a word."""
    golds = list(dict.fromkeys(example.answers))[:MOST_ANSWERS]  # the pairs grow with the square of their number
    spans = [(gold.start, gold.start + len(gold.text), gold.text) for gold in golds]
    return any((a[1] <= b[0] or b[1] <= a[0]) and not f1(a[2], b[2]) for a, b in combinations(spans, 2))


def contradict(group: Sequence[Example]) -> bool:
    """Whether the same question about the same context has answers that share no word, or an answer and none.

    Normalized texts without any word, such as two commas, are equal.
    """
    first = group[:SHOWN]
    words = [
        {word for text in {gold.text for gold in one.answers} for word in normalize(text).split() or [""]}
        for one in first
    ]
    return any(bool(one) != bool(other) or (one and one.isdisjoint(other)) for one, other in combinations(words, 2))


def leakage(examples: Sequence[Example], eval_examples: Sequence[Example]) -> dict[str, Any]:
    """What stands in both files: questions with their context, questions alone, contexts alone."""
    keys = {question_key(example) for example in examples}
    questions, contexts = {key[0] for key in keys}, {key[1] for key in keys}
    return {
        "questions": listed(e.id for e in eval_examples if question_key(e) in keys),
        "questions_of_other_contexts": listed(
            e.id for e in eval_examples if question_key(e)[0] in questions and question_key(e) not in keys
        ),
        "questions_about_shared_contexts": listed(e.id for e in eval_examples if e.context in contexts),
    }


def count_windows(
    examples: Sequence[Example], windows: Windows, tokenizer: Tokenizer, max_answer_length: int = MAX_ANSWER_LENGTH
) -> dict[str, int]:
    """The counts that are printed before training: the outcomes of the questions' first answers, and odd questions.

    For the outcomes see `outcome`. lost: answers that no window holds whole. cut_questions: truncated. too_long: first
    labels of more than `max_answer_length` tokens in a window, which no prediction can match.
    """
    bounds = np.searchsorted(windows.example, np.arange(len(examples) + 1))  # the first window of each question
    outcomes = [outcome(example, context_offsets(windows, *bounds[i : i + 2])) for i, example in enumerate(examples)]
    starts, ends = windows.start_positions[:, 0], windows.end_positions[:, 0]
    held = len(np.unique(windows.example[ends > 0]))
    unread = count_unread(examples, windows, tokenizer)
    return {
        "questions": len(examples),
        "windows": len(windows),
        **{name: outcomes.count(name) for name in (*LABELLED, "unanswered", "untokenized")},
        "lost": sum(name in LABELLED for name in outcomes) - held,
        "cut_questions": unread["truncated"],
        "too_long": int((ends - starts >= max_answer_length).sum()),
        "duplicate_questions": len(examples) - len({question_key(example) for example in examples}),
        "unknown_tokens": unread["unknown"],
    }


def outcome(example: Example, offsets: np.ndarray) -> str:
    """How a question's first answer became a label. offsets: (tokens, 2) of the whole context."""
    if not example.answers:
        return "unanswered"
    answer = answer_characters(example.answers[0])
    span = answer_span(offsets, *answer)
    if span is None:
        return "untokenized"  # the tokenizer dropped all of the answer's characters
    start, end = offsets[span[0], 0], offsets[span[1], 1]
    if start < answer[0] or end > answer[1]:
        return "widened"  # the answer begins or ends inside a token
    return "exact" if (start, end) == answer else "narrowed"  # its first or last character is in no token


def context_offsets(windows: Windows, first: int, stop: int) -> np.ndarray:
    """(tokens, 2) the characters of a context's tokens, put together from its windows first .. stop - 1."""
    parts, known = [], 0
    for i in range(first, stop):
        repeated = known - windows.first_token[i]  # tokens that the window before has too
        parts.append(windows[i].offsets[windows.context_start[i] + repeated : -1])
        known += len(parts[-1])
    return np.concatenate(parts)


def count_tokens(windows: Windows) -> dict[str, Any]:
    """Lengths of the contexts in tokens: median, 95th percentile, maximum, and a histogram.

    The last window of a question ends where its context ends.
    """
    last = np.flatnonzero(np.diff(windows.example, append=-1))
    lengths = (windows.first_token + windows.lengths - windows.context_start - 1)[last]
    counts, edges = np.histogram(lengths, bins=8)
    return {
        "median": int(np.median(lengths)),
        "percentile_95": int(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
        "histogram": [[int(edges[i]), int(edges[i + 1]), int(count)] for i, count in enumerate(counts)],
    }


def oracle(examples: Sequence[Example], tokenizer: Tokenizer, sizes: Sequence[int], max_answer_length: int) -> dict:
    """The scores of the best predictions that are possible: the gold spans as the windows' tokens hold them.

    sizes: max_seq_length, doc_stride and max_query_length. Every answer is tried as the label. {} without answers.
    """
    if not has_golds(examples):
        return {}
    owners = [(i, gold) for i, example in enumerate(examples) for gold in dict.fromkeys(example.answers)]
    tried = [dataclasses.replace(examples[i], answers=(gold,)) for i, gold in owners]
    texts = [""] * len(examples)
    best = [(0.0, 0.0)] * len(examples)
    windows = make_windows(tried, tokenizer, *sizes)
    starts, ends = windows.start_positions[:, 0], windows.end_positions[:, 0]  # the only answer's
    for w in np.flatnonzero((starts > 0) & (ends - starts < max_answer_length)):
        window = windows[int(w)]
        i, _ = owners[window.example]
        if best[i] == (1.0, 1.0):
            continue
        start, end = window.offsets[window.start_position, 0], window.offsets[window.end_position, 1]
        text = examples[i].context[start : after_marks(examples[i].context, end)]
        scores = score_question(examples[i], text, False)[:2]
        if scores > best[i]:
            best[i], texts[i] = scores, text
    # Numbers stand for the ids, which need not be unique in training data.
    numbered = [dataclasses.replace(example, id=str(i)) for i, example in enumerate(examples)]
    return score(numbered, {str(i): text for i, text in enumerate(texts)})
