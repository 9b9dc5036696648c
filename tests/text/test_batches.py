"""batches.py: every window once, a pure function of (seed, epoch), little padding without effect, steps over ranks."""

import shutil
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.support import ranks
from minibert.text.batches import BLOCK, Plan, collate, prediction_batches, split, training_batches
from minibert.text.records import Example, Gold
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows
from tests.builders import WORDS

LENGTHS = st.lists(st.integers(5, 70), min_size=1, max_size=300).map(np.array)
some_lengths = settings(max_examples=40, deadline=None, derandomize=True)


def squad_like_lengths(count: int) -> np.ndarray:
    """Window lengths as SQuAD has them: about 165 tokens, skewed to the right, at most 384."""
    return np.clip(np.random.default_rng(1).lognormal(5.03, 0.36, count), 30, 384).astype(np.int64)


def padding(lengths: np.ndarray, batches) -> float:
    """The share of padding among all positions."""
    return 1 - lengths.sum() / sum(lengths[batch].max() * len(batch) for batch in batches)


@pytest.fixture(scope="module")
def windows(tokenizer):
    """Windows of 13 questions about contexts of very different lengths; some of the contexts need several."""
    generator = np.random.default_rng(5)
    examples = []
    for i, size in enumerate((0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 80, 4, 90)):
        words = generator.choice([word for word in WORDS if word.isalpha()], size)
        question = " ".join(generator.choice(["who", "made", "the", "clock", "tower"], 1 + i % 4))
        golds = (Gold(str(words[size // 2]), len(" ".join([*words[: size // 2], ""]))),) if size else ()
        golds += tuple(Gold(str(word), 0) for word in words[: size % 2])  # half of the questions have a second answer
        examples.append(Example(f"q{i}", "", question, " ".join(words), golds))
    return make_windows(examples, tokenizer, max_seq_length=40, doc_stride=8)


# ---- the batches of an epoch


@some_lengths
@given(LENGTHS, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_every_window_once_in_full_batches_but_one_and_the_largest_comes_first(
    lengths, batch_size, seed, epoch
):
    batches = training_batches(lengths, batch_size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    sizes = sorted(len(batch) for batch in batches)
    assert sizes == [len(lengths) % batch_size or batch_size] + [batch_size] * (len(sizes) - 1)
    positions = [lengths[batch].max() * len(batch) for batch in batches]
    assert positions[0] == max(positions)


def test_batches_are_a_function_of_seed_and_epoch_alone():
    lengths = squad_like_lengths(700)
    drawn = [set(map(tuple, training_batches(lengths, 8, *at))) for at in ((42, 0), (42, 1), (43, 0))]
    np.random.seed(7)  # other generators have no influence
    torch.manual_seed(7)
    assert set(map(tuple, training_batches(lengths, 8, 42, 0))) == drawn[0]
    assert all(len(one & other) < len(one) / 10 for one, other in combinations(drawn, 2))


def test_batches_do_not_come_sorted_by_length():
    lengths = squad_like_lengths(4000)
    means = [lengths[batch].mean() for batch in training_batches(lengths, 16, 42, 0)[1:]]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # a batch says nothing about the next


def test_little_of_an_epoch_is_padding():
    lengths = squad_like_lengths(8000)
    assert all(padding(lengths, training_batches(lengths, 16, 42, epoch)) <= 0.05 for epoch in (0, 1))


def test_padding_of_the_dev_set_is_what_the_docstring_says(squad_dir, tmp_path):
    shutil.copy(squad_dir / "bert-base-cased-vocab.txt", tmp_path / "vocab.txt")
    lengths = make_windows(read_squad(squad_dir / "dev-v1.1.json"), load_tokenizer(tmp_path)).lengths
    order = np.random.default_rng(1).permutation(len(lengths))
    shuffled = [order[i : i + 16] for i in range(0, len(order), 16)]
    assert padding(lengths, training_batches(lengths, 16, 42, 0)) == pytest.approx(0.02, abs=0.005)
    assert padding(lengths, shuffled) == pytest.approx(0.45, abs=0.01)


@some_lengths
@given(LENGTHS, st.integers(1, 9))
def test_prediction_goes_through_all_windows_from_the_longest(lengths, batch_size):
    batches = prediction_batches(lengths, batch_size)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert prediction_batches(lengths[:0], batch_size) == []


# ---- the tensors of a batch


@pytest.mark.parametrize("indices", [[0, 9, 3], [12, 1], [5], [11, 16], [10, 11, 13, 14, 2, 8]])
def test_collate_agrees_with_a_plain_loop(windows, indices):
    batch = collate(windows, np.array(indices))
    longest = max(len(windows[i].ids) for i in indices)
    T = min(-(-longest // BLOCK) * BLOCK, windows.lengths.max())
    for row, i in enumerate(indices):
        window, size = windows[i], len(windows[i].ids)
        for column in range(T):
            is_token, is_context = column < size, window.context_start <= column < size
            assert batch["input_ids"][row, column] == (window.ids[column] if is_token else windows.pad_id)
            assert batch["attention_mask"] is None or batch["attention_mask"][row, column] == is_token
            assert batch["token_type_ids"][row, column] == is_context
        assert batch["start_positions"][row].tolist() == windows.start_positions[i].tolist()
        assert batch["end_positions"][row].tolist() == windows.end_positions[i].tolist()
        assert batch["start_positions"][row, 0] == window.start_position
        assert batch["end_positions"][row, 0] == window.end_position
    assert (batch["attention_mask"] is None) == all(len(windows[i].ids) == T for i in indices) == (indices == [11, 16])
    for name, tensor in batch.items():
        shape = (len(indices), 2) if "positions" in name else (len(indices), T)
        assert tensor is None or (tensor.shape, tensor.dtype) == (shape, torch.int64)


# ---- the steps of a run


def as_lists(micro_batches) -> list[list[int]]:
    return [indices.tolist() for indices in micro_batches]


def test_the_steps_of_an_epoch_take_its_batches_in_order(windows):
    plan = Plan(windows, batch_size=4, gradient_accumulation_steps=3, seed=7)
    assert (len(windows), plan.steps_per_epoch) == (18, 2)  # 5 batches of at most 4 windows, 3 batches a step
    for epoch in (1, 0):  # any step at any time: a resumed run begins in the middle
        steps = [plan.micro_batches(epoch * plan.steps_per_epoch + i) for i in range(plan.steps_per_epoch)]
        assert all(len(step) == 3 for step in steps[:-1]) and 0 < len(steps[-1]) <= 3
        expected = training_batches(windows.lengths, 4, 7, epoch)
        assert as_lists(indices for step in steps for indices in step) == as_lists(expected)


@pytest.mark.parametrize(("world_size", "is_a_rank_left_out"), [(2, True), (3, False), (7, True)])
def test_ranks_take_in_a_step_what_one_process_takes_with_more_accumulation(
    windows, monkeypatch, world_size, is_a_rank_left_out
):
    one = Plan(windows, batch_size=4, gradient_accumulation_steps=2 * world_size, seed=7)
    monkeypatch.setattr(ranks, "world_size", lambda: world_size)
    is_missing = False
    for step in range(2 * one.steps_per_epoch):
        counted = []
        for rank in range(world_size):
            monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
            share, windows_in_step = Plan(windows, 4, 2, 7).own_parts(step)
            assert len(share) in (1, 2) and windows_in_step == sum(map(len, one.micro_batches(step)))
            counted += [batch["input_ids"].sum() for batch, counts in share if counts]
            assert all(counts for _, counts in share) or len(share) == 1  # only a rank without any takes one for 0
            is_missing |= not all(counts for _, counts in share)
        expected = [collate(windows, indices)["input_ids"].sum() for indices in one.micro_batches(step)]
        assert sorted(counted) == sorted(expected)
    assert is_missing == is_a_rank_left_out


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_epoch_takes_all_windows_with_an_answer_and_a_share_of_the_others(windows, share):
    is_empty = (windows.start_positions == 0).all(1)
    assert is_empty.sum() > 3
    plan = Plan(windows, batch_size=4, gradient_accumulation_steps=1, seed=7, empty_windows=share)
    taken = [
        np.concatenate([plan.micro_batches(epoch * plan.steps_per_epoch + i)[0] for i in range(plan.steps_per_epoch)])
        for epoch in range(40)
    ]
    for one in taken:
        assert len(one) == len(set(one.tolist())) and set(np.flatnonzero(~is_empty)) <= set(one.tolist())
        assert is_empty[one].sum() == round(share * is_empty.sum())
    drawn = {tuple(sorted(one[is_empty[one]].tolist())) for one in taken}
    assert (len(drawn) > 1) == (share == 0.3)  # other ones every time
    assert set().union(*drawn) == set(np.flatnonzero(is_empty) if share else [])  # and all of them in time


@pytest.mark.parametrize("most_positions", [1, 40, 75, 10_000])
def test_a_micro_batch_of_many_positions_is_taken_in_parts(windows, most_positions):
    whole, plan = Plan(windows, 4, 3, seed=7), Plan(windows, 4, 3, seed=7, most_positions=most_positions)
    for step in range(plan.steps_per_epoch):
        parts = [
            part for indices in plan.micro_batches(step) for part in split(indices, windows.lengths, most_positions)
        ]
        assert np.concatenate(parts).tolist() == np.concatenate(whole.micro_batches(step)).tolist()  # once, in order
        widths = [-(-windows.lengths[part].max() // BLOCK) * BLOCK for part in parts]  # padding included
        assert all(len(part) * width <= most_positions or len(part) == 1 for part, width in zip(parts, widths))
        (share, windows_in_step), (whole_share, expected) = plan.own_parts(step), whole.own_parts(step)
        assert windows_in_step == expected and all(counts for _, counts in share)
        assert [len(batch["input_ids"]) for batch, _ in share] == [len(part) for part in parts]
        assert len(whole_share) == len(whole.micro_batches(step))
