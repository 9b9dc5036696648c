"""The training loop: `train_step` is one update of the weights, `Training` repeats it, watches and saves.

In: a model, its tokenizer, windows and the settings of `train.py`. Out: checkpoints, metrics.jsonl and a summary. The
last file of the package; next are `train.py`, `evaluate.py` and `ask.py`.
"""

import dataclasses
import math
import signal
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minibert import distributed
from minibert.answering import evaluate
from minibert.batches import collate, training_batches
from minibert.checkpoint import load_optimizer, load_state, save_checkpoint
from minibert.device import Machine, prepare
from minibert.errors import Stopped, StopSignals
from minibert.journal import log, progress_bar, say, truncate_log
from minibert.model import BertForQuestionAnswering, span_loss
from minibert.optim import learning_rate_at, make_optimizer
from minibert.squad import Example
from minibert.tokenizer import Tokenizer
from minibert.windows import Windows

LOG_STEPS = 10
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
            with machine.autocast():
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
    best_f1: float = -1.0
    seconds: float = 0.0  # spent, evaluations and saves included


class Training:
    """A run: the model with its optimizer, its data, its folder, and where it stands.

    `settings` has the flags of `train.py`; `eval_set` is what to score after each epoch, if anything.
    """

    def __init__(
        self,
        model: BertForQuestionAnswering,
        tokenizer: Tokenizer,
        windows: Windows,
        settings: Namespace,
        machine: Machine,
        eval_set: tuple[list[Example], Windows] | None = None,
    ):
        self.model, self.tokenizer, self.machine = prepare(model, machine), tokenizer, machine
        self.windows, self.eval_set = windows, eval_set
        self.settings, self.run = settings, Path(settings.output_dir)
        self.replica = distributed.replicate(self.model)
        self.optimizer = make_optimizer(self.model, settings.learning_rate, settings.weight_decay)
        # Only float16 needs its loss scaled: many gradients are smaller than its smallest number.
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype is torch.float16)
        self.at = Position()
        self.recent_loss = torch.zeros((), device=machine.device)
        self.recent_norm = torch.zeros((), device=machine.device)
        self.scores: dict[str, float] = {}

        self.micro_batches_per_step = settings.gradient_accumulation_steps * distributed.world_size()
        batches = math.ceil(len(windows) / settings.batch_size)
        self.steps_per_epoch = math.ceil(batches / self.micro_batches_per_step)
        self.total_steps = settings.max_steps or settings.epochs * self.steps_per_epoch

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint as if the run had never stopped."""
        state = load_state(checkpoint, ("position", "scaler"))
        self.at = Position(**state["position"])
        self.scaler.load_state_dict(state["scaler"])
        load_optimizer(checkpoint, self.model, self.optimizer)
        self.recent_loss += self.at.recent_loss if distributed.is_main() else 0.0
        truncate_log(self.run, self.at.step)

    def train(self) -> dict[str, float]:
        """Train to the end, with an evaluation and a checkpoint after each epoch; return the summary.

        Raises FloatingPointError when loss or gradient are no longer finite, and Stopped after a signal.
        """
        self.begin = time.perf_counter() - self.at.seconds
        if self.eval_set and self.at.step == 0:
            self.evaluate("untrained head" if self.model.new_parameters else "before training")
        self.model.train()
        self.loop_begin = self.last_log = time.perf_counter(), self.at.step, self.at.windows
        with StopSignals() as signals, progress_bar(self.at.step, self.total_steps) as bar:
            for micro_batches, windows_in_step in self.steps():
                self.step(micro_batches, windows_in_step)
                bar.update()
                ends_epoch = self.at.step % self.steps_per_epoch == 0 or self.at.step == self.total_steps
                is_best = ends_epoch and self.eval_set is not None and self.evaluate(f"epoch {self.epoch:g}")
                is_stopping = distributed.agree(signals.received > 0)
                if ends_epoch or is_stopping or self.at.step % (self.settings.save_steps or self.total_steps) == 0:
                    self.save(is_best)
                if is_stopping:
                    raise Stopped(signals.received or signal.SIGTERM)
        return self.summary() | self.scores

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.at.step / self.steps_per_epoch

    def steps(self) -> Iterator[tuple[list[tuple[dict, int]], int]]:
        """What `step` takes, from where the run stands to its end."""
        while self.at.step < self.total_steps:
            epoch, first = divmod(self.at.step, self.steps_per_epoch)
            batches = training_batches(self.windows.lengths, self.settings.batch_size, self.settings.seed, epoch)
            for index in range(first, min(self.steps_per_epoch, first + self.total_steps - self.at.step)):
                yield self.share(batches, index)

    def share(self, batches: list[np.ndarray], index: int) -> tuple[list[tuple[dict, int]], int]:
        """This rank's micro-batches, with weights, of a step of the epoch; and the windows of the whole step.

        The epoch's batches are cut into steps and dealt to the ranks in turn, so that N ranks take in one step what
        one process takes with N times the accumulation. A rank that gets none in the last step takes the first one
        with weight 0: every rank must take part in the averaging.
        """
        size = self.micro_batches_per_step
        of_step = batches[index * size : (index + 1) * size]
        mine = of_step[distributed.rank() :: distributed.world_size()]
        weighted = [(indices, 1) for indices in mine] or [(of_step[0], 0)]
        return [(collate(self.windows, indices), weight) for indices, weight in weighted], sum(map(len, of_step))

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
        self.recent_loss += loss
        if is_update:
            self.recent_norm = norm
        self.at.step += 1
        self.at.update += is_update
        self.at.windows += windows_in_step
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
        log(
            self.run,
            self.at.step,
            self.epoch,
            loss=loss / ((self.at.step - 1) % LOG_STEPS + 1),
            learning_rate=rate,
            grad_norm=float(self.recent_norm),
            windows_per_second=round(windows / seconds, 3),
        )

    def read_losses(self) -> float:
        """The sum of the losses since the last line, over all ranks.

        Raises FloatingPointError if it or the gradient is not finite.
        """
        loss, norm = float(distributed.total(self.recent_loss.clone())), float(self.recent_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"loss {loss}, gradient norm {norm} at or before step {self.at.step}: the run has diverged; what was "
                f"saved in {self.run} is sound; start anew with a lower --learning_rate, or with --dtype float32"
            )
        return loss

    def evaluate(self, label: str) -> bool:
        """Print and log loss and scores on the evaluation set; return whether they are the best so far."""
        self.scores, _ = evaluate(self.model, *self.eval_set, self.machine, self.settings)
        say(f"{label}: " + ", ".join(f"{key} {value:.2f}" for key, value in self.scores.items() if "total" not in key))
        log(self.run, self.at.step, self.epoch, **self.scores)
        is_best = self.scores["f1"] > self.at.best_f1 and self.at.step > 0
        self.at.best_f1 = self.scores["f1"] if is_best else self.at.best_f1
        return is_best

    def save(self, is_best: bool) -> None:
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
                of_run = self.model, self.tokenizer, self.optimizer, state, self.settings.keep_last, is_best
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
