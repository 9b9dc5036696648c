"""stdout and stderr: what is written there can always be read, and what cannot be delivered never stops a run.

The policy. stderr is for people: a line that nobody can receive (its terminal is closed, `| tee` has died) is dropped.
stdout is a command's result: training goes on without it and saves, because its result is the run's folder; every
other command finishes its files and ends with code 1.
"""

import contextlib
import io
import json
import os
import sys

LONGEST_LINE = 2_000  # characters of a line on stderr
KEPT = "\n\xa0\u3000\u200c\u200d"  # not printable for Python, but a part of texts: line ends, wide spaces, joiners


class Lossy(io.FileIO):
    """A file that drops what it cannot write."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def,override]
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def open_streams() -> None:
    """Give stdin, stdout and stderr to a process that was started without them, and make what is written encodable.

    A command calls this first. Otherwise the next file to be opened would get the descriptor of a closed stream, and
    whatever a library prints there would end up in that file. A character that the encoding lacks is written as its
    escape.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest number that is free; writing to it fails, as it should
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if os.name != "nt" and (sys.stderr is sys.__stderr__ or sys.__stderr__ is None):
        raw = io.BufferedWriter(Lossy(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", line_buffering=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def deliver() -> Exception | None:
    """Write what stdout still holds; the error if nobody takes it. What is written later is dropped.

    Python itself would try again at its end, and fail with a traceback.
    """
    try:
        sys.stdout.flush()
        return None
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error


def printable(text: str, kept: str = KEPT) -> str:
    """The text with every character escaped that a terminal would obey rather than show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 fault", "2 faults"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def json_line(value: object) -> str:
    """A value as one line of JSON, in which only printable characters are not escaped: a terminal obeys others."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def tell(line: str) -> None:
    """Write a line to stderr in one call: `print` makes two, and the lines of several ranks would mix.

    Never raises: it is called by signal handlers, too, where an error would end up anywhere in the program.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
        # Shortened before, so that escaping a long line takes no time, and after, because the escapes are longer.
        sys.stderr.write(shortened(printable(shortened(line), kept="")) + "\n")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shortened(line: str) -> str:
    """The line without its middle, if it is long: what is wrong stands first, and what to do last."""
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} [{len(line) - 2 * half} characters] {line[-half:]}"
