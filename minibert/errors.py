"""The one error that a user's input can cause, and what a command does about it.

Everything below the command line raises `BadInput` for a file, folder or value that cannot be used;
every command turns it into one line on stderr and exit code 2. Next: `flags.py`.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator


class BadInput(Exception):
    """Input that cannot be used: the file (or flag), the place in it, what is wrong and what to do."""

    def __init__(self, file, where: str, what: str):
        super().__init__(": ".join(str(part) for part in (file, where, what) if str(part)))
        self.file, self.where, self.what = str(file), where, what


class Stopped(BaseException):
    """A signal asked the program to end; `signal_number` gives the exit code 128 + signal_number.

    Like KeyboardInterrupt it is no Exception: nothing that handles a library's errors may take it for one of them.
    """

    latest = 0  # the number of the last one raised: code in C may turn the exception into one of its own

    def __init__(self, signal_number: int):
        super().__init__("Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name)
        self.signal_number = Stopped.latest = signal_number


class StopSignals:
    """Within a `with` block Ctrl-C and SIGTERM are noted in `received`, for a loop to end between two steps.

    A second signal ends the process at once.
    """

    def __init__(self):
        self.received, self.is_raising = 0, False

    def __enter__(self) -> "StopSignals":
        self.former = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def note(self, number: int, _) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number
        if self.is_raising:
            raise Stopped(number)
        tell(f"{signal.Signals(number).name}: stopping after this step; once more stops at once")

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within this inner block a signal raises Stopped at once: for long work by which nothing is lost."""
        if self.received:
            raise Stopped(self.received)
        self.is_raising = True
        try:
            yield
        finally:
            self.is_raising = False


def run_command(main: Callable[[], None]) -> None:
    """Run a command and end the process: 0 fine, 1 environment or divergence, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""

    def stop(number: int, _) -> None:
        if Stopped.latest:  # the second one
            os._exit(128 + number)
        raise Stopped(number)

    Stopped.latest, code = 0, 0
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        main()
        sys.stdout.flush()
    except (Exception, Stopped) as error:
        code = last_word(error)
    sys.exit(code)


def last_word(error: BaseException) -> int:
    """Say why a command ends, and return its exit code. An error that nobody expected is raised again."""
    if Stopped.latest:
        return complain(f"stopped by {Stopped(Stopped.latest)}", 128 + Stopped.latest)
    if isinstance(error, BadInput):
        return complain(error, 2)
    if isinstance(error, BrokenPipeError):
        # The reader of our output has left (`| head`): nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, (OSError, FloatingPointError, MemoryError)):
        return complain(str(error) or type(error).__name__, 1)
    raise error


def complain(message, code: int) -> int:
    """Say an `error:` line on stderr and return the code. What a file says may hold anything: only text gets out."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a signal more must not interrupt the last word
    line = " ".join(str(message).split())
    tell("error: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in line))
    return code


def tell(line: str) -> None:
    """Write a line to stderr in one piece: several ranks share it, and `print` writes a line's end by itself."""
    sys.stderr.write(line + "\n")
