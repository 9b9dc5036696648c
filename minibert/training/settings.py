"""All settings of a run, in one place. Flags, help, saved JSON and the checks of a resumed run are derived from them.

Each field is declared once with `option`: its default, its help, and the values that it may take. `commands/flags.py`
turns the fields into flags, and answers other names that run_squad and run_qa have for them.
"""

import dataclasses
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minibert.answers.spans import EVAL_BATCH_SIZE, MAX_ANSWER_LENGTH, N_BEST_SIZE
from minibert.support.errors import BadInput
from minibert.support.hub import DEFAULT_MODEL
from minibert.text.windows import DOC_STRIDE, MAX_QUERY_LENGTH, MAX_SEQ_LENGTH, MOST_ANSWERS

FORMAT = 2  # of the settings in a checkpoint; 1 had no number
# The value of a setting in a checkpoint that is older than the setting: it gives the behaviour of that time. When you
# add a setting, add a line here, so that older checkpoints can be resumed.
OLDER = {
    "compile": False,
    "deterministic": False,
    "dropout": None,
    "early_stopping": None,
    "empty_windows": 1.0,
    "eval_steps": None,
    "layer_decay": 1.0,
    "most_answers": 1,
    "skip_bad_records": False,
    "tensorboard": False,
}
# Format 1 kept facts about a run among its settings; they now stand beside them.
NOT_SETTINGS = ("format", "resume", "overwrite", "data_sha256", "world_size")
LARGEST = 2**31 - 1
BASE_SIZE, BASE_RATE = 768, 3e-5  # BERT-base's hidden size, from which on the published recipe is the default
# Smaller models (docs/recipes.md has the measurements): the peak rate, and the share of a layer's rate at which the
# layer below learns. They have no dropout either.
SMALL_RATE, SMALL_DECAY = 3e-4, 0.9
NAME_OR_DIR = "a model folder, a run folder, a name in weights/, or a model on the Hugging Face hub"
NULL_THRESHOLD = 'predict "" when the null score exceeds the best answer\'s by more than this (v2.0)'
TRAINING_DTYPES = ("auto", "float32", "bfloat16", "float16")
DTYPES = (*TRAINING_DTYPES, "int8")  # to answer with
PRECISION = "precision of the matrix products; auto: the fastest floating-point one that the hardware has"
REVISION = "branch, tag or commit of a model on the hub"


def option(default: Any, help: str, least: float = -LARGEST, most: float = LARGEST, **more: Any) -> Any:
    """A field with its default, its help text, and the range that its numbers may have.

    more: `choices`, the values that are allowed; `metavar`, what the help calls the value; `may_change`, True where a
    resumed run may have another value than before; `positional`, how many words without a flag are the value.
    """
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most} | more)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A dataclass whose values are checked when it is made, whether they come from flags, from JSON or from Python.

    Numbers of numpy become Python's, which can be saved as JSON.
    """

    def __post_init__(self) -> None:
        kinds = value_kinds(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value := value.item())  # the dataclass is frozen
            check(field.name, value, kinds[field.name], field.metadata)


@dataclass(frozen=True, kw_only=True)
class WindowSettings(Checked):
    """How contexts are cut into windows."""

    max_seq_length: int | None = option(
        None,
        f"tokens in a window, special tokens included; default {MAX_SEQ_LENGTH}, or the model's positions if fewer",
        least=8,
    )
    doc_stride: int | None = option(
        None,
        "tokens that neighbouring windows share: the overlap, as in run_qa (in google's run_squad it was the step); "
        f"default {DOC_STRIDE}, or half of the room in narrower windows",
        least=0,
    )
    max_query_length: int = option(MAX_QUERY_LENGTH, "a question is truncated to this many tokens", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = (self.max_seq_length or MAX_SEQ_LENGTH) - 3
        if self.doc_stride is not None and self.doc_stride >= limit:
            raise BadInput(
                "doc_stride", "", f"expected less than max_seq_length - 3 = {limit}, found {self.doc_stride}"
            )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What `make_windows` takes: max_seq_length, doc_stride and max_query_length."""
        overlap = DOC_STRIDE if self.doc_stride is None else self.doc_stride
        return self.max_seq_length or MAX_SEQ_LENGTH, overlap, self.max_query_length


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(Checked):
    """How answers are chosen from the logits."""

    n_best_size: int = option(N_BEST_SIZE, "answers kept for each question", least=1)
    max_answer_length: int = option(MAX_ANSWER_LENGTH, "longest answer, in tokens", least=1)
    version_2_with_negative: bool = option(
        False, "a question without answers is unanswerable, even where the file does not mark it is_impossible"
    )
    null_score_diff_threshold: float | None = option(
        None, f"{NULL_THRESHOLD}; default: the calibrated model's own, else 0; with --score, 1.0"
    )
    eval_batch_size: int = option(EVAL_BATCH_SIZE, "windows in a batch of prediction", least=1, may_change=True)


@dataclass(frozen=True, kw_only=True)
class MachineSettings(Checked):
    """Where to compute, and in which precision."""

    device: str = option("auto", "auto: cuda, else cpu", choices=("auto", "cpu", "cuda"), may_change=True)
    dtype: str = option("auto", PRECISION, choices=DTYPES)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(Checked):
    """Which trained model to use."""

    ckpt: str | None = option(None, NAME_OR_DIR, metavar="NAME_OR_DIR")
    revision: str | None = option(None, REVISION, metavar="REV")


@dataclass(frozen=True, kw_only=True)
class Settings(WindowSettings, AnswerSettings, MachineSettings):
    """The settings of a training run, one for each flag of `train.py`."""

    data: str | Path | Sequence[str | Path] = option(
        (), "SQuAD JSON to train on, v1.1 or v2.0", metavar="FILE", may_change=True
    )
    eval_data: str | Path | None = option(
        None, "SQuAD JSON to score before training and after each epoch", metavar="FILE", may_change=True
    )
    model: str | Path = option(DEFAULT_MODEL, NAME_OR_DIR, metavar="NAME_OR_DIR")
    revision: str | None = option(None, REVISION, metavar="REV")
    output_dir: str | Path | None = option(
        None, "where checkpoints go; default runs/<data>-<model>", metavar="DIR", may_change=True
    )
    overwrite: bool = option(False, "remove what an earlier run left in output_dir", may_change=True)
    resume: bool | str | Path = option(
        False, "continue the run in output_dir, or from the run or checkpoint DIR", metavar="DIR", may_change=True
    )
    epochs: int = option(2, "passes through the data", least=1)
    batch_size: int = option(16, "windows in a micro-batch, per process", least=1)
    gradient_accumulation_steps: int = option(1, "micro-batches in a step, per process", least=1)
    learning_rate: float | None = option(
        None, f"peak learning rate; default {BASE_RATE:g} for hidden_size >= {BASE_SIZE}, {SMALL_RATE:g} below", least=0
    )
    warmup_ratio: float = option(0.1, "share of the steps in which the learning rate rises", least=0, most=1)
    weight_decay: float = option(0.01, "weight decay of the matrices", least=0)
    layer_decay: float | None = option(
        None,
        "each layer learns at this share of the rate of the one above; "
        f"default 1 for hidden_size >= {BASE_SIZE}, {SMALL_DECAY:g} below",
        least=0,
        most=1,
    )
    dropout: float | None = option(
        None,
        f"dropout in training; default: the model's own for hidden_size >= {BASE_SIZE}, 0 below",
        least=0,
        most=0.99,
    )
    max_grad_norm: float = option(1.0, "clip the gradient to this norm; 0: no clipping", least=0)
    seed: int = option(42, "seed of the data order, the dropout and the new span head", least=0)
    empty_windows: float = option(
        1.0, "share of the windows without an answer that an epoch takes, for long documents", least=0, most=1
    )
    most_answers: int = option(
        MOST_ANSWERS, "answers of a question that training learns from; 1: the first alone", least=1
    )
    max_steps: int | None = option(None, "stop after this many steps, whatever --epochs says", least=1)
    max_questions: int | None = option(None, "train on the first N questions only", least=1)
    save_steps: int | None = option(None, "also save after every N steps", least=1, may_change=True)
    eval_steps: int | None = option(
        None, "also evaluate (and save) after every N steps; needs --eval_data", least=1, may_change=True
    )
    early_stopping: int | None = option(
        None, "stop after N evaluations in a row without a better F1; needs --eval_data", least=1, may_change=True
    )
    tensorboard: bool = option(False, "write the figures for TensorBoard too; needs its package", may_change=True)
    keep_last: int = option(2, "newest checkpoints to keep, besides the best", least=2, may_change=True)
    skip_bad_records: bool = option(False, "drop and count questions with faults instead of stopping")
    deterministic: bool = option(False, "bit-identical runs on one machine, on CUDA too (slower)")
    compile: bool = option(False, "compile the model first: takes a minute, pays off in long runs on CUDA")
    null_score_diff_threshold: float = option(0.0, NULL_THRESHOLD)  # the model in training is not calibrated
    dtype: str = option("auto", PRECISION, choices=TRAINING_DTYPES)

    @property
    def files(self) -> tuple[str, ...]:
        """The training files."""
        files = [self.data] if isinstance(self.data, (str, Path)) else self.data
        return tuple(str(file) for file in files)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files to train on and to score."""
        return self.files + ((str(self.eval_data),) if self.eval_data else ())

    @property
    def run_folder(self) -> Path:
        """The folder that the run writes to. A resumed run stays in the folder that is named, wherever it lies now."""
        if self.output_dir is not None:
            is_text = isinstance(self.output_dir, str)  # which a shell may not have expanded
            return Path(os.path.expanduser(self.output_dir) if is_text else self.output_dir)
        if isinstance(self.resume, (str, Path)):
            resumed = Path(self.resume)
            return resumed.resolve().parent if (resumed / "trainer_state.json").is_file() else resumed
        if not self.files:
            raise BadInput("data", "", "name the SQuAD file to train on with --data")
        return Path(f"runs/{Path(self.files[0]).stem}-{Path(self.model).name}")

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of the settings."""
        values = dataclasses.asdict(self) | {"format": FORMAT, "data": list(self.files)}
        del values["resume"], values["overwrite"]
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def values_of(settings: Checked, *groups: type[Checked]) -> dict[str, Any]:
    """The values of some groups of settings by name, such as those of `AnswerSettings`: arguments for a function."""
    return {field.name: getattr(settings, field.name) for group in groups for field in dataclasses.fields(group)}


def from_json(saved: Any, file: Path) -> Settings:
    """The settings that a checkpoint keeps, of today's format or an older one.

    Raises BadInput, which names the setting in `file`, for one that is missing, unknown, or not of its kind.
    """
    if not isinstance(saved, dict):
        raise BadInput(file, "settings", "expected an object")
    if saved.get("format", 1) not in (1, FORMAT):
        raise BadInput(file, "settings.format", f"expected 1 to {FORMAT}, found {saved['format']!r}; update minibert")
    values = OLDER | {name: value for name, value in saved.items() if name not in NOT_SETTINGS}
    kinds = value_kinds(Settings)
    for name in values.keys() - kinds.keys():
        raise BadInput(file, f"settings.{name}", "is not a setting of this version of minibert")
    for name in kinds.keys() - values.keys() - {"resume", "overwrite"}:
        raise BadInput(file, f"settings.{name}", "is missing")
    try:
        return Settings(**values)
    except BadInput as error:
        raise BadInput(file, f"settings.{error.file}", error.what) from error


def value_kinds(settings: type) -> dict[str, tuple[type, ...]]:
    """The types that each field takes; (int, NoneType) for `int | None`."""
    kinds = {}
    for name, hint in typing.get_type_hints(settings).items():
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds[name] = tuple(typing.get_origin(part) or part for part in parts)
    return kinds


def check(name: str, value: Any, kinds: tuple[type, ...], limits: typing.Mapping[str, Any]) -> None:
    """BadInput unless a value is of one of the kinds, in its range and among its choices."""
    allowed = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise BadInput(name, "", f"expected {names}, found {value!r}")
    choices = limits.get("choices")
    if choices and value is not None and value not in choices:
        raise BadInput(name, "", f"expected one of {', '.join(choices)}, found {value!r}")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not limits["least"] <= value <= limits["most"]:  # nan is not
        what = f"expected a number from {limits['least']} to {limits['most']}, found {str(value)[:40]}"
        raise BadInput(name, "", what)
