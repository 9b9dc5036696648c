"""SIGTERM and Ctrl-C at any moment, and ranks of which one stops or fails: all end together, and nothing is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="signals are injected into forked processes, which Windows lacks")

from minibert.support.run_files import LOCK
from minibert.training.run_folder import checkpoints, find_checkpoint, read_scores, verify
from tests.builders import ROOT, write_toy_squad
from tests.training.forks import STEPS, STEPS_PER_EPOCH, Process, assert_one_line, at_step, leftovers, outcome

SMALL = ["--max_seq_length", "64", "--doc_stride", "16", "--dtype", "float32", "--device", "cpu"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
CODES = {TERM: 143, INT: 130, HUP: 129}
LAST_WORDS = {number: f"stopped by {name}" for number, name in {TERM: "SIGTERM", INT: "Ctrl-C", HUP: "SIGHUP"}.items()}


def assert_stopped(process: Process, number: int, run: Path) -> None:
    """It ended as a signal should end it, and left a run to resume, or nothing that stands in the way of a new one."""
    assert process.code == CODES[number], process.err
    assert process.err.splitlines()[-1] == LAST_WORDS[number]
    assert "Traceback" not in process.err
    assert_resumable(run)


def assert_resumable(run: Path) -> None:
    assert all(verify(checkpoint) is None for checkpoint in checkpoints(run))
    assert checkpoints(run) or not run.exists() or {path.name for path in run.iterdir()} <= {LOCK}
    assert not leftovers(run)


# --- one process ------------------------------------------------------------------------------------------------------

SEARCH, UPDATE = "minibert.evaluation.evaluate.search", "minibert.training.loop.update"
PHASES = {  # the call in which the signal comes, its number, and the steps that are saved then
    "reading": ("minibert.training.run.read_squad", 1, TERM, 0),
    "tokenising": ("minibert.training.run.make_windows", 2, INT, 0),
    "the first evaluation": (SEARCH, 1, HUP, 0),
    "the first step": (UPDATE, 1, TERM, 1),
    "training": ("minibert.training.step.span_loss", 4, INT, 2),
    "saving": ("minibert.training.checkpoint.write_json", 3, HUP, 3),  # of step 2: the next one is ended and saved too
    "the last step of an epoch": (UPDATE, STEPS_PER_EPOCH, TERM, STEPS_PER_EPOCH),
    "a later evaluation": (SEARCH, 2, INT, STEPS_PER_EPOCH),
    "the last step but one": (UPDATE, STEPS - 1, HUP, STEPS - 1),
    "the last evaluation": (SEARCH, 4, TERM, STEPS),
}


@pytest.mark.parametrize(("at", "call", "number", "steps"), PHASES.values(), ids=PHASES)
def test_a_signal_stops_a_run_whatever_it_does(tmp_path, train, job, whole, at, call, number, steps):
    run = tmp_path / "run"
    assert_stopped(train(*job, "--output_dir", run, fault={"at": at, "call": call, "signals": [number]}), number, run)
    newest = checkpoints(run)[-1:]
    assert [path.name for path in newest] == [f"checkpoint-{steps}"][: min(1, steps)]
    assert not any(read_scores(path) for path in newest)  # an evaluation that was due is still to come
    again = train(*job, "--output_dir", run, *(["--resume"] if steps else []))
    assert again.code == 0, again.err
    assert outcome(run) == whole["outcome"]


@pytest.mark.parametrize(("at", "newest"), [(UPDATE, "checkpoint-2"), (SEARCH, "checkpoint-8")])
def test_a_second_signal_stops_at_once(tmp_path, train, job, at, newest):
    """Both in the middle of a step, which is then neither ended nor saved, or of an evaluation."""
    for first, second in ((TERM, INT), (INT, TERM)):
        fault = {"at": at, "call": 3, "signals": [first, second]}
        stopped = train(*job, "--output_dir", tmp_path / "run", "--overwrite", fault=fault)
        assert stopped.code in (CODES[first], CODES[second]) and "Traceback" not in stopped.err, stopped.err
        assert find_checkpoint(tmp_path / "run").name == newest


@pytest.mark.parametrize(("dead", "number"), [([1], TERM), ([2], INT), ([1, 2], HUP)])
def test_a_run_that_nobody_listens_to_stops_and_saves(tmp_path, train, job, dead, number):
    fault = at_step(3, number) | {"dead": dead}
    stopped = train(*job, "--output_dir", tmp_path / "run", fault=fault)
    assert stopped.code == CODES[number] and "Traceback" not in stopped.err and "ignored" not in stopped.err
    assert find_checkpoint(tmp_path / "run").name == "checkpoint-3"


def test_a_run_whose_output_dies_ends_as_the_whole_one(tmp_path, train, job, whole):
    """As under `| tee` when tee is killed."""
    done = train(*job, "--output_dir", tmp_path / "run", fault=at_step(2) | {"dead": [1, 2]})
    assert (done.code, done.err) == (0, "") and outcome(tmp_path / "run") == whole["outcome"]


@pytest.mark.parametrize("signals", [[HUP, HUP], [HUP, TERM]])
def test_a_closed_terminal_is_announced_twice_and_saved_once(tmp_path, train, job, signals):
    """The shell sends SIGHUP and so does the system; a launcher sends SIGTERM."""
    stopped = train(*job, "--output_dir", tmp_path / "run", fault=at_step(3, *signals))
    assert stopped.code in (129, 143) and find_checkpoint(tmp_path / "run").name == "checkpoint-3"


def test_a_signal_is_never_taken_for_a_fault_of_the_library_that_it_interrupts(tmp_path, train, job):
    """Where a library may raise anything, we catch everything: but not the word to stop."""
    hub_id = ["--model", "nobody/nothing"]
    fault = {"at": "huggingface_hub.snapshot_download", "call": 1, "signals": [TERM]}
    stopped = train(*job, *hub_id, "--output_dir", tmp_path / "run", fault=fault)
    assert stopped.code == 143 and stopped.err == LAST_WORDS[TERM] + "\n"


# --- ranks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def start_ranks(start):
    """Start a command as several ranks, without a launcher: one's fate cannot reach another but through the project.

    faults, others: the faults and the words of single ranks, by their numbers.
    """

    def call(ranks: int, script: str, words: list, faults: dict = {}, others: dict = {}) -> list[Process]:  # noqa: B006
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        place["CUDA_VISIBLE_DEVICES"] = ""
        place["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
        envs = [place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        return [start(script, others.get(rank, words), env, faults.get(rank)) for rank, env in enumerate(envs)]

    return call


def ends(processes: list[Process], seconds: float = 60) -> list[int | None]:
    """The exit codes of ranks that all end in time (None of one that does not)."""
    deadline = time.monotonic() + seconds
    return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]


def step_of(run: Path) -> int:
    return json.loads((find_checkpoint(run) / "trainer_state.json").read_text("utf-8"))["position"]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path, start_ranks, job, rank):
    run = tmp_path / "run"
    processes = start_ranks(2, "train", [*job, "--output_dir", run], {rank: at_step(4, TERM)})
    assert ends(processes) == [143, 143], [process.err for process in processes]
    # Two ranks with accumulation 2 on 8 micro-batches: 2 steps an epoch, and so 2 calls of `update`.
    assert step_of(run) == 4 and not list(run.rglob(".tmp-*"))
    again = start_ranks(2, "train", [*job, "--output_dir", run, "--resume"])
    assert ends(again) == [0, 0], [process.err for process in again]
    whole = start_ranks(2, "train", [*job, "--output_dir", tmp_path / "whole"])
    assert ends(whole) == [0, 0]
    assert outcome(run) == outcome(tmp_path / "whole")


TOKENISING = "minibert.training.run.make_windows"


@pytest.mark.parametrize(
    ("rank", "at"),
    [
        (1, UPDATE),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, UPDATE), (0, TOKENISING), (1, TOKENISING))),
    ],
)
def test_a_rank_that_fails_ends_the_others_too(tmp_path, start_ranks, job, rank, at):
    run = tmp_path / "run"
    fault = {"at": at, "call": 2, "error": "poisoned"}
    processes = start_ranks(2, "train", [*job, "--output_dir", run], {rank: fault})
    codes = ends(processes)
    assert None not in codes and 0 not in codes, [process.err for process in processes]
    assert "RuntimeError: poisoned" in processes[rank].err
    assert_one_line(processes[1 - rank], 1, "the connection to another rank is lost; its own last line says why")
    assert [path.name for path in checkpoints(run)] == (["checkpoint-1"] if at == UPDATE else [])


@pytest.mark.parametrize(
    ("says", "change"),
    [
        ("--learning_rate", ["--learning_rate", "2e-3"]),
        ("content of --data", ["--data", "OTHER"]),
        pytest.param("content of --data", ["--data", "MISSING"], marks=pytest.mark.slow),
        ("weights of --model", ["--model", "OTHER MODEL"]),
    ],
)
def test_ranks_that_are_not_of_one_run_end_with_a_line_each(tmp_path, start_ranks, job, says, change):
    other = write_toy_squad(tmp_path / "other.json", 30, seed=7)
    shutil.copytree(job[5], tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1  # a bit of the last float: still finite
    weights.write_bytes(content)
    words = [*job, "--output_dir", tmp_path / "run"]
    named = {"OTHER": other, "MISSING": tmp_path / "none.json", "OTHER MODEL": tmp_path / "model"}
    replaced = words.index("--data") if change[0] == "--data" else len(words)
    changed = [*words[:replaced], change[0], named.get(change[1], change[1]), *words[replaced + 2 :]]
    processes = start_ranks(2, "train", words, others={1: changed})
    assert ends(processes) == [2, 2], [process.err for process in processes]
    for process in processes:
        assert_one_line(process, 2, says, "start all of them with the same")
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.slow
def test_many_evaluations_of_two_ranks_end_cleanly(tmp_path, start_ranks, tiny_folder):
    """MINIBERT_EVALUATIONS of them, 20 without it: threads of gloo must not abort or hang a process at its end."""
    data = write_toy_squad(tmp_path / "seven.json", 7)
    for _ in range(int(os.environ.get("MINIBERT_EVALUATIONS", "20"))):
        processes = start_ranks(2, "evaluate", ["--ckpt", tiny_folder, "--data", data, *SMALL])
        assert ends(processes) == [0, 0], [process.err for process in processes]
        assert '"f1"' in processes[0].out and processes[1].err == ""


@pytest.mark.slow
def test_a_signal_to_one_rank_that_evaluates_ends_all(tmp_path, start_ranks, job):
    run = tmp_path / "run"
    fault = {"at": "minibert.evaluation.evaluate.search", "call": 2, "signals": [TERM]}
    processes = start_ranks(2, "train", [*job, "--output_dir", run], {1: fault})
    codes = ends(processes)
    assert codes[1] == 143 and codes[0] not in (0, None), [process.err for process in processes]
    assert_resumable(run)
    assert step_of(run) == 2


@pytest.mark.slow
def test_a_save_that_fails_on_one_rank_ends_all(tmp_path, start_ranks, job):
    run = tmp_path / "run"
    fault = {"at": "minibert.training.loop.save_checkpoint", "call": 2, "limit": 10_000}
    processes = start_ranks(2, "train", [*job, "--output_dir", run], {0: fault})
    codes = ends(processes)
    assert codes[0] == 1 and codes[1] not in (0, None), [process.err for process in processes]
    assert processes[0].err.startswith(f"error: cannot save {run / 'checkpoint-2'}: ")
    assert find_checkpoint(run).name == "checkpoint-1"


def test_any_number_of_ranks_predicts_the_same_bytes(tmp_path, start_ranks, tiny_folder):
    data = write_toy_squad(tmp_path / "seven.json", 7)
    files = []
    for ranks in (1, 2, 3):
        out = tmp_path / f"{ranks}-ranks" / "predictions.json"
        out.parent.mkdir()
        words = ["--ckpt", tiny_folder, "--data", data, "--predictions", out, "--eval_batch_size", "2", *SMALL]
        processes = start_ranks(ranks, "evaluate", words)
        assert ends(processes) == [0] * ranks, [process.err for process in processes]
        files.append({path.name: path.read_bytes() for path in out.parent.iterdir()})
    assert len(json.loads(files[0]["predictions.json"])) == 7 and "nbest_predictions.json" in files[0]
    assert files[0] == files[1] == files[2]


def test_every_rank_stops_on_bad_input(tmp_path, start_ranks, tiny_folder):
    words = ["--data", tmp_path / "none.json", "--model", tiny_folder, "--output_dir", tmp_path / "run"]
    processes = start_ranks(2, "train", words)
    assert ends(processes) == [2, 2], [process.err for process in processes]
    for process in processes:
        assert_one_line(process, 2, "none.json: cannot be read")


def test_ranks_without_a_batch_take_part_in_every_step(tmp_path, start_ranks, tiny_folder):
    """5 windows in batches of 1 over 2 ranks x accumulation 3: rank 1 has two of them, and in all 1 step an epoch."""
    data = write_toy_squad(tmp_path / "five.json", 5)
    logs = []
    for ranks, accumulation in ((1, 6), (2, 3)):
        run = tmp_path / f"{ranks}-ranks"
        words = ["--data", data, "--model", tiny_folder, "--output_dir", run, "--batch_size", "1", "--epochs", "4"]
        words += ["--gradient_accumulation_steps", accumulation, "--learning_rate", "1e-3", "--dropout", "0", *SMALL]
        processes = start_ranks(ranks, "train", words)
        assert ends(processes) == [0] * ranks, [process.err for process in processes]
        assert step_of(run) == 4
        assert [process.out for process in processes[1:]] == ["started\n"] * (ranks - 1)  # one rank prints
        logs.append([json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()])
    for one, two in zip(*logs, strict=True):
        assert two["step"] == one["step"] and two["loss"] == pytest.approx(one["loss"], abs=1e-5)


def torchrun(*words) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *TORCHRUN, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("questions", [33, 24])  # 33: one rank gets no micro-batch in an epoch's last step
def test_two_ranks_of_torchrun_equal_one_process_with_twice_the_accumulation(tmp_path, start, tiny_folder, questions):
    data = write_toy_squad(tmp_path / "toy.json", questions)
    words = ["--data", data, "--eval_data", data, "--model", tiny_folder, "--batch_size", 4, *SMALL]
    words += ["--learning_rate", "1e-3", "--dropout", "0", "--output_dir"]
    launcher = torchrun("train.py", *words, tmp_path / "two")
    assert start("train", [*words, tmp_path / "one", "--gradient_accumulation_steps", 2]).wait() == 0
    out, errors = launcher.communicate(timeout=150)
    assert launcher.returncode == 0 and out.count("train_runtime") == 1, errors
    two, one = (outcome(tmp_path / name)["metrics"] for name in ("two", "one"))
    assert len(one) >= 4
    for line, expected in zip(two, one, strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_once_and_ends_all(tmp_path, job):
    run = tmp_path / "run"
    without_evaluation = [*job[:2], *job[4:]]
    words = ["train.py", *without_evaluation, "--output_dir", run, "--epochs", "10000"]
    launcher = torchrun(*words)
    deadline = time.monotonic() + 300
    while len(checkpoints(run)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(checkpoints(run)) >= 2
    begin = time.monotonic()
    launcher.send_signal(TERM)
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and time.monotonic() - begin < 30
    # A rank may hear from the other one that it has to stop before its own signal comes.
    assert errors.count("SIGTERM: stopping after this step") >= 1, errors
    assert errors.count("stopped by SIGTERM") == 2 and 'train.py", line' not in errors, errors
    newest, before = [path.name for path in checkpoints(run)][:-3:-1]
    assert_resumable(run)
    assert step_of(run) == int(newest[11:]) <= int(before[11:]) + 2  # saved once, each epoch has 2 steps
