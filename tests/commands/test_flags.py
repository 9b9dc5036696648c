"""Flags: their spelling, defaults and ranges, other tools' names, and how a command is started."""

import contextlib
import dataclasses
import importlib
import re
import runpy
import sys

import pytest

import minibert
from minibert import __main__
from minibert.commands import flags
from minibert.commands.ask import AskOptions
from minibert.commands.check import CheckOptions
from minibert.commands.evaluate import EvaluateOptions
from minibert.commands.windows import WindowsOptions
from minibert.training.settings import Settings
from tests.builders import ROOT

OPTIONS = {"train": Settings, "evaluate": EvaluateOptions, "ask": AskOptions, "windows": WindowsOptions}
OPTIONS["check"] = CheckOptions

# --- defaults

WINDOWS = {"max_seq_length": None, "doc_stride": 128, "max_query_length": 64}
ANSWERS = {"n_best_size": 20, "max_answer_length": 30, "version_2_with_negative": False}
ANSWERS |= {"null_score_diff_threshold": 0.0, "eval_batch_size": 64}
RECIPE = {"epochs": 2, "batch_size": 16, "gradient_accumulation_steps": 1, "learning_rate": None, "warmup_ratio": 0.1}
RECIPE |= {"weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 42, "max_steps": None, "max_questions": None}
RECIPE |= {"save_steps": None, "keep_last": 2, "model": "minilm", "device": "auto", "dtype": "auto"}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train", WINDOWS | ANSWERS | RECIPE),
        ("evaluate", WINDOWS | ANSWERS | {"device": "auto", "dtype": "auto"}),
        ("ask", WINDOWS | {"top_k": 1, "max_answer_length": 30, "output": "-", "device": "auto", "dtype": "float32"}),
        ("windows", WINDOWS | {"model": "minilm", "show": 0}),
        ("check", WINDOWS | {"model": None, "fix": None, "max_answer_length": 30}),
    ],
)
def test_the_defaults_are_the_published_recipe(command, expected):
    values = vars(flags.make(OPTIONS[command], flags.parse(OPTIONS[command], command, [])))
    assert {name: values[name] for name in expected} == expected


# --- spelling


@pytest.mark.parametrize("words", ["--batch_size 8", "--batch-size 8", "--batch_size=8", "--batch-size=8"])
def test_hyphens_are_underscores(words):
    assert flags.parse(Settings, "train", words.split()) == {"batch_size": 8}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--question", "--who-made it?"], {"question": "--who-made it?"}),
        (["--question=--top-k-made"], {"question": "--top-k-made"}),
        (["--context=a-b --top-k=c-d"], {"context": "a-b --top-k=c-d"}),
        (["--ckpt", "my-run/checkpoint-7"], {"ckpt": "my-run/checkpoint-7"}),
        (["--max-answer-length=3", "--context", "-"], {"max_answer_length": 3, "context": "-"}),
    ],
)
def test_hyphens_in_a_value_stay(words, expected):
    assert flags.parse(AskOptions, "ask", words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--data a.json b.json --resume", {"data": ["a.json", "b.json"], "resume": True}),
        ("--resume runs/x --overwrite", {"resume": "runs/x", "overwrite": True}),
        (
            "--learning_rate 1e-5 --null_score_diff_threshold -2",
            {"learning_rate": 1e-5, "null_score_diff_threshold": -2},
        ),
        ("--max_seq_length 8 --doc_stride 4 --seed 0", {"max_seq_length": 8, "doc_stride": 4, "seed": 0}),
    ],
)
def test_the_forms_that_a_value_can_have(words, expected):
    given = flags.parse(Settings, "train", words.split())
    assert given == expected
    flags.make(Settings, given)


@pytest.mark.parametrize("words", ["train --batch 4", "evaluate --n_best 3", "ask --top 2", "windows --doc_strid 5"])
def test_abbreviations_are_refused(command, words):
    name, *rest = words.split()
    command(name, *rest).assert_refused(f"unrecognized arguments: {rest[0]}")


# --- other tools' names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", {"validation_file": "eval_data", "model_name_or_path": "model", "fp16": "dtype"}),
        ("evaluate", {"validation_file": "data", "model_name_or_path": "ckpt", "bf16": "dtype"}),
        ("ask", {"num_train_epochs": None, "model_name_or_path": "ckpt"}),
        ("windows", {"num_train_epochs": None, "model_name_or_path": "model"}),
    ],
)
def test_another_tools_name_is_answered_with_a_flag_that_this_command_has(command, name, expected):
    answers = {}
    for other in flags.OTHER_NAMES:
        done = command(name, f"--{other}=3")
        done.assert_refused(f"--{other}")
        answers[other] = next(
            (word for word in re.findall(r"--(\w+)", done.err.splitlines()[-1]) if word != other), None
        )
    assert {other: answers[other] for other in expected} == expected
    assert set(answers.values()) - {None} <= {field.name for field in dataclasses.fields(OPTIONS[name])}
    assert name != "train" or None not in answers.values()


def test_the_names_of_run_qa_are_known_in_either_spelling(command):
    names = {"train_file", "validation_file", "model_name_or_path", "num_train_epochs", "per_device_train_batch_size"}
    names |= {"per_device_eval_batch_size", "max_train_samples", "save_total_limit", "resume_from_checkpoint"}
    assert names <= flags.OTHER_NAMES.keys()
    ours = {field.name for options in OPTIONS.values() for field in dataclasses.fields(options)}
    assert not ours & flags.OTHER_NAMES.keys()
    command("train", "--num-train-epochs", "3").assert_refused("--num_train_epochs is --epochs here")


# --- ranges


@pytest.mark.parametrize(
    "words",
    [
        *("train --batch_size 0", "train --batch_size 4.0", "train --batch_size many", "train --epochs 1.5"),
        *("train --learning_rate nan", "train --learning_rate inf", "train --learning_rate -1"),
        *("train --warmup_ratio 2", "train --keep_last 1", "train --seed -1", f"train --seed {2**64}"),
        *("train --doc_stride -1", "train --dtype float99", "train --save_steps 0", "train --max_steps 0"),
        *(
            f"train --batch_size 1{'0' * 400}",
            "train --doc_stride 37 --max_seq_length 40",
            "ask --doc_stride 37 --max_seq_length 40",
        ),
        *(f"windows --max_seq_length {10**20}", "windows --max_seq_length 7", "windows --show -1"),
        *("evaluate --null_score_diff_threshold nan", "evaluate --n_best_size 0", "evaluate --eval_batch_size 0"),
        *("ask --top_k 0", "ask --top_k two", "ask --max_answer_length 0", "ask --batch_size 0"),
        *("windows --doc_stride 381", "windows --max_query_length 0"),
    ],
    ids=lambda words: words[:40],
)
def test_a_value_out_of_its_range_is_refused_with_the_name_of_its_flag(command, words):
    name, flag, *rest = words.split()
    command(name, flag, *rest).assert_refused(f"error: (argument )?{flag}: ")


# --- help


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_explains_each_flag_and_its_default(command, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "500")  # no line is wrapped
    done = command(name, "--help")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    for field in dataclasses.fields(OPTIONS[name]):
        about = field.metadata["help"]
        assert about and f"--{field.name}" in text and about in text
        if isinstance(field.default, (int, float, str)) and not isinstance(field.default, bool):
            assert f"(default: {field.default})" in text[text.index(about) :]
    assert OPTIONS[name].__doc__.partition("\n")[0] in text


# --- how a command is started


@pytest.mark.parametrize("name", __main__.COMMANDS)
def test_each_command_that_the_usage_names_exists(name):
    assert callable(importlib.import_module(f"minibert.commands.{name}").main)


@pytest.mark.parametrize(
    ("words", "code", "on_stdout", "on_stderr"),
    [
        ([], 0, "usage: minibert COMMAND", ""),
        (["--help"], 0, "fine-tune", ""),
        (["-h"], 0, "usage: ", ""),
        (["--version"], 0, minibert.__version__, ""),
        (["tarin"], 2, "", "error: expected a command, found 'tarin'"),
        (["windows", "--data", "none.json"], 2, "", "error: none.json: "),
        (["train", "--help"], 0, "usage: minibert train", ""),
    ],
)
def test_minibert_starts_the_command_of_that_name(monkeypatch, capfd, words, code, on_stdout, on_stderr):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/minibert", *words])
    try:
        __main__.main()
    except SystemExit as ended:
        assert ended.code == code
    else:
        assert code == 0
    out, err = capfd.readouterr()
    assert on_stdout in out and on_stderr in err
    assert bool(out) is bool(on_stdout) and bool(err) is bool(on_stderr)


@pytest.mark.parametrize(
    ("file", "usage"),
    [
        *((f"{name}.py", f"usage: python {name}.py ") for name in ("train", "evaluate", "ask")),
        ("minibert/__main__.py", "usage: minibert COMMAND "),
    ],
)
def test_the_scripts_and_python_dash_m_start_the_same_commands(monkeypatch, capfd, file, usage):
    monkeypatch.setattr(sys, "argv", [file, "--help"])
    with contextlib.suppress(SystemExit):
        runpy.run_path(ROOT / file, run_name="__main__")
    assert capfd.readouterr().out.startswith(usage)
