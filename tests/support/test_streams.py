"""Streams that are closed, dead or narrow: a command starts, ends with its code, and shows no traceback."""

import json
import os
import subprocess
import sys

import pytest

from minibert.support.streams import LONGEST_LINE, printable, shortened, tell
from tests.builders import ROOT, write_toy_squad

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the shell closes the streams")


@pytest.fixture
def score(tmp_path):
    """Score a file of predictions with a redirection of the shell, in a locale."""
    data = write_toy_squad(tmp_path / "toy.json", 3)
    answers = {f"q{i}": "river" for i in range(3)}
    (tmp_path / "caf\u00e9.json").write_text(json.dumps(answers), "utf-8")

    def call(redirection: str, name: str = "caf\u00e9.json", **env) -> subprocess.CompletedProcess:
        command = f'"$1" evaluate.py --score "$2" --data "$3" {redirection}'
        words = ["bash", "-c", command, "bash", sys.executable, tmp_path / name, data]
        return subprocess.run(words, cwd=ROOT, env=os.environ | env, capture_output=True, timeout=60)

    return call


@pytest.mark.parametrize(
    ("redirection", "code", "says"),
    [
        ("<&-", 0, b""),
        (">&-", 1, b"error: "),  # the scores are what it was started for
        ("2>&-", 0, b""),
        ("<&- 2>&-", 0, b""),
        ("<&- >&- 2>&-", 1, b""),
        (">/dev/full", 1, b"error: "),
        ("2>/dev/full", 0, b""),
    ],
)
def test_a_command_with_closed_or_full_streams(score, redirection, code, says):
    done = score(redirection)
    assert done.returncode == code and says in done.stderr and b"Traceback" not in done.stderr
    assert (b'"exact_match"' in done.stdout) == (code == 0)


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_text_that_the_encoding_lacks_is_escaped(score, env):
    assert score("", **env).returncode == 0
    missing = score("", name="caf\u00e9-\u65e5.json", **env)
    assert missing.returncode == 2 and missing.stderr.startswith(b"error: ") and b"Traceback" not in missing.stderr


def test_text_on_stdout_that_the_encoding_lacks_is_escaped():
    code = "from minibert.support.streams import open_streams; open_streams(); print('caf\\xe9')"
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
    assert (shown.returncode, shown.stdout.strip()) == (0, b"caf\\xe9")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u65e5\n", "caf\u00e9 \u65e5\n"),
        ("a\x1b[2Jb\x9b\r", "a\\x1b[2Jb\\x9b\\r"),
        ("a\u202eb\udcff", "a\\u202eb\\udcff"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),  # one picture of two people
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown


def test_a_line_on_stderr_is_short_keeps_its_ends_and_is_written_in_one_call(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", written.append)
    tell("first " + "\x1b" * 10_000_000 + " last")
    (line,) = written
    assert line.startswith("first ") and line.endswith(" last\n") and len(line) < LONGEST_LINE + 50
    assert shortened("short") == "short"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", ["--version", "--help"])
def test_the_version_and_the_commands_need_no_traceback_either(words):
    command = [sys.executable, "-m", "minibert", words]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith(b"error: ") and b"Traceback" not in done.stderr
