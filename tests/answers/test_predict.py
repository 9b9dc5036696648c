"""predict.py: flat logits and loss equal those of each window alone; a model that cannot answer is refused."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.answers.confidence import NOT_FITTED
from minibert.answers.pipeline import pipeline
from minibert.answers.predict import check_pair, load_trained, mean_loss, parts, predict_logits, window_length
from minibert.model.bert import span_loss
from minibert.model.prepare import prepare, prepare_to_answer
from minibert.model.weights import load_model
from minibert.support import machine
from minibert.support.errors import BadInput
from minibert.support.machine import Machine, choose_machine
from minibert.text.records import Example, Gold
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows
from tests.builders import VOCABULARY, lone_batch, tiny_config

CPU = Machine(torch.device("cpu"), torch.float32)
LONG = "the red school by the river is made of old stone , and the blue bridge is wood . maria made a clock in 1902 ."
EXAMPLES = [
    Example("a", "", "who made it", "the clock was made by anna weiss", (Gold("anna weiss", 22), Gold("weiss", 27))),
    Example("b", "", "in what year was the clock made", LONG, (Gold("1902", LONG.index("1902")),)),
    Example("c", "", "what is it", "clock", (Gold("clock", 0),)),
    Example("d", "", "who made it", ""),
]


@pytest.fixture(scope="module")
def windows(tokenizer):
    windows = make_windows(EXAMPLES, tokenizer, 24, 8)
    assert len(windows) > len(EXAMPLES) and len(set(windows.lengths)) > 3
    return windows


@pytest.fixture(scope="module")
def alone(tiny_folder, windows):
    """Start logits, end logits and the loss of each window run by itself, without padding."""
    model, rows = prepare(load_model(tiny_folder), CPU), []
    for i in range(len(windows)):
        batch = lone_batch(windows, i)
        with torch.no_grad():
            logits = model(batch["input_ids"], None, batch["token_type_ids"])
            loss = span_loss(*logits, batch["start_positions"], batch["end_positions"])
        rows.append((*(row[0].numpy() for row in logits), float(loss)))
    return [np.concatenate(column) if np.ndim(column[0]) else np.mean(column) for column in zip(*rows)]


@pytest.mark.parametrize(("batch_size", "is_training"), [(1, False), (3, True), (64, False)])
def test_logits_and_loss_are_those_of_each_window_alone(tiny_folder, windows, alone, batch_size, is_training):
    """Also for a model in training mode: without dropout, and its mode stays."""
    model = prepare(load_model(tiny_folder), CPU).train(is_training)
    flat = predict_logits(model, windows, CPU, batch_size)
    for logits, expected in zip(flat, alone):
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert mean_loss(windows, *flat) == pytest.approx(alone[2], abs=1e-5)
    assert {module.training for module in model.modules()} == {is_training}


def test_a_cpu_computes_a_batch_in_parts(tiny_folder, windows, alone, monkeypatch):
    model, sizes = prepare(load_model(tiny_folder), CPU), []
    model.register_forward_pre_hook(lambda _, args, named: sizes.append(named["input_ids"].shape), with_kwargs=True)
    monkeypatch.setattr(machine, "MOST_POSITIONS", 64)
    flat = predict_logits(model, windows, CPU, 64)
    assert len(sizes) > 1 and all(rows * width <= 64 for rows, width in sizes)
    for logits, expected in zip(flat, alone):
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "positions", "length"), [(None, 512, 384), (None, 70, 70), (40, 70, 40), (70, 70, 70), (512, 512, 512)]
)
def test_windows_have_384_tokens_or_the_models_positions_if_fewer(given, positions, length):
    assert window_length(given, tiny_config(max_position_embeddings=positions)) == length


def test_windows_longer_than_the_models_positions_are_refused():
    with pytest.raises(BadInput, match=r"^size: .*70.*71"):
        window_length(71, tiny_config(), "size")


@pytest.mark.parametrize(("rows", "is_refused"), [(-1, True), (0, False), (127, False), (1024, False), (1526, False)])
def test_a_model_may_have_any_rows_without_a_token_but_no_token_without_a_row(tokenizer, rows, is_refused, capsys):
    model = SimpleNamespace(config=tiny_config(vocab_size=len(VOCABULARY) + rows))
    if is_refused:
        with pytest.raises(BadInput, match=f"^name: vocab_size: .*{len(VOCABULARY)}"):
            check_pair(model, tokenizer, "name")
    else:
        check_pair(model, tokenizer, "name")
        warned = capsys.readouterr().err.startswith(
            f"warning: name: vocab_size: the model has {len(VOCABULARY) + rows} "
        )
        assert warned is (rows > 1024)  # more than any padding


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], [], "token_type_ids", 5])
def test_files_that_want_no_token_types_are_refused_for_a_model_that_has_them(tokenizer, names):
    """`transformers` would give such a model zeros, and its logits would be others."""
    other = copy.copy(tokenizer)
    for stated, is_fine in ((names, False), (None, True), (["input_ids", "token_type_ids", "attention_mask"], True)):
        other.input_names = stated
        check_pair(SimpleNamespace(config=tiny_config(type_vocab_size=0)), other, "name")  # DistilBERT has none
        with nullcontext() if is_fine else pytest.raises(BadInput, match=r"^name: model_input_names: .*token_type_ids"):
            check_pair(SimpleNamespace(config=tiny_config()), other, "name")


def same_weights(first, second) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_a_name_or_a_loaded_model_gives_a_model_of_its_own(tiny_folder, vocab_folder, tokenizer):
    loaded = load_model(tiny_folder)
    for arguments in ((str(tiny_folder),), (tiny_folder, None, vocab_folder), (loaded, None, tokenizer)):
        model, found, answering = load_trained(*arguments)
        assert model is not loaded and same_weights(model, loaded) and answering is NOT_FITTED
        assert found.encode(["anna made it"])[0][0].tolist() == tokenizer.encode(["anna made it"])[0][0].tolist()


def test_a_model_that_cannot_answer_is_refused(tiny_folder, headless_folder, tokenizer, tmp_path):
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "vocab.txt").write_text("".join(f"{token}\n" for token in [*VOCABULARY, "library", "harbour"]), "utf-8")
    cases = {
        "model: span_head.weight: .*no trained": (headless_folder, None),
        "^model: span_head.weight: ": (load_model(headless_folder), tokenizer),
        f"vocab_size: .*{len(VOCABULARY) + 2}": (tiny_folder, load_tokenizer(wide)),
        "^model: vocab_size: ": (load_model(tiny_folder), wide),
        "tokenizer: is missing": (load_model(tiny_folder), None),
        r"^model: expected a folder .*, found a torch\.nn": (torch.nn.Linear(1, 1), None),
        "^tokenizer: expected a folder or a name, .*found a builtins.dict": (tiny_folder, {}),
        "nowhere: no such": (tiny_folder, wide / "nowhere"),
        "away: no such": (wide / "away", None),
    }
    for message, (model, its_tokenizer) in cases.items():
        with pytest.raises(BadInput, match=message):
            load_trained(model, tokenizer=its_tokenizer)


@pytest.mark.parametrize(("most", "sizes"), [(10_000_000, [4]), (120, [1, 3]), (1, [])])
def test_many_questions_are_answered_in_parts(tiny_folder, monkeypatch, most, sizes):
    reader = pipeline(model=tiny_folder)
    whole = reader.predictions(EXAMPLES, {})
    monkeypatch.setattr("minibert.answers.predict.CHARACTERS", most)
    found = list(parts(EXAMPLES))
    assert [example for part in found for example in part] == EXAMPLES and list(parts([])) == [[]]
    if most != 1:
        assert [len(part) for part in found] == sizes
    for one, expected in zip(reader.predictions(EXAMPLES, {}), whole, strict=True):
        assert one.best().text == expected.best().text
        assert one.best().score == pytest.approx(expected.best().score, rel=1e-4)


ODD = st.text(
    "a bclok\u00e9e\u0301\u0323\u0130\u4e00\u4e8c\ud55c\U0001f600\u200d\ufe0f\u0939\u093f\n\x00.,-", max_size=60
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    contexts=st.lists(ODD | st.text(max_size=60), min_size=1, max_size=6),
    draw=st.randoms(use_true_random=False),
    batch_size=st.integers(1, 6),
)
def test_an_answer_depends_on_nothing_but_its_question_and_context(tiny_folder, contexts, draw, batch_size):
    """The n-best of a question alone, and among others in another order, batch and padding. Ties may change places."""
    reader = pipeline(model=tiny_folder, max_seq_len=16, doc_stride=4, top_k=5)
    examples = [
        Example(str(i), "", draw.choice(["who", "who made it", "\u00e9?"]), text) for i, text in enumerate(contexts)
    ]
    alone = {one.id: reader.predictions([one], {})[0] for one in examples}
    draw.shuffle(examples)
    together = reader.predictions(examples, {"batch_size": batch_size})
    for example, found in zip(examples, together, strict=True):
        expected = alone[example.id]
        sums = np.array([answer.logit_sum for answer in expected.answers])
        np.testing.assert_allclose([answer.logit_sum for answer in found.answers], sums, atol=1e-4)
        assert found.null_odds == pytest.approx(expected.null_odds, abs=1e-4)
        for i, (one, other) in enumerate(zip(found.answers, expected.answers, strict=True)):
            is_last_or_tied = i == len(sums) - 1 or np.sum(np.abs(sums - sums[i]) < 1e-4) > 1
            assert one.text == example.context[one.start : one.end]
            assert (one.start, one.end) == (other.start, other.end) or is_last_or_tied


@pytest.mark.parametrize("scale", [1e38, 3e38])
def test_a_model_whose_weights_overflow_has_no_answers(tiny_folder, windows, scale):
    model = load_model(tiny_folder)
    with torch.no_grad():
        model.span_head.weight.fill_(scale)
        model.span_head.bias.fill_(scale)
    with pytest.raises(FloatingPointError, match="overflow"):
        predict_logits(prepare(model, CPU), windows, CPU)


def test_activations_that_overflow_in_int8_give_no_answers(tiny_folder, windows):
    machine, model = choose_machine("cpu", "int8"), load_model(tiny_folder)
    with torch.no_grad():
        model.embeddings.norm.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match="overflow"):
        predict_logits(prepare_to_answer(model, machine), windows, machine)
