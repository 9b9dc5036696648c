"""How a command ends: its exit code, and one line on stderr in place of a traceback.

In: a command's main function. Out: the end of the process, whatever the function raised and whichever signal came.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from minibert.support.errors import BadInput
from minibert.support.signals import HANGUP, Stopped, handle_signals
from minibert.support.streams import deliver, first_line, open_streams, tell

# How torch, CUDA's libraries, the system and its loader say that there is no memory left.
NO_MEMORY = re.compile(
    "out of memory|not enough memory|(can't|cannot) allocate memory|bad_alloc|_ALLOC_FAILED|failed to map segment", re.I
)
OTHER_RANK = re.compile("^Dist|gloo|nccl|tcpstore|connection (closed|reset|refused)|broken pipe|remote worker", re.I)
LESS_MEMORY = (
    "use a smaller --batch_size with more --gradient_accumulation_steps, a smaller --eval_batch_size or a shorter "
    "--max_seq_length; what was saved before is kept"
)


def run_command(main: Callable[[], None]) -> None:
    """Run a command and end the process.

    Its exit code: 0 fine, 1 environment or divergence, 2 bad input, 128 + the number of a signal: 130 Ctrl-C,
    143 SIGTERM, 129 SIGHUP.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if number == HANGUP and Stopped.latest:
            return
        if Stopped.latest:  # a second signal
            os._exit(128 + number)
        if is_importing(frame):  # a module that is interrupted may swallow the error, or make another of it
            Stopped(number)
            os._exit(explain_end(KeyboardInterrupt()))
        raise Stopped(number)

    Stopped.latest, code = 0, 0
    open_streams()
    try:
        handle_signals(stop)
        main()
    except SystemExit as ended:  # of argparse, or of a command with a verdict
        code = ended.code if isinstance(ended.code, int) else 0
    except (Exception, KeyboardInterrupt) as error:
        code = explain_end(error)
    handle_signals(signal.SIG_IGN)  # nothing is left to stop, and Python's shutdown would show a traceback
    if undelivered := deliver():
        code = code or explain_end(undelivered)
    leave(code)


def is_rank() -> bool:
    """Whether this is one of several processes of torchrun, which numbers them in WORLD_SIZE."""
    return os.environ.get("WORLD_SIZE", "") not in ("", "0", "1")


def leave(code: int) -> NoReturn:
    """End the process; one of several ranks at once, without Python's shutdown.

    A thread of gloo, which connects the ranks, may still have to free a tensor and needs the GIL for it. A thread that
    asks for the GIL while Python shuts down aborts the process, and one that is waited for with the GIL held waits for
    ever. So the connection is never taken down.
    """
    if is_rank():
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_importing(frame: FrameType | None) -> bool:
    """Whether a frame belongs to an import."""
    while frame and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def explain_end(error: BaseException) -> int:
    """Say why a command ends, and return its exit code. An unexpected error is raised again, with its traceback."""
    if Stopped.latest or isinstance(error, KeyboardInterrupt):
        number = Stopped.latest or signal.SIGINT
        return last_line(f"stopped by {Stopped(number)}", 128 + number)  # no `error:`, as the user asked for it
    cause = error.__cause__ or error  # reading a file may have failed because there was no memory for it
    if is_out_of_memory(cause):
        return complain(f"out of memory: {LESS_MEMORY} ({first_line(cause)})", 1)
    if isinstance(error, BadInput):
        return complain(error, 2)
    if isinstance(error, BrokenPipeError):  # the reader of our output has closed it, as `| head` does
        return 1
    if isinstance(error, (OSError, FloatingPointError)):
        return complain(str(error) or type(error).__name__, 1)
    if is_rank():
        if OTHER_RANK.search(f"{type(error).__name__}: {error}"):
            reason = first_line(error)[:200]
            return complain(f"the connection to another rank is lost; its own last line says why ({reason})", 1)
        traceback.print_exception(error)
        return 1
    raise error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine had too little memory, by the error's type or its words: this file must not load torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    return isinstance(error, (RuntimeError, OSError, ImportError)) and bool(NO_MEMORY.search(str(error)))


def complain(message: object, code: int) -> int:
    """Write one `error:` line to stderr and return the code. Control characters from files are escaped."""
    return last_line("error: " + " ".join(str(message).split()), code)


def last_line(line: str, code: int) -> int:
    """Write the last line to stderr and return the code."""
    handle_signals(signal.SIG_IGN)  # another signal must not interrupt this line
    tell(line)
    return code
