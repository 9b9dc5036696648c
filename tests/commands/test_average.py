"""`minibert average`: the mean of models of the same start, as a complete model folder, or a refusal."""

import json
import os
import shutil

import pytest
import torch
from safetensors import SafetensorError

import minibert
from minibert.model import weight_files
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weights import save_model
from minibert.training.run_folder import read_state
from tests.builders import draw_weights, tiny_config, toy_run, write_toy_squad


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_folder):
    """Three runs from the same start, on different questions."""
    folders = [tmp_path_factory.mktemp(f"run{i}") for i in range(3)]
    return [toy_run(folder, tiny_folder, 8 + i, f"toy{i}.json", epochs=1, seed=i) for i, folder in enumerate(folders)]


def test_the_weights_are_the_mean_and_the_folder_is_a_model_of_all(runs, command, tmp_path):
    folders = [run.folder for run in runs]
    done = command("average", *folders, "--output_dir", tmp_path / "new" / "mean")
    assert done.code == 0 and done.result["models"] == 3 and 0 < done.result["farthest"] < 0.5
    states = [minibert.load_model(folder).state_dict() for folder in folders]
    assert not states[0]["span_head.weight"].equal(states[1]["span_head.weight"])
    for name, tensor in minibert.load_model(tmp_path / "new" / "mean").state_dict().items():
        expected = torch.stack([state[name].double() for state in states]).mean(0)
        assert torch.allclose(tensor.double(), expected, rtol=1e-5, atol=1e-6), name
    state = read_state(tmp_path / "new" / "mean", "settings")
    hashes = [read_state(run.checkpoint, "settings")["facts"]["data_sha256"][0] for run in runs]
    assert state["facts"] == {
        "data_sha256": hashes,
        "is_average": True,
        "base_model": os.path.basename(runs[0].settings.model),
    }
    assert [os.path.basename(file) for file in state["settings"]["data"]] == ["toy0.json", "toy1.json", "toy2.json"]
    assert command("verify", tmp_path / "new" / "mean").code == 0
    # The windows of the runs, not the defaults, which would be longer than the model.
    assert command("evaluate", "--ckpt", tmp_path / "new" / "mean").result["total"] == 8
    done = command("publish", "--ckpt", tmp_path / "new" / "mean", "--name", "me/mine", "--dry_run")
    assert done.code == 0 and "the mean of several runs" in done.out and "toy2.json" in done.out
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mean"]


def test_models_without_notes_of_a_run_are_averaged_too(runs, command, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for run, folder in zip(runs, folders):
        save_model(minibert.load_model(run.folder), minibert.load_tokenizer(run.folder), folder)
    assert command("average", *folders, "--output_dir", tmp_path / "mean").code == 0
    assert not (tmp_path / "mean" / "trainer_state.json").exists()
    data = write_toy_squad(tmp_path / "toy.json", 5)
    assert command("evaluate", "--ckpt", tmp_path / "mean", "--data", data).result["total"] == 5


@pytest.fixture(scope="module")
def others(tmp_path_factory, runs, tiny_folder, headless_folder):
    """Models that do not fit to the first run, by name."""
    home = tmp_path_factory.mktemp("others")
    tokenizer = minibert.load_tokenizer(tiny_folder)
    save_model(draw_weights(BertForQuestionAnswering(tiny_config()), seed=5), tokenizer, home / "start")
    save_model(draw_weights(BertForQuestionAnswering(tiny_config(num_hidden_layers=1))), tokenizer, home / "layers")
    zeros = draw_weights(BertForQuestionAnswering(tiny_config()))
    for parameter in zeros.parameters():
        parameter.data.zero_()
    save_model(zeros, tokenizer, home / "zeros")
    shutil.copytree(tiny_folder, home / "words")
    with open(home / "words" / "vocab.txt", "a", encoding="utf-8") as vocab:
        vocab.write("\n")
    toy_run(home, tiny_folder, 8, epochs=1, max_seq_length=48).folder.rename(home / "windows")
    return {path.name: path for path in home.iterdir()} | {"head": headless_folder}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("zeros", "zeros: was not trained from the same start as "),
        ("start", "start: was not trained from the same start as "),
        ("layers", "layers: num_hidden_layers: expected 2, as in .*, found 1"),
        ("words", "words: its tokenizer files are not those of "),
        ("windows", "max_seq_length: expected 64, as in .*, found 48"),
        ("head", "the model has no trained span head"),
    ],
)
def test_models_that_do_not_fit_are_refused_and_nothing_is_left(runs, others, command, tmp_path, name, says):
    command("average", runs[0].folder, others[name], "--output_dir", tmp_path / "mean").assert_refused(says)
    if name == "zeros":  # as the first one too, where nothing can be measured in its length
        command("average", others[name], runs[0].folder, "--output_dir", tmp_path / "mean").assert_refused("same start")
    assert not list(tmp_path.iterdir())


def test_one_model_no_output_and_an_output_in_use_are_refused(runs, command, tmp_path):
    one, two = (run.folder for run in runs[:2])
    command("average", one, "--output_dir", tmp_path / "mean").assert_refused("is one model; name at least two")
    command("average", one, two).assert_refused("--output_dir: name a new folder")
    command("average", one, two, "--output_dir", two).assert_refused("is there already; name a new folder")
    (tmp_path / "file").write_text("mine")
    command("average", one, two, "--output_dir", tmp_path / "file" / "x").assert_refused(
        "file: is a file; name a folder"
    )
    command("average", one, two, "--output_dir", tmp_path / "file").assert_refused("is there already")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    if os.name == "posix":
        command("average", one, two, "--output_dir", odd).assert_refused("is not UTF-8, .*; name another folder")
    assert (tmp_path / "file").read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(runs, command, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weight_files, "save_file", fail)
    done = command("average", runs[0].folder, runs[1].folder, "--output_dir", tmp_path / "mean")
    done.assert_refused("model.safetensors: I/O error: No space left on device", code=1)
    assert not list(tmp_path.iterdir())


def test_an_average_cannot_be_resumed_but_trained_on(runs, command, tmp_path):
    mean = tmp_path / "mean"
    assert command("average", runs[0].folder, runs[1].folder, "--output_dir", mean).code == 0
    for words in ([], ["--output_dir", tmp_path / "more"]):
        refused = command("train", "--resume", mean, *words)
        refused.assert_refused(r"does not list optimizer.safetensors; .* or train on with --model")
    data = runs[0].settings.eval_data
    refused = command("train", "--data", data, "--model", runs[0].folder, "--output_dir", mean, "--overwrite")
    refused.assert_refused("mean: is a model folder; name another --output_dir")
    assert [path.name for path in tmp_path.iterdir()] == ["mean"]
    toy_run(tmp_path, mean, 5, epochs=1)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()[-1])["step"] > 0
