"""`minibert verify`, and what the other commands do with a damaged checkpoint."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from minibert.support import hashes, hub
from minibert.support.hashes import fingerprint
from minibert.support.writing import write_json
from minibert.training.run_folder import verify
from tests.builders import write_toy_squad

WEIGHTS = "model.safetensors"


def add_manifest(folder: Path) -> None:
    write_json(folder / "manifest.json", {file.name: fingerprint(file) for file in sorted(folder.iterdir())})


@pytest.fixture
def run_folder(tmp_path, tiny_folder) -> Path:
    """A run with three checkpoints; the best is the oldest."""
    run = tmp_path / "run"
    for step in (2, 4, 6):
        folder = shutil.copytree(tiny_folder, run / f"checkpoint-{step}")
        (folder / "optimizer.safetensors").write_bytes(b"the optimizer")
        add_manifest(folder)
    (run / "best").write_text("checkpoint-2\n")
    (run / "latest").write_text("checkpoint-6\n")
    return run


def flip(file: Path) -> None:
    """Change the lowest bit of a weight: the file still loads."""
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def grow(file: Path) -> None:
    """A setting that changes answers and no error."""
    file.write_text(file.read_text("utf-8").replace("}", " }", 1), "utf-8")


# (the file that is damaged, how, whether an answer depends on it)
DAMAGES = [
    (WEIGHTS, flip, True),
    (WEIGHTS, cut, True),
    ("config.json", grow, True),
    ("vocab.txt", cut, True),
    ("vocab.txt", os.remove, True),
    ("manifest.json", cut, True),
    ("optimizer.safetensors", cut, False),
    ("optimizer.safetensors", os.remove, False),
]


def answer(command, ckpt):
    return command(
        "ask", "--ckpt", ckpt, "--question", "what was by the river ?", "--context", "the river bridge", "--json"
    )


@pytest.mark.parametrize(("name", "damage", "matters"), DAMAGES)
def test_a_damaged_checkpoint_does_not_answer_and_verify_names_it(command, run_folder, name, damage, matters):
    """Another one of the run is used with a warning; one that is named itself ends the command."""
    damage(run_folder / "checkpoint-2" / name)
    done, alone = answer(command, run_folder), answer(command, run_folder / "checkpoint-2")
    assert done.code == 0 and done.result["answer"]
    if matters:
        expected = f"warning: {run_folder / 'checkpoint-2'}: {name} is "
        assert done.err.startswith(expected) and "trying another checkpoint" in done.err
        alone.assert_refused(f"checkpoint-2: {name} is ")
    else:
        assert alone.code == 0 and done.err == alone.err == ""
    done = command("verify", "--model", run_folder)
    verdict = "MISSING" if damage is os.remove else "DAMAGED"
    assert done.code == 1 and f"  {verdict}  {name}  " in done.out and ", 1 damaged or missing, " in done.out


def test_a_run_without_an_intact_checkpoint_ends_the_command(command, run_folder):
    for folder in run_folder.glob("checkpoint-*"):
        flip(folder / WEIGHTS)
    done = answer(command, run_folder)
    done.assert_refused("holds no intact checkpoint")
    assert done.err.count("warning: ") == 3


def test_evaluate_does_the_same(command, run_folder, tmp_path):
    data = write_toy_squad(tmp_path / "data.json", 3)
    flip(run_folder / "checkpoint-2" / WEIGHTS)
    command("evaluate", "--ckpt", run_folder / "checkpoint-2", "--data", data).assert_refused(f"{WEIGHTS} is damaged")
    done = command("evaluate", "--ckpt", run_folder, "--data", data)
    assert done.code == 0 and "trying another checkpoint" in done.err and done.result["total"] == 3


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(command, run_folder, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(hashes, "hash_once", fail)
    answer(command, run_folder).assert_refused("Input/output error", code=1)
    monkeypatch.setattr(Path, "read_bytes", fail)  # of its manifest
    answer(command, run_folder).assert_refused("Input/output error", code=1)


def test_another_programs_manifest_disturbs_nothing(command, run_folder):
    for content in ({"name": "app", "icons": [{"src": "x"}]}, [], {}):
        write_json(run_folder / "checkpoint-2" / "manifest.json", content)
        assert answer(command, run_folder).err == ""


# ---- the command


def test_verify_lists_every_file_of_every_checkpoint(command, run_folder):
    (run_folder / "checkpoint-2" / "eval_results.json").write_text("{}")
    done = command("verify", run_folder)
    lines = done.out.splitlines()
    assert done.code == 0 and done.err == ""
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{run_folder / 'checkpoint-2'} (best)",
        f"{run_folder / 'checkpoint-6'} (latest)",
        f"{run_folder / 'checkpoint-4'}",
        lines[-1],
    ]
    listed = len(json.loads((run_folder / "checkpoint-2" / "manifest.json").read_text()))
    assert sum(line.startswith("  ok       ") for line in lines) == 3 * listed
    assert "  unknown  eval_results.json  not listed" in lines
    assert lines[-1] == f"{3 * listed + 4} files: {3 * listed} as expected, 0 damaged or missing, 4 of unknown hash"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_manifest_that_is_a_fifo_is_not_waited_for(run_folder):
    os.remove(run_folder / "checkpoint-6/manifest.json")
    os.mkfifo(run_folder / "checkpoint-6/manifest.json")
    assert "is not complete" in str(verify(run_folder / "checkpoint-6"))


def test_verify_shows_a_folders_name_and_does_not_obey_it(command, run_folder):
    done = command("verify", run_folder.rename(run_folder.with_name("run\x1b[2J")))
    assert done.code == 0 and "\x1b" not in done.out


def test_verify_of_the_default_model_compares_with_the_pinned_hashes(command, minilm_folder, tmp_path, monkeypatch):
    done = command("verify")
    assert done.code == 0 and f"  ok       {WEIGHTS}  90868376 bytes, as the code of minibert says" in done.out
    copy = shutil.copytree(minilm_folder, tmp_path / "models" / "minilm")
    monkeypatch.setattr(hub, "model_homes", lambda: [tmp_path / "models"])
    grow(copy / "tokenizer_config.json")
    done = command("verify", "minilm")
    assert done.code == 1 and "  DAMAGED  tokenizer_config.json  expected 350 bytes" in done.out


def test_verify_says_where_nothing_is_known_and_downloads_nothing(command, tiny_folder):
    done = command("verify", tiny_folder)
    assert done.code == 1 and "  unknown  config.json  no hash known" in done.out and " 0 as expected" in done.out
    command("verify", "someone/unknown").assert_refused("not in the hub's cache")
    command("verify", "no/such/folder").assert_refused("no such folder")
    command("verify", __file__).assert_refused("expected a folder, found a file")


@pytest.mark.slow
def test_verifying_440_mb_takes_seconds(command, tmp_path):
    with open(tmp_path / WEIGHTS, "wb") as file:
        for _ in range(440):
            file.write(os.urandom(10**6))
    add_manifest(tmp_path)
    begin = time.monotonic()
    assert command("verify", tmp_path).code == 0
    assert time.monotonic() - begin < 10
