"""Strict reading: a file is what it should be, or BadInput says where it is not and what it seems to be instead.

In: paths from users and from our own runs. Out: parsed content, text, or an open regular file.
"""

import errno
import json
import math
import os
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from minibert.support.errors import BadInput

NOT_JSON = " is not a JSON value"
SHORT = reprlib.Repr()
SHORT.maxlevel = 2  # an object's values, and not what they hold

# What a file that is not the text it should be starts with.
NOT_TEXT = {
    b"version https://git-lfs": "is a git-LFS pointer, not the file; run `git lfs pull`",
    b"%PDF-": "is a PDF; save it as plain text first, for example with `pdftotext`",
    b"\x1f\x8b": "is compressed with gzip; gunzip it first",
    b"\xfd7zXZ\0": "is compressed with xz; decompress it first with `unxz`",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it first with `unzstd`",
    b"PK\x03\x04": "is a zip archive; unzip it first, or save an office document as plain text or CSV",
}
# The level of compression, 1 to 9, stands in the first bytes. Three letters alone could begin a text.
NOT_TEXT |= {
    b"BZh%d1AY&SY" % level: "is compressed with bzip2; decompress it first with `bunzip2`" for level in range(1, 10)
}


def is_same(first: Path, second: Path) -> bool:
    """Whether two names are of one file or folder: through links and mounts, and where letter case does not count."""
    try:
        return os.path.samefile(first, second)
    except OSError:  # one of them is not there
        return False


def read_json(file: str | os.PathLike, constant: Callable[[str], Any] | None = None) -> Any:
    """Parse a UTF-8 JSON file, with or without a byte order mark; BadInput says where it fails and what it seems to be.

    Stricter than `json`: a key that appears twice in one object, NaN and infinite numbers are errors.
    constant: what to do with NaN and Infinity instead, a function of the word that returns the value.
    """
    raw = read_bytes(file)
    if raw.lstrip().startswith(b"<"):
        raise BadInput(file, "", "looks like HTML or XML, not the data; download the raw file")
    text = decode(file, raw)
    if not text.strip():
        raise BadInput(file, "", "the file is empty")
    try:
        return parse_json(text, constant)
    except json.JSONDecodeError as error:
        hint = "; JSON lines? expected one JSON object" if error.msg == "Extra data" else ""
        raise BadInput(file, f"line {error.lineno} column {error.colno}", f"is not JSON: {error.msg}{hint}") from error
    except RecursionError as error:
        raise BadInput(file, "", "nested too deeply") from error
    except ValueError as error:  # from a hook below, or an integer of thousands of digits
        word = str(error).removesuffix(NOT_JSON)
        raise BadInput(file, next(lines_of(text, word), ""), str(error)) from error


def parse_json(text: str | bytes, constant: Callable[[str], Any] | None = None) -> Any:
    """`json.loads`, but ValueError for a key that appears twice in one object, and for NaN and infinite numbers."""
    return json.loads(text, object_pairs_hook=unique_keys, parse_constant=constant or refuse, parse_float=finite)


def lines_of(text: str, *words: str) -> Iterator[str]:
    """The lines of a JSON text where one of these words stands outside of strings, as "line 7", one for each."""
    line, place = 1, 0
    # A string that never ends goes to the end of the text: trying again at each of its quotes would take for ever.
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"?|[^\s"\[\]{}:,]+', text):
        if token[0] in words:
            line, place = line + text.count("\n", place, token.start()), token.start()
            yield f"line {line}"


def read_text(file: str | os.PathLike) -> str:
    """A UTF-8 file's text, without its byte order mark."""
    return decode(file, read_bytes(file))


def read_bytes(file: str | os.PathLike) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise BadInput(file, "", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def decode(file: str | os.PathLike, raw: bytes) -> str:
    """The text of a UTF-8 file's bytes; BadInput says what the file seems to be instead."""
    for start, what in NOT_TEXT.items():
        if raw.startswith(start):
            raise BadInput(file, "", what)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            file, f"byte {error.start}", "is not UTF-8; save the file again with the encoding UTF-8"
        ) from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs; `json` alone would silently keep the last of two equal keys."""
    result = dict(pairs)
    if len(result) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        named = SHORT.repr(dict([pair for pair in pairs if pair[0] == "id"] or pairs[:2]))  # to find it by
        raise ValueError(f"the key {key!r} appears twice in one object, the one with {named}")
    return result


def refuse(constant: str) -> NoReturn:
    """Raise ValueError for NaN and Infinity, which `json` accepts although they are not JSON."""
    raise ValueError(constant + NOT_JSON)


def finite(number: str) -> float:
    """Parse a number; ValueError if it is so large that it would become infinite."""
    return float(number) if math.isfinite(float(number)) else refuse(number)


def regular(file: str, flags: int) -> int:
    """Open a regular file, as `opener` of `open`; BadInput for anything else. What is written to is never a link.

    A FIFO or a device would block or act; O_NONBLOCK keeps opening it from waiting, and does nothing to a regular file.
    """
    is_writing = flags & (os.O_WRONLY | os.O_RDWR)
    flags |= getattr(os, "O_NONBLOCK", 0) | (getattr(os, "O_NOFOLLOW", 0) if is_writing else 0)
    if is_writing and os.path.islink(file):  # for systems without O_NOFOLLOW
        raise BadInput(file, "", "expected a regular file, found a symbolic link; remove it")
    try:
        descriptor = os.open(file, flags, 0o666)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
    raise BadInput(file, "", "expected a regular file; remove what is there")
