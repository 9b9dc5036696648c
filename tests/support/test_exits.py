"""Every way in which a command can end: exit code, last line, and what a signal does in between."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from minibert.support.errors import BadInput
from minibert.support.exits import complain, run_command
from minibert.support.signals import Stopped, StopSignals
from tests.builders import ROOT

TERM, INT = signal.SIGTERM, signal.SIGINT
CODES = {TERM: 143, INT: 130}
LAST_LINES = {TERM: "stopped by SIGTERM\n", INT: "stopped by Ctrl-C\n"}
if hasattr(signal, "SIGHUP"):
    CODES[signal.SIGHUP], LAST_LINES[signal.SIGHUP] = 129, "stopped by SIGHUP\n"


class Exited(BaseException):
    """Stands for os._exit, which would end the tests."""


@pytest.fixture
def exits(monkeypatch) -> None:
    monkeypatch.setattr(os, "_exit", raising(Exited))


def raising(error: BaseException | type[BaseException]) -> Callable[..., None]:
    def main(*words: object) -> None:
        raise error(*words) if isinstance(error, type) else error

    return main


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def ended(main):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadInput("a.json", "", "is empty"), 2, "error: a.json: is empty\n"),
        (OSError("disk full"), 1, "error: disk full\n"),
        (FloatingPointError("diverged"), 1, "error: diverged\n"),
        (KeyboardInterrupt(), 130, LAST_LINES[INT]),
        (SystemExit(2), 2, ""),  # argparse has said why
        (OSError("a\nb\t \x1b[31mred\x00"), 1, "error: a b \\x1b[31mred\\x00\n"),
        (BadInput("a.txt", "", "not JSON: 'out of memory'"), 2, "error: a.txt: not JSON: 'out of memory'\n"),
    ],
)
def test_an_expected_error_gives_one_line_and_its_exit_code(capsys, error, code, line):
    assert ended(raising(error)) == code
    assert capsys.readouterr().err == line


class OutOfMemoryError(RuntimeError):
    """Stands for torch's error of this name, whose message need not say more."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("no room on cuda:0\nwith a second line"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: .."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: .."),  # Windows
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("unable to mmap 341624012 bytes from file <x>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        caused(BadInput("optimizer.safetensors", "", "cannot be read"), OSError("Cannot allocate memory")),
    ],
    ids=str,
)
def test_out_of_memory_is_one_line_with_the_remedy(capsys, error):
    assert ended(raising(error)) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: out of memory: ") and line.count("\n") == 1
    assert all(f"--{flag}" in line for flag in ("batch_size", "gradient_accumulation_steps", "eval_batch_size"))


def test_a_command_without_an_error_ends_with_0(capsys):
    assert ended(lambda: print("fine")) == 0
    assert capsys.readouterr() == ("fine\n", "")


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shape [2, 3] is invalid")])
def test_an_unexpected_error_keeps_its_traceback_also_after_a_signal_of_an_earlier_command(error):
    Stopped(TERM)
    with pytest.raises(type(error)):
        run_command(raising(error))
    Stopped(TERM)
    assert ended(lambda: None) == 0


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_a_command_with_its_code(capsys, number):
    assert ended(lambda: signal.raise_signal(number)) == CODES[number]
    assert capsys.readouterr().err == LAST_LINES[number]


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("other", [ValueError("no shape"), BadInput("weights", "", "cannot be read")])
def test_the_exit_code_survives_when_a_c_extension_replaces_stopped(capsys, number, other):
    def main() -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise other from None

    assert ended(main) == CODES[number]
    assert capsys.readouterr().err == LAST_LINES[number]


@pytest.mark.parametrize(("first", "second"), [(TERM, INT), (INT, TERM)])
def test_a_second_signal_ends_a_command_at_once(exits, first, second):
    def main() -> None:
        try:
            signal.raise_signal(first)
        finally:
            signal.raise_signal(second)

    with pytest.raises(Exited) as end:
        run_command(main)
    assert end.value.args == (CODES[second],)


SWALLOWING = """
import os, signal
try:
    os.kill(os.getpid(), signal.{})
    for _ in range(100): pass
except BaseException:
    pass
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", CODES)
def test_a_signal_during_an_import_ends_the_command_whatever_the_module_catches(tmp_path, number):
    (tmp_path / "swallowing.py").write_text(SWALLOWING.format(signal.Signals(number).name), "utf-8")
    command = "from minibert.support.exits import run_command\nrun_command(lambda: __import__('swallowing'))"
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    child = subprocess.run([sys.executable, "-c", command], env=env, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stderr) == (CODES[number], LAST_LINES[number])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_an_ignored_hangup_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    assert ended(lambda: signal.raise_signal(signal.SIGHUP)) == 0


def test_a_signal_does_not_interrupt_the_last_line(capsys):
    assert complain("done for", 1) == 1
    for number in CODES:
        signal.raise_signal(number)
    assert capsys.readouterr().err == "error: done for\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows reports a closed pipe as another error")
def test_a_closed_pipe_ends_a_command_quietly():
    command = "from minibert.support.exits import run_command; run_command(lambda: print('few bytes'))"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    child = subprocess.Popen([sys.executable, "-c", command], cwd=ROOT, env=buffered, stdout=-1, stderr=-1)
    child.stdout.close()
    assert (child.wait(60), child.stderr.read()) == (1, b"")
    child.stderr.close()


def test_a_thread_that_is_not_the_main_one_runs_without_handlers(capsys):
    """There Python allows no signal handlers; a server may train or evaluate in such a thread."""
    before = signal.getsignal(TERM), signal.getsignal(INT)

    def main() -> None:
        with StopSignals() as signals, signals.raising():
            raise BadInput("a.json", "", "is empty")

    with ThreadPoolExecutor() as threads:
        assert threads.submit(ended, main).result() == 2
    assert capsys.readouterr().err == "error: a.json: is empty\n"
    assert (signal.getsignal(TERM), signal.getsignal(INT)) == before
