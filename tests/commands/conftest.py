"""Fixtures of the commands' tests: call a command in this process, and folders for it to work on."""

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minibert.__main__ import run
from tests.builders import write_toy_squad


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict]:
        """The lines of stdout, each strict JSON."""
        return [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in self.out.splitlines()]

    @property
    def result(self) -> dict:
        """The JSON object in the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    def assert_refused(self, says: str = "", code: int = 2) -> None:
        """Exit code, silence on stdout, and one printable line on stderr that begins with `error:` and matches `says`.

        argparse puts its usage before that line, and `warning:` lines may stand before it.
        """
        assert (self.code, self.out) == (code, ""), self.err
        assert "Traceback" not in self.err and self.err.endswith("\n")
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        if lines[0].startswith("usage: "):
            lines = [lines[-1].partition(": ")[2]]
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert lines[0].isprintable() and len(lines[0]) < 3000
        assert re.search(says, lines[0]), lines[0][:500]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """command("ask", "--ckpt", folder, .., stdin=b"..") runs a command in this process to its end."""

    def call(name: str, *words: Any, stdin: bytes = b"") -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            run(name, [str(word) for word in words])
        return Done(ended.value.code, *capfd.readouterr())

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A SQuAD file of 25 questions."""
    return write_toy_squad(tmp_path / "toy.json", 25)
