"""Ctrl-C and SIGTERM, exit codes, and the last line of a command.

In: a command's main function. Out: its exit code, and one `error:` line on stderr in place of a traceback. A signal
raises `Stopped` at once, except within `StopSignals`: training ends its step and saves first.

Next: `files.py`.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from minibert.support.errors import BadInput


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end; its exit code is 128 + signal_number.

    Not an Exception: code that catches every error of a library must not catch this one.
    """

    # The number of the last one raised. A C extension that is interrupted may replace the exception by its own error;
    # the exit code is then taken from here.
    latest = 0

    def __init__(self, signal_number: int):
        super().__init__("Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name)
        self.signal_number = Stopped.latest = signal_number


def handle_signals(handler: Any) -> dict[int, Any]:
    """Set a handler for Ctrl-C and SIGTERM; return the former handlers, none where Python allows no handlers."""
    try:
        return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # in a thread other than the main one
        return {}


class StopSignals:
    """Within a `with` block, record Ctrl-C and SIGTERM in `received`, so that a loop can end between two steps.

    A second signal ends the process at once. Outside the main thread nothing is received.
    """

    def __init__(self) -> None:
        self.received = 0  # the signal's number
        self.is_raising = False

    def __enter__(self) -> "StopSignals":
        self.former = handle_signals(self.record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: set by C code, and out of Python's reach

    def record(self, number: int, _: object) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number
        if self.is_raising:
            raise Stopped(number)
        tell(f"{signal.Signals(number).name}: stopping after this step; a second signal stops at once")

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Raise Stopped at once within this inner block: for long work that is safe to abandon."""
        if self.received:
            raise Stopped(self.received)
        self.is_raising = True
        try:
            yield
        finally:
            self.is_raising = False


def run_command(main: Callable[[], None]) -> None:
    """Run a command and end the process: 0 fine, 1 environment or divergence, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""

    def stop(number: int, _: object) -> None:
        if Stopped.latest:  # a second signal
            os._exit(128 + number)
        raise Stopped(number)

    Stopped.latest, code = 0, 0
    try:
        handle_signals(stop)
        main()
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        code = last_word(error)
    sys.exit(code)


def last_word(error: BaseException) -> int:
    """Say why a command ends, and return its exit code. An unexpected error is raised again, with its traceback."""
    if Stopped.latest or isinstance(error, KeyboardInterrupt):
        number = Stopped.latest or signal.SIGINT
        return complain(f"stopped by {Stopped(number)}", 128 + number)
    if isinstance(error, BadInput):
        return complain(error, 2)
    if isinstance(error, BrokenPipeError):
        # The reader of our output has closed it (`| head`). Python would flush stdout once more, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, (OSError, FloatingPointError, MemoryError)):
        return complain(str(error) or type(error).__name__, 1)
    raise error


def complain(message: object, code: int) -> int:
    """Write one `error:` line to stderr and return the code. Control characters from files are escaped."""
    handle_signals(signal.SIG_IGN)  # another signal must not interrupt this line
    line = " ".join(str(message).split())
    tell("error: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in line))
    return code


def tell(line: str) -> None:
    """Write a line to stderr in one call: `print` makes two, and the lines of several ranks would mix."""
    sys.stderr.write(line + "\n")
