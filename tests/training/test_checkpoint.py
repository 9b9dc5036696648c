"""Checkpoints and the run folder: complete, verified, and never without a good one."""

import os

import pytest
import torch

from minibert.model.weights import load_model
from minibert.support import hashes
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.training.checkpoint import load_optimizer, save_checkpoint
from minibert.training.run_folder import (
    check_fresh,
    checkpoints,
    claimed,
    find_checkpoint,
    record_scores,
    verify,
)
from minibert.training.step import make_optimizer


@pytest.fixture(autouse=True)
def files_hashed_anew(monkeypatch):
    """The clock of a file may be too coarse to tell two changes from each other that a test makes at once."""
    monkeypatch.setattr(hashes, "hash_once", hashes.hash_once.__wrapped__)


def save(run, step, parts, f1=None):
    checkpoint = save_checkpoint(run, step, *parts, {"position": {"step": step}}, 2)
    if f1 is not None:
        record_scores(run, step, {"f1": f1}, keep_last=2)
    return checkpoint


def test_a_checkpoint_is_a_model_folder_with_its_optimizer(tmp_path, parts):
    model, _, optimizer = parts
    checkpoint = save(tmp_path, 3, parts)
    loaded = load_model(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    again = make_optimizer(loaded, 1e-3, 0.01)
    load_optimizer(checkpoint, loaded, again)
    os.truncate(checkpoint / "optimizer.safetensors", 0)  # what was loaded does not depend on the file any more
    for a, b in zip(model.parameters(), loaded.parameters()):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[a][key], again.state[b][key])


def test_the_newest_are_kept_and_the_best(tmp_path, parts):
    for step, f1 in enumerate((20.0, 50.0, 40.0, 50.0, 30.0), start=1):
        save(tmp_path, step, parts, f1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert find_folder(tmp_path).name == "checkpoint-2"  # to ask and evaluate: the best
    assert find_checkpoint(tmp_path).name == "checkpoint-5"  # to resume: the latest


def test_without_a_best_the_latest_is_used(tmp_path, parts):
    save(tmp_path, 9, parts)
    save(tmp_path, 10, parts)
    assert find_folder(tmp_path).name == "checkpoint-10"


def test_one_flipped_bit_in_any_file_is_found_and_an_older_checkpoint_used(tmp_path, parts, capsys):
    save(tmp_path, 1, parts)
    newest = save(tmp_path, 2, parts)
    names = sorted(file.name for file in newest.iterdir())
    assert {"config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json", "vocab.txt"} < set(names)
    for name in names:
        original = (newest / name).read_bytes()
        flipped = bytearray(original)
        flipped[len(flipped) // 2] ^= 4
        (newest / name).write_bytes(flipped)
        assert verify(newest), name
        assert find_checkpoint(tmp_path).name == "checkpoint-1"
        assert "warning" in capsys.readouterr().err
        with pytest.raises(BadInput):
            find_checkpoint(newest)
        (newest / name).write_bytes(original)
    assert verify(newest) is None
    (newest / "optimizer.safetensors").unlink()
    assert find_checkpoint(tmp_path).name == "checkpoint-1"


def test_a_half_written_folder_is_not_a_checkpoint(tmp_path, parts):
    save(tmp_path, 1, parts)
    (tmp_path / ".tmp-checkpoint-2").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    ours, theirs = ".tmp-latest-0a1b2c3d", (".tmp-checkpoint-2.jsonl-0a1b2c3d", ".tmp-latest-0a1b2c3d.txt")
    for name in (ours, *theirs):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path).name == "checkpoint-1"
    with claimed(tmp_path):
        swept = (tmp_path / ".tmp-checkpoint-2", tmp_path / ours)
        assert not any(path.exists() for path in swept) and all((tmp_path / name).exists() for name in theirs)


def test_a_save_replaces_no_folder_that_is_not_of_a_run(tmp_path, parts):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(OSError, match="is there and is not of a run; move it"):
        save(tmp_path, 3, parts)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_claimed_folder_that_stays_empty_is_removed_again(tmp_path):
    with pytest.raises(BadInput), claimed(tmp_path / "runs/new"):
        raise BadInput("data", "", "is bad")
    assert not (tmp_path / "runs/new").exists()
    with claimed(tmp_path / "runs/new"):
        (tmp_path / "runs/new/file").write_text("text")
        with pytest.raises(BadInput, match="another run is writing"), claimed(tmp_path / "runs/new"):
            pass
    assert (tmp_path / "runs/new/file").is_file()
    with pytest.raises(BadInput, match="is not empty"):
        check_fresh(tmp_path / "runs/new", overwrite=False)
