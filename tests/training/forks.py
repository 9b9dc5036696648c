"""Commands that run in forked processes, with a fault (a signal, an error, a full disk) in a certain call.

They are forked from one server that has imported torch, so that a hundred of them cost little. Unix only.
"""

import contextlib
import functools
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from minibert.model.bert import BertForQuestionAnswering
from minibert.support.exits import run_command
from minibert.support.run_files import read_pointer
from minibert.training.run_folder import checkpoints, read_scores
from tests.builders import ROOT, tiny_config, write_toy_squad

FLAGS = "--max_seq_length 64 --doc_stride 16 --dtype float32 --device cpu --batch_size 4".split()
FLAGS += "--gradient_accumulation_steps 2 --epochs 3 --learning_rate 1e-3 --seed 5 --save_steps 1 --dropout 0.1".split()
STEPS_PER_EPOCH, STEPS = 4, 12  # of the run that `job` describes
OPTIMIZER = "optimizer.safetensors"
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
COMMANDS = {name: importlib.import_module(f"minibert.commands.{name}") for name in ("train", "evaluate")}

with torch.device("meta"):
    BertForQuestionAnswering(tiny_config())  # for which torch imports some 800 more modules
gc.freeze()  # otherwise the garbage collector of every child copies all of this memory


def become(script: str, words: list[str], paths: list[Path], env: dict, fault: dict | None) -> None:
    """In the child: run one of the commands, with a fault in a certain call."""
    for number, path in enumerate([os.devnull, *paths]):
        os.dup2(os.open(path, os.O_WRONLY if number else os.O_RDONLY), number)
    # Python's own files still know whether the server's streams could seek.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", 1, closefd=False)  # noqa: SIM115
    sys.__stderr__ = sys.stderr
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
    os.environ.update(env)
    main = COMMANDS[script].main
    if fault:
        arm(**fault)

    def announced() -> None:
        print("started", flush=True)
        main(words)

    try:
        run_command(announced)
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(ended.code)  # because the shutdown of 2,000 modules takes longer than the run


def arm(
    at: str, call: int, signals: list[int] = (), error: str = "", limit: int | None = None, dead: list[int] = ()
) -> None:
    """Let call number `call` of the function `at` come with signals, an error, a limit on the size of files, or streams
    that nobody reads any more (`dead`: their numbers)."""
    module, _, name = at.rpartition(".")
    owner, calls = importlib.import_module(module), 0
    function = getattr(owner, name)

    @functools.wraps(function)
    def faulty(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            for number in dead:
                reader, writer = os.pipe()
                os.close(reader)
                os.dup2(writer, number)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if error:
                raise RuntimeError(error)
            # Blocked while they are sent, several signals arrive at the same moment.
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            for number in signals:
                os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return function(*arguments, **options)

    setattr(owner, name, faulty)


class Process:
    """A running command. Its output comes through FIFOs, to which a limit on the size of files does not apply."""

    def __init__(self, folder: Path, script: str, words: list, env: dict, fault: dict | None):
        paths, self.texts = [folder / "out", folder / "err"], [b"", b""]
        for path in paths:
            os.mkfifo(path)
        # Open for both, so that neither side waits for the other.
        self.pipes = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in paths]
        arguments = script, list(map(str, words)), paths, env, fault
        self.process = FORKS.Process(target=become, args=arguments, daemon=True)
        self.process.start()

    def read(self) -> tuple[str, str]:
        """All that it has printed so far: stdout and stderr."""
        for number, pipe in enumerate(self.pipes):
            with contextlib.suppress(BlockingIOError):
                while block := os.read(pipe, 1 << 16):
                    self.texts[number] += block
        return tuple(text.decode("utf-8") for text in self.texts)

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.process.pid, number)

    def wait(self, seconds: float = 60) -> int | None:
        """The exit code, minus the number of the signal that killed it, or None if it does not end in time."""
        self.process.join(seconds)
        self.code = self.process.exitcode
        self.process.kill()
        self.out, self.err = self.read()
        for pipe in self.pipes:
            os.close(pipe)
        return self.code


@functools.cache
def start_server() -> None:
    """Start the process that forks; it ends with this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Start a command: start("train", words, fault={"at": .., "call": .., ..}) -> Process."""

    def call(script: str, words: list, env: dict | None = None, fault: dict | None = None) -> Process:
        start_server()
        return Process(tmp_path_factory.mktemp("pipes"), script, words, env or {}, fault)

    return call


@pytest.fixture(scope="session")
def train(start):
    """Run train.py to its end."""

    def call(*words, **options) -> Process:
        process = start("train", words, **options)
        process.wait()
        return process

    return call


def wait_for(is_so, process: Process, seconds: float = 60):
    """What `is_so` returns, once it is true; fails if the process is silent for too long."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, process.read()
        time.sleep(0.001)
    return found


@pytest.fixture(scope="session")
def job(tmp_path_factory, tiny_folder) -> list:
    """Flags of a run of 12 steps with dropout, accumulation 2, a save after each step and 4 evaluations."""
    folder = tmp_path_factory.mktemp("job")
    data, eval_data = write_toy_squad(folder / "toy.json", 30), write_toy_squad(folder / "eval.json", 11, seed=1)
    return ["--data", data, "--eval_data", eval_data, "--model", tiny_folder, *FLAGS]


@pytest.fixture(scope="session")
def whole(tmp_path_factory, train, job) -> dict:
    """How the run ends that nothing interrupts, and the seconds it takes."""
    run, begin = tmp_path_factory.mktemp("whole") / "run", time.perf_counter()
    process = train(*job, "--output_dir", run)
    assert process.code == 0, process.err
    assert checkpoints(run)[-1].name == f"checkpoint-{STEPS}"
    return {"outcome": outcome(run), "seconds": time.perf_counter() - begin}


def outcome(run: Path) -> dict:
    """All that two runs must have in common."""
    last = checkpoints(run)[-1]
    return {
        "sha256": [hashlib.sha256((last / name).read_bytes()).hexdigest() for name in ("model.safetensors", OPTIMIZER)],
        "metrics": [without_speed(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()],
        "pointers": [read_pointer(run / name) for name in ("best", "latest")],
        "checkpoints": [path.name for path in checkpoints(run)],
        "scores": [read_scores(path) for path in checkpoints(run)],
        "left over": leftovers(run),
    }


def without_speed(line: str) -> dict:
    return {key: value for key, value in json.loads(line).items() if key != "windows_per_second"}


def leftovers(run: Path) -> list[str]:
    return sorted(path.name for path in run.rglob(".tmp-*"))


def assert_one_line(process: Process, code: int, *said: str) -> None:
    """It ended with this code and one line on stderr that says all of this."""
    assert process.code == code, process.err
    assert process.err.startswith("error: ") and process.err.count("\n") == 1, process.err
    assert all(words in process.err for words in said), process.err


def at_step(step: int, *signals: int) -> dict:
    """A fault: these signals arrive at the beginning of a step."""
    return {"at": "minibert.training.loop.update", "call": step, "signals": signals}
