"""A run from its settings to its result: claim the folder, read the data, load the model, train.

In: `Settings`. Out: a `Run`. This is `minibert.train`, and what the command `train` calls.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import torch

from minibert.answers.predict import check_overlap, check_pair, window_length
from minibert.evaluation.check import count_windows
from minibert.evaluation.scorer import has_golds
from minibert.model.bert import BertConfig, BertForQuestionAnswering
from minibert.model.prepare import set_dropout
from minibert.model.weights import LoadReport, load_with_report
from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.files import is_same
from minibert.support.hub import find_folder, find_local
from minibert.support.machine import Machine, choose_machine, keep_memory, try_compiler
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.unread import count_unread, warn_of_unread
from minibert.text.windows import DOC_STRIDE, make_windows
from minibert.training.card import write_card
from minibert.training.consistency import check_facts, check_ranks, facts_of, resumed_settings
from minibert.training.loop import Training
from minibert.training.progress import board_writer, say
from minibert.training.run_folder import check_fresh, check_way, claimed, clear, find_checkpoint, make_latest
from minibert.training.settings import BASE_RATE, BASE_SIZE, SMALL_DECAY, SMALL_RATE, Settings

P = ParamSpec("P")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its settings, and its figures and last scores.

    The settings have every default resolved, but for a `dropout` of None: the model's own rates.
    """

    folder: Path
    settings: Settings = dataclasses.field(repr=False)
    summary: dict[str, float]

    @property
    def checkpoint(self) -> Path:
        """The folder of the best checkpoint by F1, or of the latest one if nothing was evaluated."""
        return find_folder(self.folder)


def taking_settings(settings: Callable[P, Settings]) -> Callable[[Callable[..., Run]], Callable[P, Run]]:
    """Give a function the parameters of the settings, so that editors and type checkers know each of them."""

    def decorate(function: Callable[..., Run]) -> Callable[P, Run]:
        function.__signature__ = inspect.signature(settings)  # type: ignore[attr-defined]  # what help() shows
        return function

    return decorate


@taking_settings(Settings)
def train(**given: Any) -> Run:
    """Fine-tune a model on SQuAD-format files; the parameters are the fields of `Settings` and the flags of `train.py`.

    With `resume`, the settings that are not given are those of the run that is continued. Raises BadInput for input
    that cannot be used, FloatingPointError if the loss diverges, and Stopped (a KeyboardInterrupt) after a signal.
    """
    settings = Settings(**given)
    run = settings.run_folder
    if not settings.files and not settings.resume:
        raise BadInput("--data", "", "name the SQuAD file to train on")
    source = Path(settings.resume) if isinstance(settings.resume, (str, Path)) else run
    if settings.resume and not source.is_dir():
        raise BadInput(source, "", "is not a folder; name a run folder or a checkpoint to resume from")
    if settings.resume and (source / "trainer_state.json").is_file():
        source = find_checkpoint(Path(os.path.abspath(source)))  # before a folder around it is taken for a run
    ranks.join()
    with claimed(run) if ranks.is_main() else contextlib.nullcontext():
        check_ranks(settings)
        checkpoint = find_checkpoint(source) if settings.resume else None
        goes_on_here = checkpoint is not None and is_same(checkpoint.parent, run)
        if goes_on_here and settings.overwrite:
            raise BadInput("--overwrite", "", "removes what --resume continues; give one of them")
        if checkpoint:
            settings = resumed_settings(checkpoint, given | {"output_dir": run})
        if not settings.eval_data and (given.get("eval_steps") or given.get("early_stopping")):
            raise BadInput("--eval_data", "", "is needed by --eval_steps and --early_stopping; name a file to score")
        if not goes_on_here:
            model = None
            if settings.overwrite:
                with contextlib.suppress(BadInput):  # a run that goes on elsewhere no longer needs it
                    model = find_local(str(settings.model))
            inputs = [*settings.inputs, str(model or settings.model), *([str(checkpoint)] if checkpoint else [])]
            check_fresh(run, settings.overwrite, inputs)
        if settings.tensorboard:
            board_writer()  # before anything is removed
        training = make_training(settings, checkpoint)
        if checkpoint and goes_on_here:
            check_way(checkpoint, training.total_steps)
        if ranks.is_main() and settings.overwrite:
            clear(run)
        if ranks.is_main() and checkpoint and goes_on_here:
            make_latest(checkpoint, settings.keep_last)
            write_card(run)
        return Run(run, training.settings, training.train())


def digest(model: torch.nn.Module) -> dict[str, str]:
    """The sha256 of each tensor of a model."""
    tensors = model.state_dict().items()
    return {name: hashlib.sha256(tensor.cpu().contiguous().numpy()).hexdigest() for name, tensor in tensors}


def make_training(settings: Settings, checkpoint: Path | None) -> Training:
    """Read the data and load the model; resumed from the checkpoint if there is one."""
    facts = facts_of(settings)
    if checkpoint:
        check_facts(checkpoint, facts, settings.run_folder)
    examples, eval_examples = read_data(settings)
    machine = choose_machine(settings.device, settings.dtype, settings.deterministic)
    keep_memory()
    if settings.compile:
        try_compiler(machine.device)  # before anything is removed

    with ranks.main_first():
        folder = checkpoint or find_folder(str(settings.model), settings.revision)
    if not checkpoint and folder.parent.name == "snapshots":  # in the hub's cache, a folder for each commit
        facts["commit"] = folder.name
    torch.manual_seed(settings.seed)  # draws the new span head
    model, report = load_with_report(folder)
    tokenizer = load_tokenizer(folder)
    check_pair(model, tokenizer, folder)
    if ranks.world_size() > 1:
        ranks.check_equal({"weights of --model": digest(model)})
    settings = resolved(settings, model.config, machine)
    if not checkpoint:  # a checkpoint has the rates of its run in its config.json
        settings = choose_dropout(settings, model)

    windows = make_windows(examples, tokenizer, *settings.sizes, settings.most_answers)
    eval_set = (eval_examples, make_windows(eval_examples, tokenizer, *settings.sizes)) if eval_examples else None
    training = Training(model, tokenizer, (examples, windows), settings, machine, eval_set, facts)
    if not training.plan.steps_per_epoch:
        raise BadInput(
            "--empty_windows", "", "leaves nothing to train on: no window has an answer; give a larger share"
        )
    if checkpoint:
        training.resume(checkpoint)
        if training.position.step == training.total_steps and not is_same(checkpoint.parent, training.run):
            what = f"is the end of its run; to train on: --model {shlex.quote(str(checkpoint))}"
            raise BadInput(checkpoint, "", what)
    say_what_is_trained(training, report)
    return training


def read_data(settings: Settings) -> tuple[list[Example], list[Example]]:
    """The questions to train on, and those to score, which must have answers."""
    rules = settings.skip_bad_records, settings.version_2_with_negative
    examples = read_squad(settings.files, True, *rules)[: settings.max_questions]
    eval_examples = read_squad(settings.eval_data, False, *rules) if settings.eval_data else []
    if eval_examples and not has_golds(eval_examples):
        raise BadInput(str(settings.eval_data), "answers", "the file has none to score against")
    return examples, eval_examples


def resolved(settings: Settings, config: BertConfig, machine: Machine) -> Settings:
    """The settings with every default that depends on the model or the machine."""
    length = window_length(settings.max_seq_length, config)
    check_overlap(settings.doc_stride, length)
    changes: dict[str, Any] = {"dtype": str(machine.dtype).removeprefix("torch."), "max_seq_length": length}
    if settings.doc_stride is None:
        changes["doc_stride"] = min(DOC_STRIDE, length - 4)  # the largest that the settings may hold
    rate, decay = (BASE_RATE, 1.0) if config.hidden_size >= BASE_SIZE else (SMALL_RATE, SMALL_DECAY)
    if settings.learning_rate is None:
        changes["learning_rate"] = rate
    if settings.layer_decay is None:
        changes["layer_decay"] = decay
    return dataclasses.replace(settings, **changes)


def choose_dropout(settings: Settings, model: BertForQuestionAnswering) -> Settings:
    """Give the model the dropout of the settings; return them with a small model's default resolved.

    In two epochs of 8,278 questions MiniLM scored a point of F1 higher without dropout (docs/recipes.md). At a hidden
    size of 768 (BERT-base) or more the model's own rates hold.
    """
    if settings.dropout is None and model.config.hidden_size < BASE_SIZE:
        settings = dataclasses.replace(settings, dropout=0.0)
    if settings.dropout is not None:
        set_dropout(model, settings.dropout)
    return settings


def say_what_is_trained(training: Training, report: LoadReport) -> None:
    settings, position, total = training.settings, training.position, training.total_steps
    if position.step:
        say(f"resumed at step {position.step} of {total}")
    if position.step == total:
        folder = shlex.quote(str(training.run))
        say(f"this run is finished; to train on: python train.py --model {folder} --data FILE --output_dir OTHER")
    say(f"{settings.model}: {report}")
    if ranks.is_main():
        windows = training.plan.windows
        counts = count_windows(training.examples, windows, training.tokenizer, settings.max_answer_length)
        say(f"data: {json.dumps(counts)}")
        warn_of_unread(count_unread(training.examples, windows, training.tokenizer), str(settings.model))
    dropout = "the model's own" if settings.dropout is None else f"{settings.dropout:g}"
    say(
        f"{total} steps of {training.plan.micro_batches_per_step} x {settings.batch_size} windows, learning rate "
        f"{settings.learning_rate:g}, layer decay {settings.layer_decay:g}, dropout {dropout}, "
        f"on {training.machine} ({torch.get_num_threads()} threads), into {training.run}"
    )
