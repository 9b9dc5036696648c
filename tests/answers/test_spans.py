"""spans.py: the array search lists what the plain loop lists, scores follow their definition, answers are slices."""

import itertools
import json
import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.answers import spans
from minibert.answers.spans import NO_COMPARISON, Answer, Prediction, after_marks, search, search_plain
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.text.windows import Windows, make_windows
from tests.builders import make_prediction

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NINE = "a b c d e f g h i"  # in windows of 9 tokens: "a b c d e", "d e f g h" and "g h i"


def draw_examples(draw: random.Random, count: int, longest: int) -> list[Example]:
    """Contexts of 0 to `longest` one-letter words."""
    texts = [
        [" ".join(draw.choices(LETTERS, k=draw.randint(*size))) for size in ((1, 5), (0, longest))]
        for _ in range(count)
    ]
    return [Example(f"q{i}", "", question, context) for i, (question, context) in enumerate(texts)]


def draw_logits(windows: Windows, draw: random.Random, kind: str = "reals") -> np.ndarray:
    """(2, tokens) start and end logits."""
    generator = np.random.default_rng(draw.randrange(10**6))
    shape = (2, len(windows.ids))
    logits = 3 * generator.standard_normal(shape) if kind == "reals" else generator.integers(-2, 3, shape)
    return (logits - 50 * (kind == "negative ties")).astype(np.float32)


def one_question(tokenizer, context: str, max_seq_length: int = 64) -> tuple[list[Example], Windows, np.ndarray]:
    """The question "who" about a context, its windows with an overlap of 2, and logits of 0 to set by hand."""
    examples = [Example("q", "", "who", context)]
    windows = make_windows(examples, tokenizer, max_seq_length, 2)
    return examples, windows, np.zeros((2, len(windows.ids)), np.float32)


def row_of(windows: Windows, i: int, token: int) -> int:
    """The row of a context token in window i."""
    return int(windows.bounds[i] + windows.context_start[i] + token - windows.first_token[i])


def search_both(tokenizer, windows, logits, examples, n_best_size=20, max_answer_length=30) -> list[Prediction]:
    """`search`, after a check that it lists the spans of `search_plain`, with the same sums and in the same order.

    Of spans that are the same slice of the context, it lists the first.
    """
    predictions = search(windows, *logits, examples, n_best_size, max_answer_length)
    assert len(predictions) == len(examples)
    for q, (example, prediction) in enumerate(zip(examples, predictions)):
        offsets = tokenizer.encode([example.context])[0][1]
        plain = search_plain(windows, q, *logits, n_best_size, max_answer_length)
        slices: dict[tuple[int, int], float] = {}
        for logit_sum, first, last in plain:
            slices.setdefault((offsets[first, 0], after_marks(example.context, offsets[last, 1])), logit_sum)
        assert [float(start + end) for start, end in prediction.logits] == list(slices.values())
        assert prediction.characters.tolist() == [list(ends) for ends in slices]
    return predictions


def texts(prediction: Prediction) -> list[str]:
    return [answer.text for answer in prediction.answers]


# --- the search


@pytest.mark.parametrize("chunk", [5, 256])
@pytest.mark.parametrize("kind", ["reals", "ties", "negative ties"])
def test_the_array_search_lists_what_the_plain_loop_lists(tokenizer, monkeypatch, kind, chunk):
    monkeypatch.setattr(spans, "CHUNK", chunk)
    draw, extra_windows = random.Random(1871), 0
    for max_seq_length, doc_stride in ((12, 3), (16, 8), (20, 15), (64, 20)):
        examples = draw_examples(draw, 9, 30)
        windows = make_windows(examples, tokenizer, max_seq_length, doc_stride)
        extra_windows += len(windows) - len(examples)
        logits = draw_logits(windows, draw, kind)
        for n_best_size, max_answer_length in itertools.product((1, 3, 20, 1000), (1, 4, 10**12)):
            search_both(tokenizer, windows, logits, examples, n_best_size, max_answer_length)
    assert extra_windows > 30  # many questions have more than one window


def test_the_worked_example_of_the_plain_search(tokenizer):
    examples, windows, logits = one_question(tokenizer, "anna weiss made it")
    logits[:, 3:7] = (6, 1, -1, -2), (2, 5, -3, 0)
    best = search_plain(windows, 0, *logits, n_best_size=3, max_answer_length=2)
    assert best == [(11.0, 0, 1), (8.0, 0, 0), (6.0, 1, 1)]
    assert all(str(span) in str(search_plain.__doc__) for span in best)
    (prediction,) = search_both(tokenizer, windows, logits, examples, 3, 2)
    assert texts(prediction) == ["anna weiss", "anna", "weiss"]


@pytest.mark.parametrize(
    ("context", "sizes", "expected"),
    [
        ("a b c", (20, 30), ["a", "a b", "a b c", "b", "b c", "c"]),
        ("a b c", (4, 2), ["a", "a b", "b", "b c"]),
        (NINE, (20, 1), NINE.split()),  # also where an equal span stands in an earlier window
        (NINE, (3, 30), ["a", "a b", "a b c"]),
    ],
)
def test_of_equal_spans_the_lower_start_comes_first_then_the_shorter(tokenizer, context, sizes, expected):
    examples, windows, logits = one_question(tokenizer, context, 9)
    assert texts(*search_both(tokenizer, windows, logits, examples, *sizes)) == expected


@pytest.mark.parametrize("better", [0, 1])
def test_a_span_in_two_windows_counts_once_with_the_better_logits(tokenizer, better):
    examples, windows, logits = one_question(tokenizer, NINE, 9)
    for i in (0, 1):
        logits[:, row_of(windows, i, 4)] = (6, 8) if i == better else (5, 7)  # "e"
    (prediction,) = search_both(tokenizer, windows, logits, examples, 50)
    assert prediction.answers[0].text == "e"
    assert (prediction.answers[0].start_logit, prediction.answers[0].end_logit) == (6, 8)
    assert len(set(texts(prediction))) == len(prediction.answers) == 5 + 4 + 3 + 5 + 4 + 3 + 3 + 2 + 1


@pytest.mark.slow
def test_the_array_search_is_many_times_faster_than_the_loop(tokenizer, squad_dir):
    """The figures in the docstring of `search`; -s shows them."""
    examples = read_squad(squad_dir / "dev-v1.1.json")[::40]
    windows = make_windows(examples, tokenizer)
    logits = draw_logits(windows, random.Random(7))
    seconds = []
    for function in (
        lambda: search(windows, *logits, examples),
        lambda: [search_plain(windows, q, *logits) for q in range(len(examples))],
    ):
        begin = time.process_time()
        function()
        seconds.append((time.process_time() - begin) * 1000 / len(windows))
    print(f"seconds per 1,000 windows: arrays {seconds[0]:.3f}, loop {seconds[1]:.1f}")
    assert seconds[1] > 20 * seconds[0]


# --- scores and the null answer


def softmax(logits: dict) -> dict:
    total = sum(math.exp(value) for value in logits.values())
    return {key: math.exp(value) / total for key, value in logits.items()}


def expected_scores(windows: Windows, q: int, logits: np.ndarray) -> tuple[int, dict, dict]:
    """The row of the null entry, then p(start) and p(end) by character in double precision, None for the null entry."""
    own = np.flatnonzero(windows.example == q)
    null_row = min((int(windows.bounds[i]) for i in own), key=lambda row: float(logits[:, row].sum()))
    tables: list[dict] = [{None: float(logits[side, null_row])} for side in (0, 1)]
    for row in range(windows.bounds[own[0]], windows.bounds[own[-1] + 1]):
        if windows.offsets[row, 1]:
            for side, table in enumerate(tables):
                character = int(windows.offsets[row, side])
                table[character] = max(table.get(character, -math.inf), float(logits[side, row]))
    return null_row, softmax(tables[0]), softmax(tables[1])


@pytest.mark.parametrize("max_seq_length", [64, 16], ids=["one window", "several windows"])
def test_score_and_null_follow_their_definition(tokenizer, max_seq_length):
    draw = random.Random(3)
    examples = draw_examples(draw, 12, 30)
    windows = make_windows(examples, tokenizer, max_seq_length, 5)
    assert (len(windows) > len(examples)) == (max_seq_length == 16)
    logits = draw_logits(windows, draw)
    for q, prediction in enumerate(search(windows, *logits, examples)):
        null_row, p_start, p_end = expected_scores(windows, q, logits)
        for answer in prediction.answers:
            assert answer.score == pytest.approx(p_start[answer.start] * p_end[answer.end], rel=1e-5)
        score = pytest.approx(p_start[None] * p_end[None], rel=1e-5)
        assert prediction.null == Answer("", 0, 0, score, *logits[:, null_row].tolist())
        if prediction.answers:
            assert prediction.null_odds == pytest.approx(prediction.null.logit_sum - prediction.answers[0].logit_sum)


@pytest.mark.parametrize(
    ("allow_null", "threshold", "is_null"),
    [(False, 0, False), (False, -100, False), (True, 0, True), (True, 1.4, True), (True, 1.5, False)],
)
def test_null_is_predicted_where_it_is_allowed_and_exceeds_the_threshold(allow_null, threshold, is_null):
    prediction = make_prediction("the iron", (4, 8, 2, 1), null_sum=4.5)
    assert prediction.null_odds == 1.5
    answer = Answer("iron", 4, 8, 0.5, 2.0, 1.0)
    assert prediction.best(allow_null, threshold) == (prediction.null if is_null else answer)
    assert "'iron'" in repr(prediction)


def test_a_context_without_a_token_has_only_the_null_answer(tokenizer):
    examples = [Example(f"q{i}", "", "who", text) for i, text in enumerate(("a b", "  \n", "c"))]
    windows = make_windows(examples, tokenizer)
    predictions = search_both(tokenizer, windows, draw_logits(windows, random.Random(1)), examples)
    assert [len(prediction.answers) for prediction in predictions] == [3, 0, 1]
    empty = predictions[1]
    assert empty.best() is empty.null and empty.best(allow_null=True, threshold=1e6) is empty.null
    assert empty.null.score == pytest.approx(1)
    assert empty.null_odds == NO_COMPARISON == json.loads(json.dumps(NO_COMPARISON, allow_nan=False))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_do_not_overflow(tokenizer, size):
    examples, windows, logits = one_question(tokenizer, NINE, 9)
    logits += np.float32(size)
    logits[:, [row_of(windows, i, 4) for i in (0, 1)]] += 1e4  # "e"
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        (prediction,) = search_both(tokenizer, windows, logits, examples)
    assert prediction.answers[0].text == "e" and prediction.answers[0].score == pytest.approx(1)
    scores = [answer.score for answer in [*prediction.answers, prediction.null]]
    assert all(isinstance(score, float) and 0 <= score <= 1 for score in scores)


# --- the text


@pytest.mark.parametrize(
    ("context", "first", "last", "text"),
    [
        ("cafe\u0301 x", 0, 1, "cafe\u0301"),  # caf ##e, and the mark that no token holds
        ("cafe\u0301\u0323 x", 0, 1, "cafe\u0301\u0323"),
        ("x cafe\u0301", 0, 2, "x cafe\u0301"),  # at the very end
        ("cafe\u0301 x", 0, 2, "cafe\u0301 x"),
        ("cafe x", 0, 1, "cafe"),
    ],
)
def test_an_end_is_extended_over_combining_marks(tokenizer, context, first, last, text):
    examples, windows, logits = one_question(tokenizer, context)
    logits[0, 3 + first] = logits[1, 3 + last] = 9
    answer = search(windows, *logits, examples)[0].answers[0]
    assert answer.text == text == context[answer.start : answer.end]


def test_a_mark_that_is_a_token_gives_no_answer_twice(tokenizer):
    context = "\u4e00\u093f b"  # a Chinese character, and a vowel sign that the vocabulary splits off
    examples, windows, logits = one_question(tokenizer, context)
    assert windows.offsets[3:6].tolist() == [[0, 1], [1, 2], [3, 4]]
    logits[0, 3], logits[1, 3:6] = 9, [3, 5, 4]
    (prediction,) = search(windows, *logits, examples)
    assert texts(prediction) == [context[:2], context, context[1:2], context[1:], "b"]
    assert [answer.logit_sum for answer in prediction.answers] == [14, 13, 5, 4, 4]
    scores = np.exp([14, 13, 5, 4, 4])
    assert prediction.scores[0] / prediction.scores[1] == pytest.approx(scores[0] / scores[1], rel=1e-5)


ODD = st.text(
    "a bclok\u00e9e\u0301\u0323\u0130\u4e00\u4e8c\ud55c\U0001f600\u200d\ufe0f\u0939\u093f\u094d\n\x00.,-", max_size=40
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(context=ODD | st.text(max_size=40), seed=st.integers(0, 10**6), max_seq_length=st.integers(8, 20))
def test_every_answer_is_a_slice_of_its_context(tokenizer, context, seed, max_seq_length):
    examples = [Example("q", "", "who", context), Example("q2", "", "who made it", context[::-1])]
    windows = make_windows(examples, tokenizer, max_seq_length, 2)
    logits = draw_logits(windows, random.Random(seed), "ties")
    for example, prediction in zip(examples, search_both(tokenizer, windows, logits, examples)):
        assert bool(prediction.answers) == bool(len(tokenizer.encode([example.context])[0][0]))
        for answer in prediction.answers:
            assert 0 <= answer.start < answer.end <= len(example.context)
            assert example.context[answer.start : answer.end] == answer.text != ""
