"""evaluation/check.py: counts, duplicates, contradictions, leakage, lengths, and the oracle's scores."""

import pytest

from minibert.evaluation.check import count_examples, count_tokens, count_windows, leakage, oracle
from minibert.text.records import Example, Gold
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows

CONTEXT = "the clock of basel was made of iron in 1871 by anna weiss"
SIZES = 384, 128, 64


def ask(name, question="when ?", *texts, context=CONTEXT, is_impossible=None):
    golds = tuple(Gold(text, context.index(text)) for text in texts)
    return Example(name, "", question, context, golds, is_impossible)


def test_what_stands_twice_or_contradicts_itself_is_counted():
    examples = [
        ask("a", "When?", "1871", "in 1871"),
        ask("b", " when? ", "1871"),  # a again, which agrees
        ask("c", "who ?", "anna", "weiss", "iron"),  # three people, three answers
        ask("d", "who ?", "basel"),  # c again, which does not agree
        ask("e", "when?", "x", context="x y"),  # another context
        ask("f", "where ?", is_impossible=True),
        ask("g", "where ?", "basel"),  # f again, which says the opposite
    ]
    unmarked = [*examples[:5], ask("h", "why ?")]
    assert [count_examples(unmarked, flag)["version"] for flag in (False, True)] == ["1.1", "2.0"]
    counts = count_examples(examples)
    assert {name: counts[name] for name in ("version", "questions", "contexts", "answers", "unanswered")} == {
        "version": "2.0",
        "questions": 7,
        "contexts": 2,
        "answers": 9,
        "unanswered": 1,
    }
    assert counts["duplicate_questions"] == {"count": 3, "ids": ["b", "d", "g"]}
    assert counts["contradictory_duplicates"] == {"count": 2, "ids": ["c", "f"]}
    assert counts["disjoint_answers"] == {"count": 1, "ids": ["c"]}


def test_contradictions_and_disjoint_answers_of_many_answers_take_no_quadratic_time_or_memory():
    many = tuple(Gold(f"w{i}", 0) for i in range(10_000))
    agreeing = [Example("a", "", "when ?", CONTEXT, many), Example("b", "", "when ?", CONTEXT, many[-1:])]
    opposed = [Example("c", "", "who ?", CONTEXT, many), Example("d", "", "who ?", CONTEXT, (Gold("basel", 13),))]
    counts = count_examples(agreeing + opposed)
    assert counts["contradictory_duplicates"] == {"count": 1, "ids": ["c"]}
    assert counts["disjoint_answers"] == {"count": 0, "ids": []}
    commas = [ask(name, "why ?", text, context=", ;") for name, text in (("e", ","), ("f", ";"))]
    assert count_examples(commas)["contradictory_duplicates"]["count"] == 0  # both normalize to nothing


def test_leakage_is_what_stands_in_both_files():
    train = [ask("a", "when ?", "1871"), ask("b", "who ?", "anna")]
    dev = [ask("c", "When  ?"), ask("d", "who ?", context="x"), ask("e", "how ?", context="y"), ask("f", "why ?")]
    found = leakage(train, dev)
    assert found["questions"] == {"count": 1, "ids": ["c"]}
    assert found["questions_of_other_contexts"] == {"count": 1, "ids": ["d"]}
    assert found["questions_about_shared_contexts"] == {"count": 2, "ids": ["c", "f"]}


def test_lengths_are_those_of_whole_contexts_whatever_the_windows(tokenizer):
    examples = [ask(str(n), "a", context="a " * n) for n in (3, 40, 7)] + [ask("w", "a", "c d e", context="b c d e f")]
    windows = make_windows(examples, tokenizer, 12, 2)
    tokens = count_tokens(windows)
    assert (tokens["median"], tokens["longest"]) == (6, 40)
    assert count_windows(examples, windows, tokenizer, max_answer_length=2)["too_long"] == 1
    assert sum(count for _, _, count in tokens["histogram"]) == 4 and tokens["histogram"][-1][2] == 1


def test_the_oracle_takes_the_best_answer_that_windows_and_length_leave(tokenizer):
    examples = [
        ask("a", "when ?", "1871"),
        ask("b", "what ?", "clock of basel was made", "iron"),  # the first is too long, the second fits
        ask("b", "who ?", "anna weiss"),  # the same id: training data may have it
        ask("d", "which ?", "lock"),  # a piece of a token: the label is wider
    ]
    scores = oracle(examples, tokenizer, SIZES, max_answer_length=3)
    assert scores == {"exact_match": 75.0, "f1": 75.0, "total": 4}
    assert oracle(examples, tokenizer, SIZES, max_answer_length=1)["exact_match"] == 50.0
    assert oracle([ask("t", "when ?")], tokenizer, SIZES, 30) == {}
    mixed = oracle([*examples[:2], ask("e", "why ?", is_impossible=True)], tokenizer, SIZES, 30)
    assert (mixed["exact"], mixed["HasAns_total"], mixed["NoAns_exact"]) == (100.0, 2, 100.0)


def test_the_oracle_extends_an_answer_over_combining_marks_as_the_span_search_does(tokenizer):
    example = ask("a", "who ?", "anna\u0301", context="by anna\u0301 .")
    assert oracle([example], tokenizer, SIZES, 30)["exact_match"] == 100.0


@pytest.mark.slow
@pytest.mark.parametrize(("vocabulary", "ceiling"), [("cased", (99.74, 99.75)), ("minilm", (99.77, 99.79))])
def test_the_ceiling_of_the_real_dev_set(squad_dir, minilm_folder, tmp_path, vocabulary, ceiling):
    folder = minilm_folder
    if vocabulary == "cased":
        (folder := tmp_path / "cased").mkdir()
        (folder / "vocab.txt").write_bytes((squad_dir / "bert-base-cased-vocab.txt").read_bytes())
    scores = oracle(read_squad(squad_dir / "dev-v1.1.json"), load_tokenizer(folder), SIZES, 30)
    assert (round(scores["exact_match"], 2), round(scores["f1"], 2)) == ceiling
