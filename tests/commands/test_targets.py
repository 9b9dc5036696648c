"""What a command is asked to write is tried before its work: a target that it may not replace stays as it is."""

import os
from pathlib import Path

import pytest

from minibert.answers.confidence import ANSWERING_FILE
from tests.builders import write_toy_squad

WRITERS = {
    "--predictions": "evaluate --ckpt MODEL --data DATA --predictions TARGET",
    "--rows": "evaluate --ckpt MODEL --data DATA --rows TARGET",
    "--report": "evaluate --ckpt MODEL --data DATA --report TARGET",
    "--output": "ask --ckpt MODEL --input LINES --output TARGET",
    "--explain": "ask --ckpt MODEL --question who --context anna --explain TARGET",
    "--fix": "check --data DATA --fix TARGET",
    "calibrate": "calibrate --ckpt MODEL --data DATA",  # writes into the model's folder
}
SUFFIXES = {"--rows": ".csv", "--report": ".html", "--explain": ".html"}


def a_folder(file: Path) -> None:
    file.mkdir()


def a_fifo(file: Path) -> None:
    os.mkfifo(file)


def a_file_of_the_user(file: Path) -> None:
    file.write_text("mine", "utf-8")


def a_link_to_one(file: Path) -> None:
    file.with_name("mine").write_text("mine", "utf-8")
    file.symlink_to("mine")


def a_link_to_an_empty_one(file: Path) -> None:
    """Its target would stay as it is, and the link be gone."""
    file.with_name("mine").touch()
    file.symlink_to("mine")


def in_a_closed_folder(file: Path) -> None:
    file.parent.chmod(0o555)


TARGETS = [a_folder, a_fifo, a_file_of_the_user, a_link_to_one, a_link_to_an_empty_one, in_a_closed_folder]
CASES = [(flag, target) for flag in WRITERS for target in TARGETS]
CASES.remove(("--output", a_fifo))  # a stream may go there
CASES = [case for case in CASES if case not in (("calibrate", a_file_of_the_user), ("calibrate", a_link_to_one))]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO")
@pytest.mark.parametrize(("flag", "target"), CASES)
def test_a_target_that_may_not_be_written_is_found_before_the_work(command, tmp_path, flag, target):
    if target == in_a_closed_folder and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    model, lines, place = tmp_path / "model", tmp_path / "lines.jsonl", tmp_path / "place"
    for folder in (model, place):
        folder.mkdir()
    (model / "config.json").write_text("{}", "utf-8")  # no model: whoever looks at it says so
    (model / "model.safetensors").write_bytes(b"")
    lines.write_text('{"question": "who", "context": "anna"}\n', "utf-8")
    file = model / ANSWERING_FILE if flag == "calibrate" else place / f"out{SUFFIXES.get(flag, '.json')}"
    data = write_toy_squad(tmp_path / "toy.json", 3)
    target(file)
    text = file.read_text("utf-8") if file.is_file() else ""
    before = sorted(tmp_path.rglob("*"))
    places = {"MODEL": model, "DATA": data, "LINES": lines, "TARGET": file}
    done = command(*(places.get(word, word) for word in WRITERS[flag].split()))
    done.assert_refused(str(file), 1 if target == in_a_closed_folder else 2)
    assert sorted(tmp_path.rglob("*")) == before
    assert not file.is_file() or file.read_text("utf-8") == text
