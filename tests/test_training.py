"""The loop against an independent one, and each promise that the step makes."""

import json
import math
import os
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import drawn, lone_batch, tiny_config, write_toy_squad

from minibert.batches import collate, training_batches
from minibert.device import Machine
from minibert.errors import Stopped
from minibert.model import BertForQuestionAnswering, span_loss
from minibert.squad import read_squad
from minibert.training import Training, train_step
from minibert.weights import load_model, published_names, save_model
from minibert.windows import make_windows

CPU = Machine(torch.device("cpu"), torch.float32)


def settings(folder: Path, **changes) -> Namespace:
    values = {
        "output_dir": str(folder),
        "batch_size": 4,
        "gradient_accumulation_steps": 1,
        "epochs": 2,
        "max_steps": None,
        "save_steps": None,
        "keep_last": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "warmup_ratio": 0.1,
        "max_grad_norm": 1.0,
        "seed": 5,
        "compile": False,
    }
    return Namespace(**values | changes)


def still_model() -> BertForQuestionAnswering:
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return drawn(BertForQuestionAnswering(config))


def toy_set(tmp_path: Path, tokenizer, questions: int, words: int = 0):
    """Toy examples and their windows."""
    examples = read_squad(write_toy_squad(tmp_path / "toy.json", questions, words=words))
    return examples, make_windows(examples, tokenizer, 64, 16)


@pytest.fixture
def train_set(tmp_path, tokenizer):
    """16 windows of one length: no padding, over which our loss and that of transformers would differ."""
    examples, windows = toy_set(tmp_path, tokenizer, 16, words=20)
    assert len(windows) == 16 and len(set(windows.lengths)) == 1
    return examples, windows


@pytest.fixture
def recorded(monkeypatch) -> list[tuple[float, float]]:
    """(loss, gradient norm) of every step that the loop takes."""
    record = []

    def recording(*arguments):
        loss, norm = train_step(*arguments)
        record.append((float(loss), float(norm)))
        return loss, norm

    monkeypatch.setattr("minibert.training.train_step", recording)
    return record


def plain_transformers_loop(model, windows, run: Namespace, epochs: int) -> list[float]:
    """What the tutorials write: AdamW with two groups, a linear schedule, clipping. Returns the steps' losses."""
    transformers = pytest.importorskip("transformers")
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": run.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=run.learning_rate, eps=1e-8)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 5, 20)
    losses = []
    for epoch in range(epochs):
        batches = training_batches(windows.lengths, run.batch_size, run.seed, epoch)
        for i in range(0, len(batches), 2):
            micro_losses = [model(**collate(windows, indices)).loss / 2 for indices in batches[i : i + 2]]
            sum(micro_losses).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), run.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(sum(micro_losses).detach()))
    return losses


def test_20_steps_equal_a_plain_loop_over_transformers(tmp_path, tokenizer, train_set, recorded):
    transformers = pytest.importorskip("transformers")
    run = settings(
        tmp_path / "run",
        gradient_accumulation_steps=2,
        epochs=10,
        warmup_ratio=0.25,
        max_grad_norm=0.5,
        learning_rate=4e-3,
    )
    ours = still_model()
    save_model(ours, tokenizer, tmp_path / "start")
    theirs = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "start", dtype=torch.float32).train()

    their_losses = plain_transformers_loop(theirs, train_set[1], run, 10)
    Training(ours, tokenizer, train_set, run, CPU).train()
    our_losses, norms = zip(*recorded)

    assert len(our_losses) == 20 and min(norms) > run.max_grad_norm  # clipping is active at every step
    assert their_losses[-1] < their_losses[0] / 2
    assert our_losses == pytest.approx(their_losses, abs=1e-4)
    names, their_state = published_names(ours.config), theirs.state_dict()
    for name, parameter in ours.named_parameters():
        if not has_no_gradient(name):
            assert torch.allclose(parameter, their_state[names[name]], rtol=0, atol=1e-5), name


def has_no_gradient(name: str) -> bool:
    """Whether a parameter adds the same to everything that a softmax then compares.

    Its gradient is 0 but for rounding, which Adam magnifies: a key's bias among the scores of a query, and among
    the logits the head's bias and that of the last LayerNorm.
    """
    return name.endswith(("key.bias", "span_head.bias", "layers.1.feed_forward_norm.bias"))


def test_the_parameters_left_out_of_that_comparison_have_no_gradient(train_set):
    model = still_model()
    batch = collate(train_set[1], torch.arange(5).numpy())
    positions = batch.pop("start_positions"), batch.pop("end_positions")
    span_loss(*model(**batch), *positions).backward()
    sizes = {name: float(parameter.grad.abs().max()) for name, parameter in model.named_parameters()}
    assert all((size < 1e-6) == has_no_gradient(name) for name, size in sizes.items()), sizes


@pytest.mark.parametrize("questions", [16, 18, 21])  # whole steps; a short last batch; a step with one batch too few
def test_2_x_batch_4_equals_1_x_batch_8(tmp_path, tokenizer, recorded, questions):
    train_set = toy_set(tmp_path, tokenizer, questions)  # of different lengths: padding differs
    plans = {}
    for batch_size, accumulation in ((4, 2), (8, 1)):
        run = settings(
            tmp_path / f"run{batch_size}", batch_size=batch_size, gradient_accumulation_steps=accumulation, epochs=1
        )
        training = Training(still_model(), tokenizer, train_set, run, CPU)
        training.model.train()
        # The same windows for both: the pairs of batches of 4 that stand in the one batch of 8.
        order = torch.arange(questions).numpy()
        training.plan.batches = [order[i : i + batch_size] for i in range(0, questions, batch_size)]
        training.plan.epoch = 0
        steps = math.ceil(questions / 8)
        plans[batch_size] = [train_step_of(training, index) for index in range(steps)]
    assert plans[4] == pytest.approx(plans[8], abs=1e-5)


def train_step_of(training: Training, index: int) -> float:
    training.optimizer.param_groups[0]["lr"] = training.optimizer.param_groups[1]["lr"] = 1e-3
    loss, _ = train_step(
        training.replica, *training.plan.share(index), training.optimizer, training.scaler, training.machine, 1.0
    )
    return float(loss)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_trains_as_the_plain_one(tmp_path, tokenizer):
    """Batches of several widths, with padding and without; the checkpoint is that of the plain model."""
    train_set = toy_set(tmp_path, tokenizer, 30)
    losses, names = [], []
    for is_compiled in (False, True):
        run = tmp_path / f"compiled-{is_compiled}"
        training = Training(still_model(), tokenizer, train_set, settings(run, compile=is_compiled, epochs=1), CPU)
        losses.append([train_step_of(training, i) for i in range(training.total_steps)])
        names.append(list(training.model.state_dict()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(set(losses[0])) == len(losses[0]) > 6
    assert names[0] == names[1]


def test_the_steps_loss_is_the_mean_over_its_windows(tmp_path, tokenizer):
    train_set = toy_set(tmp_path, tokenizer, 7)
    model = still_model()
    training = Training(model, tokenizer, train_set, settings(tmp_path / "run", gradient_accumulation_steps=2), CPU)
    training.plan.epoch, training.plan.batches = 0, [torch.arange(7).numpy()[:4], torch.arange(7).numpy()[4:]]
    alone = []
    for i in range(7):
        batch = lone_batch(train_set[1], i)
        start_logits, end_logits = model(batch["input_ids"], None, batch["token_type_ids"])
        alone.append(
            float(span_loss(start_logits, end_logits, batch["start_positions"], batch["end_positions"]).detach())
        )
    assert train_step_of(training, 0) == pytest.approx(sum(alone) / 7, abs=1e-5)


def test_span_loss_does_not_depend_on_padding():
    generator = torch.Generator().manual_seed(1)
    start, end = torch.randn(2, 3, 9, generator=generator)
    positions = torch.tensor([2, 0, 5]), torch.tensor([4, 0, 8])
    mask = torch.ones(3, 9)
    padded = torch.cat([start, torch.full((3, 4), 50.0)], 1), torch.cat([end, torch.full((3, 4), 50.0)], 1)
    loss = span_loss(start, end, *positions)
    assert torch.equal(loss, span_loss(*padded, *positions, torch.cat([mask, torch.zeros(3, 4)], 1)))
    by_hand = -(start.log_softmax(-1)[range(3), positions[0]] + end.log_softmax(-1)[range(3), positions[1]]).mean() / 2
    assert float(loss) == pytest.approx(float(by_hand), abs=1e-6)


def test_steps_per_epoch_and_max_steps(tmp_path, tokenizer, train_set):
    run = settings(tmp_path, batch_size=3, gradient_accumulation_steps=4, epochs=3)
    assert Training(still_model(), tokenizer, train_set, run, CPU).total_steps == 3 * 2  # ceil(ceil(16 / 3) / 4)
    run.max_steps = 5
    training = Training(still_model(), tokenizer, train_set, run, CPU)
    training.train()
    assert training.at.step == 5 and training.epoch == 2.5


def test_a_divergence_stops_the_run_and_is_never_saved(tmp_path, tokenizer, train_set):
    run = settings(tmp_path / "run", epochs=3, save_steps=1)
    Path(run.output_dir).mkdir()
    training = Training(still_model(), tokenizer, train_set, run, CPU)
    take_step = training.step

    def poisoned(micro_batches, windows_in_step):
        if training.at.step == 2:
            with torch.no_grad():
                training.model.span_head.weight[0, 0] = math.nan
        take_step(micro_batches, windows_in_step)

    training.step = poisoned
    with pytest.raises(FloatingPointError) as caught:
        training.train()
    ids = [train_set[0][i].id for i in np.unique(train_set[1].example[training.plan.step(2)[0]])]
    assert f"step 3: loss or gradient are not finite; its questions are {', '.join(ids)};" in str(caught.value)
    assert "the last good checkpoint is checkpoint-2" in str(caught.value)
    assert sorted(path.name for path in Path(run.output_dir).glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_a_gradient_that_is_not_finite_is_never_saved(tmp_path, tokenizer, train_set):
    training = Training(still_model(), tokenizer, train_set, settings(tmp_path / "run", save_steps=1), CPU)
    training.model.span_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError):
        training.train()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_an_overflow_of_float16_skips_the_update_and_the_schedule_but_not_the_data(tmp_path, tokenizer, train_set):
    """On the CPU, where float16 is slow but scaled in the same way."""
    run = settings(tmp_path / "run", epochs=20)
    training = Training(still_model(), tokenizer, train_set, run, Machine(torch.device("cpu"), torch.float16))
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.log_losses = lambda rate: None
    training.loop_begin = (0.0, 0, 0)
    training.step(*training.plan.share(0))
    assert (training.at.step, training.at.update, training.at.windows) == (1, 0, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())
    while training.at.update == 0:
        training.step(*training.plan.share(training.at.step))
    rate = training.optimizer.param_groups[0]["lr"]
    assert rate == 0.0  # the first update that counts has the schedule's first rate, however late it comes


def test_float16_learns_with_a_scaled_loss(tmp_path, tokenizer, train_set, recorded):
    run = settings(tmp_path / "run", epochs=10, learning_rate=4e-3)
    Training(still_model(), tokenizer, train_set, run, Machine(torch.device("cpu"), torch.float16)).train()
    assert recorded[-1][0] < recorded[0][0] / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [1, 3, 4, 7])  # the first, mid-epoch, an epoch's end, the last but one
def test_a_resumed_run_is_bit_identical(tmp_path, tokenizer, dtype, stop):
    """With dropout and accumulation; the runs differ in nothing but an interruption."""
    train_set = toy_set(tmp_path, tokenizer, 30)
    machine = Machine(torch.device("cpu"), dtype)
    changes = {"gradient_accumulation_steps": 2, "save_steps": 1, "keep_last": 9}

    def fresh(folder: str) -> Training:
        model = drawn(BertForQuestionAnswering(tiny_config()))
        return Training(model, tokenizer, train_set, settings(tmp_path / folder, **changes), machine)

    whole = fresh("whole")
    assert (whole.plan.steps_per_epoch, whole.total_steps) == (4, 8)
    whole.train()

    stopped = fresh("stopped")
    take_step = stopped.step

    def until_stop(*arguments):
        take_step(*arguments)
        if stopped.at.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped.step = until_stop
    with pytest.raises(Stopped):
        stopped.train()
    checkpoint = tmp_path / "stopped" / f"checkpoint-{stop}"

    resumed = Training(load_model(checkpoint), tokenizer, train_set, settings(tmp_path / "stopped", **changes), machine)
    resumed.resume(checkpoint)
    resumed.train()
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "stopped/checkpoint-8" / file).read_bytes() == (
            tmp_path / "whole/checkpoint-8" / file
        ).read_bytes()
    logs = [(tmp_path / folder / "metrics.jsonl").read_text().splitlines() for folder in ("whole", "stopped")]
    assert [without_speed(line) for line in logs[0]] == [without_speed(line) for line in logs[1]]


def without_speed(line: str) -> dict:
    return {key: value for key, value in json.loads(line).items() if key != "windows_per_second"}
