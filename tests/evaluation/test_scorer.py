"""scorer.py: the rules of both official scorers one by one, on published predictions, and against torchmetrics."""

import random
import re
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from minibert.evaluation.predictions import read_predictions
from minibert.evaluation.scorer import exact_match, f1, needs_version_2, normalize, score, score_question
from minibert.support.errors import BadInput
from minibert.text.records import Example, Gold
from minibert.text.squad import read_squad


def example(*golds: str, name: str = "q1", is_impossible: bool | None = None) -> Example:
    return Example(name, "", "?", " ".join(golds), tuple(Gold(text, 0) for text in golds), is_impossible)


IMPOSSIBLE = example(name="impossible", is_impossible=True)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Clock\tTower\n", "clock tower"),
        ("a", ""),
        ("an apple a day, the THE", "apple day"),
        ("theatre another banana", "theatre another banana"),
        ("well-known", "wellknown"),
        ("U.S.A.", "usa"),
        ("$1,871.50", "187150"),
        (".", ""),
        ("", ""),
        # Punctuation goes before the articles: what it joins is one word, what it hides is an article.
        ("a-b", "ab"),
        ("'the' clock", "clock"),
        ("(A)", ""),
        ("t.h.e clock", "clock"),
        # Only ASCII punctuation goes; an article beside any other mark is a word.
        ("1871\u20131902", "1871\u20131902"),
        ("\u201cclock\u201d", "\u201cclock\u201d"),
        ("the\u2014clock", "\u2014clock"),
        # An accented letter is a letter; a combining accent ends a word for the article rule.
        ("\u00e0 la", "\u00e0 la"),
        ("a\u0301", "\u0301"),
        ("\u0130", "i\u0307"),
        ("\u4e00\u3002 clock", "\u4e00\u3002 clock"),
        ("a\u00a0clock\u3000tower", "clock tower"),
        ("\U0001f600 the \U0001f600", "\U0001f600 \U0001f600"),
    ],
)
def test_normalized_text(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "overlap"),
    [
        ("the clock", "Clock!", 1, 1),
        ("iron clock", "clock", 0, 2 / 3),
        ("clock clock tower", "clock tower tower", 0, 2 / 3),  # bags: a word counts as often as in both
        ("river", "clock", 0, 0),
        ("", "clock", 0, 0),
        ("clock", "the", 0, 0),
        (".", ".", 1, 0),  # both without words: equal, but no word in common
        ("the", "", 1, 0),
    ],
)
def test_exact_match_and_f1_of_a_pair(prediction, gold, exact, overlap):
    assert exact_match(prediction, gold) == exact
    assert f1(prediction, gold) == pytest.approx(overlap, abs=1e-12)


@pytest.mark.parametrize(
    ("is_v2", "golds", "prediction", "expected"),
    [
        (False, ("old iron tower clock", "tower"), "tower", (1, 1, "tower")),
        (False, ("clock", "."), ".", (1, 0, ".")),  # each metric takes its own best answer
        (False, (".",), ".", (1, 0, ".")),
        (False, ("clock",), "", (0, 0, "clock")),
        (True, (), "", (1, 1, "")),
        (True, (), "the", (1, 1, "")),  # normalized it is empty
        (True, (), "clock", (0, 0, "")),
        (True, ("clock",), "", (0, 0, "clock")),
        (True, ("clock",), "iron clock", (0, 2 / 3, "clock")),
        (True, (".",), "", (1, 1, "")),  # an answer without a word is ignored; if none is left, "" is right
        (True, (".",), "clock", (0, 0, "")),
        (True, (".", "clock"), "", (0, 0, "clock")),
        (True, ("tower", "iron clock"), "clock iron", (0, 1, "iron clock")),
    ],
)
def test_the_rules_for_a_question(is_v2, golds, prediction, expected):
    exact, overlap, gold = score_question(example(*golds), prediction, is_v2)
    assert (exact, pytest.approx(overlap), gold) == expected


def test_v1_a_missing_prediction_scores_0_and_is_counted_on_stderr(capsys):
    examples = [example("clock", name=name) for name in ("q1", "q2", "q3")]
    assert score(examples, {"q2": "clock"})["exact_match"] == pytest.approx(100 / 3)
    output = capsys.readouterr()
    assert output.err.startswith("2 of 3 ") and output.err.count("\n") == 1
    assert output.out == ""
    score(examples, {"q2": "clock", "Q3": "clock"})
    assert capsys.readouterr().err.endswith("score 0; 1 prediction for questions that are not in the data\n")
    score(examples, {"Q2": "clock", "Q3": "clock"})
    assert capsys.readouterr().err.endswith("score 0; 2 predictions for questions that are not in the data\n")


def test_v2_has_the_official_keys_in_their_order():
    examples = [IMPOSSIBLE, example("clock", name="q2"), example("tower", name="q3")]
    assert list(score(examples, {"impossible": "", "q2": "clock", "q3": ""}).items()) == [
        ("exact", pytest.approx(200 / 3)),
        ("f1", pytest.approx(200 / 3)),
        ("total", 3),
        ("HasAns_exact", 50),
        ("HasAns_f1", 50),
        ("HasAns_total", 2),
        ("NoAns_exact", 100),
        ("NoAns_f1", 100),
        ("NoAns_total", 1),
    ]


def test_v2_goes_by_the_answers_and_not_by_is_impossible():
    assert score([example("clock", is_impossible=True)], {"q1": "clock"})["HasAns_total"] == 1


def test_v2_needs_every_prediction_and_counts_those_for_other_questions(capsys):
    examples = [IMPOSSIBLE, example("clock", name="q1"), example("clock", name="q2")]
    with pytest.raises(BadInput, match=r"q1.*2 of 3"):
        score(examples, {"impossible": ""})
    score(examples, {"impossible": "", "q1": "", "q2": "", "q7": "", "q8": ""})
    assert capsys.readouterr().err.startswith("2 predictions ")


@pytest.mark.parametrize(
    ("examples", "is_v2", "is_v2_with_flag"),
    [
        ([example("a"), example("b")], False, False),
        ([example("a", is_impossible=False)], False, False),  # a key that is false everywhere
        ([example("a", is_impossible=False), IMPOSSIBLE], True, True),
        ([example("a"), example()], False, True),
    ],
)
def test_a_question_marked_impossible_or_with_the_flag_without_answers_makes_v2(examples, is_v2, is_v2_with_flag):
    assert needs_version_2(examples, False) == is_v2
    assert needs_version_2(examples, True) == is_v2_with_flag
    assert ("exact" in score(examples, {one.id: "" for one in examples})) == is_v2_with_flag


def test_data_without_any_answer_cannot_be_scored():
    with pytest.raises(BadInput, match="no answers"):
        score([example(), example(name="q2")], {"q1": "clock", "q2": ""})


# --- against the official figures, and against torchmetrics

V1, V2 = ("exact_match", "f1", "total"), ("exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total")
OFFICIAL = {
    "v1.1-bert-ensemble": dict(zip(V1, (86.20624408703878, 92.19557978351145, 10570))),
    "v1.1-logistic-regression": dict(zip(V1, (40.14191106906339, 50.98153647324461, 10570))),
    "v2.0-half-bert-single": dict(zip(V2, (77.9091369701064, 80.65138153990002, 5921)))
    | {"HasAns_exact": 76.59225213394616, "HasAns_f1": 81.92279386006174, "HasAns_total": 3046}
    | {"NoAns_exact": 79.30434782608695, "NoAns_f1": 79.30434782608695, "NoAns_total": 2875},
}


@pytest.mark.parametrize("predictions", OFFICIAL)
def test_published_predictions_get_the_official_figures_to_the_last_digit(squad_dir, predictions, capsys):
    examples = read_squad(squad_dir / ("dev-v2.0-half.json" if "half" in predictions else "dev-v1.1.json"))
    scores = score(examples, read_predictions(squad_dir / f"predictions-{predictions}.json"))
    assert list(scores.items()) == list(OFFICIAL[predictions].items())
    assert ("13 of 10570" in capsys.readouterr().err) == (predictions == "v1.1-logistic-regression")


PARTS = """the a an of The A THE clock Clock clock's well-known wellknown U.S. US 1871 1,871 1871. tower (tower) "iron"
. - -- ' a. the, caf\u00e9 cafe\u0301 caf\u00e8 \u00e0 na\u00efve \u0130 \u00df \u201cclock\u201d 1871\u20131902 \u2014
\u4e00 \u4e00\u4e8c \u4e8c\u3002 \u0915\u093f \u05d0 \U0001f600
\U0001f469\u200d\U0001f680 \u200b a\u200b x\u00a0y""".split()
SPACES = (" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000", "", "-")


def draw_pairs(count: int) -> Iterator[tuple[str, list[str]]]:
    """(prediction, golds): short texts over few words, so that overlaps, equal and empty texts are frequent."""
    draw = random.Random(1871)

    def text() -> str:
        return "".join(draw.choice(PARTS) + draw.choice(SPACES) for _ in range(draw.choice((0, 1, 1, 2, 3, 4, 6))))

    for _ in range(count):
        golds = [text() for _ in range(draw.choice((1, 1, 2, 3)))]
        yield draw.choice((text(), draw.choice(golds).upper(), f"the {draw.choice(golds)} {text()}")), golds


PAIRS = list(draw_pairs(2_500))


def words(text: str) -> list[str]:
    """The written rule: lower-case, no ASCII punctuation, no articles, split at whitespace."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def overlap(prediction: list[str], gold: list[str], of_two_empty: float) -> float:
    if not prediction or not gold:
        return of_two_empty if prediction == gold else 0.0
    return 2 * sum((Counter(prediction) & Counter(gold)).values()) / (len(prediction) + len(gold))


def test_v1_agrees_with_torchmetrics_on_drawn_pairs():
    """In groups of 50, whose means a single pair would change by more than the tolerance."""
    torchmetrics = pytest.importorskip("torchmetrics.functional.text")
    pairs = [pair for pair in PAIRS[:750] if words(pair[0])]  # torchmetrics has v2.0's rule for empty texts
    assert len(pairs) > 500
    for first in range(0, len(pairs), 50):
        group = {f"q{i}": pair for i, pair in enumerate(pairs[first : first + 50])}
        answers = {name: {"text": golds, "answer_start": [0] * len(golds)} for name, (_, golds) in group.items()}
        theirs = torchmetrics.squad(
            [{"prediction_text": prediction, "id": name} for name, (prediction, _) in group.items()],
            [{"answers": answer, "id": name} for name, answer in answers.items()],
        )
        examples = [example(*golds, name=name) for name, (_, golds) in group.items()]
        ours = score(examples, {name: prediction for name, (prediction, _) in group.items()})
        assert 0 < ours["exact_match"] < ours["f1"] < 100
        for key in ("exact_match", "f1"):
            assert ours[key] == pytest.approx(float(theirs[key]), abs=1e-4), group


def test_both_versions_follow_the_written_rules_on_drawn_pairs():
    empty = [0, 0]
    for number, (prediction, golds) in enumerate(PAIRS):
        predicted, gold_words = words(prediction), list(map(words, golds))
        best = max(overlap(predicted, gold, 0.0) for gold in gold_words)
        exact, f1_score, gold = score_question(example(*golds), prediction, False)
        assert (exact, f1_score) == (predicted in gold_words, pytest.approx(best, abs=1e-12)), (prediction, golds)
        assert overlap(predicted, words(gold), 0.0) == pytest.approx(best)
        empty[0] += not predicted and exact == 1

        kept = [gold for gold in gold_words if gold and number % 4] or [[]]
        best = max(overlap(predicted, gold, 1.0) for gold in kept)
        exact, f1_score, _ = score_question(example(*(golds if number % 4 else ())), prediction, True)
        assert (exact, f1_score) == (predicted in kept, pytest.approx(best, abs=1e-12)), (prediction, golds)
        empty[1] += not predicted and f1_score == 1
    assert min(empty) > 50


@pytest.mark.parametrize("is_impossible", [None, True])  # v1.1 and v2.0
def test_numbers_as_ids_are_their_texts_and_two_equal_ones_are_refused(is_impossible):
    examples = [example("1788", name="70211"), *[replace(IMPOSSIBLE, id="7")] * bool(is_impossible)]
    texts = {70211: "1788", "7": ""}
    odds = {70211: -1.0, 7: 1.0} if is_impossible else None
    assert score(examples, texts, odds, 0.0)["f1"] == 100.0
    with pytest.raises(BadInput, match="predictions: 70211: is the id of two"):
        score(examples, texts | {"70211": "x"}, odds)
    if odds:
        with pytest.raises(BadInput, match="null odds: 7: is the id of two"):
            score(examples, texts, odds | {"7": 0.0})
