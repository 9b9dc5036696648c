"""What a model computed for one question: the page's figures are those of the model."""

import base64
import re

import numpy as np
import pytest
import torch

from minibert.answers.explain import PAGE, TARGETS, explain, recorded_attention
from minibert.answers.pipeline import pipeline
from tests.builders import page_data

CONTEXT = "the clock was made in basel in 1871 by anna weiss . " * 6
QUESTION = "who made the clock ?"


@pytest.fixture(scope="module")
def reader(tiny_folder):
    return pipeline(model=tiny_folder)


@pytest.fixture(scope="module", params=["who made the clock ?", "<script>alert(1)</script>"])
def data(reader, request):
    return page_data(explain(reader, request.param, CONTEXT))


@pytest.mark.parametrize("sizes", [{}, {"max_seq_len": 40, "doc_stride": 3, "max_question_len": 2}])
def test_the_answers_are_the_pipelines(tiny_folder, sizes):
    reader = pipeline(model=tiny_folder, **sizes)
    data = page_data(explain(reader, QUESTION, CONTEXT))
    expected = reader(question=QUESTION, context=CONTEXT, top_k=5, max_answer_len=30)
    assert [answer[0] for answer in data["answers"]] == [answer["answer"] for answer in expected]
    assert [answer[1] for answer in data["answers"]] == pytest.approx([answer["score"] for answer in expected])


def test_the_pieces_join_to_the_text_and_mark_the_answer(data):
    assert "".join(piece[0] for piece in data["pieces"]) == CONTEXT
    assert "".join(piece[0] for piece in data["pieces"] if piece[3]) == data["answers"][0][0]
    for column in (1, 2):  # starts and ends: probabilities of one softmax, the smallest left out
        assert 0 < sum(piece[column] for piece in data["pieces"]) <= 1.001


def test_the_matrix_holds_the_best_answer(data):
    _, _, start_logit, end_logit = data["answers"][0]
    sums = [value for row in data["matrix"]["sums"] for value in row if value is not None]
    assert max(sums) == pytest.approx(start_logit + end_logit, abs=0.01)


def test_the_attention_of_every_head_is_kept(data, reader):
    shape = data["attention"]["shape"]
    config = reader.model.config
    assert shape == [config.num_hidden_layers, config.num_attention_heads, len(data["tokens"]), TARGETS]
    targets = np.frombuffer(base64.b64decode(data["attention"]["targets"]), "<u2").reshape(shape)
    weights = np.frombuffer(base64.b64decode(data["attention"]["weights"]), "u1").reshape(shape)
    assert targets.max() < len(data["tokens"])
    assert (np.diff(weights.astype(int), axis=-1) <= 0).all() and weights.sum(-1).max() <= 255 + TARGETS


def test_the_recorded_attention_is_that_of_the_model(reader, tiny_folder):
    """That of transformers; masked tokens get nothing, and the model is left as it was."""
    transformers = pytest.importorskip("transformers")
    ids = torch.tensor([[2, 7, 8, 3, 9, 10, 3, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        before = reader.model(**inputs)
        probabilities = recorded_attention(reader.model, inputs)
        after = reader.model(**inputs)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    peer = transformers.BertModel.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = peer(**inputs, output_attentions=True).attentions
    assert torch.allclose(probabilities, torch.cat(expected), atol=1e-5)
    assert probabilities[..., -2:].abs().max() == 0


def test_a_text_without_tokens_has_a_page_too(reader):
    data = page_data(explain(reader, QUESTION, " \u200b "))
    assert data["answers"] == [] and "".join(piece[0] for piece in data["pieces"]) == " \u200b "


def test_the_template_asks_no_network_and_makes_no_markup_of_data():
    page = PAGE.read_text("utf-8")
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|https?:|\bsrc=|@import", page)
