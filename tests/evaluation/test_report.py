"""The report page: its data against the rows, hostile texts, and the browser's policy."""

import re

import numpy as np
import pytest

from minibert.answers.spans import search
from minibert.evaluation.predictions import n_best_rows
from minibert.evaluation.report import LEAST_PROBABILITY, Source, make_report, token_heat, trust
from minibert.evaluation.rows import ERRORS, make_rows
from minibert.text.records import Example, Gold
from minibert.text.squad import read_squad
from minibert.text.windows import make_windows
from tests.builders import page_data, write_toy_squad

HOSTILE = "</script><script>alert(1)</script><!-- \"'& \u202e\x00 \U0001f600"


@pytest.fixture
def answered(tmp_path, tokenizer):
    """Six questions of a toy file, their windows, drawn logits and predictions; contexts have several windows."""
    examples = read_squad(write_toy_squad(tmp_path / "toy.json", 6))
    windows = make_windows(examples, tokenizer, 24, 6)
    generator = np.random.default_rng(0)
    logits = tuple(generator.normal(0, 2, (2, len(windows.ids))).astype(np.float32))
    return examples, windows, logits, search(windows, *logits, examples)


def test_the_page_holds_scores_curves_and_every_question(answered):
    examples, windows, logits, predictions = answered
    n_best = {example.id: n_best_rows(one, False) for example, one in zip(examples, predictions)}
    texts = {name: answers[0]["text"] for name, answers in n_best.items()}
    rows = make_rows(examples, texts, False, n_best, windows)
    other = make_rows(examples, {example.id: example.answers[0].text for example in examples}, False)
    metrics = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "exact_match": 10.0, "f1": 20.0}]
    source = Source("model", "toy.json", "minibert evaluate", n_best, windows, logits, metrics)
    data = page_data(make_report(examples, rows, source, ("best", other)))
    assert data["curves"] == {"loss": [[1, 2.0], [2, 1.0]], "exact": [[2, 10.0]], "f1": [[2, 20.0]]}
    assert [one["title"] for one in data["scores"]] == ["Exact match", "F1"]
    assert all(one["interval"][0] <= one["value"] <= one["interval"][1] for one in data["scores"])
    assert data["scores"][1]["value"] == pytest.approx(100 * sum(row.f1 for row in rows) / 6)
    assert [line[2] for line in data["other"]["differences"]] == [100, 100]
    for example, row, question in zip(examples, rows, data["explorer"]["questions"]):
        context = data["explorer"]["contexts"][question[0]]
        assert (context, question[3], question[4]) == (example.context, example.id, example.question)
        assert [context[start:end] for start, end, _ in question[5]] == [example.answers[0].text]
        assert context[slice(*question[6][:2])] == row.prediction
        assert ERRORS[question[7]] == row.error
        assert [context[a:b] for a, b, *_ in question[11]] == [one["text"] for one in n_best[example.id][:5]]
        assert question[13][3:] == [100, 0]


def test_the_heat_is_the_probability_behind_the_scores(answered):
    examples, windows, logits, predictions = answered
    heat = token_heat(windows, logits, len(examples))
    assert len(heat) == len(examples)
    checked = 0
    for example, prediction, numbers in zip(examples, predictions, heat):
        tokens = {
            start: (size, p_start, p_end) for start, size, p_start, p_end in np.reshape(numbers, (-1, 4)).tolist()
        }
        assert all(example.context[start : start + size[0]].strip() for start, size in tokens.items())
        ends = {start + size: p_end for start, (size, _, p_end) in tokens.items()}
        for answer in prediction.answers:
            if answer.score > LEAST_PROBABILITY:  # then both its tokens are kept
                expected = tokens[answer.start][1] * ends[answer.end] / 10_000
                assert answer.score == pytest.approx(expected, abs=0.011)
                checked += 1
    assert checked >= 3


def test_hostile_texts_stay_data():
    example = Example(HOSTILE, HOSTILE, HOSTILE, HOSTILE + " anna", (Gold("anna", len(HOSTILE) + 1),))
    rows = make_rows([example], {HOSTILE: HOSTILE}, False)
    page = make_report([example], rows, Source(HOSTILE, HOSTILE, HOSTILE), (HOSTILE, rows))
    data = page_data(page)
    assert data["explorer"]["contexts"] == [HOSTILE + " anna"] and data["command"] == HOSTILE
    assert page.count("<script") == 2 and page.count("</script") == 2 and "\x00" not in page
    assert "<!--" not in page and "alert(1)</" not in page


def test_the_page_asks_for_nothing_and_writes_no_markup():
    page = make_report([example_of("anna")], make_rows([example_of("anna")], {}, False), Source("m", "d", "c"))
    assert "default-src 'none'" in page and "style-src 'sha256-" in page and "script-src 'sha256-" in page
    script = page[page.rindex("<script>") :]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp|import\(", script)
    outside = set(re.findall(r"https?://[^\s\"'<]+", page)) - {"http://www.w3.org/2000/svg"}
    assert not outside and not re.search(r"\s(style|on\w+)=", page.partition("<script")[0])


def example_of(answer, name="q"):
    return Example(name, "t", "who made it?", f"{answer} made it", (Gold(answer, 0),))


def test_a_test_of_one_question_and_of_no_right_answer_has_a_page():
    for prediction in ("anna", "made", ""):
        example = example_of("anna")
        data = page_data(make_report([example], make_rows([example], {"q": prediction}, True), Source("m", "d", "c")))
        assert data["scores"][0]["value"] == (100 if prediction == "anna" else 0)
        assert data["risk"] == [] and data["explorer"]["questions"][0][12] == []


def test_the_certainties_are_shown_with_what_they_are_worth():
    listed = {str(i): [{"text": "anna", "start": 0, "end": 4, "score": sure}] for i, sure in enumerate((0.95, 0.15))}
    examples = [example_of("anna", name="0"), Example("1", "t", "who ?", "anna made it", (Gold("it", 10),))]
    shown = trust(make_rows(examples, dict.fromkeys(listed, "anna"), False, listed))
    assert shown["reliability"] == [pytest.approx([0.15, 0, 1]), pytest.approx([0.95, 1, 1])]
    assert shown["calibration_error"] == pytest.approx(0.1)
    assert shown["risk"] == [[0.5, 0], [1, 0.5]]
    # "No answer" of a model that was calibrated on v1.1 data has no confidence: then scores are shown for all.
    for name, confidence in (("0", 0.8), ("1", None)):
        listed[name][0]["confidence"] = confidence
    data = page_data(
        make_report(
            examples,
            make_rows(examples, dict.fromkeys(listed, "anna"), False, listed),
            Source("m", "d", "c"),
        )
    )
    assert data["certainty"] == "score" and data["calibration_error"] == pytest.approx(0.1)
    assert trust([]) == {"reliability": [], "calibration_error": 0.0, "risk": []}
