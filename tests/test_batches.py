"""Batches: every window once, a pure function of (seed, epoch), and padding that is rare and without effect."""

import numpy as np
import pytest
import torch
from conftest import WORDS, drawn, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.batches import BLOCK, collate, prediction_batches, training_batches
from minibert.model import BertForQuestionAnswering
from minibert.squad import Example, Gold
from minibert.windows import make_windows

lengths_of_windows = st.lists(st.integers(5, 70), min_size=1, max_size=300).map(np.array)


def as_lists(batches):
    return [batch.tolist() for batch in batches]


def squad_like_lengths(count: int) -> np.ndarray:
    """Tokens in a window as SQuAD has them: about 165, skewed to the right, some cut at 384."""
    return np.clip(np.random.default_rng(1).lognormal(5.03, 0.36, count), 30, 384).astype(np.int64)


@pytest.fixture(scope="module")
def windows(tokenizer):
    """Windows of 13 questions about contexts of very unlike lengths; some of the contexts need several."""
    generator = np.random.default_rng(5)
    examples = []
    for i, size in enumerate((0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 80, 4, 90)):
        words = generator.choice([word for word in WORDS if word.isalpha()], size)
        question = " ".join(generator.choice(["who", "made", "the", "clock", "tower"], 1 + i % 4))
        golds = (Gold(str(words[size // 2]), len(" ".join([*words[: size // 2], ""]))),) if size else ()
        examples.append(Example(f"q{i}", "", question, " ".join(words), golds))
    return make_windows(examples, tokenizer, max_seq_length=40, doc_stride=8)


@settings(max_examples=40, deadline=None)
@given(lengths_of_windows, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_every_window_exactly_once(lengths, batch_size, seed, epoch):
    batches = training_batches(lengths, batch_size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))


@settings(max_examples=40, deadline=None)
@given(lengths_of_windows, st.integers(1, 9))
def test_only_one_batch_is_short(lengths, batch_size):
    sizes = sorted(len(batch) for batch in training_batches(lengths, batch_size, 1, 0))
    assert sizes[1:] == [batch_size] * (len(sizes) - 1)
    assert sizes[0] == (len(lengths) % batch_size or batch_size)


@settings(max_examples=60, deadline=None)
@given(lengths_of_windows, st.integers(1, 9), st.integers(0, 3))
def test_no_batch_takes_more_memory_than_the_first(lengths, batch_size, epoch):
    batches = training_batches(lengths, batch_size, 1, epoch)
    padded = [lengths[batch].max() * len(batch) for batch in batches]
    assert padded[0] == max(padded)


def test_one_long_window_among_short_ones_comes_first():
    lengths = np.full(104, 20)
    lengths[:10], lengths[10] = 60, 70
    for seed in range(150):  # in some of them the long window is in the short last pool
        assert 10 in training_batches(lengths, 2, seed, 0)[0]


def test_batches_are_a_function_of_seed_and_epoch():
    lengths = squad_like_lengths(700)
    drawn_once = as_lists(training_batches(lengths, 8, 42, 3))
    np.random.seed(7)  # no other generator has a say
    torch.manual_seed(7)
    assert as_lists(training_batches(lengths, 8, 42, 3)) == drawn_once


@pytest.mark.parametrize("seed, epoch", [(42, 1), (43, 0), (0, 42)])
def test_another_seed_or_epoch_has_other_batches(seed, epoch):
    lengths = squad_like_lengths(700)
    others = {tuple(sorted(batch)) for batch in as_lists(training_batches(lengths, 8, seed, epoch))}
    mine = {tuple(sorted(batch)) for batch in as_lists(training_batches(lengths, 8, 42, 0))}
    assert len(mine & others) < len(mine) / 10


def test_batches_do_not_come_sorted_by_length():
    lengths = squad_like_lengths(4000)
    means = [lengths[batch].mean() for batch in training_batches(lengths, 16, 42, 0)[1:]]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # a batch says nothing about the next


@pytest.mark.parametrize("epoch", [0, 1])
def test_little_of_an_epoch_is_padding(epoch):
    lengths = squad_like_lengths(8000)
    batches = training_batches(lengths, 16, 42, epoch)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert 1 - lengths.sum() / padded <= 0.05


@settings(max_examples=40, deadline=None)
@given(lengths_of_windows, st.integers(1, 9))
def test_prediction_goes_through_all_windows_from_the_longest(lengths, batch_size):
    batches = prediction_batches(lengths, batch_size)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_no_windows_are_no_prediction_batches():
    assert prediction_batches(np.array([], np.int64), 4) == []


@pytest.mark.parametrize("indices", [[0, 9, 3], [12, 1], [5], [10, 11, 13, 14, 2, 8]])
def test_collate_agrees_with_a_plain_loop(windows, indices):
    batch = collate(windows, np.array(indices))
    longest = max(len(windows[i].ids) for i in indices)
    T = min(-(-longest // BLOCK) * BLOCK, windows.lengths.max())
    for row, i in enumerate(indices):
        window, size = windows[i], len(windows[i].ids)
        for column in range(T):
            is_token, is_second = column < size, window.context_start <= column < size
            assert batch["input_ids"][row, column] == (window.ids[column] if is_token else windows.pad_id)
            assert batch["attention_mask"] is None or batch["attention_mask"][row, column] == is_token
            assert batch["token_type_ids"][row, column] == is_second
        assert batch["start_positions"][row] == window.start_position
        assert batch["end_positions"][row] == window.end_position
    assert (batch["attention_mask"] is None) == all(len(windows[i].ids) == T for i in indices)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items() if tensor is not None} == {
        name: ((len(indices), T) if "positions" not in name else (len(indices),), torch.int64)
        for name in ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
        if batch[name] is not None
    }


def test_a_batch_without_padding_has_no_mask(windows):
    longest = int(windows.lengths.argmax())
    assert collate(windows, np.array([longest]))["attention_mask"] is None
    shortest = int(windows.lengths.argmin())
    assert collate(windows, np.array([longest, shortest]))["attention_mask"] is not None


def test_padding_never_changes_logits(windows):
    model = drawn(BertForQuestionAnswering(tiny_config()))
    names = ("input_ids", "attention_mask", "token_type_ids")
    everything = collate(windows, np.arange(len(windows)))
    assert everything["attention_mask"].float().mean() < 0.8  # there is padding to speak of
    with torch.no_grad():
        together = model(**{name: everything[name] for name in names})
        for i, size in enumerate(windows.lengths):
            single = collate(windows, np.array([i]))
            alone = model(**{name: single[name] for name in names})
            for padded, exact in zip(together, alone):
                torch.testing.assert_close(padded[i, :size], exact[0, :size], atol=1e-5, rtol=1e-5)
