"""The loop against an independent one, and what it promises about resuming, divergence and float16."""

import contextlib
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from minibert.model.bert import BertForQuestionAnswering, span_loss
from minibert.model.weights import file_name, load_model, published_names, save_model
from minibert.support import machine
from minibert.support.machine import Machine
from minibert.support.signals import Stopped
from minibert.text.batches import collate, padded_width, training_batches
from minibert.text.squad import read_squad
from minibert.text.windows import make_windows
from minibert.training import loop
from minibert.training.loop import Training
from minibert.training.settings import Settings
from tests.builders import draw_weights, tiny_config, write_toy_squad


def make_settings(folder: Path, **changes) -> Settings:
    folder.mkdir(exist_ok=True)
    return Settings(**{"output_dir": folder, "batch_size": 4, "learning_rate": 1e-3, "seed": 5} | changes)


def still_model() -> BertForQuestionAnswering:
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return draw_weights(BertForQuestionAnswering(config))


def toy_set(tmp_path: Path, tokenizer, questions: int, words: int = 0):
    examples = read_squad(write_toy_squad(tmp_path / "toy.json", questions, words=words))
    return examples, make_windows(examples, tokenizer, 64, 16)


@pytest.fixture
def train_set(tmp_path, tokenizer):
    """16 windows of one length: no padding, over which our loss and that of transformers would differ."""
    examples, windows = toy_set(tmp_path, tokenizer, 16, words=20)
    assert len(windows) == 16 and len(set(windows.lengths)) == 1
    return examples, windows


@pytest.fixture
def make(tmp_path, tokenizer, train_set):
    """make(**settings) -> a Training of a model without dropout, in the folder `run`."""

    def call(folder: str = "run", dtype: torch.dtype = torch.float32, **changes) -> Training:
        settings = make_settings(tmp_path / folder, **changes)
        return Training(still_model(), tokenizer, train_set, settings, Machine(torch.device("cpu"), dtype))

    return call


def log_of(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, without the speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert all(line.pop("windows_per_second", 1) > 0 for line in lines)
    return lines


@pytest.fixture
def recorded(monkeypatch) -> list[tuple[float, float]]:
    """(loss, gradient norm) of every step that the loop takes."""
    record, update = [], loop.update

    def recording(*arguments):
        loss, norm = update(*arguments)
        record.append((float(loss), float(norm)))
        return loss, norm

    monkeypatch.setattr(loop, "update", recording)
    return record


def plain_transformers_loop(model, windows, run: Settings, epochs: int) -> list[float]:
    """What the tutorials write: AdamW with two groups, a linear schedule, clipping. Returns the steps' losses."""
    transformers = pytest.importorskip("transformers")
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": run.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=run.learning_rate, eps=1e-8)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 5, 20)
    losses, count = [], run.gradient_accumulation_steps
    for epoch in range(epochs):
        batches = training_batches(windows.lengths, run.batch_size, run.seed, epoch)
        for i in range(0, len(batches), count):
            micro_losses = [model(**collate(windows, indices)).loss / count for indices in batches[i : i + count]]
            sum(micro_losses).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), run.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(sum(micro_losses).detach()))
    return losses


@pytest.mark.parametrize(("batch_size", "accumulated", "most"), [(4, 2, 4), (8, 1, 3)])
def test_20_steps_equal_a_plain_loop_over_transformers(
    tmp_path, tokenizer, train_set, make, recorded, monkeypatch, batch_size, accumulated, most
):
    """Also where a processor takes each batch of 8 windows in parts of 3, 3 and 2."""
    monkeypatch.setattr(machine, "MOST_POSITIONS", most * padded_width(train_set[1].lengths))
    transformers = pytest.importorskip("transformers")
    changes = {"epochs": 10, "warmup_ratio": 0.25, "max_grad_norm": 0.5}
    changes |= {"batch_size": batch_size, "gradient_accumulation_steps": accumulated}
    training = make(learning_rate=4e-3, **changes)
    ours, run = training.model, training.settings
    save_model(ours, tokenizer, tmp_path / "start")
    theirs = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "start", dtype=torch.float32).train()

    their_losses = plain_transformers_loop(theirs, train_set[1], run, 10)
    training.train()
    our_losses, norms = zip(*recorded)

    assert len(our_losses) == 20 and min(norms) > run.max_grad_norm  # clipping is active at every step
    assert their_losses[-1] < their_losses[0] / 2
    assert our_losses == pytest.approx(their_losses, abs=1e-4)
    names, their_state = published_names(ours.config), theirs.state_dict()
    for name, parameter in ours.named_parameters():
        if not has_no_gradient(name):
            assert torch.allclose(parameter, their_state[file_name(names[name], ours.config)], rtol=0, atol=2e-5), name


def has_no_gradient(name: str) -> bool:
    """Whether a parameter adds the same to everything that a softmax then compares.

    Its gradient is 0 but for rounding, which Adam magnifies: a key's bias among the scores of a query, and among
    the logits the head's bias and that of the last LayerNorm.
    """
    return name.endswith(("key.bias", "span_head.bias", "layers.1.feed_forward_norm.bias"))


def test_the_parameters_left_out_of_that_comparison_have_no_gradient(train_set):
    model, batch = still_model(), collate(train_set[1], np.arange(5))
    logits = model(batch["input_ids"], None, batch["token_type_ids"])
    span_loss(*logits, batch["start_positions"], batch["end_positions"]).backward()
    sizes = {name: float(parameter.grad.abs().max()) for name, parameter in model.named_parameters()}
    assert all((size < 1e-6) == has_no_gradient(name) for name, size in sizes.items()), sizes


def test_the_log_and_the_progress_show_the_mean_loss_of_the_steps_since_the_last_line(tmp_path, make, recorded):
    training = make(epochs=4)
    summary = training.train()
    losses = [loss for loss, _ in recorded]
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [10, 16]
    assert [line["loss"] for line in lines] == pytest.approx([np.mean(losses[:10]), np.mean(losses[10:])], rel=1e-5)
    assert lines[1]["grad_norm"] == pytest.approx(recorded[-1][1])
    assert summary["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert training.figures().startswith(f"loss {lines[1]['loss']:.3f}, lr ")


def test_a_step_that_diverges_ends_the_run_and_names_its_questions(train_set, make):
    training = make(save_steps=1)
    take_step = training.step

    def poisoned():
        if training.position.step == 2:
            with torch.no_grad():
                training.model.span_head.weight[0, 0] = math.nan
        take_step()

    training.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError) as caught:
        training.train()
    ids = [train_set[0][i].id for i in np.unique(train_set[1].example[training.plan.micro_batches(2)[0]])]
    assert f"step 3: loss or gradient are not finite; its questions are {', '.join(ids)};" in str(caught.value)
    assert "the last good checkpoint is checkpoint-2" in str(caught.value)
    assert sorted(path.name for path in training.run.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_a_gradient_that_is_not_finite_is_never_saved(make):
    training = make(save_steps=1)
    training.model.span_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError):
        training.train()
    assert not list(training.run.glob("checkpoint-*"))


def test_weights_that_are_not_finite_are_never_saved(make, monkeypatch):
    """The loss is computed before the update: that of the last step is finite whatever the update does."""
    update = loop.update

    def overflowing(model, *arguments):
        result = update(model, *arguments)
        with torch.no_grad():
            next(model.parameters()).fill_(math.inf)
        return result

    training = make(max_steps=1)
    monkeypatch.setattr(loop, "update", overflowing)
    with pytest.raises(FloatingPointError, match="step 1: weights are not finite"):
        training.train()
    assert not list(training.run.glob("checkpoint-*"))


def test_an_overflow_of_float16_skips_the_update_and_the_schedule_but_not_the_data(make, monkeypatch):
    """On the CPU, where float16 is slow but scaled in the same way."""
    training = make(dtype=torch.float16, epochs=20)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    monkeypatch.setattr(training, "log_losses", lambda: None)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.step()
    assert (training.position.step, training.position.update, training.position.windows) == (1, 0, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())
    while training.position.update == 0:
        training.step()
    rate = training.optimizer.param_groups[0]["lr"]
    assert rate == 0.0  # the first update that counts has the schedule's first rate, however late it comes


def test_float16_learns_with_a_scaled_loss(make, recorded):
    make(dtype=torch.float16, epochs=10, learning_rate=4e-3).train()
    assert recorded[-1][0] < recorded[0][0] / 2


@pytest.mark.parametrize(("dtype", "stop"), [(torch.float32, 4), (torch.bfloat16, 3)])
def test_a_resumed_run_is_bit_identical(tmp_path, tokenizer, dtype, stop):
    """With dropout and accumulation; the runs differ in nothing but an interruption (at an epoch's end or within)."""
    train_set, machine = toy_set(tmp_path, tokenizer, 30), Machine(torch.device("cpu"), dtype)

    def make(folder: str, model: BertForQuestionAnswering) -> Training:
        changes = {"gradient_accumulation_steps": 2, "save_steps": 1, "keep_last": 9}
        return Training(model, tokenizer, train_set, make_settings(tmp_path / folder, **changes), machine)

    whole, stopped = (make(name, draw_weights(BertForQuestionAnswering(tiny_config()))) for name in ("whole", "half"))
    assert (whole.plan.steps_per_epoch, whole.total_steps) == (4, 8)
    whole.train()
    take_step = stopped.step

    def until_stop():
        take_step()
        if stopped.position.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped.step = until_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        stopped.train()
    checkpoint = stopped.run / f"checkpoint-{stop}"
    resumed = make("half", load_model(checkpoint))
    resumed.resume(checkpoint)
    resumed.train()
    for file in ("checkpoint-8/model.safetensors", "checkpoint-8/optimizer.safetensors"):
        assert (resumed.run / file).read_bytes() == (whole.run / file).read_bytes()
    assert log_of(resumed.run) == log_of(whole.run)


def test_scores_that_another_rank_lacks_are_computed_anew_by_all(make, monkeypatch):
    """Each rank may read a copy of its own."""
    training = make(max_steps=1)
    training.train()
    checkpoint = training.run / "checkpoint-1"
    (checkpoint / "eval_results.json").write_text('{"f1": 9.0}', "utf-8")
    for is_missing in (False, True):
        resumed = make(max_steps=1)
        monkeypatch.setattr(loop.ranks, "any_rank", lambda here: here or is_missing)  # noqa: B023
        resumed.resume(checkpoint)
        assert resumed.scores == ({} if is_missing else {"f1": 9.0})


class Board(contextlib.AbstractContextManager):
    """TensorBoard's writer, as far as the loop uses it; the package need not be there."""

    def __init__(self):
        self.values, self.is_closed = [], False

    def add_scalar(self, name, value, step):
        assert not self.is_closed
        self.values.append((name, step))

    def __exit__(self, *error):
        self.is_closed = True


@pytest.mark.parametrize("end", [None, Stopped(signal.SIGTERM), FloatingPointError("step 2: diverged")], ids=repr)
def test_the_board_is_closed_however_the_run_ends(make, monkeypatch, end):
    monkeypatch.setattr(loop, "open_board", lambda run, step: board)
    board, training = Board(), make(max_steps=2, tensorboard=True)
    take_step = training.step

    def ending():
        take_step()
        if end:
            raise end

    training.step = ending  # type: ignore[method-assign]
    with pytest.raises(type(end)) if end else contextlib.nullcontext():
        training.train()
    assert board.is_closed and (end or ("loss", 2) in board.values)


def test_a_largest_gradient_norm_of_0_clips_nothing(make):
    trainings = [make(name, max_steps=4, max_grad_norm=norm) for name, norm in (("none", 0.0), ("huge", 1e9))]
    for training in trainings:
        training.train()
    assert all(torch.equal(*pair) for pair in zip(*(training.model.parameters() for training in trainings)))
