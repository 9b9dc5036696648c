"""A run from its settings to its result: read the data, load the model, claim the folder, train.

In: `Settings`. Out: a `Run`. This is `minibert.train`, and what the command `train` calls.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import torch

from minibert.answers.predict import check_pair, window_length
from minibert.evaluation.check import count_windows, unknown_warning
from minibert.model.weights import load_with_report
from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.files import fingerprint
from minibert.support.hub import find_folder
from minibert.support.machine import choose_machine, keep_memory
from minibert.support.signals import tell
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows
from minibert.training.loop import Training
from minibert.training.progress import say
from minibert.training.run_folder import check_fresh, claimed, clear, find_checkpoint, read_state, remove_after
from minibert.training.settings import OF_THE_RUN, Settings, check_unchanged, from_json

P = ParamSpec("P")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its settings with every default resolved, and its figures and last scores."""

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
        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> Run:
            return function(*args, **given)

        call.__signature__ = inspect.signature(settings)  # type: ignore[attr-defined]  # what help() shows
        return call

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
    if settings.resume and settings.overwrite:
        raise BadInput("--overwrite", "", "removes what --resume continues; give one of them")
    source = Path(settings.resume) if isinstance(settings.resume, (str, Path)) else run
    if settings.resume and not source.is_dir():
        raise BadInput(source, "", "is not a folder; name a run folder or a checkpoint to resume from")
    with ranks.joined(), claimed(run) if ranks.is_main() else contextlib.nullcontext():
        checkpoint = None
        check_ranks(settings)
        check_readable(settings.files)
        if settings.resume:
            checkpoint = find_checkpoint(source)
            settings = resumed_settings(checkpoint, given | {"output_dir": run})
        if checkpoint is None or checkpoint.parent.resolve() != run.resolve():
            check_fresh(run, settings.overwrite)
        training = make_training(settings, checkpoint)
        if ranks.is_main() and settings.overwrite:
            clear(run)
        if ranks.is_main() and checkpoint and checkpoint.parent.resolve() == run.resolve():
            remove_after(checkpoint, settings.keep_last)
        return Run(run, training.settings, training.train())


def check_ranks(settings: Settings) -> None:
    """BadInput on every rank if they were not started with the same settings and the same content of the data."""
    if ranks.world_size() == 1:
        return
    values = settings.to_json() | {"resume": bool(settings.resume), "overwrite": settings.overwrite}
    for name in ("data", "eval_data", "output_dir", "model"):  # each machine may have its own paths
        values.pop(name)
    contents = [try_fingerprint(file) for file in (*settings.files, settings.eval_data) if file]
    ranks.check_equal({f"--{name}": value for name, value in values.items()} | {"content of --data": contents})


def try_fingerprint(file: str | Path) -> Any:
    """The fingerprint of a file, or why there is none: it is found to be missing only after the ranks have met."""
    try:
        return fingerprint(Path(file))
    except (OSError, BadInput):
        return None


def check_readable(files: Iterable[str]) -> None:
    """BadInput for the first file that cannot be read: found at once, and not after minutes of loading."""
    for file in files:
        if not os.path.isfile(file) or not os.access(file, os.R_OK):
            raise BadInput(file, "", "cannot be read")


def resumed_settings(checkpoint: Path, given: dict[str, Any]) -> Settings:
    """The settings of a run's first start, with those that may change replaced by what is given now."""
    file, saved = checkpoint / "trainer_state.json", read_state(checkpoint, "settings")["settings"]
    settings = from_json(saved, file)
    check_unchanged(given, settings, checkpoint)
    changed = {name: value for name, value in given.items() if (name, value) != ("dtype", "auto")}
    return dataclasses.replace(settings, **changed)


def say_resumed(training: Training) -> None:
    """Where a resumed run stands, and how to go on with one that is finished."""
    step, total = training.position.step, training.total_steps
    say(f"resumed at step {step} of {total}")
    if step == total:
        folder = shlex.quote(str(training.run))
        say(f"this run is finished; to train on: python train.py --model {folder} --data FILE --output_dir OTHER")


def check_facts(checkpoint: Path, facts: dict[str, Any]) -> None:
    """BadInput if the data's content or the number of ranks are not those of the run that is resumed."""
    state = read_state(checkpoint, "settings")
    saved = state.get("facts", state["settings"])  # format 1 kept them among the settings
    for name, flag in zip(OF_THE_RUN, ("--data", "torchrun")):
        if not isinstance(saved, dict) or name not in saved:
            raise BadInput(checkpoint / "trainer_state.json", name, "is missing")
        if saved[name] != facts[name]:
            named = "number of processes" if name == "world_size" else name
            what = f"expected {named} {saved[name]}, as in {checkpoint}, found {facts[name]}; --resume needs the same"
            raise BadInput(flag, "", what)
    if saved.get("threads", facts["threads"]) != facts["threads"]:
        was = f"{saved['threads']} threads before, {facts['threads']} now"
        say(f"{was}: the last bits of the results will differ; OMP_NUM_THREADS sets the number")


def digest(model: torch.nn.Module) -> dict[str, str]:
    """The sha256 of each tensor of a model."""
    tensors = model.state_dict().items()
    return {name: hashlib.sha256(tensor.cpu().contiguous().numpy()).hexdigest() for name, tensor in tensors}


def make_training(settings: Settings, checkpoint: Path | None) -> Training:
    """Read the data, load the model and resolve the settings that depend on them."""
    check_readable(settings.files)
    facts = {
        "data_sha256": [fingerprint(Path(file))["sha256"] for file in settings.files],
        "world_size": ranks.world_size(),
        "threads": torch.get_num_threads(),
    }
    if checkpoint:
        check_facts(checkpoint, facts)
    skipped_and_v2 = settings.skip_bad_records, settings.version_2_with_negative
    examples = read_squad(settings.files, True, *skipped_and_v2)[: settings.max_questions]
    eval_examples = read_squad(settings.eval_data, False, *skipped_and_v2) if settings.eval_data else []
    if eval_examples and not any(example.answers or example.is_impossible for example in eval_examples):
        raise BadInput(str(settings.eval_data), "answers", "the file has none to score against")
    machine = choose_machine(settings.device, settings.dtype, settings.deterministic)
    keep_memory()

    with ranks.main_first():
        folder = checkpoint or find_folder(str(settings.model), settings.revision)
    torch.manual_seed(settings.seed)  # draws the new span head
    model, report = load_with_report(folder)
    tokenizer = load_tokenizer(folder)
    check_pair(model, tokenizer, folder)
    if ranks.world_size() > 1:
        ranks.check_equal({"weights of --model": digest(model)})
    rate = settings.learning_rate
    if rate is None:
        rate = 3e-5 if model.config.hidden_size >= 768 else 1e-4
    length = window_length(settings.max_seq_length, model.config)
    dtype = str(machine.dtype).removeprefix("torch.")
    # A model with few positions makes the default length shorter, and with it the largest overlap that is possible.
    overlap = settings.doc_stride if settings.max_seq_length else min(settings.doc_stride, length - 4)
    changes: dict[str, Any] = {"dtype": dtype, "learning_rate": rate, "max_seq_length": length, "doc_stride": overlap}
    settings = dataclasses.replace(settings, **changes)

    sizes = length, settings.doc_stride, settings.max_query_length
    windows = make_windows(examples, tokenizer, *sizes)
    spans = windows.end_positions - windows.start_positions + 1
    windows.counts["too_long"] = int((spans > settings.max_answer_length).sum())  # no prediction could match them
    windows.counts.update(count_windows(examples, windows, tokenizer))
    eval_set = (eval_examples, make_windows(eval_examples, tokenizer, *sizes)) if eval_examples else None
    training = Training(model, tokenizer, (examples, windows), settings, machine, eval_set, facts)
    if checkpoint:
        training.resume(checkpoint)
        say_resumed(training)
    say(f"{settings.model}: {report}")
    say(f"data: {json.dumps(windows.counts)}")
    if ranks.is_main() and (warning := unknown_warning(windows.counts, windows)):
        tell(warning)
    say(
        f"{training.total_steps} steps of {training.plan.micro_batches_per_step} x {settings.batch_size} windows, "
        f"learning rate {rate:g}, on {machine} ({torch.get_num_threads()} threads), into {settings.run_folder}"
    )
    return training
