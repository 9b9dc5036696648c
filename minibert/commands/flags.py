"""Dataclass fields -> command line flags. The commands declare what they take; this file spells it for argparse.

Flags have underscores; hyphens mean the same flag; abbreviations are refused, so that a typo cannot pass for a flag.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from minibert.support.errors import BadInput
from minibert.support.layouts import positions
from minibert.support.streams import printable, tell
from minibert.text.windows import MAX_SEQ_LENGTH
from minibert.training.settings import WindowSettings, value_kinds

# What run_qa, run_squad and others call our flags: whoever pastes one of their recipes is told the name here. Where
# commands have different flags for it, each is answered with its own.
OTHER_NAMES = {
    "dataset_name": ("data",),
    "train_file": ("data",),
    "validation_file": ("eval_data", "data"),
    "test_file": ("data",),
    "predict_file": ("eval_data", "data"),
    "model_name_or_path": ("model", "ckpt"),
    "bert_model": ("model", "ckpt"),
    "model_revision": ("revision",),
    "num_train_epochs": ("epochs",),
    "per_device_train_batch_size": ("batch_size",),
    "per_gpu_train_batch_size": ("batch_size",),
    "train_batch_size": ("batch_size",),
    "per_device_eval_batch_size": ("eval_batch_size",),
    "per_gpu_eval_batch_size": ("eval_batch_size",),
    "predict_batch_size": ("eval_batch_size",),
    "max_train_samples": ("max_questions",),
    "layerwise_lr_decay": ("layer_decay",),
    "warmup_proportion": ("warmup_ratio",),
    "warmup_steps": ("warmup_ratio",),
    "save_total_limit": ("keep_last",),
    "overwrite_output_dir": ("overwrite",),
    "resume_from_checkpoint": ("resume",),
    "fp16": ("dtype float16",),
    "bf16": ("dtype bfloat16",),
    "fp16_full_eval": ("dtype float16",),
    "bf16_full_eval": ("dtype bfloat16",),
    "use_cpu": ("device cpu",),
    "no_cuda": ("device cpu",),
}
# The command says what is done, the tokenizer's files whether letters are lower-cased.
NOT_NEEDED = ("do_train", "do_eval", "do_predict", "do_lower_case")
TEXTS = ("Q", "TEXT")  # metavars of flags that may have an empty value
Options = TypeVar("Options")
Cutting = TypeVar("Cutting", bound=WindowSettings)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers another tool's flags with ours."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """A mistaken word is shown, and must not steer the terminal."""
        super()._print_message(printable(message), file)

    def error(self, message: str) -> NoReturn:
        answers = []
        for word in message.removeprefix("unrecognized arguments:").split():
            name = word.partition("=")[0].replace("-", "_").removeprefix("__")
            names = OTHER_NAMES.get(name, ()) if word.startswith("--") else ()
            ours = [ours for ours in names if f"--{ours.partition(' ')[0]}" in self._option_string_actions]
            if ours:
                answers.append(f"--{name} is --{ours[0]} here")
            elif word.startswith("--") and name in NOT_NEEDED:
                answers.append(f"--{name} is not needed")
        if re.search(r"(unrecognized arguments:|ignored explicit argument) '?(true|false)\b", message, re.IGNORECASE):
            message += "; a flag that switches something on takes no value"
        super().error("; ".join(answers) or message)


class LastList(argparse.Action):
    """The list of words after a flag. Of a flag given twice, the last list counts, and a warning shows the first."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if left_out := getattr(namespace, self.dest, None):
            tell(f"warning: {option_string} is given twice; left out: {' '.join(left_out)}")
        setattr(namespace, self.dest, values)


def read(options: type[Options], command: str, words: Sequence[str] | None = None) -> Options:
    """The options that the command line gives, the others at their defaults. Parameters as for `parse`."""
    return make(options, parse(options, command, words))


def parse(options: type, command: str, words: Sequence[str] | None = None) -> dict[str, Any]:
    """The values that the command line gives, by field name; fields that it does not mention are absent.

    options: the dataclass whose fields are the flags; the first line of its docstring describes the command. words: the
    command line; None means this process's own. A mistake ends the process with code 2, as argparse does.
    """
    is_script = Path(sys.argv[0]).name == f"{command}.py"
    parser = Parser(
        prog=f"python {command}.py" if is_script else f"minibert {command}",
        description=(options.__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser._negative_number_matcher = re.compile(r"-\.?\d.*")  # its own does not know -1e-05
    kinds = value_kinds(options)
    # The model and the command's own fields first, those that it shares with other commands after them.
    place = {name: i for i, name in enumerate(["ckpt", *vars(options)["__annotations__"]])}
    fields = sorted(dataclasses.fields(options), key=lambda field: place.get(field.name, len(place)))
    for field in fields:
        add_flag(parser, field, kinds[field.name])
    names = {f"--{field.name}" for field in fields}
    return vars(parser.parse_args([spell(word, names) for word in (sys.argv[1:] if words is None else words)]))


def add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field, kinds: tuple[type, ...]) -> None:
    """Declare one field: a switch for a bool, a list for a sequence, else one value; `positional` ones have no flag."""
    about = field.metadata
    name = field.name if "positional" in about else f"--{field.name}"
    text = about["help"].replace("%", "%%")
    if not isinstance(field.default, (bool, tuple, type(None))):
        text += f" (default: {field.default})"
    if kinds == (bool,):
        parser.add_argument(name, help=text, action="store_true")
        return
    kind: Any = next((kind for kind in (int, float) if kind in kinds), str)
    metavar = about.get("metavar") or {int: "N", float: "X"}.get(kind)
    if kind is str and metavar not in TEXTS:
        kind = named
    count: dict[str, Any] = {}
    if Sequence in kinds:
        count = {"nargs": about["positional"]} if "positional" in about else {"nargs": "+", "action": LastList}
    elif bool in kinds:
        count = {"nargs": "?", "const": True}  # the flag alone means True
    parser.add_argument(name, help=text, type=kind, choices=about.get("choices"), metavar=metavar, **count)


def named(word: str) -> str:
    """A word that names something. "" is refused: it is a shell variable that is not set, and would mean no flag.

    A leading ~ is expanded: a shell leaves the one in `--output_dir=~/runs`.
    """
    if not word:
        raise argparse.ArgumentTypeError("expected a name, found an empty word")
    return os.path.expanduser(word)


def spell(word: str, names: set[str]) -> str:
    """`--batch-size=8` as `--batch_size=8`; any other word, such as a text that begins with hyphens, as it is."""
    flag, equals, value = word.partition("=")
    name = "--" + flag[2:].replace("-", "_")
    return name + equals + value if word.startswith("--") and name in names else word


def make(options: type[Options], values: dict[str, Any]) -> Options:
    """The options with these values; BadInput names the flag of one that cannot be used."""
    try:
        return options(**values)
    except BadInput as error:
        raise BadInput(f"--{error.file.removeprefix('--')}", error.where, error.what) from error


def fitted(options: Cutting, folder: Path) -> Cutting:
    """The options with the window length that training takes by default for the model in a folder.

    Unlike `window_length` this needs no torch.
    """
    if options.max_seq_length is not None:
        return options
    length = min(MAX_SEQ_LENGTH, positions(folder) or MAX_SEQ_LENGTH)
    return make(type(options), vars(options) | {"max_seq_length": length})


def is_same_file(first: str | Path | None, second: str | Path | None) -> bool:
    """Whether both name one existing file: output must never replace input."""
    files = [Path(name) for name in (first, second) if name not in (None, "-")]
    return len(files) == 2 and all(file.is_file() for file in files) and files[0].samefile(files[1])
