"""`train.py` as its user meets it, in this process where that is enough."""

import json
import math
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, load_script, run, write_toy_squad

from minibert.checkpoint import find_checkpoint
from minibert.errors import BadInput

TINY = ["--max_seq_length", "64", "--doc_stride", "16", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def data(tmp_path):
    return write_toy_squad(tmp_path / "toy.json", 25)


@pytest.fixture
def train(monkeypatch, capsys):
    """Call train.py with some flags; returns the lines of its stdout."""
    script = load_script("train")

    def call(*words) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
        script.main()
        return capsys.readouterr().out.splitlines()

    return call


def refusal(train, *words) -> str:
    with pytest.raises(BadInput) as caught:
        train(*words)
    return str(caught.value)


def test_a_run_from_start_to_end(train, data, tiny_folder, tmp_path):
    out = tmp_path / "run"
    lines = train(
        "--data", data, "--model", tiny_folder, "--eval_data", data, "--output_dir", out, "--batch-size=4", *TINY
    )
    summary = json.loads(lines[-1])
    steps = 2 * math.ceil(summary["train_samples_per_second"] * summary["train_runtime"] / 2 / 4 - 0.01)
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"} < set(summary)
    assert summary["epoch"] == 2 and summary["total"] == 25 and {"exact_match", "f1", "eval_loss"} < set(summary)
    assert any(line.startswith("before training: eval_loss") for line in lines)
    assert any(line.startswith("epoch 2: eval_loss") for line in lines)
    assert any("python ask.py --ckpt" in line for line in lines)
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert log[0]["step"] == 0 and log[-1]["step"] == steps
    assert any({"loss", "learning_rate", "grad_norm", "windows_per_second"} < set(line) for line in log)
    assert (out / f"checkpoint-{steps}" / "model.safetensors").is_file()
    assert (out / "latest").read_text("utf-8") == f"checkpoint-{steps}\n"


def test_a_new_head_is_called_untrained(train, data, tiny_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "qa_outputs" not in k}, folder / "model.safetensors")
    words = ["--data", data, "--model", folder, "--eval_data", data, "--max_steps", "1", *TINY]
    lines = train(*words, "--output_dir", tmp_path / "a")
    assert any(line.startswith("untrained head: ") for line in lines)
    train(*words, "--output_dir", tmp_path / "b")
    files = [(tmp_path / name / "checkpoint-1" / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]  # the seed draws the head too


def test_a_resumed_run_needs_no_flags_and_ends_as_the_whole_one(train, data, tiny_folder, tmp_path):
    words = ["--data", data, "--model", tiny_folder, "--seed", "7", "--batch_size", "4", "--weight_decay", "0.1", *TINY]
    train(*words, "--output_dir", tmp_path / "whole", "--save_steps", "5", "--keep_last", "9")
    half = tmp_path / "half"
    half.mkdir()
    source = tmp_path / "whole" / "checkpoint-5"
    (half / "checkpoint-5").mkdir()
    for file in source.iterdir():
        (half / "checkpoint-5" / file.name).write_bytes(file.read_bytes())
    train("--data", data, "--output_dir", half, "--resume")
    last = (tmp_path / "whole" / "latest").read_text("utf-8").strip()
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (half / last / name).read_bytes() == (tmp_path / "whole" / last / name).read_bytes()
    assert "--seed" in refusal(train, "--data", data, "--output_dir", half, "--resume", "--seed", "8")
    other = write_toy_squad(tmp_path / "other.json", 25, seed=1)
    assert "--data:" in refusal(train, "--data", other, "--output_dir", half, "--resume")


def test_v2_data_is_recognised(train, tiny_folder, tmp_path):
    data = write_toy_squad(tmp_path / "toy2.json", 12, version_2=True)
    words = ["--data", data, "--eval_data", data, "--model", tiny_folder, "--max_steps", "1", *TINY]
    lines = train(*words, "--output_dir", tmp_path / "run")
    assert {"exact", "f1", "HasAns_f1", "NoAns_f1"} < set(json.loads(lines[-1]))


def test_another_runs_work_is_never_overwritten(train, data, tiny_folder, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    message = refusal(train, "--data", data, "--model", tiny_folder, "--output_dir", tmp_path)
    assert "not empty" in message and "--resume" in message
    assert "is a file" in refusal(train, "--data", data, "--output_dir", data)
    assert "no whole checkpoint" in refusal(train, "--data", data, "--output_dir", tmp_path, "--resume")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--doc_stride", "61"], "--doc_stride"),
        (["--max_seq_length", "71"], "70 positions"),
        (["--eval_data", "nowhere.json"], "nowhere.json"),
        (["--data", "nowhere.json"], "nowhere.json"),
        (["--model", "./nowhere"], "no such folder"),
        (["--device", "cuda"], "no CUDA device"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(train, data, tiny_folder, tmp_path, words, said):
    import torch

    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    out = tmp_path / "run"
    assert said in refusal(train, "--data", data, "--model", tiny_folder, "--output_dir", out, *TINY, *words)
    assert not out.exists()


def test_bad_flags_end_with_code_2_and_one_error_line(tmp_path):
    for words in (["--batch", "4"], ["--batch_size", "0"], ["--learning_rate", "nan"], ["--keep_last", "1"]):
        ended = run("train.py", "--data", "x.json", "--output_dir", tmp_path / "run", *words)
        assert ended.returncode == 2 and "Traceback" not in ended.stderr and "error:" in ended.stderr.splitlines()[-1]
    ended = run("train.py", "--data", tmp_path / "none.json", "--output_dir", tmp_path / "run")
    assert ended.returncode == 2 and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_sigterm_saves_and_ends_with_143(data, tiny_folder, tmp_path):
    words = ["--data", data, "--model", tiny_folder, "--output_dir", tmp_path / "run", "--epochs", "10000", *TINY]
    child = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "latest").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 143 and "Traceback" not in errors and "\x1b" not in errors
    latest = tmp_path / "run" / (tmp_path / "run" / "latest").read_text("utf-8").strip()
    assert find_checkpoint(tmp_path / "run") == latest
