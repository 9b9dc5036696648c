"""Saving and finding checkpoints: complete, verified, and never without a good one."""

import json

import pytest
import torch
from conftest import drawn, tiny_config

from minibert.checkpoint import (
    checkpoints,
    find_checkpoint,
    load_optimizer,
    load_state,
    locked,
    record_scores,
    save_checkpoint,
    verify,
)
from minibert.errors import BadInput
from minibert.folders import find_folder
from minibert.model import BertForQuestionAnswering
from minibert.optim import make_optimizer
from minibert.weights import load_model


@pytest.fixture
def parts(tokenizer):
    """A model with an optimizer that has taken a step."""
    model = drawn(BertForQuestionAnswering(tiny_config()))
    optimizer = make_optimizer(model, 1e-3, 0.01)
    torch.stack(model(torch.randint(5, 50, (2, 9)))).square().sum().backward()
    optimizer.step()
    return model, tokenizer, optimizer


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
    for a, b in zip(model.parameters(), loaded.parameters()):
        assert all(
            torch.equal(optimizer.state[a][key], again.state[b][key]) for key in ("step", "exp_avg", "exp_avg_sq")
        )


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


def test_a_missing_file_is_found(tmp_path, parts):
    newest = save(tmp_path, 2, parts)
    (newest / "optimizer.safetensors").unlink()
    with pytest.raises(BadInput):
        find_checkpoint(tmp_path)


def test_a_half_written_folder_is_no_checkpoint(tmp_path, parts):
    save(tmp_path, 1, parts)
    (tmp_path / ".tmp-checkpoint-2").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    assert find_checkpoint(tmp_path).name == "checkpoint-1"
    with locked(tmp_path):
        assert not (tmp_path / ".tmp-checkpoint-2").exists()  # swept


def test_a_failed_save_leaves_the_old_checkpoints_alone(tmp_path, parts, monkeypatch):
    save(tmp_path, 1, parts)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minibert.checkpoint.save_tensors", full)
    with pytest.raises(OSError):
        save(tmp_path, 2, parts)
    assert find_checkpoint(tmp_path).name == "checkpoint-1"


@pytest.mark.parametrize("missing", ["position", "scaler", "settings"])
def test_no_part_of_the_state_is_ever_guessed(tmp_path, missing):
    state = {"position": {}, "scaler": {}, "settings": {}}
    del state[missing]
    (tmp_path / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(BadInput, match=missing):
        load_state(tmp_path, ("position", "scaler", "settings"))
