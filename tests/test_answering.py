"""Texts in, answers out: the pipeline's promises, its score against the published definition, and the files."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, drawn, lone_batch, run, tiny_config
from safetensors.torch import load_file, save_file

from minibert.answering import (
    evaluate,
    mean_loss,
    n_best_rows,
    pipeline,
    predict,
    predict_logits,
    write_predictions,
)
from minibert.device import Machine, prepare
from minibert.errors import BadInput
from minibert.metrics import score
from minibert.model import BertForQuestionAnswering, span_loss
from minibert.squad import Example, Gold
from minibert.tokenizer import load_tokenizer
from minibert.weights import load_model, save_model
from minibert.windows import make_windows

WHO, WHEN = "Who made the clock?", "In what year was the river town by the bridge made new?"
SHORT = "The clock tower was made of copper in 1871 by Anna Weiss."
LONG = (
    "John is the king of Basel. The red school by the river is made of old stone, and the blue bridge is wood. "
    "Maria made a clock in 1902, in seven days and nine nights. How many trains it was in Lyon, who is to say? "
    "The queen was in Paris by day."
)
ODD = [
    "Café 🎉 by the river, made by Maria Weiß; naïve e\u0301cole, cafe\u0301.",
    "👩‍👩‍👧 the 🏰 tower 🇨🇭 in İstanbul — “old” … 1871\u2028new\u00a0town\ufeff.",
    "  the\tclock\r\n\r\nmade  in \x00 1871 \u200b ",
    "時計塔は銅で作られた。 в 1902 году; ساعة",
    "[SEP] the [CLS] clock [PAD] made [MASK] [UNK] ##ing",
    "clock",
    ".",
]
CPU = Machine(torch.device("cpu"), torch.float32)
SIZES = {"max_seq_length": 40, "doc_stride": 8}


@pytest.fixture(scope="module")
def model(tiny_folder):
    return prepare(load_model(tiny_folder), CPU)


@pytest.fixture(scope="module")
def reader(tiny_folder):
    return pipeline("question-answering", model=tiny_folder)


@pytest.fixture(scope="module")
def qa(reader):
    """The reader with windows that the tiny model has positions for."""
    return lambda question, context, **options: reader(
        question=question, context=context, **{"max_seq_len": 40, "doc_stride": 8} | options
    )


@pytest.fixture(scope="module")
def headless_folder(tiny_folder, tokenizer, tmp_path_factory):
    """The tiny model without its span head: what a pre-trained encoder is."""
    folder = tmp_path_factory.mktemp("headless")
    save_model(load_model(tiny_folder), tokenizer, folder)
    tensors = load_file(folder / "model.safetensors")
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("qa_outputs")}
    save_file(encoder, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def wide_tokenizer(tmp_path_factory):
    """A tokenizer with more tokens than the tiny model has rows."""
    folder = tmp_path_factory.mktemp("wide")
    words = [*VOCABULARY, "library", "harbour"]
    (folder / "vocab.txt").write_text("".join(token + "\n" for token in words), "utf-8")
    return load_tokenizer(folder)


def assert_same(found, expected) -> None:
    """The same answers, their scores to 1e-5."""
    if isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_same(one, other)
    else:
        assert found == expected | {"score": pytest.approx(expected["score"], abs=1e-5)}


# The pipeline


def test_a_result_has_the_four_keys_in_their_order(qa):
    result = qa(WHO, SHORT)
    assert list(result) == ["score", "start", "end", "answer"]
    assert [type(value) for value in result.values()] == [float, int, int, str]


@pytest.mark.parametrize("context", [SHORT, LONG, *ODD])
def test_every_answer_is_a_slice_of_its_context(qa, context):
    answers = qa(WHO, context, top_k=20)
    assert answers
    for answer in answers:
        assert 0 <= answer["start"] < answer["end"] <= len(context)
        assert context[answer["start"] : answer["end"]] == answer["answer"]
        assert 0 <= answer["score"] <= 1


@pytest.mark.parametrize("top_k", [2, 5])
def test_top_k_is_a_list_of_different_answers_from_the_best(qa, top_k):
    answers = qa(WHO, LONG, top_k=top_k)
    assert len(answers) == len({(answer["start"], answer["end"]) for answer in answers}) == top_k
    assert answers[0] == qa(WHO, LONG)


def test_top_k_is_a_list_even_where_there_are_fewer_answers(qa):
    assert [answer["answer"] for answer in qa(WHO, "clock", top_k=3)] == ["clock"]


@pytest.mark.parametrize(
    "questions, contexts, pairs",
    [
        ([WHO, WHEN, WHO], [LONG, SHORT, SHORT], [(WHO, LONG), (WHEN, SHORT), (WHO, SHORT)]),
        (WHO, [SHORT, LONG], [(WHO, SHORT), (WHO, LONG)]),
        ([WHEN, WHO], SHORT, [(WHEN, SHORT), (WHO, SHORT)]),
        ([WHEN], [SHORT, LONG], [(WHEN, SHORT), (WHEN, LONG)]),
        ((WHEN, WHO), (SHORT,), [(WHEN, SHORT), (WHO, SHORT)]),
        ([WHO], SHORT, [(WHO, SHORT)]),
    ],
)
@pytest.mark.parametrize("top_k", [1, 3])
def test_lists_are_answered_in_their_order(qa, questions, contexts, pairs, top_k):
    singles = [qa(question, context, top_k=top_k) for question, context in pairs]
    assert_same(qa(questions, contexts, top_k=top_k), singles)


@pytest.mark.parametrize("questions, contexts", [([], []), ([], SHORT), (WHO, [])])
def test_no_questions_or_contexts_have_no_answers(qa, questions, contexts):
    assert qa(questions, contexts) == []


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_answers_do_not_depend_on_the_batch_size(qa, tiny_folder, batch_size):
    small = pipeline(model=tiny_folder, batch_size=batch_size)
    questions, contexts = [WHO, WHEN, WHO, WHEN], [LONG, SHORT, "clock", LONG]
    found = small(question=questions, context=contexts, top_k=5, max_seq_len=40, doc_stride=8)
    assert_same(found, qa(questions, contexts, top_k=5))


def test_a_text_without_a_token_has_the_empty_answer(qa):
    for context in ("", "   ", "\n\t", "\u200b"):
        assert qa(WHO, context) | {"score": 0} == {"score": 0, "start": 0, "end": 0, "answer": ""}
        assert len(qa(WHO, context, top_k=3)) == 1


def test_an_empty_context_leaves_its_neighbours_alone(qa):
    assert_same(qa([WHO, WHO, WHEN], [SHORT, "", LONG])[::2], [qa(WHO, SHORT), qa(WHEN, LONG)])


def test_the_empty_answer_takes_part_where_it_is_handled(qa):
    plain = qa(WHO, LONG, top_k=10_000)
    handled = qa(WHO, LONG, top_k=10_000, handle_impossible_answer=True)
    assert len(handled) == len(plain) + 1
    scores = [answer["score"] for answer in handled]
    assert scores == sorted(scores, reverse=True)
    assert "" not in {answer["answer"] for answer in plain}
    (empty,) = (answer for answer in handled if answer["answer"] == "")
    assert (empty["start"], empty["end"]) == (0, 0) and 0 < empty["score"] < 1
    assert len(qa(WHO, LONG, top_k=4, handle_impossible_answer=True)) == 4


def test_answers_are_no_longer_than_max_answer_len(qa):
    lengths = {
        len(answer["answer"].split()) for answer in qa(WHO, "king queen city town river", max_answer_len=2, top_k=20)
    }
    assert lengths == {1, 2}


def by_the_removed_pipeline(model, tokenizer, question: str, context: str, longest: int):
    """The removed pipeline's table of scores for a context of one window, and its null score, in float64.

    Softmax over [CLS] and the context's tokens, product of start and end, the band of pairs of up to `longest` tokens.
    """
    question, context = (tokenizer.backend.encode(text, add_special_tokens=False) for text in (question, context))
    ids = [tokenizer.cls_id, *question.ids, tokenizer.sep_id, *context.ids, tokenizer.sep_id]
    first = len(question.ids) + 2
    types = [0] * first + [1] * (len(ids) - first)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), None, torch.tensor([types]))
    p_mask = np.ones(len(ids), bool)
    p_mask[0] = False
    p_mask[first:-1] = False
    start, end = (np.where(p_mask, -10000.0, row[0].double().numpy()) for row in logits)
    start, end = (np.exp(row - np.log(np.exp(row).sum())) for row in (start, end))
    null = start[0] * end[0]
    start[0] = end[0] = 0.0
    table = np.tril(np.triu(np.outer(start, end)), longest - 1)[first:-1, first:-1]
    return table, null, context.offsets


@pytest.mark.parametrize("longest", [1, 3, 15])
@pytest.mark.parametrize("question, context", [(WHO, SHORT), (WHEN, SHORT), (WHO, LONG[:107]), (WHEN, ODD[0])])
def test_scores_are_those_of_the_removed_pipeline(qa, model, tokenizer, question, context, longest):
    table, null, offsets = by_the_removed_pipeline(model, tokenizer, question, context, longest)
    options = {"max_answer_len": longest, "max_seq_len": 70}
    start, end = np.unravel_index(table.argmax(), table.shape)
    best = qa(question, context, **options)
    assert best["score"] == pytest.approx(table.max(), rel=1e-4)
    assert (best["start"], best["end"]) == (offsets[start][0], offsets[end][1])
    listed = qa(question, context, top_k=6, **options)
    assert [answer["score"] for answer in listed] == pytest.approx(np.sort(table.ravel())[::-1][:6], rel=1e-4)
    handled = qa(question, context, top_k=table.size, handle_impossible_answer=True, **options)
    assert [a["score"] for a in handled if a["answer"] == ""] == pytest.approx([null], rel=1e-4)


# What the pipeline refuses


@pytest.mark.parametrize(
    "question, context",
    [
        ([WHO, WHEN], [SHORT, LONG, SHORT]),
        ([WHO, WHEN], []),
        ([], [SHORT, LONG]),
        ("", SHORT),
        (" \n", SHORT),
        ([WHO, ""], SHORT),
        ([WHO, None], SHORT),
        ([WHO, 3], SHORT),
        (WHO, [SHORT, None]),
        (WHO, [SHORT, b"bytes"]),
        (b"Who?", SHORT),
        (None, SHORT),
        (3, SHORT),
        (WHO, None),
        (WHO, 1.5),
        ({"question": WHO}, SHORT),
        (WHO, {"context": SHORT}),
        ("Who \ud83d?", SHORT),
        (WHO, "half a pair \ud83d"),
    ],
)
def test_what_is_no_text_is_bad_input(qa, question, context):
    with pytest.raises(BadInput):
        qa(question, context)


@pytest.mark.parametrize(
    "sizes",
    [
        {"top_k": 0},
        {"top_k": -1},
        {"max_answer_len": 0},
        {"max_seq_len": 7},
        {"max_seq_len": 71},
        {"doc_stride": -1},
        {"max_question_len": 0},
        {"max_question_len": -3},
    ],
    ids=str,
)
def test_bad_sizes_are_bad_input(qa, sizes):
    with pytest.raises(BadInput):
        qa(WHO, LONG, **sizes)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_bad_batch_size_is_bad_input(tiny_folder, batch_size):
    with pytest.raises(BadInput):
        pipeline(model=tiny_folder, batch_size=batch_size)(question=WHO, context=SHORT, max_seq_len=40)


def test_another_task_or_no_model_is_bad_input(tiny_folder):
    for words in ({"task": "summarization", "model": tiny_folder}, {"task": "question-answering"}):
        with pytest.raises(BadInput):
            pipeline(**words)


def test_a_folder_without_a_trained_head_is_refused(headless_folder):
    with pytest.raises(BadInput, match="span_head"):
        pipeline(model=headless_folder)


def test_a_loaded_model_without_a_trained_head_is_refused(headless_folder, tokenizer):
    with pytest.raises(BadInput, match="span_head"):
        pipeline(model=load_model(headless_folder), tokenizer=tokenizer)


def test_a_loaded_model_needs_a_tokenizer(tiny_folder):
    with pytest.raises(BadInput, match="tokenizer"):
        pipeline(model=load_model(tiny_folder))


def test_a_loaded_model_answers_as_its_folder_does(qa, tiny_folder, tokenizer):
    loaded = pipeline(model=load_model(tiny_folder), tokenizer=tokenizer)
    assert_same(loaded(question=WHO, context=LONG, max_seq_len=40, doc_stride=8), qa(WHO, LONG))


def test_the_tokenizer_can_be_named(qa, tiny_folder, vocab_folder):
    named = pipeline(model=load_model(tiny_folder), tokenizer=vocab_folder)
    assert_same(named(question=WHO, context=LONG, max_seq_len=40, doc_stride=8), qa(WHO, LONG))


def test_a_named_tokenizer_that_does_not_exist_is_bad_input(tiny_folder, tmp_path):
    with pytest.raises(BadInput):
        pipeline(model=tiny_folder, tokenizer=tmp_path / "nowhere")


def test_a_loaded_model_stays_as_it_is(tiny_folder, tokenizer):
    """It may be in training: the reader's own has other modules, and weights of half the precision."""
    model = load_model(tiny_folder).train()
    modules, state = list(model.modules()), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for dtype in ("float32", "bfloat16"):
        reader = pipeline(model=model, tokenizer=tokenizer, dtype=dtype)
        reader(question=WHO, context=LONG, max_seq_len=40, doc_stride=8)
        assert model.training and not reader.model.training
        assert list(model.modules()) == modules
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_model_of_a_reader_makes_another_reader(tiny_folder, tokenizer):
    question = dict(question=WHO, context=LONG, max_seq_len=40, doc_stride=8)
    for dtype in ("float32", "bfloat16"):
        first = pipeline(model=str(tiny_folder), dtype="bfloat16")
        second = pipeline(model=first.model, tokenizer=tokenizer, dtype=dtype)
        assert second(**question)["score"] == pytest.approx(first(**question)["score"], rel=0.05)


def test_a_loaded_model_with_a_foreign_tokenizer_is_refused(tiny_folder, wide_tokenizer):
    with pytest.raises(BadInput, match="tokens"):
        pipeline(model=load_model(tiny_folder), tokenizer=wide_tokenizer)


def test_a_folder_with_a_foreign_tokenizer_is_refused(tiny_folder, wide_tokenizer):
    with pytest.raises(BadInput, match="tokens"):
        pipeline(model=tiny_folder, tokenizer=wide_tokenizer)


@pytest.mark.parametrize("rows, is_refused", [(128, True), (127, False), (-1, True)])
def test_a_folder_may_have_a_few_rows_without_a_token(tokenizer, tmp_path, rows, is_refused):
    config = tiny_config(vocab_size=len(VOCABULARY) + rows)
    save_model(BertForQuestionAnswering(config), tokenizer, tmp_path)
    if is_refused:
        with pytest.raises(BadInput, match="tokens"):
            pipeline(model=tmp_path)
    else:
        assert pipeline(model=tmp_path)(question=WHO, context=SHORT, max_seq_len=40)["answer"] in SHORT


# Logits and loss


EXAMPLES = [
    Example("a", "", WHO, SHORT, (Gold("Anna Weiss", 46),)),
    Example("b", "", WHEN, LONG, (Gold("1902", LONG.index("1902")),)),
    Example("c", "", WHO, "clock", (Gold("clock", 0),)),
    Example("d", "", WHO, "", ()),
    Example("e", "", "who", ODD[0], (Gold("Café 🎉", 0),)),
]


@pytest.fixture(scope="module")
def windows(tokenizer):
    made = make_windows(EXAMPLES, tokenizer, **SIZES)
    assert len(made) > len(EXAMPLES) + 2 and len(set(made.lengths)) > 3
    return made


@pytest.fixture(scope="module")
def alone(model, windows):
    """(start logits, end logits, loss) of every window run by itself, without padding."""
    rows = []
    for i in range(len(windows)):
        batch = lone_batch(windows, i)
        with torch.no_grad():
            logits = model(batch["input_ids"], None, batch["token_type_ids"])
            loss = span_loss(*logits, batch["start_positions"], batch["end_positions"])
        rows.append((*(row[0].numpy() for row in logits), float(loss)))
    return rows


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_flat_logits_are_those_of_each_window_alone(model, windows, alone, batch_size):
    flat = predict_logits(model, windows, CPU, batch_size)
    for found, expected in zip(flat, list(zip(*alone))[:2]):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


def test_mean_loss_is_span_loss_averaged_over_windows(model, windows, alone):
    loss = mean_loss(windows, *predict_logits(model, windows, CPU))
    assert loss == pytest.approx(np.mean([row[2] for row in alone]), abs=1e-5)


@pytest.mark.parametrize("mode", [True, False])
def test_prediction_has_no_dropout_and_leaves_the_mode(tiny_folder, windows, alone, mode):
    model = prepare(load_model(tiny_folder), CPU).train(mode)
    start_logits, _ = predict_logits(model, windows, CPU)
    np.testing.assert_allclose(start_logits, np.concatenate([row[0] for row in alone]), atol=1e-5)
    assert {module.training for module in model.modules()} == {mode}


def answer_flags(**changes) -> Namespace:
    flags = {"eval_batch_size": 4, "n_best_size": 7, "max_answer_length": 9, "null_score_diff_threshold": 0.0}
    return Namespace(**flags | changes)


def test_evaluate_gives_the_loss_and_the_official_scores(model, tokenizer, alone):
    examples = [example for example in EXAMPLES if example.answers]
    windows = make_windows(examples, tokenizer, **SIZES)
    scores, predictions = evaluate(model, examples, windows, CPU, answer_flags())
    texts = {e.id: p.answers[0].text for e, p in zip(examples, predictions)}
    assert scores == {"eval_loss": scores["eval_loss"]} | score(examples, texts)
    assert scores["eval_loss"] == pytest.approx(mean_loss(windows, *predict_logits(model, windows, CPU)))
    assert {len(p.answers) for p in predictions} == {1, 7}


def test_evaluate_without_answers_predicts_and_does_not_score(model, tokenizer):
    examples = [Example(e.id, "", e.question, e.context) for e in EXAMPLES]
    scores, predictions = evaluate(model, examples, make_windows(examples, tokenizer, **SIZES), CPU, answer_flags())
    assert scores == {} and len(predictions) == len(examples)


# Files


@pytest.fixture(scope="module")
def predictions(model, tokenizer):
    return predict(model, tokenizer, EXAMPLES, CPU, n_best_size=6, **SIZES)


def read_strictly(file):
    """JSON without NaN and Infinity."""
    return json.loads(file.read_text("utf-8"), parse_constant=lambda word: pytest.fail(f"{word} in {file.name}"))


@pytest.fixture(params=[False, True], ids=["v1.1", "v2.0"])
def written(request, predictions, tmp_path):
    """(is it v2.0, the folder that has the files)."""
    write_predictions(tmp_path / "new" / "out.json", EXAMPLES, predictions, request.param, 0.0)
    return request.param, tmp_path / "new"


def test_every_id_is_in_every_file_in_order(written):
    is_v2, folder = written
    names = ["nbest_predictions.json", "out.json"] + ["null_odds.json"] * is_v2
    assert sorted(file.name for file in folder.iterdir()) == sorted(names)
    for name in names:
        assert list(read_strictly(folder / name)) == [example.id for example in EXAMPLES]


def test_n_best_rows_have_probabilities_and_stand_in_the_context(written):
    keys = {"text", "start", "end", "start_logit", "end_logit", "score", "probability"}
    n_best = read_strictly(written[1] / "nbest_predictions.json")
    for example in EXAMPLES:
        rows = n_best[example.id]
        sums = np.array([row["start_logit"] + row["end_logit"] for row in rows])
        weights = np.exp(sums - sums.max())
        assert all(set(row) == keys for row in rows)
        assert all(example.context[row["start"] : row["end"]] == row["text"] for row in rows)
        assert sum(row["probability"] for row in rows) == pytest.approx(1)
        assert [row["probability"] for row in rows] == pytest.approx(weights / weights.sum())
        assert list(sums) == sorted(sums, reverse=True)


def test_the_null_row_is_listed_where_it_can_be_predicted(written):
    is_v2, folder = written
    n_best = read_strictly(folder / "nbest_predictions.json")
    nulls = {name: sum(row["text"] == "" for row in rows) for name, rows in n_best.items()}
    assert nulls == {"a": is_v2, "b": is_v2, "c": is_v2, "d": 1, "e": is_v2}
    assert len(n_best["d"]) == 1 and len(n_best["b"]) == 6 + is_v2


def test_the_prediction_is_the_first_row(written):
    n_best, texts = (read_strictly(written[1] / name) for name in ("nbest_predictions.json", "out.json"))
    assert texts == {name: rows[0]["text"] for name, rows in n_best.items()}


def test_null_odds_are_the_null_sum_above_the_best(predictions, tmp_path):
    write_predictions(tmp_path / "out.json", EXAMPLES, predictions, True, 0.0)
    odds, n_best = (read_strictly(tmp_path / name) for name in ("null_odds.json", "nbest_predictions.json"))
    for name in "abce":
        sums = {row["text"] == "": row["start_logit"] + row["end_logit"] for row in reversed(n_best[name])}
        assert odds[name] == pytest.approx(sums[True] - sums[False], abs=1e-5)
    assert odds["d"] > 1e6  # nothing can be said for any answer


@pytest.mark.parametrize("threshold, is_empty", [(-1e6, True), (1e6, False)])
def test_the_threshold_decides_for_the_empty_answer(predictions, tmp_path, threshold, is_empty):
    write_predictions(tmp_path / "out.json", EXAMPLES, predictions, True, threshold)
    texts = read_strictly(tmp_path / "out.json")
    assert {name: text == "" for name, text in texts.items()} == dict.fromkeys("abce", is_empty) | {"d": True}


def test_probabilities_survive_enormous_logits(tokenizer):
    model = drawn(BertForQuestionAnswering(tiny_config()))
    model.span_head.weight.data *= 1e4
    for prediction in predict(prepare(model, CPU), tokenizer, EXAMPLES, CPU, **SIZES):
        rows = n_best_rows(prediction, is_v2=True)
        assert sum(row["probability"] for row in rows) == pytest.approx(1)
        assert all(0 <= row["score"] <= 1 for row in rows)


# Import


def test_torch_is_loaded_on_the_first_use_of_a_name_that_needs_it():
    program = """
import sys, minibert
import minibert.spans, minibert.metrics
minibert.BadInput, minibert.load_tokenizer, dir(minibert)
assert "torch" not in sys.modules
minibert.pipeline
assert "torch" in sys.modules and "transformers" not in sys.modules
"""
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
