"""Flags: their spelling, defaults and ranges, other tools' names, and how a command is started."""

import contextlib
import dataclasses
import importlib
import os
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
from minibert.evaluation.scorer import OFFICIAL_THRESHOLD
from minibert.training.settings import NULL_THRESHOLD, Settings
from tests.builders import ROOT

OPTIONS = {"train": Settings, "evaluate": EvaluateOptions, "ask": AskOptions}
OPTIONS |= {"windows": WindowsOptions, "check": CheckOptions}

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
        ("--seed 0 --null_score_diff_threshold -2", {"seed": 0, "null_score_diff_threshold": -2}),
        ("--max_seq_length 8 --doc_stride 4", {"max_seq_length": 8, "doc_stride": 4}),
        ("--learning_rate 1e-5", {"learning_rate": 1e-5}),
    ],
)
def test_the_forms_that_a_value_can_have(words, expected):
    given = flags.parse(Settings, "train", words.split())
    assert given == expected
    flags.make(Settings, given)


@pytest.mark.parametrize("words", ["train --resume=", "train --data a.json ", "check --fix ", "compare a.json "])
def test_an_empty_word_is_no_name(command, words):
    """A shell makes it of a variable that is not set: the run would start anew, the file would not be written."""
    command(*words.split(" ")).assert_refused("expected a name, found an empty word")
    assert flags.parse(AskOptions, "ask", ["--question", "", "--context", ""]) == {"question": "", "context": ""}


@pytest.mark.parametrize("words", ["train --batch 4", "evaluate --n_best 3", "ask --top 2", "windows --doc_strid 5"])
def test_abbreviations_are_refused(command, words):
    name, *rest = words.split()
    command(name, *rest).assert_refused(f"unrecognized arguments: {rest[0]}")


# --- other tools' names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", {"validation_file": "eval_data", "model_name_or_path": "model", "use_cpu": "device"}),
        ("evaluate", {"validation_file": "data", "model_name_or_path": "ckpt", "bf16_full_eval": "dtype"}),
        ("ask", {"num_train_epochs": None, "model_name_or_path": "ckpt"}),
        ("windows", {"num_train_epochs": None, "model_name_or_path": "model"}),
    ],
)
def test_another_tools_name_is_answered_with_a_flag_that_this_command_has(command, name, expected):
    answers = {}
    for other in flags.OTHER_NAMES:
        done = command(name, f"--{other}=3")
        done.assert_refused(f"--{other}")
        named = re.findall(r"--(\w+)", done.err.splitlines()[-1])
        answers[other] = next((word for word in named if word != other), None)
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


@pytest.mark.parametrize("number", ["-1e-05", "-1E+2", "-.5", "-3"])
def test_a_negative_number_is_a_value_in_any_spelling(number):
    words = ["--null_score_diff_threshold", number]
    assert flags.parse(OPTIONS["evaluate"], "evaluate", words) == {"null_score_diff_threshold": float(number)}


def test_of_a_list_flag_given_twice_the_last_counts_and_what_is_left_out_is_said(capsys):
    given = flags.parse(OPTIONS["train"], "train", "--data a.json b.json --seed 1 --data c.json --seed 2".split())
    assert given == {"data": ["c.json"], "seed": 2}
    assert capsys.readouterr().err == "warning: --data is given twice; left out: a.json b.json\n"


def test_a_whole_command_line_of_run_qa_is_answered_at_once(command):
    words = "--model_name_or_path bert-base-uncased --dataset_name squad --do_train --learning_rate 3e-5 --fp16=True"
    answers = ["model_name_or_path is --model here", "dataset_name is --data here", "do_train is not needed"]
    command("train", *words.split()).assert_refused("; --".join([*answers, "fp16 is --dtype float16 here"]))


@pytest.mark.parametrize("words", ["--version_2_with_negative True", "--version_2_with_negative=false"])
def test_a_value_after_a_switch_is_said_to_be_none(command, words):
    command("train", *words.split()).assert_refused("a flag that switches something on takes no value")


def test_the_casing_is_the_tokenizers(command):
    command("train", "--do_lower_case").assert_refused("--do_lower_case is not needed")


# --- ranges


@pytest.mark.parametrize(
    "words",
    [
        *("train --batch_size many", f"train --batch_size 1{'0' * 400}", "train --epochs 1.5", "train --dtype float99"),
        *("train --learning_rate nan", "train --doc_stride 37 --max_seq_length 40", "windows --doc_stride 381"),
        *("ask --doc_stride 37 --max_seq_length 40", "ask --top_k 0", "ask --top_k two", "ask --batch_size 0"),
        *(f"windows --max_seq_length {10**20}", "windows --show -1", "evaluate --n_best_size 0"),
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


def test_the_help_states_the_threshold_that_is_taken_without_the_flag(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    own = f"default: the calibrated model's own, else 0; with --score, {OFFICIAL_THRESHOLD}"
    says = {
        "train": f"{NULL_THRESHOLD} (default: 0.0)",
        "evaluate": f"{NULL_THRESHOLD}; {own}",
        "calibrate": "store this threshold; without it, the best is fitted",
    }
    for name, expected in says.items():
        text = " ".join(command(name, "--help").out.split())
        assert f" --null_score_diff_threshold X {expected} --" in text


def test_the_help_begins_with_the_model_and_the_commands_own_flags(command):
    flags_shown = re.findall(r"--\w+", command("ask", "--help").out)
    assert flags_shown[:4] == ["--ckpt", "--question", "--context", "--context_file"]


# --- how a command is started


@pytest.mark.parametrize("name", __main__.COMMANDS)
def test_each_command_that_the_usage_names_exists(name):
    assert callable(importlib.import_module(f"minibert.commands.{name}").main)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 0, "usage: minibert COMMAND"),
        (["--help"], 0, "fine-tune"),
        (["-h"], 0, "usage: "),
        (["--version"], 0, minibert.__version__),
        (["tarin"], 2, "error: expected a command, found 'tarin'"),
        (["windows", "--data", "none.json"], 2, "error: none.json: "),
        (["train", "--help"], 0, "usage: minibert train"),
    ],
)
def test_minibert_starts_the_command_of_that_name(monkeypatch, capfd, words, code, says):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/minibert", *words])
    try:
        __main__.main()
    except SystemExit as ended:
        assert ended.code == code
    else:
        assert code == 0
    out, err = capfd.readouterr()
    assert says in (err if code else out) and not (out if code else err)


def test_a_tilde_that_the_shell_left_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    given = flags.parse(Settings, "train", ["--output_dir=~/runs/qa", "--data", "~/a.json", "b~.json"])
    assert given["output_dir"] == os.path.expanduser("~/runs/qa") != "~/runs/qa" and given["data"][1] == "b~.json"
    assert Settings(data="a.json", output_dir="~/runs").run_folder == tmp_path / "runs"


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
