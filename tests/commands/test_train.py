"""`train`: what it prints and writes, the settings that it saves and resumes from, and the output folder."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from minibert.support.hashes import fingerprint
from minibert.training.settings import OLDER, Settings
from tests.builders import toy_run, write_toy_squad
from tests.commands.damage import damage, snapshot

TINY = ["--max_seq_length", "64", "--doc_stride", "16", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def train(command, data, tiny_folder, tmp_path):
    """Train the tiny model for one step into the folder `run`, unless the words say otherwise."""
    words = ["--data", data, "--model", tiny_folder, "--output_dir", tmp_path / "run", *TINY, "--max_steps", 1]
    return lambda *more: command("train", *words, *more)


@pytest.fixture(scope="session")
def whole(tmp_path_factory, tiny_folder):
    """A folder with data and a run of 14 steps, with checkpoints after 5, 7, 10 and 14; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = {"weight_decay": 0.1, "dropout": 0.1, "layer_decay": 1.0}  # the last as before there was this setting
    toy_run(folder, tiny_folder, save_steps=5, keep_last=9, seed=7, **recipe)
    return folder


@pytest.fixture
def half(whole, tmp_path):
    """The same run as it was after step 5."""
    shutil.copytree(whole / "run" / "checkpoint-5", tmp_path / "half" / "checkpoint-5")
    shutil.copy(whole / "run" / "metrics.jsonl", tmp_path / "half")
    return tmp_path / "half"


def saved(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))


def to_format_1(checkpoint: Path) -> None:
    """The training state as the first version of the program wrote it: no format, the facts among fewer settings."""
    state = saved(checkpoint)
    settings = {name: value for name, value in state["settings"].items() if name not in ("format", *OLDER)}
    facts = state.pop("facts")
    settings |= {"resume": None, "overwrite": False} | {name: facts[name] for name in ("data_sha256", "world_size")}
    damage(checkpoint / "trainer_state.json", "", state | {"settings": settings})


def log_of(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, without the speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "windows_per_second"} for line in lines]


def counts_of(done) -> dict:
    """The counts that `train` prints."""
    return json.loads(next(line for line in done.out.splitlines() if line.startswith("data: ")).partition(" ")[2])


# --- a run


def test_a_run_from_start_to_end(command, data, tiny_folder, tmp_path):
    out = tmp_path / "run"
    words = ["--data", data, "--model", tiny_folder, "--eval_data", data, "--output_dir", out, "--batch-size=4", *TINY]
    done = command("train", *words)
    assert (done.code, done.err) == (0, "")
    summary, lines = done.result, done.out.splitlines()
    counts = counts_of(done)
    assert counts["questions"] == 25 <= counts["windows"] and counts["too_long"] == 0
    steps = 2 * math.ceil(counts["windows"] / 4)
    first = f"{steps} steps of 1 x 4 windows, learning rate 0.0003, layer decay 0.9, dropout 0, on cpu, float32"
    for start in (f"{tiny_folder}: ", first, "before training: eval_loss", "epoch 1: eval_loss", "epoch 2: eval_loss"):
        assert any(line.startswith(start) for line in lines), start
    assert any(f"python ask.py --ckpt {out}" in line for line in lines)
    assert summary["epoch"] == 2 and summary["total"] == 25
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"} < set(summary)
    assert {"exact_match", "f1", "eval_loss"} < set(summary)
    windows = summary["train_samples_per_second"] * summary["train_runtime"]
    assert windows == pytest.approx(2 * counts["windows"], rel=0.02)
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert (log[0]["step"], log[-1]["step"]) == (0, steps)
    assert any({"loss", "learning_rate", "grad_norm", "windows_per_second"} < set(line) for line in log)
    assert (out / f"checkpoint-{steps}" / "model.safetensors").is_file()
    assert (out / "latest").read_text("utf-8") == f"checkpoint-{steps}\n"


def test_a_checkpoint_keeps_the_settings_with_every_default_resolved(command, data, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data", data.name, "--model", tiny_folder, "--max_steps", 1, "--device", "cpu", "--dtype", "auto"]
    assert command("train", *words).code == 0
    state = saved(tmp_path / f"runs/toy-{tiny_folder.name}/checkpoint-1")
    assert set(state) == {"position", "scaler", "settings", "facts", "is_planned"}
    settings, names = state["settings"], {field.name for field in dataclasses.fields(Settings)}
    assert set(settings) == names - {"resume", "overwrite"} | {"format"}
    resolved = {"max_seq_length": 70, "learning_rate": 3e-4, "layer_decay": 0.9, "data": [data.name], "device": "cpu"}
    assert {name: settings[name] for name in resolved} == resolved
    assert settings["format"] == 2 and settings["dtype"] in ("float32", "bfloat16")
    facts = {"data_sha256": [fingerprint(data)["sha256"]], "world_size": 1, "threads": torch.get_num_threads()}
    assert state["facts"] == facts | {"eval_sha256": None, "base_model": tiny_folder.name}


def test_a_new_head_is_called_untrained_and_drawn_by_the_seed(train, data, headless_folder, tmp_path):
    words = ["--model", headless_folder, "--eval_data", data, "--dropout", 0.1]
    for name in "ab":
        done = train(*words, "--output_dir", tmp_path / name)
        assert any(line.startswith("untrained head: ") for line in done.out.splitlines())
    files = [(tmp_path / name / "checkpoint-1" / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_v2_data_is_recognised(train, tmp_path):
    data = write_toy_squad(tmp_path / "toy2.json", 12, version_2=True)
    done = train("--data", data, "--eval_data", data)
    assert {"exact", "f1", "HasAns_f1", "NoAns_f1"} < set(done.result)


def test_the_counts_say_what_was_dropped_and_what_no_prediction_can_match(train, data, tmp_path):
    content = json.loads(data.read_text("utf-8"))
    paragraph = content["data"][0]["paragraphs"][0]
    paragraph["qas"] += [
        {"id": "long", "question": "Which?", "answers": [{"text": paragraph["context"], "answer_start": 0}]},
        {"id": "bad", "question": "Which?", "answers": [{"text": "x", "answer_start": 10**6}]},
    ]
    data.write_text(json.dumps(content), "utf-8")
    train().assert_refused("id=.bad")
    done = train("--skip_bad_records", "--max_questions", 7, "--max_answer_length", 5)
    assert "dropped 1 question for 1 fault" in done.err and "id='bad'" in done.err
    counts = counts_of(done)
    assert (counts["questions"], counts["too_long"]) == (7, 1)


# --- resume


def assert_ends_as_the_whole_run(run: Path, whole: Path) -> None:
    for name in ("model.safetensors", "optimizer.safetensors", "eval_results.json"):
        assert (run / "checkpoint-14" / name).read_bytes() == (whole / "run" / "checkpoint-14" / name).read_bytes()
    assert log_of(run) == log_of(whole / "run")


@pytest.mark.parametrize(
    "words",
    [
        "--output_dir half --resume",
        "--resume half --seed 7 --dtype auto --batch_size 4",
        "--resume half/checkpoint-5 --data copy.json --save_steps 3 --keep_last 3",
    ],
)
def test_a_resumed_run_needs_no_other_flags_and_ends_as_the_whole_one(command, half, whole, words, monkeypatch):
    monkeypatch.chdir(half.parent)
    shutil.copy(whole / "toy.json", "copy.json")
    done = command("train", *words.split())
    assert done.code == 0, done.err
    assert_ends_as_the_whole_run(half, whole)
    assert saved(half / "checkpoint-14")["settings"]["save_steps"] == (3 if "--save_steps" in words else 5)


def test_a_run_can_be_resumed_into_another_folder(command, half, whole, tmp_path):
    before = snapshot(half)
    assert command("train", "--output_dir", tmp_path / "new", "--resume", half / "checkpoint-5").code == 0
    assert snapshot(half) == before
    name = "checkpoint-14/model.safetensors"
    assert (tmp_path / "new" / name).read_bytes() == (whole / "run" / name).read_bytes()


def test_a_checkpoint_of_an_older_format_is_resumed_and_evaluated(command, half, whole):
    to_format_1(half / "checkpoint-5")
    assert command("train", "--output_dir", half, "--resume").code == 0
    assert_ends_as_the_whole_run(half, whole)
    to_format_1(half / "checkpoint-14")
    scores = json.loads((whole / "run/checkpoint-14/eval_results.json").read_text("utf-8"))
    words = ["--ckpt", half / "checkpoint-14", "--device", "cpu", "--dtype", "float32"]
    assert command("evaluate", *words).result == pytest.approx(scores, abs=1e-5)


def test_a_run_whose_data_is_gone_asks_for_it(command, half, whole):
    damage(half / "checkpoint-5/trainer_state.json", "settings/data", ["gone.json"])
    command("train", "--resume", half).assert_refused("gone.json")
    assert command("train", "--resume", half, "--data", whole / "toy.json").code == 0
