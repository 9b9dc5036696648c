"""pipeline.py: the results' form, slices of the context, lists, and the results of the pipeline that was removed."""

import json
import re

import numpy as np
import pytest
import torch

from minibert.answers.pipeline import QuestionAnswering, pipeline
from minibert.model.weights import load_model
from minibert.support.errors import BadInput
from tests.answers.removed_pipeline import OPTIONS, PAIRS, RESULTS, as_rows
from tests.builders import run

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
SIZES = {"max_seq_len": 40, "doc_stride": 8}


@pytest.fixture(scope="module")
def reader(tiny_folder) -> QuestionAnswering:
    return pipeline("question-answering", model=tiny_folder)


@pytest.fixture(scope="module")
def qa(reader):
    """The reader with windows so small that LONG has several."""
    return lambda question, context, **options: reader(question=question, context=context, **SIZES | options)


def assert_same(results, expected) -> None:
    """The same answers in the same nesting, with scores equal to 1e-5."""
    if isinstance(results, list):
        assert len(results) == len(expected)
        for result, other in zip(results, expected):
            assert_same(result, other)
    else:
        assert results == expected | {"score": pytest.approx(expected["score"], abs=1e-5)}


@pytest.mark.parametrize("context", [SHORT, LONG, *ODD])
def test_answers_are_different_slices_of_the_context_best_first(qa, context):
    answers = qa(WHO, context, top_k=20)
    for answer in answers:
        assert [(key, type(value)) for key, value in answer.items()] == [
            ("score", float),
            ("start", int),
            ("end", int),
            ("answer", str),
        ]
        assert 0 <= answer["start"] < answer["end"] <= len(context)
        assert context[answer["start"] : answer["end"]] == answer["answer"]
        assert 0 <= answer["score"] <= 1
    assert len(answers) == len({(answer["start"], answer["end"]) for answer in answers})
    assert qa(WHO, context) == answers[0]
    assert qa(WHO, context, top_k=3) == answers[:3]  # a list, also if there are fewer answers
    assert len(answers) == 20 or context in ODD


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize(
    ("questions", "contexts", "pairs"),
    [
        ([WHO, WHEN, WHO], [LONG, SHORT, SHORT], [(WHO, LONG), (WHEN, SHORT), (WHO, SHORT)]),
        (WHO, [SHORT, LONG], [(WHO, SHORT), (WHO, LONG)]),
        ([WHEN, WHO], SHORT, [(WHEN, SHORT), (WHO, SHORT)]),
        ([WHEN], [SHORT, LONG], [(WHEN, SHORT), (WHEN, LONG)]),
        ((WHEN, WHO), (SHORT,), [(WHEN, SHORT), (WHO, SHORT)]),
        ([WHO], SHORT, [(WHO, SHORT)]),
        ([WHO, WHO, WHEN], [SHORT, "", LONG], [(WHO, SHORT), (WHO, ""), (WHEN, LONG)]),
        ([], [], []),
        ([], SHORT, []),
        (WHO, [], []),
    ],
)
def test_lists_are_answered_in_their_order(qa, questions, contexts, pairs, top_k):
    singles = [qa(question, context, top_k=top_k) for question, context in pairs]
    assert_same(qa(questions, contexts, top_k=top_k), singles)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_answers_do_not_depend_on_the_batch_size(qa, tiny_folder, batch_size):
    questions, contexts = [WHO, WHEN, WHO, WHEN], [LONG, SHORT, "clock", LONG]
    small = pipeline(model=tiny_folder, batch_size=batch_size)
    assert_same(small(questions, contexts, top_k=5, **SIZES), qa(questions, contexts, top_k=5))


@pytest.mark.parametrize("context", ["", "   ", "\n\t", "\u200b"])
def test_a_context_without_a_token_has_the_empty_answer(qa, context):
    assert qa(WHO, context) | {"score": 0} == {"score": 0, "start": 0, "end": 0, "answer": ""}
    assert len(qa(WHO, context, top_k=3)) == 1


def test_handle_impossible_answer_ranks_the_empty_answer_by_its_score(qa):
    plain = qa(WHO, LONG, top_k=10_000)
    handled = qa(WHO, LONG, top_k=10_000, handle_impossible_answer=True)
    (empty,) = (answer for answer in handled if answer["answer"] == "")
    assert (empty["start"], empty["end"]) == (0, 0) and 0 < empty["score"] < 1
    assert len(handled) == len(plain) + 1 and all(answer in handled for answer in plain)
    assert handled == sorted(handled, key=lambda answer: -answer["score"])
    assert len(qa(WHO, LONG, top_k=4, handle_impossible_answer=True)) == 4


def test_max_answer_len_counts_tokens(qa):
    answers = qa(WHO, "king queen city town river", max_answer_len=2, top_k=20)
    assert {len(answer["answer"].split()) for answer in answers} == {1, 2}


def test_windows_have_as_many_tokens_as_the_model_has_positions_unless_told_otherwise(reader, qa):
    assert_same(reader(WHO, LONG, doc_stride=8), qa(WHO, LONG, max_seq_len=70))


@pytest.mark.parametrize("option", [{"max_seq_len": 50}, {"doc_stride": 3}, {"max_question_len": 2}], ids=str)
def test_the_sizes_of_windows_reach_the_model(qa, option):
    assert qa(WHO, LONG, **option)["score"] != pytest.approx(qa(WHO, LONG)["score"], rel=1e-3)


def removed_pipeline(model, tokenizer, question: str, context: str, longest: int):
    """The removed pipeline's scores for a context of one window, in float64: (tokens, tokens), null score, offsets.

    A softmax over [CLS] and the context's tokens, the product of start and end, and pairs of up to `longest` tokens.
    """
    question, context = (tokenizer.backend.encode(text, add_special_tokens=False) for text in (question, context))
    first = len(question.ids) + 2
    ids = [tokenizer.cls_id, *question.ids, tokenizer.sep_id, *context.ids, tokenizer.sep_id]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), None, (torch.arange(len(ids)) >= first).long()[None])
    p_mask = np.ones(len(ids), bool)
    p_mask[0] = False
    p_mask[first:-1] = False
    start, end = (np.where(p_mask, -10000.0, row[0].double().numpy()) for row in logits)
    start, end = (np.exp(row - np.log(np.exp(row).sum())) for row in (start, end))
    table = np.tril(np.triu(np.outer(start, end)), longest - 1)[first:-1, first:-1]
    return table, start[0] * end[0], context.offsets


@pytest.mark.parametrize("longest", [1, 3, 15])
@pytest.mark.parametrize(("question", "context"), [(WHO, SHORT), (WHEN, SHORT), (WHO, LONG[:107]), (WHEN, ODD[0])])
def test_scores_are_those_of_the_removed_pipeline(reader, question, context, longest):
    table, null, offsets = removed_pipeline(reader.model, reader.tokenizer, question, context, longest)
    options = {"max_answer_len": longest, "max_seq_len": 70}
    answers = reader(question, context, top_k=table.size, handle_impossible_answer=True, **options)
    assert [answer["score"] for answer in answers if answer["answer"] == ""] == pytest.approx([null], rel=1e-4)
    answers = [answer for answer in answers if answer["answer"]]
    expected = np.sort(table[table > 0])[::-1]
    assert [answer["score"] for answer in answers] == pytest.approx(expected, rel=1e-4)
    start, end = np.unravel_index(table.argmax(), table.shape)
    assert (answers[0]["start"], answers[0]["end"]) == (offsets[start][0], offsets[end][1])


@pytest.mark.parametrize("place", range(len(OPTIONS)), ids=lambda place: str(OPTIONS[place]))
def test_results_are_those_of_the_removed_pipeline(reader, place):
    questions, contexts = map(list, zip(*PAIRS))
    expected = [row[place] for row in json.loads(RESULTS.read_text("utf-8"))]
    results = [as_rows(result) for result in reader(questions, contexts, **OPTIONS[place])]
    for (_, context), rows, others in zip(PAIRS, results, expected, strict=True):
        assert [row[1:] for row in rows] == [row[1:] for row in others], context
        assert [row[0] for row in rows] == pytest.approx([row[0] for row in others], abs=1e-5, rel=1e-4), context


@pytest.mark.parametrize(
    ("question", "context"),
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
        (np.array(WHO), SHORT),
        (WHO, np.array(SHORT)),
        (torch.tensor(3), SHORT),
        ("Who \ud83d?", SHORT),
        (WHO, "half a pair \ud83d"),
    ],
)
def test_anything_but_text_is_refused(qa, question, context):
    with pytest.raises(BadInput, match=r"^pipeline: "):
        qa(question, context)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 0),
        ("top_k", -1),
        ("top_k", True),
        ("max_answer_len", 0),
        ("max_seq_len", 7),
        ("max_seq_len", 71),
        ("doc_stride", -1),
        ("max_question_len", 0),
        ("max_question_len", 2.5),
    ],
)
def test_sizes_that_cannot_be_used_are_refused(qa, name, value):
    with pytest.raises(BadInput, match=f"{name}: expected .* found {value}"):
        qa(WHO, LONG, **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "summarization"}, "task: .*summarization"),
        ({"model": None}, "model: "),
        ({"batch_size": 0}, "batch_size: "),
        ({"batch_size": -1}, "batch_size: "),
        ({"top_k": 0}, "top_k: "),
        ({"num_workers": 2}, "num_workers: is no option; expected one of top_k, "),
    ],
)
def test_a_pipeline_that_cannot_be_made_is_refused(tiny_folder, options, message):
    with pytest.raises(BadInput, match=f"^pipeline: {message}"):
        pipeline(**{"model": tiny_folder} | options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_answers_as_its_folder_and_stays_as_it_is(qa, tiny_folder, tokenizer, dtype):
    """It may be in training; the reader's own model has other modules and weights of another dtype."""
    model = load_model(tiny_folder).train()
    modules, state = list(model.modules()), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reader = pipeline(model=model, tokenizer=tokenizer, dtype=dtype)
    expected = qa(WHO, LONG) if dtype == "float32" else pipeline(model=tiny_folder, dtype=dtype)(WHO, LONG, **SIZES)
    assert_same(reader(WHO, LONG, **SIZES), expected)
    assert model.training and not reader.model.training and list(model.modules()) == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    second = pipeline(model=reader.model, tokenizer=tokenizer)  # made from the reader's own model
    assert second(WHO, LONG, **SIZES)["score"] == pytest.approx(expected["score"], rel=0.05)
    assert repr(reader) == f"<QuestionAnswering: bert, 2 layers, hidden_size 24, on cpu, {dtype}>"


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {"question": WHO, "context": SHORT}),
        (({"question": WHO, "context": SHORT},), {}),
        ((), {"data": {"question": WHO, "context": SHORT}}),
        ((), {"X": {"question": WHO, "context": SHORT}}),
        ((WHO, SHORT), {"topk": 1, "batch_size": 2, "padding": "longest"}),
        ((WHO, SHORT), {"max_seq_len": 64, "doc_stride": 32, "max_question_len": 32}),
        ((WHO, SHORT), {"align_to_words": True}),  # its best answer is a whole word already
    ],
)
def test_the_calls_of_the_removed_pipeline_are_taken(reader, args, options):
    """Those that failed in public reports (transformers#6395, #17290, #17706) are here and in the next tests."""
    assert_same(reader(*args, **options), reader(WHO, SHORT))


def test_several_dicts_arrays_and_generators_are_answered_in_their_order(reader):
    rows = [{"question": question, "context": SHORT} for question in (WHO, WHEN, WHO)]
    expected = [reader(**row) for row in rows]
    assert_same(reader(rows), expected)
    assert_same(reader(*rows), expected)
    assert_same(reader(np.array([WHO, WHEN, WHO]), SHORT), expected)
    stream = reader((row for row in rows), batch_size=2)
    assert iter(stream) is stream
    assert_same(list(stream), expected)


def test_aligned_answers_end_at_the_borders_of_words_and_differ_in_their_text(reader):
    text = "clockking queens Weiss, made Clockking"
    answers = reader(WHO, text, align_to_words=True, top_k=50)
    borders = {(0, 9), (10, 16), (17, 22), (22, 23), (24, 28), (29, 38)}
    starts, ends = ({border[i] for border in borders} for i in (0, 1))
    assert all(a["start"] in starts and a["end"] in ends for a in answers)
    assert all(text[a["start"] : a["end"]] == a["answer"] for a in answers)
    assert len({a["answer"].lower() for a in answers}) == len(answers)


@pytest.mark.parametrize(("name", "value"), [("device", -1), ("device", None), ("device", torch.device("cpu"))])
@pytest.mark.parametrize("dtype", ["dtype", "torch_dtype"])
def test_devices_and_dtypes_have_the_names_of_the_removed_pipeline(tiny_folder, name, value, dtype):
    options = {name: value, dtype: torch.bfloat16, "tokenizer": tiny_folder}
    assert str(pipeline(model=tiny_folder, framework="pt", **options).machine) == "cpu, bfloat16"


REFUSED = [{"device": torch.cuda.device_count()}, {"device": "mps"}, {"device": -2}, {"torch_dtype": torch.float16}]


@pytest.mark.parametrize("options", REFUSED)
def test_a_device_or_dtype_that_this_machine_lacks_is_refused(tiny_folder, options):
    with pytest.raises(BadInput, match=r"^--d(evice|type): "):
        pipeline(model=tiny_folder, **options)


def test_options_of_the_construction_are_the_defaults_of_all_calls(reader, tiny_folder):
    options = {"topk": 2, "max_answer_len": 1, "max_seq_len": 40, "align_to_words": True}
    made = pipeline(model=tiny_folder, **options)
    assert_same(made(WHO, LONG), reader(WHO, LONG, **options))
    assert_same(made(WHO, LONG, top_k=None, max_answer_len=4), reader(WHO, LONG, **options | {"max_answer_len": 4}))
    assert made(WHO, LONG, topk=1) == made(WHO, LONG)[0]


@pytest.mark.parametrize("options", [{"top_k": 1, "topk": 1}, {"data": [WHO]}, {"data": np.array(1)}, {"top_K": 1}])
def test_calls_that_mean_two_things_are_refused(reader, options):
    with pytest.raises(BadInput, match=r"^pipeline: "):
        reader(*() if "data" in options else (WHO, SHORT), **options)


CALLS = """
from collections.abc import Iterator
import numpy as np
import minibert

def stream() -> Iterator[dict[str, str]]:
    yield row

qa = minibert.pipeline(model="folder", top_k=3, max_answer_len=5)
row = {"question": "Who?", "context": "Anna"}
qa("Who?", "Anna", top_k=None)
qa(["Who?"], ("Anna", "Maria"), align_to_words=True)
qa(question=np.array(["Who?"]), context="Anna")
qa(row)
qa(row, row)
qa(data=[row])
qa(stream())
qa(3, "Anna")  # wrong
qa("Who?", b"Anna")  # wrong
qa("Who?", [1])  # wrong
qa("Who?", "Anna", top_k="3")  # wrong
qa("Who?", "Anna", topK=3)  # wrong
minibert.pipeline(model="folder", modle="folder")  # wrong
"""


@pytest.mark.slow
def test_type_checkers_take_the_calls_and_find_the_wrong_ones(tmp_path):
    pytest.importorskip("mypy")
    file = tmp_path / "calls.py"
    file.write_text(CALLS, "utf-8")
    printed = run("-m", "mypy", file).stdout
    found = {int(line) for line in re.findall(r"calls\.py:(\d+): error", printed)}
    assert found == {i for i, line in enumerate(CALLS.split("\n"), 1) if "# wrong" in line}, printed
