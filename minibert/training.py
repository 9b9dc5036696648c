"""The training loop: `train_step` is one update of the weights, `Training` repeats it, watches and saves.

In: a model, its tokenizer, windows and the settings of `train.py`. Out: checkpoints, metrics.jsonl and a summary. The
last file of the package; next are `train.py`, `evaluate.py` and `ask.py`.
"""

import dataclasses
import math
import signal
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minibert import distributed
from minibert.answering import evaluate
from minibert.batches import Plan
from minibert.checkpoint import load_optimizer, load_state, read_line, read_scores, record_scores, save_checkpoint
from minibert.device import Machine, prepare, prepare_to_answer
from minibert.errors import BadInput, Stopped, StopSignals
from minibert.journal import log, progress_bar, say, truncate_log
from minibert.model import BertForQuestionAnswering, span_loss
from minibert.optim import learning_rate_at, make_optimizer
from minibert.squad import Example
from minibert.tokenizer import Tokenizer
from minibert.weights import copy_model
from minibert.windows import Windows

LOG_STEPS = 10
MOST_SKIPS = 25  # in a row: a loss that float16 cannot hold at any scale has diverged
ESTIMATE_STEPS = 20


def train_step(
    replica: nn.Module,
    micro_batches: list[tuple[dict[str, Tensor], int]],
    windows_in_step: int,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    machine: Machine,
    max_grad_norm: float,
) -> tuple[Tensor, Tensor]:
    """One optimizer update. Returns this rank's share of the step's loss, and the norm of the whole gradient.

    micro_batches: pairs of a batch and its weight, 1, or 0 for one that only keeps a rank in step with the others.
    windows_in_step: how many windows the step has on all ranks; each of them counts alike.
    """
    step_loss = torch.zeros((), device=machine.device)
    for i, (batch, weight) in enumerate(micro_batches):
        batch = machine.load(batch)
        positions = batch.pop("start_positions"), batch.pop("end_positions")
        with distributed.averaging(replica, is_last=i == len(micro_batches) - 1):
            with machine.autocast(replica):
                start_logits, end_logits = replica(**batch)
            loss = span_loss(start_logits, end_logits, *positions, batch["attention_mask"])
            loss = loss * (weight * len(positions[0]) / windows_in_step)
            # Ranks average their gradients, but the step's loss is a sum over ranks.
            scaler.scale(loss * distributed.world_size()).backward()
        step_loss += loss.detach()
    scaler.unscale_(optimizer)  # clip the true gradient, not the scaled one
    norm = torch.nn.utils.clip_grad_norm_(replica.parameters(), max_grad_norm)
    scaler.step(optimizer)  # leaves the update out if float16 overflowed
    scaler.update()  # and then lowers the scale
    optimizer.zero_grad(set_to_none=True)
    return step_loss, norm


@dataclass
class Position:
    """Where a run stands: with the tensors and the settings, all that a checkpoint has to know."""

    step: int = 0  # steps taken: decides the data and the dropout
    update: int = 0  # those among them that changed the weights: decides the learning rate
    windows: int = 0  # windows seen
    loss_sum: float = 0.0  # over the steps up to the last line of metrics.jsonl
    recent_loss: float = 0.0  # over the steps since
    seconds: float = 0.0  # spent, evaluations and saves included

    @classmethod
    def read(cls, values, checkpoint: Path) -> "Position":
        """The position that a checkpoint states; BadInput unless it is whole: nothing is filled in by a default."""
        for field in dataclasses.fields(cls):
            value = values.get(field.name) if isinstance(values, dict) else None
            if type(value) not in (field.type, int) or not 0 <= value < 2**63:
                what = f"must be a number of at least 0, not {value!r}"
                raise BadInput(checkpoint / "trainer_state.json", f"position.{field.name}", what)
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


class Training:
    """A run: the model with its optimizer, its data, its folder, and where it stands.

    `settings` has the flags of `train.py`; `eval_set` is what to score after each epoch, if anything.
    """

    def __init__(
        self,
        model: BertForQuestionAnswering,
        tokenizer: Tokenizer,
        train_set: tuple[list[Example], Windows],
        settings: Namespace,
        machine: Machine,
        eval_set: tuple[list[Example], Windows] | None = None,
    ):
        self.model, self.tokenizer, self.machine = prepare(model, machine), tokenizer, machine
        (self.examples, windows), self.eval_set = train_set, eval_set
        self.settings, self.run = settings, Path(settings.output_dir)
        # Compiled once for all widths. The model itself stays as it is, to evaluate and to save.
        self.replica = distributed.replicate(torch.compile(model, dynamic=True) if settings.compile else model)
        self.optimizer = make_optimizer(self.model, settings.learning_rate, settings.weight_decay)
        # Only float16 needs its loss scaled: many gradients are smaller than its smallest number.
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype is torch.float16)
        self.at = Position()
        # Kept on the device, so that no step has to wait for them.
        self.recent_loss = torch.zeros((), device=machine.device)
        self.recent_norm = torch.zeros((), device=machine.device)
        self.diverged_at = torch.zeros((), device=machine.device, dtype=torch.int64)  # the first such step, or 0
        self.skips = 0  # updates that float16 left out since the last one it took
        self.scores: dict[str, float] = {}

        self.plan = Plan(windows, settings.batch_size, settings.gradient_accumulation_steps, settings.seed)
        self.total_steps = settings.max_steps or settings.epochs * self.plan.steps_per_epoch

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint as if the run had never stopped."""
        state = load_state(checkpoint, ("position", "scaler"))
        self.at = Position.read(state["position"], checkpoint)
        self.load_scaler(state["scaler"], checkpoint)
        load_optimizer(checkpoint, self.model, self.optimizer)
        self.recent_loss += self.at.recent_loss if distributed.is_main() else 0.0
        self.scores = read_scores(checkpoint)
        truncate_log(self.run, self.at.step, is_evaluated=bool(self.scores))

    def load_scaler(self, saved, checkpoint: Path) -> None:
        """Take over float16's loss scale; BadInput unless it is as a run of this dtype would save it."""
        kinds = {name: type(value) for name, value in self.scaler.state_dict().items()}
        found = {name: type(value) for name, value in saved.items()} if isinstance(saved, dict) else None
        if found != kinds or any(value <= 0 for name, value in saved.items() if name != "_growth_tracker"):
            raise BadInput(checkpoint / "trainer_state.json", "scaler", f"cannot be used: {saved!r}")
        if saved:  # empty where nothing is scaled
            self.scaler.load_state_dict(saved)

    def train(self) -> dict[str, float]:
        """Train to the end, with a checkpoint and an evaluation after each epoch; return the summary.

        Raises FloatingPointError when loss or gradient are no longer finite, and Stopped after a signal.
        """
        self.begin = time.perf_counter() - self.at.seconds
        with StopSignals() as signals, progress_bar(self.at.step, self.total_steps) as bar:
            if self.ends_epoch and not self.scores:
                self.evaluate(signals)
            self.model.train()
            self.loop_begin = self.last_log = time.perf_counter(), self.at.step, self.at.windows
            while self.at.step < self.total_steps:
                self.step(*self.plan.share(self.at.step))
                bar.update()
                is_stopping = distributed.agree(signals.received > 0)
                if self.ends_epoch or is_stopping or self.at.step % (self.settings.save_steps or math.inf) == 0:
                    self.save()
                if is_stopping:
                    raise Stopped(signals.received or signal.SIGTERM)
                self.model.new_parameters = []
                if self.ends_epoch:  # after the save: an evaluation may take minutes, and can be done again
                    self.evaluate(signals)
        return self.summary() | self.scores

    @property
    def ends_epoch(self) -> bool:
        """Whether the run stands before its first step, after an epoch's last step, or after its own last step."""
        return self.at.step % self.plan.steps_per_epoch == 0 or self.at.step == self.total_steps

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.at.step / self.plan.steps_per_epoch

    def step(self, micro_batches: list[tuple[dict, int]], windows_in_step: int) -> None:
        """Take one step, and note what it gave."""
        settings = self.settings
        # Dropout is a function of (seed, step, rank): a resumed run needs no replay.
        torch.manual_seed((settings.seed * 1_000_003 + self.at.step) * 1_009 + distributed.rank())
        rate = learning_rate_at(self.at.update, self.total_steps, settings.warmup_ratio, settings.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scale = self.scaler.get_scale()  # 1 without float16; with it, reading it waits for the device
        arguments = self.optimizer, self.scaler, self.machine, settings.max_grad_norm
        loss, norm = train_step(self.replica, micro_batches, windows_in_step, *arguments)
        is_update = self.scaler.get_scale() >= scale  # a lower scale is the scaler's word that it left one out
        self.skips = 0 if is_update else self.skips + 1
        self.scores = {}
        self.at.step += 1
        self.at.update += is_update
        self.at.windows += windows_in_step
        self.recent_loss += loss
        if is_update:
            self.recent_norm = norm
        is_sound = torch.isfinite(loss) & torch.isfinite(self.recent_norm) & (self.skips <= MOST_SKIPS)
        is_first = ~is_sound & (self.diverged_at == 0)
        self.diverged_at = torch.where(is_first, self.at.step, self.diverged_at)
        if self.at.step % LOG_STEPS == 0 or self.at.step == self.total_steps:
            self.log_losses(rate)
        seconds, steps, _ = np.subtract((time.perf_counter(), self.at.step, 0), self.loop_begin)
        left = self.total_steps - self.at.step
        if steps == ESTIMATE_STEPS and left:
            say(f"about {left * seconds / steps / 60:.1f} minutes for the other {left} steps, evaluations aside")

    def log_losses(self, rate: float) -> None:
        """Add the mean over the steps since the last line to metrics.jsonl: the only place that waits for losses."""
        loss = self.read_losses()
        self.at.loss_sum += loss
        self.recent_loss.zero_()
        now = time.perf_counter(), self.at.step, self.at.windows
        seconds, _, windows = np.subtract(now, self.last_log)
        self.last_log = now
        mean = loss / ((self.at.step - 1) % LOG_STEPS + 1)
        speed = round(windows / seconds, 3)
        norm = float(self.recent_norm)
        of_steps = {"loss": mean, "learning_rate": rate, "grad_norm": norm, "windows_per_second": speed}
        log(self.run, self.at.step, self.epoch, **of_steps)

    def read_losses(self) -> float:
        """The sum of the losses since the last line, over all ranks.

        Raises FloatingPointError, naming the step and its questions, if any loss or gradient was not finite.
        """
        loss, step = float(distributed.total(self.recent_loss.clone())), int(self.diverged_at)
        if distributed.agree(step > 0):
            of_step = np.concatenate(self.plan.step((step or self.at.step) - 1))
            ids = [self.examples[i].id for i in np.unique(self.plan.windows.example[of_step])]
            raise FloatingPointError(
                f"step {step}: loss or gradient are not finite; its questions are {', '.join(ids)}; the last good "
                f"checkpoint is {read_line(self.run / 'latest') or 'none'} in {self.run}; start anew with a lower "
                f"--learning_rate, or with --dtype float32"
            )
        return loss

    def evaluate(self, signals: StopSignals) -> None:
        """Loss and scores on the evaluation set, if there is one: printed, logged and noted in the checkpoint."""
        if not self.eval_set:
            return
        with signals.raising():
            model = prepare_to_answer(copy_model(self.model), self.machine)  # as `evaluate.py` has it, for equal scores
            self.scores, _ = evaluate(model, *self.eval_set, self.machine, self.settings)
        start = "untrained head" if self.model.new_parameters else "before training"
        label = f"epoch {self.epoch:g}" if self.at.step else start
        say(f"{label}: " + ", ".join(f"{key} {value:.2f}" for key, value in self.scores.items() if "total" not in key))
        log(self.run, self.at.step, self.epoch, **self.scores)
        if self.at.step and distributed.is_main():
            record_scores(self.run, self.at.step, self.scores, self.settings.keep_last)

    def save(self) -> None:
        """A checkpoint of this step. Nothing that is not finite is ever written."""
        self.at.recent_loss = self.read_losses()
        self.at.seconds = time.perf_counter() - self.begin
        state = {
            "position": dataclasses.asdict(self.at),
            "scaler": self.scaler.state_dict(),
            "settings": vars(self.settings),
        }
        with distributed.main_first():
            if distributed.is_main():
                of_run = self.model, self.tokenizer, self.optimizer, state, self.settings.keep_last
                save_checkpoint(self.run, self.at.step, *of_run)

    def summary(self) -> dict[str, float]:
        """The figures of the whole run; samples are windows, as in the field's own scripts."""
        seconds = time.perf_counter() - self.begin
        return {
            "train_runtime": round(seconds, 3),
            "train_samples_per_second": round(self.at.windows / seconds, 3),
            "train_steps_per_second": round(self.at.step / seconds, 3),
            "train_loss": self.at.loss_sum / max(1, self.at.step),
            "epoch": round(self.epoch, 4),
        }
