"""Ctrl-C, SIGTERM and SIGHUP: what they raise, and a block in which they wait for the end of a step.

A signal raises `Stopped` at once (see `exits.py`), except within `StopSignals`: training ends its step and saves first.

SIGHUP, which says that the terminal was closed, is like SIGTERM, unless it is ignored, as under nohup. It never counts
as a second signal: the shell and the system may both send it, and a launcher may send SIGTERM after it.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from minibert.support.streams import tell

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


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
    """Set a handler for the signals that stop; return the former handlers, none where Python allows no handlers."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if HANGUP and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        numbers.append(HANGUP)
    try:
        return {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # in a thread other than the main one
        return {}


class StopSignals:
    """Within a `with` block, record a signal to stop in `received`, so that a loop can end between two steps.

    A second signal ends the process at once. Where Python's own handler of Ctrl-C was active, as in a notebook, a
    second Ctrl-C raises `Stopped` instead. Outside the main thread nothing is received.
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
        if number == HANGUP and self.received:
            return
        if self.received not in (0, HANGUP):
            if self.former.get(number) is signal.default_int_handler:  # called from Python: the process is the caller's
                raise Stopped(number)
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
