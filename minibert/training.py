"""The training loop: `train_step` is one update of the weights, `Training` repeats it, watches and saves.

In: a model, its tokenizer, windows and the settings of `train.py`. Out: checkpoints, metrics.jsonl and a summary. The
last file of the package; next are `train.py`, `evaluate.py` and `ask.py`.
"""

import dataclasses
import json
import math
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minibert import distributed
from minibert.answering import evaluate
from minibert.batches import collate, training_batches
from minibert.checkpoint import load_optimizer, load_state, save_checkpoint
from minibert.device import Machine, prepare
from minibert.errors import Stopped, StopSignals
from minibert.model import BertForQuestionAnswering, span_loss
from minibert.optim import learning_rate_at, make_optimizer
from minibert.squad import Example
from minibert.tokenizer import Tokenizer
from minibert.windows import Windows

LOG_STEPS = 10
ESTIMATE_STEPS = 20


def train_step(
    replica, micro_batches, windows_in_step, optimizer, scaler, machine, max_grad_norm
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
    """Where a run stands: all that a checkpoint must know besides tensors and settings."""

    step: int = 0  # steps taken: decides the data and the dropout
    update: int = 0  # of those, the ones that changed the weights: decides the learning rate
    windows: int = 0  # windows seen
    loss_sum: float = 0.0  # over the steps up to the last log line
    recent_loss: float = 0.0  # over the steps since
    seconds: float = 0.0  # spent, evaluations and saves included
    best_f1: float = -1.0
    loss_scale: float = 0.0  # of float16; 0 where nothing is scaled


class Training:
    """A run: the model with its optimizer, its data, its folder, and where it stands."""

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
        self.windows, self.lengths, self.eval_set = windows, windows.lengths, eval_set
        self.settings, self.run = settings, Path(settings.output_dir)
        self.replica = distributed.replicate(self.model)
        self.optimizer = make_optimizer(self.model, settings.learning_rate, settings.weight_decay)
        # Only float16 needs a scaled loss: its smallest numbers are larger than many gradients.
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype is torch.float16)
        self.at = Position()
        self.recent_loss = torch.zeros((), device=machine.device)
        self.recent_norm = torch.zeros((), device=machine.device)

        batches = math.ceil(len(windows) / settings.batch_size)
        self.micro_batches_per_step = settings.gradient_accumulation_steps * distributed.world_size()
        self.steps_per_epoch = math.ceil(batches / self.micro_batches_per_step)
        self.total_steps = settings.max_steps or settings.epochs * self.steps_per_epoch

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint as if the run had never stopped."""
        self.at = Position(**load_state(checkpoint, ("position",))["position"])
        load_optimizer(checkpoint, self.model, self.optimizer)
        self.recent_loss += self.at.recent_loss if distributed.is_main() else 0.0
        if self.at.loss_scale:
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": self.at.loss_scale})
        log = self.run / "metrics.jsonl"
        if distributed.is_main() and log.is_file():
            kept = [line for line in log.read_text("utf-8").splitlines() if json.loads(line)["step"] <= self.at.step]
            log.write_text("".join(line + "\n" for line in kept), "utf-8")

    def train(self) -> dict[str, float]:
        """Train to the end, with an evaluation and a checkpoint after each epoch; return the summary.

        Raises FloatingPointError when the loss or the gradient is no longer finite, and Stopped after a signal.
        """
        self.begin = time.perf_counter() - self.at.seconds
        scores = {}
        if self.at.step == 0 and self.eval_set:
            self.evaluate("untrained head" if self.model.new_parameters else "before training")
        bar = tqdm(
            total=self.total_steps, initial=self.at.step, unit="step", disable=None if distributed.is_main() else True
        )
        self.model.train()
        with StopSignals() as signals, bar:
            while self.at.step < self.total_steps:
                epoch, first = divmod(self.at.step, self.steps_per_epoch)
                batches = training_batches(self.lengths, self.settings.batch_size, self.settings.seed, epoch)
                for index in range(first, min(self.steps_per_epoch, first + self.total_steps - self.at.step)):
                    self.step(*self.share(batches, index))
                    bar.update()
                    if self.settings.save_steps and self.at.step % self.settings.save_steps == 0:
                        self.save()
                    if distributed.agree(signals.received > 0):
                        self.save()
                        raise Stopped(signals.received or 15)
                is_best = False
                if self.eval_set:
                    scores = self.evaluate(f"epoch {self.epoch:g}")
                    is_best = scores["f1"] > self.at.best_f1
                    self.at.best_f1 = max(scores["f1"], self.at.best_f1)
                self.save(is_best)
        return self.summary() | scores

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.at.step / self.steps_per_epoch

    def share(self, batches: list[np.ndarray], index: int) -> tuple[list[tuple[dict, int]], int]:
        """This rank's micro-batches, with weights, of a step of the epoch; and the windows of the whole step.

        The epoch's list of batches is cut into steps and dealt to the ranks in turn, so that N ranks take in one
        step what one process takes with N times the accumulation. A rank that gets none in the last step repeats
        the first with weight 0: all ranks must take part in the averaging.
        """
        size = self.micro_batches_per_step
        of_step = batches[index * size : (index + 1) * size]
        mine = [
            (i, 1) if i < len(of_step) else (0, 0) for i in range(distributed.rank(), size, distributed.world_size())
        ]
        mine = [(i, weight) for i, weight in mine if weight] or mine[:1]
        return [(collate(self.windows, of_step[i]), weight) for i, weight in mine], sum(map(len, of_step))

    def step(self, micro_batches: list[tuple[dict, int]], windows_in_step: int) -> None:
        """Take one step, and note what it gave."""
        # Dropout is a function of (seed, step, rank): a resumed run needs no replay.
        torch.manual_seed((self.settings.seed * 1_000_003 + self.at.step) * 1_009 + distributed.rank())
        rate = learning_rate_at(
            self.at.update, self.total_steps, self.settings.warmup_ratio, self.settings.learning_rate
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, norm = train_step(
            self.replica,
            micro_batches,
            windows_in_step,
            self.optimizer,
            self.scaler,
            self.machine,
            self.settings.max_grad_norm,
        )
        # A lowered scale is the scaler's only word that it left an update out. (Reading it waits for the card.)
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 0.0
        is_update = scale >= self.at.loss_scale
        self.at.loss_scale = scale
        self.recent_loss += loss
        self.recent_norm = norm if is_update else self.recent_norm
        self.at.step += 1
        self.at.update += is_update
        self.at.windows += windows_in_step
        if self.at.step % LOG_STEPS == 0 or self.at.step == self.total_steps:
            self.log_loss(rate)
        if self.at.step == ESTIMATE_STEPS < self.total_steps and distributed.is_main():
            minutes = (time.perf_counter() - self.begin) / self.at.step * (self.total_steps - self.at.step) / 60
            say(f"about {minutes:.1f} more minutes for {self.total_steps - self.at.step} steps, evaluations aside")

    def log_loss(self, rate: float) -> None:
        """Add the steps since the last line to metrics.jsonl. The only place that waits for the losses."""
        loss = self.read_loss()
        steps = (self.at.step - 1) % LOG_STEPS + 1
        self.at.loss_sum += loss
        self.recent_loss.zero_()
        seconds = time.perf_counter() - self.begin
        self.log(
            loss=loss / steps,
            learning_rate=rate,
            grad_norm=float(self.recent_norm),
            windows_per_second=self.at.windows / seconds,
        )

    def read_loss(self) -> float:
        """The sum of the losses since the last line, over all ranks; FloatingPointError if it or the gradient is not finite."""
        loss, norm = float(distributed.total(self.recent_loss.clone())), float(self.recent_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"loss {loss}, gradient norm {norm} at or before step {self.at.step}: the run has diverged; "
                f"resume from {self.run} with a lower --learning_rate, or with --dtype float32"
            )
        return loss

    def evaluate(self, label: str) -> dict[str, float]:
        """Loss and scores on the evaluation set, printed and logged."""
        scores, _ = evaluate(self.model, *self.eval_set, self.machine, self.settings)
        shown = ", ".join(f"{key} {value:.2f}" for key, value in scores.items() if "total" not in key)
        say(f"{label}: {shown}")
        self.log(**scores)
        return scores

    def save(self, is_best: bool = False) -> None:
        """A checkpoint of this step; nothing that is not finite is ever written."""
        self.at.recent_loss = self.read_loss()
        self.at.seconds = time.perf_counter() - self.begin
        with distributed.main_first():
            if distributed.is_main():
                state = {"position": dataclasses.asdict(self.at), "settings": vars(self.settings)}
                arguments = self.model, self.tokenizer, self.optimizer, state, self.settings.keep_last, is_best
                save_checkpoint(self.run, self.at.step, *arguments)

    def log(self, **values) -> None:
        """One line of metrics.jsonl."""
        if distributed.is_main():
            line = {"step": self.at.step, "epoch": round(self.epoch, 4)} | values
            with open(self.run / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")

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


def say(line: str) -> None:
    """Print a line on stdout, from rank 0 and around the progress bar."""
    if distributed.is_main():
        tqdm.write(line)
