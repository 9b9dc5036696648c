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


def test_a_reader_warns_once_of_truncated_questions_and_once_of_unknown_words(reader, monkeypatch, capsys):
    monkeypatch.setattr(reader, "told", set())
    reader("a b", SHORT, max_question_len=2)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        reader.rank("a b c", [SHORT, LONG], max_question_len=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: questions are truncated") and "max_question_len" in line
    for _ in range(2):
        reader("a", "\u0e01 \u0e02 \u0e03")
    (line,) = capsys.readouterr().err.splitlines()
    assert "of the tokens are [UNK]" in line


@pytest.mark.parametrize("context", [SHORT, LONG, *ODD])
def test_answers_are_different_slices_of_the_context_best_first(qa, context):
    answers = qa(WHO, context, top_k=20)
    for answer in answers:
        types = [type(answer[key]) for key in ("score", "start", "end", "answer")]
        assert types == [float, int, int, str] and len(answer) == 4
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
        ([WHO, WHO, WHEN], [LONG, "", SHORT], [(WHO, LONG), (WHO, ""), (WHEN, SHORT)]),
        (WHO, [SHORT, LONG], [(WHO, SHORT), (WHO, LONG)]),
        ((WHEN, WHO), (SHORT,), [(WHEN, SHORT), (WHO, SHORT)]),
        ([WHO], SHORT, [(WHO, SHORT)]),
        ([], SHORT, []),
        (WHO, [], []),
    ],
)
def test_lists_are_answered_in_their_order(qa, questions, contexts, pairs, top_k):
    singles = [qa(question, context, top_k=top_k) for question, context in pairs]
    assert_same(qa(questions, contexts, top_k=top_k), singles)


@pytest.mark.parametrize("context", ["", "   ", "\n\t", "\u200b"])
def test_a_context_without_a_token_has_the_empty_answer(qa, context):
    assert qa(WHO, context) | {"score": 0} == {"score": 0, "start": 0, "end": 0, "answer": ""}
    assert len(qa(WHO, context, top_k=3)) == 1


@pytest.mark.parametrize("option", [{"max_seq_len": 50}, {"doc_stride": 3}, {"max_question_len": 2}], ids=str)
def test_the_sizes_of_windows_reach_the_model(qa, option):
    assert qa(WHO, LONG, **option)["score"] != pytest.approx(qa(WHO, LONG)["score"], rel=1e-3)


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
        (" \n", SHORT),
        ([WHO, ""], SHORT),
        ([WHO, 3], SHORT),
        (WHO, [SHORT, b"bytes"]),
        (b"Who?", SHORT),
        (None, SHORT),
        (WHO, None),
        ({"question": WHO}, SHORT),
        (WHO, {"context": SHORT}),
        (np.array(WHO), SHORT),
        (torch.tensor(3), SHORT),
        ("Who \ud83d?", SHORT),
        (WHO, "half a pair \ud83d"),
    ],
)
def test_anything_but_text_is_refused(qa, question, context):
    with pytest.raises(BadInput, match=r"^pipeline: "):
        qa(question, context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": True}, "pipeline: top_k: expected .* found True"),
        ({"top_k": np.bool_(True)}, "pipeline: top_k: expected .* found "),
        ({"top_k": np.float32(2)}, "pipeline: top_k: expected .* found "),
        ({"top_k": np.int64(0)}, "pipeline: top_k: expected .* found "),
        ({"batch_size": 0}, "pipeline: batch_size: expected .* found 0"),
        ({"max_question_len": 2.5}, "pipeline: max_question_len: expected .* found 2.5"),
        ({"doc_stride": -1}, "pipeline: doc_stride: expected .* found -1"),
        ({"max_seq_len": 7}, "pipeline: max_seq_len: expected .* found 7"),
        ({"max_seq_len": 71}, "max_seq_len: expected .* found 71"),
        ({"num_workers": 2}, "pipeline: num_workers: is not an option; expected one of top_k, "),
        ({"top_k": 1, "topk": 1}, "pipeline: top_k: is the same as topk"),
        ({"data": [WHO]}, "pipeline: data: does not go"),
    ],
)
def test_options_that_cannot_be_used_are_refused(qa, options, message):
    with pytest.raises(BadInput, match=f"^{message}"):
        qa(WHO, LONG, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "summarization"}, "pipeline: task: .*summarization"),
        ({"model": None}, "pipeline: model: "),
        ({"framework": "tf"}, "pipeline: framework: "),
        ({"top_k": 0}, "pipeline: top_k: "),
        ({"device": torch.cuda.device_count()}, "--device: "),
        ({"device": np.int64(torch.cuda.device_count())}, "--device: cuda:"),
        ({"device": True}, "--device: True: must be"),
        ({"device": "mps"}, "--device: "),
        ({"device": -2}, "--device: "),
        ({"torch_dtype": torch.float16}, "--dtype: "),
    ],
)
def test_a_pipeline_that_cannot_be_made_is_refused(tiny_folder, options, message):
    with pytest.raises(BadInput, match=f"^{message}"):
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


def test_dicts_arrays_and_generators_are_answered_in_their_order(reader):
    """The calls that failed in public reports (transformers#6395, #17290, #17706) are among them."""
    rows = [{"question": question, "context": SHORT} for question in (WHO, WHEN, WHO)]
    expected = [reader(**row) for row in rows]
    for one in (reader(rows[0]), reader(data=rows[0]), reader(X=rows[0])):
        assert_same(one, expected[0])
    assert_same(reader(rows), expected)
    assert_same(reader(*rows), expected)
    assert_same(reader(np.array([WHO, WHEN, WHO]), SHORT), expected)
    stream = reader((row for row in rows), batch_size=2)
    assert iter(stream) is stream
    assert_same(list(stream), expected)
    for wrong in ([WHO], [*rows, {"question": WHO}], np.array(1)):
        with pytest.raises(BadInput, match=r"^pipeline: (question \d: )?expected a .*question and .*, found"):
            reader(data=wrong)


class Questions(torch.utils.data.Dataset):
    """As the removed pipeline took it: no `__iter__`, and no IndexError at the end."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> dict[str, str]:
        return {"question": (WHO, WHEN, WHO)[i % 3], "context": SHORT}


def test_a_dataset_of_torch_is_answered_in_its_order(reader):
    expected = [reader(**Questions()[i]) for i in range(3)]
    assert_same(reader(Questions()), expected)
    assert_same(reader(data=Questions()), expected)


def test_aligned_answers_end_at_the_borders_of_words_and_differ_in_their_text(reader):
    text = "clockking queens Weiss, made Clockking"
    answers = reader(WHO, text, align_to_words=True, top_k=50)
    borders = {(0, 9), (10, 16), (17, 22), (22, 23), (24, 28), (29, 38)}
    starts, ends = ({border[i] for border in borders} for i in (0, 1))
    assert all(a["start"] in starts and a["end"] in ends for a in answers)
    assert all(text[a["start"] : a["end"]] == a["answer"] for a in answers)
    assert len({a["answer"].lower() for a in answers}) == len(answers)
    marked = "cafe\u0301s, cafe\u0301"  # the accents are characters of their own, and of no token
    ends = {a["end"] for a in reader(WHO, marked, align_to_words=True, top_k=50)}
    assert ends <= {6, 7, 12, 13} and 6 in ends


def test_no_answer_stands_where_its_logits_put_it_whatever_top_k_is(reader):
    for context in (LONG, SHORT):
        several = reader(WHO, context, handle_impossible_answer=True, top_k=30)
        assert reader(WHO, context, handle_impossible_answer=True) == several[0]
        assert sum(row["answer"] == "" for row in several) == 1


@pytest.mark.parametrize("name", ["align_to_words", "handle_impossible_answer"])
def test_ranking_refuses_what_it_does_not_do(reader, name):
    with pytest.raises(BadInput, match=f"pipeline: {name}: is not for `rank`"):
        reader.rank(WHO, [LONG], **{name: True})


@pytest.mark.parametrize(
    ("device", "dtype"), [(-1, "dtype"), (np.int64(-1), "dtype"), (None, "torch_dtype"), (torch.device("cpu"), "dtype")]
)
def test_devices_and_dtypes_have_the_names_of_the_removed_pipeline(tiny_folder, device, dtype):
    options = {"device": device, dtype: torch.bfloat16, "tokenizer": tiny_folder}
    assert str(pipeline(model=tiny_folder, framework="pt", **options).machine) == "cpu, bfloat16"


def test_integers_of_numpy_and_torch_are_integers(reader):
    expected = reader(WHO, LONG, top_k=3, max_seq_len=40)
    assert_same(reader(WHO, LONG, top_k=np.int64(3), max_seq_len=torch.tensor(40)), expected)


def test_options_of_the_construction_are_the_defaults_of_all_calls(reader, tiny_folder):
    options = {"topk": 2, "max_answer_len": 1, "max_seq_len": 40, "align_to_words": True}
    made = pipeline(model=tiny_folder, **options)
    assert_same(made(WHO, LONG), reader(WHO, LONG, **options))
    assert_same(made(WHO, LONG, top_k=None, max_answer_len=4), reader(WHO, LONG, **options | {"max_answer_len": 4}))
    assert made(WHO, LONG, topk=1) == made(WHO, LONG)[0]


CALLS = """
from collections.abc import Iterator
import numpy as np
import torch
import minibert

def stream() -> Iterator[dict[str, str]]:
    yield row

class Rows(torch.utils.data.Dataset[dict[str, str]]):
    def __len__(self) -> int:
        return 1
    def __getitem__(self, i: int) -> dict[str, str]:
        return row

qa = minibert.pipeline(model="folder", top_k=3, max_answer_len=5)
row = {"question": "Who?", "context": "Anna"}
qa("Who?", "Anna", top_k=None)
qa(["Who?"], ("Anna", "Maria"), align_to_words=True)
qa(question=np.array(["Who?"]), context="Anna")
qa(row)
qa(row, row)
qa(data=[row])
qa(stream())
qa(Rows())
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
    printed = run("-m", "mypy", file, timeout=900).stdout
    found = {int(line) for line in re.findall(r"calls\.py:(\d+): error", printed)}
    assert found == {i for i, line in enumerate(CALLS.split("\n"), 1) if "# wrong" in line}, printed
