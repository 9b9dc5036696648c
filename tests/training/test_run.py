"""`minibert.train` from Python: the same run as the command, resumed with the settings it began with."""

import inspect
import json
import shutil

import pytest
import torch

import minibert
from minibert.support.errors import BadInput
from minibert.training.settings import FORMAT, Settings
from tests.builders import write_toy_squad

SMALL = {"max_seq_length": 64, "doc_stride": 16, "dtype": "float32", "device": "cpu", "batch_size": 4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_folder):
    """A run of 2 epochs with every checkpoint kept, and its data."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_toy_squad(folder / "toy.json", 25)
    settings = {"data": data, "model": tiny_folder, "eval_data": data, "save_steps": 5, "keep_last": 9}
    return minibert.train(**settings, output_dir=folder / "run", seed=7, weight_decay=0.1, **SMALL), data


def test_a_run_has_its_folder_settings_and_figures(finished):
    run, data = finished
    assert run.settings.files == (str(data),) and run.settings.learning_rate == 1e-4
    assert {"train_runtime", "train_loss", "eval_loss", "exact_match", "f1"} < set(run.summary)
    assert run.checkpoint.parent == run.folder and str(run.folder) in repr(run) and "f1" in repr(run)
    assert minibert.evaluate(run.folder, data, device="cpu", dtype="float32", **window_sizes()).scores[
        "f1"
    ] == pytest.approx(max(scores_of(run)), abs=1e-6)


def window_sizes() -> dict:
    return {"max_seq_length": 64, "doc_stride": 16}


def scores_of(run) -> list[float]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["f1"] for line in lines if "f1" in line and line["step"]]


def half_of(finished, folder):
    """A copy of a run as it stood at step 5."""
    shutil.copytree(finished[0].folder / "checkpoint-5", folder / "checkpoint-5")
    return folder


@pytest.mark.parametrize("saved_format", [1, FORMAT])
def test_a_resumed_run_needs_no_settings_and_ends_as_the_whole_one(finished, tmp_path, saved_format, rewrite_state):
    run, _ = finished
    half = half_of(finished, tmp_path / "half")
    if saved_format == 1:
        rewrite_state(half / "checkpoint-5")
    resumed = minibert.train(output_dir=half, resume=True, eval_data=None)
    last = (run.folder / "latest").read_text("utf-8").strip()
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (half / last / name).read_bytes() == (run.folder / last / name).read_bytes()
    assert resumed.settings.seed == 7 and resumed.folder == half


@pytest.fixture
def rewrite_state():
    """Rewrite a checkpoint's state as format 1 had it: one flat object of settings and facts, without a number."""
    from minibert.support.files import fingerprint

    def rewrite(checkpoint):
        file = checkpoint / "trainer_state.json"
        state = json.loads(file.read_text("utf-8"))
        del state["settings"]["format"]
        state["settings"] |= state.pop("facts")
        del state["settings"]["threads"]
        file.write_text(json.dumps(state), "utf-8")
        manifest = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
        (checkpoint / "manifest.json").write_text(json.dumps(manifest | {file.name: fingerprint(file)}), "utf-8")

    return rewrite


def test_a_resumed_run_is_the_same_run(finished, tmp_path):
    half = half_of(finished, tmp_path / "half")
    with pytest.raises(BadInput, match="--seed"):
        minibert.train(output_dir=half, resume=True, seed=8)
    other = write_toy_squad(tmp_path / "other.json", 25, seed=1)
    with pytest.raises(BadInput, match=r"--data: .*data_sha256"):
        minibert.train(data=other, output_dir=half, resume=True)
    with pytest.raises(BadInput, match="is not a folder"):
        minibert.train(output_dir=tmp_path / "none", resume=True)
    with pytest.raises(BadInput, match="no intact checkpoint"):
        minibert.train(output_dir=tmp_path, resume=True)
    assert [path.name for path in half.iterdir() if path.name != ".lock"] == ["checkpoint-5"]


def test_another_number_of_threads_is_said(finished, tmp_path, monkeypatch, capsys):
    """With it the order of sums changes, and the last bits of the results."""
    half, threads = half_of(finished, tmp_path / "half"), torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 3)
    minibert.train(output_dir=half, resume=True, eval_data=None)
    assert f"{threads} threads before, {threads + 3} now" in capsys.readouterr().out


def test_a_renamed_run_is_resumed_where_it_lies_now(finished, tmp_path):
    half = half_of(finished, tmp_path / "renamed")
    assert minibert.train(resume=str(half), eval_data=None).folder == half


def test_a_run_that_ends_while_another_waits_is_not_overwritten(finished, tmp_path, tiny_folder, monkeypatch):
    """The folder is judged under the lock: what is finished while another run reads its data stays."""
    run = tmp_path / "run"
    shutil.copytree(finished[0].folder, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(BadInput, match="is not empty"):
        minibert.train(data=finished[1], model=tiny_folder, output_dir=run, **SMALL)
    assert {path: path.read_bytes() for path in before} == before


def test_editors_and_help_know_every_setting():
    parameters = inspect.signature(minibert.train).parameters
    assert set(parameters) == {field for field in Settings.__dataclass_fields__}
    assert parameters["epochs"].default == 2 and "Fine-tune" in minibert.train.__doc__


def test_a_run_says_what_it_saved_and_where_it_goes_on(finished, tmp_path, capfd):
    half = half_of(finished, tmp_path / "half")
    minibert.train(output_dir=half, resume=True, eval_data=None)
    out = capfd.readouterr().out
    assert "resumed at step 5 of 14" in out and f"saved {half / 'checkpoint-14'}" in out and "epoch 2: loss " in out
    minibert.train(output_dir=half, resume=True)
    assert "this run is finished; to train on: python train.py --model" in capfd.readouterr().out
    assert "# half" in (half / "README.md").read_text("utf-8")


def test_a_run_stops_when_evaluations_bring_nothing(finished, tmp_path, tiny_folder):
    """At a learning rate of 0 no evaluation is better than the first."""
    data = finished[1]
    settings = {"data": data, "model": tiny_folder, "eval_data": data, "eval_steps": 2, "early_stopping": 3}
    run = minibert.train(**settings, output_dir=tmp_path / "run", learning_rate=0.0, epochs=9, **SMALL)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines if "f1" in line] == [0, 2, 4, 6]
    again = minibert.train(resume=True, output_dir=run.folder)  # and it stays stopped
    assert again.summary["epoch"] == run.summary["epoch"] < 1
