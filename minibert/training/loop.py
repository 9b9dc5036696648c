"""The training loop: repeat `step.update`, report, evaluate, save and stop.

In: a model, its tokenizer, windows and `Settings`. Out: checkpoints, metrics.jsonl and a summary.
"""

import dataclasses
import math
import shlex
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minibert.evaluation.evaluate import evaluate_windows
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.prepare import prepare, prepare_to_answer
from minibert.model.weights import copy_model
from minibert.support import ranks
from minibert.support.machine import Machine
from minibert.support.progress import Progress
from minibert.support.run_files import read_pointer
from minibert.support.signals import Stopped, StopSignals
from minibert.support.streams import tell
from minibert.text.batches import Plan
from minibert.text.records import Example
from minibert.text.tokenizer import Tokenizer
from minibert.text.windows import Windows
from minibert.training.card import write_card
from minibert.training.checkpoint import Position, load_optimizer, load_scaler, read_position, save_checkpoint
from minibert.training.losses import RecentLosses
from minibert.training.progress import log, open_board, read_log, say, truncate_log
from minibert.training.run_folder import read_scores, read_state, record_scores
from minibert.training.settings import AnswerSettings, Settings, values_of
from minibert.training.step import learning_rate_at, loss_weight, make_optimizer, update

LOG_STEPS = 10

Dataset = tuple[list[Example], Windows]


class Training:
    """A run: the model with its optimizer, its data, its folder, and where it stands.

    `train_set` and `eval_set` are examples with their windows. `facts` is saved beside the settings: what a resumed run
    must share that no setting states.
    """

    def __init__(
        self,
        model: BertForQuestionAnswering,
        tokenizer: Tokenizer,
        train_set: Dataset,
        settings: Settings,
        machine: Machine,
        eval_set: Dataset | None = None,
        facts: dict[str, Any] | None = None,
    ):
        self.model, self.tokenizer, self.machine = prepare(model, machine), tokenizer, machine
        (self.examples, windows), self.eval_set = train_set, eval_set
        self.settings, self.run, self.facts = settings, settings.run_folder, facts or {}
        # Compiled once for all widths. The model itself stays as it is, to evaluate and to save.
        called: Any = torch.compile(model, dynamic=True) if settings.compile else model
        self.replica = ranks.replicate(called)
        self.peak = settings.learning_rate or 0.0
        layer_decay = 1.0 if settings.layer_decay is None else settings.layer_decay
        self.optimizer = make_optimizer(self.model, self.peak, settings.weight_decay, layer_decay)
        # Only float16 needs a scaled loss: many gradients are below its smallest number.
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype is torch.float16)
        self.position = Position()
        self.losses = RecentLosses(machine.device)  # since the current line of metrics.jsonl began
        self.scores: dict[str, float] = {}  # of the weights as they are now, if they were evaluated
        self.board: Any = None  # TensorBoard's writer
        sizes = settings.batch_size, settings.gradient_accumulation_steps
        self.plan = Plan(windows, *sizes, settings.seed, machine.most_positions, settings.empty_windows)
        self.total_steps = settings.max_steps or settings.epochs * self.plan.steps_per_epoch

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint as if the run had never stopped."""
        state = read_state(checkpoint, "position", "scaler")
        self.position = read_position(checkpoint, state["position"], self.total_steps)
        load_scaler(checkpoint, state["scaler"], self.scaler)
        load_optimizer(checkpoint, self.model, self.optimizer)
        self.losses.restart(self.position.recent_loss)
        self.scores = read_scores(checkpoint)
        if ranks.any_rank(not self.scores):  # a rank's own copy of a checkpoint may lack them
            self.scores = {}

    def train(self) -> dict[str, float]:
        """Train to the end, with a checkpoint and an evaluation after each epoch; return the summary.

        Raises FloatingPointError when loss or gradient are no longer finite, and Stopped after a signal.
        """
        self.began = time.perf_counter() - self.position.seconds
        truncate_log(self.run, self.position.step, is_evaluated=bool(self.scores))
        has_board = self.settings.tensorboard and ranks.is_main()
        self.board = open_board(self.run, self.position.step) if has_board else None
        with (
            StopSignals() as signals,
            Progress("train", self.total_steps, self.position.step, "step") as progress,
            self.board or nullcontext(),  # its end closes the board
        ):
            if self.is_evaluation_due and not self.scores:
                self.evaluate(signals)
            self.model.train()
            self.begin_line()
            while self.position.step < self.total_steps and not self.has_stopped_improving():
                self.step()
                progress.update(self.figures)
                paused = time.perf_counter()
                is_stopping = ranks.any_rank(signals.received > 0)
                is_save_due = self.is_evaluation_due or self.position.step % (self.settings.save_steps or math.inf) == 0
                if is_save_due or is_stopping:
                    self.save(is_planned=is_save_due)
                if is_stopping:
                    if ranks.is_main():
                        tell(f"saved; continue with: python train.py --resume {shlex.quote(str(self.run))}")
                    raise Stopped(signals.received or signal.SIGTERM)
                if self.is_evaluation_due:  # after the save: an evaluation may take minutes, and can be repeated
                    self.evaluate(signals)
                self.line_began += time.perf_counter() - paused
        return self.summary() | self.scores

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the run stands before its first step, at an epoch's end, at `eval_steps` or after its last step."""
        step, every = self.position.step, self.settings.eval_steps or self.plan.steps_per_epoch
        return step % every == 0 or step % self.plan.steps_per_epoch == 0 or step == self.total_steps

    def has_stopped_improving(self) -> bool:
        """Whether the last `early_stopping` evaluations all gave no better F1 than those before them."""
        patience = self.settings.early_stopping
        if not (patience and self.eval_set and self.scores):  # scores: an evaluation has just brought another F1
            return False
        lines = read_log(self.run) if ranks.is_main() else []
        f1 = [line["f1"] for line in lines if "f1" in line]
        return ranks.any_rank(len(f1) > patience and max(f1[-patience:]) <= max(f1[:-patience]))

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.position.step / self.plan.steps_per_epoch

    @property
    def line_steps(self) -> int:
        """Steps taken since the current line of metrics.jsonl began."""
        return (self.position.step - 1) % LOG_STEPS + 1

    def begin_line(self) -> None:
        """Begin a line of metrics.jsonl: its windows per second are those from here on."""
        self.line_began, self.line_windows = time.perf_counter(), self.position.windows

    def windows_per_second(self) -> float:
        return (self.position.windows - self.line_windows) / (time.perf_counter() - self.line_began)

    def step(self) -> None:
        """Take one step, and note its loss."""
        settings, position = self.settings, self.position
        if position.step % LOG_STEPS == 0:
            self.begin_line()
            self.losses.restart()
        parts, windows_in_step = self.plan.own_parts(position.step)
        # Dropout is a function of (seed, step, rank): a resumed run needs no replay.
        torch.manual_seed((settings.seed * 1_000_003 + position.step) * 1_009 + ranks.rank())
        rate = learning_rate_at(position.update, self.total_steps, settings.warmup_ratio, self.peak)
        weighted = [(batch, loss_weight(windows, windows_in_step, ranks.world_size())) for batch, windows in parts]
        scale = self.scaler.get_scale()  # 1 without float16; with it, reading the value waits for the device
        synced = ranks.synced_at_last(self.replica, weighted)
        clip = settings.max_grad_norm or math.inf
        loss, norm = update(self.replica, self.optimizer, self.scaler, synced, rate, clip, self.machine)
        is_update = self.scaler.get_scale() >= scale  # GradScaler lowers its scale when it skips an update
        self.scores = {}
        position.step += 1
        position.update += is_update
        position.windows += windows_in_step
        self.losses.add(position.step, loss, norm, is_update)
        if position.step % LOG_STEPS == 0 or position.step == self.total_steps:
            self.log_losses()

    def figures(self) -> str:
        """What the progress shows of the current line of metrics.jsonl: this rank's mean loss, the rate, the speed."""
        loss = float(self.losses.sum) * ranks.world_size() / self.line_steps
        rate = self.optimizer.param_groups[0]["lr"]
        return f"loss {loss:.3f}, lr {rate:.1e}, {self.windows_per_second():.1f} windows/s"

    def log_losses(self) -> None:
        """Append the mean over the steps since the last line to metrics.jsonl."""
        loss = self.read_losses()
        self.position.loss_sum += loss
        log(
            self.run,
            self.position.step,
            self.epoch,
            self.board,
            loss=loss / self.line_steps,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            grad_norm=float(self.losses.norm),
            windows_per_second=round(self.windows_per_second(), 3),
        )

    def read_losses(self) -> float:
        """The sum of the losses of the current line, over all ranks.

        Raises FloatingPointError, naming the step and its questions, if any loss or gradient was not finite.
        """
        loss, step = self.losses.read(self.position.step)
        if step:
            windows = np.concatenate(self.plan.micro_batches(step - 1))
            ids = [self.examples[i].id for i in np.unique(self.plan.windows.example[windows])]
            raise self.diverged(step, f"loss or gradient are not finite; its questions are {', '.join(ids)}")
        return loss

    def diverged(self, step: int, what: str) -> FloatingPointError:
        latest = read_pointer(self.run / "latest") or "none"
        return FloatingPointError(
            f"step {step}: {what}; the last good checkpoint is {latest} in {self.run}; start again with a lower "
            "--learning_rate, or with --dtype float32"
        )

    def evaluate(self, signals: StopSignals) -> None:
        """Loss and scores on the evaluation set: printed, logged and saved in the checkpoint.

        Without such a set, the loss of the last training steps is printed.
        """
        if not self.eval_set:
            if self.position.step:
                loss = self.position.recent_loss / self.line_steps
                say(f"epoch {self.epoch:g}: loss {loss:.2f} in the last steps")
            return
        with signals.raising():
            answering = values_of(self.settings, AnswerSettings)
            model = prepare_to_answer(copy_model(self.model), self.machine)  # as `evaluate.py` does, for equal scores
            self.scores = evaluate_windows(model, *self.eval_set, self.machine, **answering).scores
        start = "untrained head" if self.model.new_parameters else "before training"
        label = f"epoch {self.epoch:g}" if self.position.step else start
        say(f"{label}: " + ", ".join(f"{key} {value:.2f}" for key, value in self.scores.items() if "total" not in key))
        log(self.run, self.position.step, self.epoch, self.board, **self.scores)
        if self.position.step and ranks.is_main():
            record_scores(self.run, self.position.step, self.scores, self.settings.keep_last)
            write_card(self.run)

    def save(self, is_planned: bool = True) -> None:
        """Write a checkpoint of this step. Nothing that is not finite is ever written.

        is_planned: a run that nothing interrupts saves here as well.
        """
        self.position.recent_loss = self.read_losses()
        is_finite = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        if ranks.any_rank(not is_finite):  # the loss was, when it was computed: before the last update
            raise self.diverged(self.position.step, "weights are not finite")
        # As after a resume. Otherwise a resumed run would add the losses of the ranks in another order.
        self.losses.restart(self.position.recent_loss)
        self.position.seconds = time.perf_counter() - self.began
        state = {
            "position": dataclasses.asdict(self.position),
            "scaler": self.scaler.state_dict(),
            "settings": self.settings.to_json(),
            "facts": self.facts,
            "is_planned": is_planned,
        }
        with ranks.main_first():
            if ranks.is_main():
                parts = self.model, self.tokenizer, self.optimizer, state, self.settings.keep_last
                say(f"saved {save_checkpoint(self.run, self.position.step, *parts)}")
                write_card(self.run)

    def summary(self) -> dict[str, float]:
        """The figures of the whole run; samples are windows, as in the field's own scripts."""
        seconds = time.perf_counter() - self.began
        # Early stopping ends a run inside a line of metrics.jsonl, after a save, which has noted that line's losses.
        is_inside = self.position.step % LOG_STEPS and self.position.step != self.total_steps
        loss_sum = self.position.loss_sum + (self.position.recent_loss if is_inside else 0.0)
        return {
            "train_runtime": round(seconds, 3),
            "train_samples_per_second": round(self.position.windows / seconds, 3),
            "train_steps_per_second": round(self.position.step / seconds, 3),
            "train_loss": loss_sum / max(1, self.position.step),
            "epoch": round(self.epoch, 4),
        }
