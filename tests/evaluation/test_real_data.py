"""The analysis, the comparison and the thresholds on published predictions, each against a count by other means."""

import json
import random

import numpy as np
import pytest

from minibert.commands.compare import compare
from minibert.evaluation.analysis import slices
from minibert.evaluation.predictions import read_predictions
from minibert.evaluation.rows import make_rows
from minibert.evaluation.scorer import score, score_question
from minibert.text.squad import read_squad
from tests.evaluation.test_thresholds import official_rule


def test_rows_agree_with_a_count_by_pandas(squad_dir):
    """500 questions, counted again with string operations of pandas and no function of ours."""
    pandas = pytest.importorskip("pandas")
    examples = read_squad(squad_dir / "dev-v1.1.json")[::21][:500]
    predictions = json.loads((squad_dir / "predictions-v1.1-logistic-regression.json").read_text("utf-8"))
    rows = make_rows(examples, predictions, False)

    def plain(column):
        column = column.str.lower().str.replace(r"[!-/:-@\[-`{-~]", "", regex=True)
        return column.str.replace(r"\b(?:a|an|the)\b", " ", regex=True).str.split().str.join(" ")

    table = pandas.DataFrame([{"id": one.id, "gold": gold.text} for one in examples for gold in one.answers])
    table["prediction"] = table["id"].map(predictions)
    table = table.dropna()
    golds, answers = plain(table["gold"]), plain(table["prediction"])
    table["em"] = (golds == answers).astype(float)
    pairs = zip(golds.str.split(), answers.str.split())
    common = np.array([sum(min(g.count(w), p.count(w)) for w in set(g)) for g, p in pairs])
    table["f1"] = 2 * common / (golds.str.count(r"\S+") + answers.str.count(r"\S+"))
    best = table.groupby("id")[["em", "f1"]].max().reindex([one.id for one in examples]).fillna(0.0)
    assert [row.exact_match for row in rows] == best["em"].tolist()
    assert [row.f1 for row in rows] == pytest.approx(best["f1"].tolist())

    best["words"] = [len(one.answers[0].text.split()) for one in examples]
    best["group"] = pandas.cut(best["words"], [-1, 0, 1, 2, 4, 9, 10_000])
    theirs = best.groupby("group", observed=True).agg(n=("em", "size"), em=("em", "mean"), f1=("f1", "mean"))
    found = [list(part[1:]) for part in slices(rows)["answer_length"]]
    assert found == [pytest.approx([n, 100 * em, 100 * f1]) for n, em, f1 in theirs.itertuples(index=False)]


@pytest.mark.slow
def test_published_predictions_differ_beyond_chance(squad_dir):
    examples = read_squad(squad_dir / "dev-v1.1.json")
    names = "predictions-v1.1-bert-ensemble.json", "predictions-v1.1-logistic-regression.json"
    report = compare(*(make_rows(examples, read_predictions(squad_dir / name), False) for name in names))
    for name, difference in (("exact_match", 86.20624408703878 - 40.14191106906339), ("f1", 41.2140431429)):
        low, high = report[name]["interval"]
        assert report[name]["difference"] == pytest.approx(difference)
        assert 0 < low < difference < high < difference + 2 and report[name]["p"] == 1 / 10_001


def test_thresholds_of_published_predictions_with_constructed_null_odds(squad_dir):
    """Null odds that know something, half of them tied; the official rule is applied to figures of its own."""
    examples = read_squad(squad_dir / "dev-v2.0-half.json")
    predictions = read_predictions(squad_dir / "predictions-v2.0-half-bert-single.json")
    draw = random.Random(0)
    odds = {one.id: draw.gauss(-2.0 if one.answers else 2.0, 3.0) for one in examples}
    odds = {name: float(round(value)) if i % 2 else value for i, (name, value) in enumerate(odds.items())}
    scores = score(examples, predictions, odds)
    has = {one.id: bool(one.answers) for one in examples}
    for i, metric in enumerate(("exact", "f1")):
        raw = {one.id: score_question(one, predictions[one.id], True)[i] for one in examples}
        official = scores[f"best_{metric}"], scores[f"best_{metric}_thresh"]
        assert official == official_rule(raw, has, predictions, odds)
        reached = score(examples, predictions, odds, scores[f"best_reachable_{metric}_thresh"])[metric]
        assert scores[metric] < scores[f"best_reachable_{metric}"] == pytest.approx(reached)
