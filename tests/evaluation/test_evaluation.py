"""evaluate.py: a model's scores are those of its predictions, by the version that the data and the flag ask for."""

import numpy as np
import pytest
import torch

from minibert.answers.predict import mean_loss, predict_logits
from minibert.evaluation.evaluate import evaluate
from minibert.evaluation.scorer import score
from minibert.model.prepare import prepare_to_answer
from minibert.model.weights import load_model
from minibert.support.errors import BadInput
from minibert.support.machine import Machine
from minibert.text.records import Example, Gold
from minibert.text.squad import read_squad
from minibert.text.windows import make_windows
from tests.builders import write_toy_squad

SIZES = {"max_seq_length": 32, "doc_stride": 8, "device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize("version_2", [False, True])
def test_a_file_and_its_examples_get_the_loss_and_the_official_scores(tiny_folder, tokenizer, tmp_path, version_2):
    file = write_toy_squad(tmp_path / "toy.json", 6, version_2=version_2)
    examples = read_squad(file)
    options = SIZES | {"n_best_size": 7, "max_answer_length": 9, "eval_batch_size": 4}
    evaluation = evaluate(str(tiny_folder), file, **options)
    machine = Machine(torch.device("cpu"), torch.float32)
    model, windows = prepare_to_answer(load_model(tiny_folder), machine), make_windows(examples, tokenizer, 32, 8)
    loss = mean_loss(windows, *predict_logits(model, windows, machine))
    assert next(iter(evaluation.scores.items())) == ("eval_loss", pytest.approx(loss))
    odds = {name: one.null_odds for name, one in evaluation.predictions.items()} if version_2 else None
    official = {"eval_loss": evaluation.scores["eval_loss"]} | score(examples, evaluation.texts, odds)
    assert evaluation.scores.keys() == official.keys()
    # What a threshold can reach is swept over the best answers here, and over the predictions there.
    assert {name: evaluation.scores[name] for name in official if "reachable" not in name} == {
        name: value for name, value in official.items() if "reachable" not in name
    }
    if version_2:
        threshold = evaluation.scores["best_reachable_f1_thresh"]
        again = evaluate(str(tiny_folder), file, **options, null_score_diff_threshold=threshold)
        assert again.scores["f1"] == pytest.approx(evaluation.scores["best_reachable_f1"])
    assert evaluation.is_version_2 is version_2
    assert list(evaluation.predictions) == list(evaluation.texts) == [example.id for example in examples]
    assert {len(prediction.scores) for prediction in evaluation.predictions.values()} == {7}
    assert max(len(text.split()) for text in evaluation.texts.values()) <= 9
    assert "6 questions: eval_loss" in repr(evaluation)

    loaded = load_model(tiny_folder).train()
    for model, data in ((tiny_folder, [file]), (tiny_folder, examples), (loaded, tuple(examples))):
        again = evaluate(model, data, tokenizer=tokenizer, **options)
        assert (again.scores, again.texts) == (evaluation.scores, evaluation.texts)
    assert loaded.training


ANSWERED = Example("a", "", "who made it", "the clock was made by anna weiss", (Gold("anna weiss", 22),))
EMPTY = Example("b", "", "who is it", "the king of the old town")
MARKED = Example("c", "", "who was it", "a queen in the new town", (), True)


@pytest.mark.parametrize(
    ("examples", "flag", "first_key", "is_v2"),
    [
        ([ANSWERED], False, "exact_match", False),
        ([ANSWERED], True, "exact_match", False),
        ([ANSWERED, MARKED], False, "exact", True),
        ([ANSWERED, EMPTY], True, "exact", True),
        ([EMPTY], False, None, False),  # a test set: predicted and not scored
        ([EMPTY], True, None, True),
    ],
)
@pytest.mark.parametrize("threshold", [-1e6, 1e6])
def test_the_version_decides_keys_and_empty_predictions(tiny_folder, examples, flag, first_key, is_v2, threshold):
    options = {"version_2_with_negative": flag, "null_score_diff_threshold": threshold}
    evaluation = evaluate(tiny_folder, examples, **SIZES, **options)
    assert list(evaluation.scores)[1:2] == ([first_key] if first_key else [])
    assert {text == "" for text in evaluation.texts.values()} == {is_v2 and threshold < 0}
    assert evaluation.is_version_2 is is_v2
    assert np.isfinite(list(evaluation.scores.values())).all()
    assert ("no scores" in repr(evaluation)) == (first_key is None)


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        ([ANSWERED, EMPTY], {}, "b: .*--version_2_with_negative"),
        ([ANSWERED, ANSWERED], {}, "2 questions .* 1 "),
        ([ANSWERED], {"max_seq_length": 71}, "max_seq_length: .*70"),
        ([ANSWERED], {"dtype": "int4"}, "dtype"),
        ("missing.json", {}, "missing.json"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tiny_folder, examples, options, message):
    with pytest.raises(BadInput, match=message):
        evaluate(tiny_folder, examples, **SIZES | options)


def test_none_makes_windows_as_long_as_the_model_has_positions(tiny_folder, tmp_path):
    examples = read_squad(write_toy_squad(tmp_path / "toy.json", 5))
    default, longest, short = (
        evaluate(tiny_folder, examples, **SIZES | {"max_seq_length": size}).scores for size in (None, 70, 32)
    )
    assert default == longest != short
