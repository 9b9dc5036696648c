"""spans.py: the search is exact, counts as it is written down, and its answers are slices of the context."""

import json
import math
import random

import numpy as np
import pytest
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.spans import NOTHING_TO_COMPARE, Answer, Prediction, search
from minibert.squad import Example
from minibert.windows import make_windows

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()


def drawn_examples(draw: random.Random, count: int, longest: int) -> list[Example]:
    """Contexts of 0 to `longest` one-letter words: a token has its own characters, so spans have their own text."""
    examples = []
    for i in range(count):
        context = " ".join(draw.choices(LETTERS, k=draw.randint(0, longest)))
        question = " ".join(draw.choices(LETTERS, k=draw.randint(1, 5)))
        examples.append(Example(f"q{i}", "", question, context))
    return examples


def drawn_logits(windows, draw: random.Random, has_ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Flat start and end logits; small whole numbers where ties are wanted."""
    generator = np.random.default_rng(draw.randrange(10**6))
    shape = (2, len(windows.ids))
    logits = generator.integers(-2, 3, shape) if has_ties else 3 * generator.standard_normal(shape)
    return tuple(logits.astype(np.float32))


def tokens_of(windows, i: int):
    """(flat row, character start, character end) of the context tokens of window i, in order."""
    first = int(windows.bounds[i] + windows.context_start[i])
    return [(row, *windows.offsets[row].tolist()) for row in range(first, int(windows.bounds[i + 1]) - 1)]


def brute_force(windows, q: int, starts, ends, max_answer_length: int) -> list[tuple[int, int, float]]:
    """All legal spans of question q as (character start, end, logit sum), best first: the written definition."""
    best = {}
    for i in np.flatnonzero(windows.example == q):
        tokens = tokens_of(windows, i)
        for a, (start_row, start, _) in enumerate(tokens):
            for end_row, _, end in tokens[a : a + max_answer_length]:
                total = float(starts[start_row] + ends[end_row])
                best[start, end] = max(total, best.get((start, end), -math.inf))
    return sorted(((*place, total) for place, total in best.items()), key=lambda span: (-span[2], span[0], span[1]))


def float32_sum(answer: Answer) -> float:
    return float(np.float32(answer.start_logit) + np.float32(answer.end_logit))


def found(prediction: Prediction) -> list[tuple[int, int, float]]:
    return [(answer.start, answer.end, float32_sum(answer)) for answer in prediction.answers]


# --- the search


@pytest.mark.parametrize("n_best_size", [1, 3, 20])
@pytest.mark.parametrize("max_answer_length", [1, 4, 30])
@pytest.mark.parametrize("has_ties", [False, True], ids=["reals", "ties"])
def test_search_finds_what_trying_every_pair_finds(tokenizer, n_best_size, max_answer_length, has_ties):
    draw, several = random.Random(1871 + n_best_size), 0
    for max_seq_length, doc_stride in 4 * ((12, 3), (16, 8), (20, 15), (64, 20)):
        examples = drawn_examples(draw, 8, 30)
        windows = make_windows(examples, tokenizer, max_seq_length, doc_stride)
        several += len(windows) - len(examples)
        starts, ends = drawn_logits(windows, draw, has_ties)
        predictions = search(windows, starts, ends, examples, n_best_size, max_answer_length)
        assert len(predictions) == len(examples)
        for q, prediction in enumerate(predictions):
            assert found(prediction) == brute_force(windows, q, starts, ends, max_answer_length)[:n_best_size]
    assert several > 120  # many questions have more than one window


def set_up(tokenizer, context: str, max_seq_length: int = 64, doc_stride: int = 2):
    """One example with logits that are all 0, to be set by hand."""
    examples = [Example("q", "", "who", context)]
    windows = make_windows(examples, tokenizer, max_seq_length, doc_stride)
    starts, ends = np.zeros((2, len(windows.ids)), np.float32)
    return examples, windows, starts, ends


def test_of_equal_spans_the_lower_start_comes_first_then_the_shorter(tokenizer):
    examples, windows, starts, ends = set_up(tokenizer, "a b c")
    (prediction,) = search(windows, starts, ends, examples)
    assert [answer.text for answer in prediction.answers] == ["a", "a b", "a b c", "b", "b c", "c"]
    (prediction,) = search(windows, starts, ends, examples, n_best_size=4, max_answer_length=2)
    assert [answer.text for answer in prediction.answers] == ["a", "a b", "b", "b c"]


def test_of_equal_spans_in_different_windows_the_lower_start_comes_first(tokenizer):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d e f g h i", max_seq_length=9)
    (prediction,) = search(windows, starts, ends, examples, max_answer_length=1)
    assert [answer.text for answer in prediction.answers] == list("abcdefghi")


@pytest.mark.parametrize("better", [0, 1])
def test_a_span_in_two_windows_counts_once_with_its_better_logits(tokenizer, better):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d e f g h i", max_seq_length=9)
    assert windows.first_token.tolist() == [0, 3, 6]
    rows = [int(windows.bounds[i] + windows.context_start[i] + 4 - windows.first_token[i]) for i in (0, 1)]  # "e"
    starts[rows], ends[rows] = (5, 7)
    starts[rows[better]], ends[rows[better]] = 6, 8
    (prediction,) = search(windows, starts, ends, examples, n_best_size=50)
    assert prediction.answers[0].text == "e"
    assert (prediction.answers[0].start_logit, prediction.answers[0].end_logit) == (6, 8)
    places = [(answer.start, answer.end) for answer in prediction.answers]
    assert len(places) == len(set(places))


def test_a_span_never_joins_the_start_of_one_window_with_the_end_of_another(tokenizer):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d e f g h i", max_seq_length=9)
    starts[windows.bounds[0] + 3], ends[windows.bounds[1] + 7] = 9, 9  # "a", only in window 0, and "h", only in 1
    (prediction,) = search(windows, starts, ends, examples, n_best_size=100)
    assert max(map(float32_sum, prediction.answers)) == 9
    assert not [answer for answer in prediction.answers if answer.text.startswith("a") and "h" in answer.text]


@pytest.mark.parametrize("longest", [1, 2, 3, 50])
def test_max_answer_length_counts_tokens_both_ends_included(tokenizer, longest):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d e")
    starts[3], ends[7] = 9, 9  # "a" and "e"
    (prediction,) = search(windows, starts, ends, examples, 100, longest)
    assert max(len(answer.text.split()) for answer in prediction.answers) == min(longest, 5)
    assert (prediction.answers[0].text == "a b c d e") == (longest >= 5)


@pytest.mark.parametrize("size", [9, 64], ids=["several windows", "one window"])
def test_specials_and_the_question_are_never_chosen_whatever_their_logits(tokenizer, size):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d e f g h i", max_seq_length=size)
    is_context = np.zeros(len(windows.ids), bool)
    for i in range(len(windows)):
        is_context[[row for row, _, _ in tokens_of(windows, i)]] = True
    starts[~is_context] = ends[~is_context] = 1e6
    (prediction,) = search(windows, starts, ends, examples, n_best_size=100)
    assert max(map(float32_sum, prediction.answers)) == 0
    assert prediction.answers[0].text == "a"


def test_predictions_do_not_depend_on_other_examples(tokenizer):
    draw = random.Random(5)
    examples = drawn_examples(draw, 7, 30)
    windows = make_windows(examples, tokenizer, 14, 4)
    starts, ends = drawn_logits(windows, draw, has_ties=False)
    together = search(windows, starts, ends, examples, 5, 6)
    for q, this in enumerate(examples):
        alone = make_windows([this], tokenizer, 14, 4)
        mine = np.flatnonzero(windows.example == q)
        rows = slice(windows.bounds[mine[0]], windows.bounds[mine[-1] + 1])
        (prediction,) = search(alone, starts[rows], ends[rows], [this], 5, 6)
        assert (prediction.answers, prediction.null) == (together[q].answers, together[q].null)


# --- score and null


def softmax(logits: dict) -> dict:
    top = max(logits.values())
    total = sum(math.exp(value - top) for value in logits.values())
    return {key: math.exp(value - top) / total for key, value in logits.items()}


def reference_scores(windows, q: int, starts, ends):
    """The written definition in double precision: p(start), p(end) by character, None for the null entry."""
    mine = np.flatnonzero(windows.example == q)
    null_row = min((int(windows.bounds[i]) for i in mine), key=lambda row: float(starts[row] + ends[row]))
    start_of, end_of = {None: float(starts[null_row])}, {None: float(ends[null_row])}
    for i in mine:
        for row, start, end in tokens_of(windows, i):
            start_of[start] = max(start_of.get(start, -math.inf), float(starts[row]))
            end_of[end] = max(end_of.get(end, -math.inf), float(ends[row]))
    return null_row, softmax(start_of), softmax(end_of)


@pytest.mark.parametrize("max_seq_length, doc_stride", [(64, 5), (16, 6)], ids=["one window", "several windows"])
def test_score_and_null_follow_their_definition(tokenizer, max_seq_length, doc_stride):
    draw = random.Random(3)
    examples = drawn_examples(draw, 12, 30)
    windows = make_windows(examples, tokenizer, max_seq_length, doc_stride)
    assert (len(windows) > len(examples)) == (max_seq_length == 16)
    starts, ends = drawn_logits(windows, draw, has_ties=False)
    for q, prediction in enumerate(search(windows, starts, ends, examples)):
        null_row, p_start, p_end = reference_scores(windows, q, starts, ends)
        for answer in prediction.answers:
            assert answer.score == pytest.approx(p_start[answer.start] * p_end[answer.end], rel=1e-5)
        null = prediction.null
        assert (null.text, null.start, null.end) == ("", 0, 0)
        assert (null.start_logit, null.end_logit) == (starts[null_row], ends[null_row])
        assert null.score == pytest.approx(p_start[None] * p_end[None], rel=1e-5)
        if prediction.answers:
            assert prediction.null_odds == pytest.approx(null.logit_sum - prediction.answers[0].logit_sum)


def test_scores_of_all_pairs_of_a_question_with_null_sum_to_at_most_1(tokenizer):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d")
    (prediction,) = search(windows, starts, ends, examples, n_best_size=100)
    assert [answer.score for answer in prediction.answers] == [pytest.approx(1 / 25)] * 10  # 4 tokens and null
    assert prediction.null.score == pytest.approx(1 / 25)


def test_null_is_the_window_that_speaks_for_it_least(tokenizer):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d e f g h i", max_seq_length=9)
    cls = windows.bounds[:-1]
    starts[cls], ends[cls] = (9, 3, 1), (9, -1, 2)  # sums 18, 2, 3
    (prediction,) = search(windows, starts, ends, examples)
    assert (prediction.null.start_logit, prediction.null.end_logit) == (3, -1)
    assert prediction.null_odds == 2


def test_null_is_predicted_where_allowed_and_above_the_threshold():
    answer, null = Answer("iron", 4, 8, 0.5, 2.0, 1.0), Answer("", 0, 0, 0.1, 3.0, 1.5)
    place, logits = np.array([[4, 8]]), np.array([[2.0, 1.0]], np.float32)
    prediction = Prediction("the iron", place, logits, np.array([0.5], np.float32), null)  # odds 1.5
    assert prediction.null_odds == 1.5
    assert prediction.best() == answer
    assert prediction.best(allow_null=True) is null
    assert prediction.best(allow_null=True, threshold=1.4) is null
    assert prediction.best(allow_null=True, threshold=1.5) == answer  # it must exceed the threshold
    assert prediction.best(threshold=-100) == answer


@pytest.mark.parametrize("context", ["", "  \n"])
def test_a_context_without_a_token_has_no_answers_and_null_is_best(tokenizer, context):
    examples = [Example("q0", "", "who", "a b"), Example("q1", "", "who", context), Example("q2", "", "who", "c")]
    windows = make_windows(examples, tokenizer)
    starts, ends = drawn_logits(windows, random.Random(1), has_ties=False)
    predictions = search(windows, starts, ends, examples)
    assert [len(prediction.answers) for prediction in predictions] == [3, 0, 1]
    empty = predictions[1]
    assert empty.best() is empty.null and empty.best(allow_null=True, threshold=1e6) is empty.null
    assert empty.null.score == pytest.approx(1)
    assert empty.null_odds == NOTHING_TO_COMPARE and json.loads(json.dumps(empty.null_odds)) == 1e9


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_do_not_overflow(tokenizer, size):
    examples, windows, starts, ends = set_up(tokenizer, "a b c d e f g h i", max_seq_length=9)
    starts += np.float32(size)
    ends += np.float32(size)
    rows = [row for i in range(len(windows)) for row, start, _ in tokens_of(windows, i) if start == 8]  # "e"
    starts[rows] += 1e4
    ends[rows] += 1e4
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        (prediction,) = search(windows, starts, ends, examples)
    assert prediction.answers[0].text == "e"
    assert prediction.answers[0].score == pytest.approx(1)
    assert all(0 <= answer.score <= 1 for answer in [*prediction.answers, prediction.null])
    assert isinstance(prediction.answers[0].score, float) and isinstance(prediction.null.score, float)


# --- the text


@pytest.mark.parametrize(
    "context, first, last, text",
    [
        ("cafe\u0301 x", 0, 1, "cafe\u0301"),  # caf ##e, and the mark that no token holds
        ("cafe\u0301\u0323 x", 0, 1, "cafe\u0301\u0323"),
        ("x cafe\u0301", 0, 2, "x cafe\u0301"),  # at the very end
        ("cafe\u0301 x", 0, 2, "cafe\u0301 x"),
        ("cafe x", 0, 1, "cafe"),
    ],
)
def test_an_end_moves_over_combining_marks(tokenizer, context, first, last, text):
    examples, windows, starts, ends = set_up(tokenizer, context)
    starts[3 + first], ends[3 + last] = 9, 9
    answer = search(windows, starts, ends, examples)[0].answers[0]
    assert answer.text == text == context[answer.start : answer.end]


ODD = st.text(
    "a bclok\u00e9e\u0301\u0323\u0130\u4e00\u4e8c\ud55c\U0001f600\u200d\ufe0f\u0939\u093f\u094d\n\x00.,-", max_size=40
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(context=ODD | st.text(max_size=40), seed=st.integers(0, 10**6), max_seq_length=st.integers(8, 20))
def test_every_answer_is_the_slice_of_the_context_that_it_says(tokenizer, context, seed, max_seq_length):
    examples = [Example("q", "", "who", context), Example("q2", "", "who made it", context[::-1])]
    windows = make_windows(examples, tokenizer, max_seq_length, 2)
    starts, ends = drawn_logits(windows, random.Random(seed), has_ties=True)
    for example, prediction in zip(examples, search(windows, starts, ends, examples)):
        assert bool(prediction.answers) == bool(tokenizer.encode([example.context]).lengths[0])
        for answer in prediction.answers:
            assert 0 <= answer.start < answer.end <= len(example.context)
            assert example.context[answer.start : answer.end] == answer.text != ""


# --- the imports


def test_reading_scoring_cutting_and_searching_leave_torch_unloaded():
    modules = "minibert.squad, minibert.metrics, minibert.windows, minibert.spans"
    done = run("-c", f"import sys, {modules}; print('torch' in sys.modules, 'minibert.spans' in sys.modules)")
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_scoring_a_file_of_predictions_leaves_torch_unloaded(tmp_path):
    answer = {"text": "iron", "answer_start": 0}
    question = {"id": "q1", "question": "What?", "answers": [answer]}
    (tmp_path / "data.json").write_text(
        json.dumps({"data": [{"paragraphs": [{"context": "iron", "qas": [question]}]}]})
    )
    (tmp_path / "predictions.json").write_text('{"q1": "iron"}')
    words = ("--score", tmp_path / "predictions.json", "--data", tmp_path / "data.json")
    done = run("-X", "importtime", "evaluate.py", *words)
    assert json.loads(done.stdout) == {"exact_match": 100, "f1": 100, "total": 1}
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "minibert.metrics" in loaded
    assert not loaded & {"torch", "transformers"}
