"""metrics.py: the rules of both official scorers, one by one, on published predictions and against a peer."""

import json
import random
import re
import string
from collections import Counter

import pytest
from conftest import run

from minibert.errors import BadInput
from minibert.metrics import exact_match, f1, normalize, read_predictions, score
from minibert.squad import Example, Gold, read_squad


def example(*golds: str, name: str = "q1", is_impossible: bool | None = None) -> Example:
    return Example(name, "", "?", " ".join(golds), tuple(Gold(text, 0) for text in golds), is_impossible)


def v2(*golds: str, name: str = "q1") -> Example:
    return example(*golds, name=name, is_impossible=not golds)


# --- the normal form


@pytest.mark.parametrize(
    "text, normal",
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
        # punctuation goes before the articles: what it joins is one word, what it hides is an article
        ("a-b", "ab"),
        ("'the' clock", "clock"),
        ("(A)", ""),
        ("t.h.e clock", "clock"),
        # only ASCII punctuation goes; an article beside any other mark is a word of its own
        ("1871\u20131902", "1871\u20131902"),
        ("\u201cclock\u201d", "\u201cclock\u201d"),
        ("the\u2014clock", "\u2014clock"),
        # a letter with an accent is a letter, a combining accent is not a part of a word for the article rule
        ("\u00e0 la", "\u00e0 la"),
        ("a\u0301", "\u0301"),
        ("\u0130", "i\u0307"),
        ("\u4e00\u3002 clock", "\u4e00\u3002 clock"),
        ("a\u00a0clock\u3000tower", "clock tower"),
        ("\U0001f600 the \U0001f600", "\U0001f600 \U0001f600"),
    ],
)
def test_normal_form(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    "prediction, gold, exact, overlap",
    [
        ("the clock", "Clock!", 1, 1),
        ("iron clock", "clock", 0, 2 / 3),
        ("clock clock tower", "clock tower tower", 0, 2 / 3),  # bags: a word counts as often as in both
        ("river", "clock", 0, 0),
        ("", "clock", 0, 0),
        ("clock", "the", 0, 0),
        (".", ".", 1, 0),  # empty forms: equal, but without a common word
        ("the", "", 1, 0),
    ],
)
def test_exact_match_and_f1_of_a_pair(prediction, gold, exact, overlap):
    assert exact_match(prediction, gold) == exact
    assert f1(prediction, gold) == pytest.approx(overlap, abs=1e-12)


# --- v1.1


def test_v1_has_its_keys_and_takes_the_best_gold_for_each_metric_by_itself():
    scores = score([example("tower", "old iron tower clock")], {"q1": "tower"})
    assert scores == {"exact_match": 100, "f1": 100, "total": 1}
    assert list(scores) == ["exact_match", "f1", "total"]
    # the exact one of these golds has no word, so F1 comes from the other
    assert score([example("clock", ".")], {"q1": "."}) == {"exact_match": 100, "f1": 0, "total": 1}


def test_v1_gold_full_stop_counts_for_exact_match_only():
    assert score([example(".")], {"q1": "."}) == {"exact_match": 100, "f1": 0, "total": 1}


def test_v1_a_missing_prediction_scores_0_and_is_counted_on_stderr(capsys):
    examples = [example("clock", name=name) for name in ("q1", "q2", "q3")]
    assert score(examples, {"q2": "clock"})["exact_match"] == pytest.approx(100 / 3)
    output = capsys.readouterr()
    assert output.err.startswith("2 of 3 ") and output.err.count("\n") == 1
    assert output.out == ""


def test_a_v1_file_without_any_answer_has_no_scores():
    with pytest.raises(BadInput):
        score([example()], {"q1": "clock"})


# --- v2.0


@pytest.mark.parametrize(
    "golds, prediction, exact, overlap",
    [
        ([], "", 100, 100),
        ([], "the", 100, 100),  # its normal form is empty, and so it agrees
        ([], "clock", 0, 0),
        (["clock"], "", 0, 0),
        (["clock"], "the clock", 100, 100),
        (["clock"], "iron clock", 0, 200 / 3),
        (["."], "", 100, 100),  # a gold without a word does not count; none left means ""
        (["."], "clock", 0, 0),
        ([".", "clock"], "", 0, 0),
        ([".", "clock"], "clock", 100, 100),
        (["tower", "iron clock"], "clock iron", 0, 100),
    ],
)
def test_v2_rules_for_a_question(golds, prediction, exact, overlap):
    scores = score([v2(*golds)], {"q1": prediction})
    assert (scores["exact"], scores["f1"]) == (exact, pytest.approx(overlap))
    prefix, other = ("HasAns_", "NoAns_") if golds else ("NoAns_", "HasAns_")
    assert scores[f"{prefix}exact"] == exact
    assert not [key for key in scores if key.startswith(other)]


def test_v2_keys_are_the_official_ones_in_their_order():
    scores = score([v2(name="q1"), v2("clock", name="q2"), v2("tower", name="q3")], {"q1": "", "q2": "clock", "q3": ""})
    assert list(scores.items()) == [
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
    scores = score([example("clock", is_impossible=True)], {"q1": "clock"})
    assert scores["HasAns_total"] == 1


def test_v2_a_missing_prediction_is_bad_input_that_names_it_and_counts():
    examples = [v2("clock", name=name) for name in ("q1", "q2", "q3")]
    with pytest.raises(BadInput, match=r"q2.*2 of 3"):
        score(examples, {"q1": "clock"})


def test_v2_surplus_predictions_are_a_warning(capsys):
    assert score([v2("clock")], {"q1": "clock", "q7": "", "q8": ""})["exact"] == 100
    assert capsys.readouterr().err.startswith("2 predictions ")


# --- the predictions file


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"q1": 7}', "q1: .*string"),
        ('{"q1": null}', "q1: .*string"),
        ('["clock"]', "one object"),
        ('{"data": []}', "one object"),
        ('{"q1": "a", "q1": "b"}', "'q1' .*twice"),
        ("", "empty"),
        ('{"q1": ', "line 1"),
    ],
)
def test_a_predictions_file_that_is_refused(tmp_path, content, message):
    file = tmp_path / "predictions.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_predictions(file)
    assert caught.value.file == str(file)


def test_a_predictions_file_is_read_as_it_stands(tmp_path):
    file = tmp_path / "predictions.json"
    file.write_text('{"q1": " Caf\u00e9. ", "q2": ""}', "utf-8")
    assert read_predictions(file) == {"q1": " Caf\u00e9. ", "q2": ""}


def test_the_command_prints_the_scores_as_its_last_line_and_exits_2_on_bad_input(tmp_path):
    answer = {"text": "iron", "answer_start": 0}
    question = {"id": "q1", "question": "What?", "answers": [answer], "is_impossible": False}
    content = {"data": [{"paragraphs": [{"context": "iron", "qas": [question]}]}]}
    (tmp_path / "data.json").write_text(json.dumps(content))
    for name, text in (("good", '{"q1": "iron"}'), ("missing", "{}")):
        (tmp_path / f"{name}.json").write_text(text)
    done = run("evaluate.py", "--score", tmp_path / "good.json", "--data", tmp_path / "data.json")
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1])["exact"]) == (0, 100)
    done = run("evaluate.py", "--score", tmp_path / "missing.json", "--data", tmp_path / "data.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# --- against the official figures, and against a peer

OFFICIAL = [
    (
        "dev-v1.1",
        "v1.1-bert-ensemble",
        {"exact_match": 86.20624408703878, "f1": 92.19557978351145, "total": 10570},
    ),
    (
        "dev-v1.1",
        "v1.1-logistic-regression",
        {"exact_match": 40.14191106906339, "f1": 50.98153647324461, "total": 10570},
    ),
    (
        "dev-v2.0-half",
        "v2.0-half-bert-single",
        {
            "exact": 77.9091369701064,
            "f1": 80.65138153990002,
            "total": 5921,
            "HasAns_exact": 76.59225213394616,
            "HasAns_f1": 81.92279386006174,
            "HasAns_total": 3046,
            "NoAns_exact": 79.30434782608695,
            "NoAns_f1": 79.30434782608695,
            "NoAns_total": 2875,
        },
    ),
]


@pytest.mark.parametrize("data, predictions, figures", OFFICIAL, ids=[row[1] for row in OFFICIAL])
def test_published_predictions_get_the_official_figures_to_the_last_digit(
    squad_dir, data, predictions, figures, capsys
):
    examples = read_squad(squad_dir / f"{data}.json")
    scores = score(examples, read_predictions(squad_dir / f"predictions-{predictions}.json"))
    assert scores == figures
    assert ("13 of 10570" in capsys.readouterr().err) == (predictions == "v1.1-logistic-regression")


PARTS = """the a an The A THE clock Clock clock's well-known wellknown U.S. US 1871 1,871 1871. tower (tower) "iron" of
. - -- ' a. the, caf\u00e9 cafe\u0301 caf\u00e8 \u00e0 na\u00efve \u0130 \u00df \u201cclock\u201d 1871\u20131902 \u2014
\u4e00 \u4e00\u4e8c \u4e8c\u3002 \u0915\u093f \u05d0 \U0001f600
\U0001f469\u200d\U0001f680 \u200b a\u200b x\u00a0y""".split()
BLANKS = (" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000", "", "-")


def drawn_pairs(count: int):
    """(prediction, golds): short texts over few words, so that overlaps, equal and empty forms are frequent."""
    draw = random.Random(1871)

    def text() -> str:
        return "".join(draw.choice(PARTS) + draw.choice(BLANKS) for _ in range(draw.choice((0, 1, 1, 2, 3, 4, 6))))

    for _ in range(count):
        golds = [text() for _ in range(draw.choice((1, 1, 2, 3)))]
        prediction = draw.choice((text(), draw.choice(golds).upper(), "the " + draw.choice(golds) + " " + text()))
        yield prediction, golds


PAIRS = list(drawn_pairs(10_000))


def words(text: str) -> list[str]:
    """The written rule: lower, no ASCII punctuation, no articles, split at blanks."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def overlap(prediction: list[str], gold: list[str], of_two_empties: float) -> float:
    if not prediction or not gold:
        return of_two_empties if prediction == gold else 0.0
    common = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * common / (len(prediction) + len(gold))


def test_v1_agrees_with_torchmetrics_on_10000_drawn_pairs():
    peer = pytest.importorskip("torchmetrics.functional.text")
    compared = partial = 0
    for prediction, golds in PAIRS:
        if not words(prediction):
            continue  # the peer has v2.0's rule for empties
        answers = {"text": golds, "answer_start": [0] * len(golds)}
        theirs = peer.squad([{"prediction_text": prediction, "id": "q1"}], [{"answers": answers, "id": "q1"}])
        ours = score([example(*golds)], {"q1": prediction})
        assert ours["exact_match"] == pytest.approx(float(theirs["exact_match"]), abs=1e-4), (prediction, golds)
        assert ours["f1"] == pytest.approx(float(theirs["f1"]), abs=1e-4), (prediction, golds)
        compared += 1
        partial += 0 < ours["f1"] < 100
    assert compared > 7000 and partial > 2000


def test_v1_follows_the_written_rules_on_10000_drawn_pairs():
    empties = 0
    for prediction, golds in PAIRS:
        ours = score([example(*golds)], {"q1": prediction})
        assert ours["exact_match"] == 100 * max(words(prediction) == words(gold) for gold in golds)
        best = max(overlap(words(prediction), words(gold), 0.0) for gold in golds)
        assert ours["f1"] == pytest.approx(100 * best, abs=1e-9), (prediction, golds)
        empties += not words(prediction) and ours["exact_match"] == 100
    assert empties > 100


def test_v2_follows_the_written_rules_on_10000_drawn_pairs():
    empties = 0
    for number, (prediction, golds) in enumerate(PAIRS):
        golds = golds if number % 4 else []
        ours = score([v2(*golds)], {"q1": prediction})
        kept = [words(gold) for gold in golds if words(gold)] or [[]]
        assert ours["exact"] == 100 * max(words(prediction) == gold for gold in kept)
        best = max(overlap(words(prediction), gold, 1.0) for gold in kept)
        assert ours["f1"] == pytest.approx(100 * best, abs=1e-9), (prediction, golds)
        assert ours["HasAns_total" if golds else "NoAns_total"] == 1
        empties += not words(prediction) and ours["f1"] == 100
    assert empties > 100
