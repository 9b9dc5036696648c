"""`minibert.train` from Python: the same run as the command, resumed with the settings it began with."""

import inspect
import json
import os
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import minibert
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.config import load_config
from minibert.model.weights import save_model
from minibert.support import hub
from minibert.support.errors import BadInput
from minibert.support.run_files import read_pointer
from minibert.training.card import write_card
from minibert.training.progress import read_log
from minibert.training.run_folder import checkpoints, clear, make_latest, read_scores, record_scores
from minibert.training.settings import Settings
from tests.builders import draw_weights, tiny_config, toy_run, write_toy_squad


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_folder):
    """A run of 2 epochs with every checkpoint kept."""
    folder = tmp_path_factory.mktemp("finished")
    return toy_run(folder, tiny_folder, save_steps=5, keep_last=9, seed=7, weight_decay=0.1, dropout=0.1)


def log_of(run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_a_run_has_its_folder_settings_and_figures(finished):
    run, data = finished, finished.settings.eval_data
    assert run.settings.files == (str(data),) and (run.settings.learning_rate, run.settings.layer_decay) == (3e-4, 0.9)
    assert {"train_runtime", "train_loss", "eval_loss", "exact_match", "f1"} < set(run.summary)
    assert run.checkpoint.parent == run.folder and str(run.folder) in repr(run) and "f1" in repr(run)
    sizes = {"max_seq_length": 64, "doc_stride": 16}
    scores = minibert.evaluate(run.folder, data, device="cpu", dtype="float32", **sizes).scores
    best = max(line["f1"] for line in log_of(run) if "f1" in line and line["step"])
    assert scores["f1"] == pytest.approx(best, abs=1e-6)


@pytest.fixture
def half(finished, tmp_path):
    """A copy of that run as it stood at step 5."""
    shutil.copytree(finished.folder / "checkpoint-5", tmp_path / "half" / "checkpoint-5")
    return tmp_path / "half"


@pytest.mark.parametrize(("size", "given", "used"), [(48, {}, 0.0), (48, {"dropout": 0.3}, 0.3), (768, {}, 0.1)])
def test_a_small_model_has_a_recipe_of_its_own_and_a_larger_one_the_published(tmp_path, tokenizer, size, given, used):
    save_model(draw_weights(BertForQuestionAnswering(tiny_config(hidden_size=size))), tokenizer, tmp_path / "model")
    run = toy_run(tmp_path, tmp_path / "model", questions=2, max_steps=1, **given)
    config = load_config(run.checkpoint)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.qa_dropout) == (used, used, 0.0)
    assert run.settings.dropout == (used if size == 48 else None)
    rates = run.settings.learning_rate, run.settings.layer_decay
    assert rates == ((3e-4, 0.9) if size == 48 else (3e-5, 1.0))


def test_with_most_answers_1_the_first_answer_alone_is_learned(tmp_path, tiny_folder):
    """As 0.1.0 trained: whatever the other annotators marked, the weights are the same."""
    folders = [tmp_path / name for name in ("several", "first")]
    for folder in folders:
        folder.mkdir()
        data = json.loads(write_toy_squad(folder / "toy.json", 6).read_text("utf-8"))
        for paragraph in data["data"][0]["paragraphs"] if folder.name == "several" else []:
            first_word = {"text": paragraph["context"].split()[0], "answer_start": 0}
            paragraph["qas"][0]["answers"].append(first_word)
        (folder / "data.json").write_text(json.dumps(data), "utf-8")
    small = {"max_seq_length": 64, "doc_stride": 16, "dtype": "float32", "device": "cpu", "batch_size": 4}
    small |= {"model": tiny_folder, "max_steps": 2}
    runs = [minibert.train(data=one / "data.json", output_dir=one / "1", most_answers=1, **small) for one in folders]
    runs.append(minibert.train(data=folders[0] / "data.json", output_dir=folders[0] / "16", **small))
    several, first, default = [(run.checkpoint / "model.safetensors").read_bytes() for run in runs]
    assert several == first != default


def test_windows_narrower_than_the_default_overlap_need_no_second_setting(tmp_path, tiny_folder):
    run = toy_run(tmp_path, tiny_folder, questions=2, max_steps=1, doc_stride=None)
    assert (run.settings.max_seq_length, run.settings.doc_stride) == (64, 60)  # the largest that 64 allow
    assert "f1" in minibert.evaluate(run.folder, run.settings.eval_data, max_seq_length=64).scores


def test_an_overlap_that_the_models_windows_cannot_have_is_refused_with_its_flag(tmp_path, tiny_folder):
    """The model has 70 positions, and no other length is given."""
    says = r"^--doc_stride: expected less than max_seq_length - 3 = 67, found 67"
    with pytest.raises(BadInput, match=says):
        toy_run(tmp_path, tiny_folder, questions=2, max_seq_length=None, doc_stride=67)
    with pytest.raises(BadInput, match=says):
        minibert.evaluate(tiny_folder, tmp_path / "toy.json", doc_stride=67)


def test_a_resumed_run_needs_no_settings_and_ends_as_the_whole_one(finished, half, capfd):
    resumed = minibert.train(output_dir=half, resume=True, eval_data=None)
    for name in ("checkpoint-14/model.safetensors", "checkpoint-14/optimizer.safetensors"):
        assert (half / name).read_bytes() == (finished.folder / name).read_bytes()
    assert resumed.settings.seed == 7 and resumed.folder == half
    out = capfd.readouterr().out
    assert "resumed at step 5 of 14" in out and f"saved {half / 'checkpoint-14'}" in out
    assert f"epoch 2: loss {log_of(resumed)[-1]['loss']:.2f}" in out
    card = (half / "README.md").read_bytes()
    (half / "README.md").unlink()
    minibert.train(output_dir=half, resume=True)
    assert "this run is finished; to train on: python train.py --model" in capfd.readouterr().out
    assert (half / "README.md").read_bytes() == card  # a kill may come before the last card
    assert "# half" in (half / "README.md").read_text("utf-8")


def test_another_number_of_threads_is_said(half, monkeypatch, capsys):
    """With it the order of sums changes, and the last bits of the results."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 3)
    minibert.train(output_dir=half, resume=True, eval_data=None)
    assert f"{threads} threads before, {threads + 3} now" in capsys.readouterr().out


def test_editors_and_help_know_every_setting():
    parameters = inspect.signature(minibert.train).parameters
    assert set(parameters) == {field for field in Settings.__dataclass_fields__}
    assert parameters["epochs"].default == 2 and "Fine-tune" in minibert.train.__doc__


def test_a_run_stops_when_evaluations_bring_nothing(tmp_path, tiny_folder):
    """At a learning rate of 0 no evaluation is better than the first."""
    run = toy_run(tmp_path, tiny_folder, eval_steps=2, early_stopping=3, learning_rate=0.0, epochs=9)
    assert [line["step"] for line in log_of(run) if "f1" in line] == [0, 2, 4, 6]
    again = minibert.train(resume=True, output_dir=run.folder)  # and it stays stopped
    assert again.summary["epoch"] == run.summary["epoch"] < 1


def test_a_run_goes_on_in_another_folder_from_before_an_evaluation(finished, tmp_path, capfd):
    """It evaluates first, when there is nothing yet in the folder that its README.md could tell of."""
    source = shutil.copytree(finished.folder, tmp_path / "source")
    (source / "checkpoint-7" / "eval_results.json").unlink()
    there = minibert.train(resume=source / "checkpoint-7", output_dir=tmp_path / "there")
    assert there.checkpoint.name == "checkpoint-14" and "# there" in (there.folder / "README.md").read_text("utf-8")
    with pytest.raises(BadInput, match="is the end of its run; to train on: --model"):
        minibert.train(resume=source / "checkpoint-14", output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_best_of_a_run_is_not_told_from_scores_on_two_files(half, tmp_path):
    other = write_toy_squad(tmp_path / "other.json", 7)
    with pytest.raises(BadInput, match=r"--eval_data: expected the file by which .*, found another; .*--output_dir"):
        minibert.train(resume=half, eval_data=other)
    assert minibert.train(resume=half, eval_data=other, output_dir=tmp_path / "there").summary["f1"] > 0
    state = json.loads((half / "checkpoint-5/trainer_state.json").read_text("utf-8"))
    assert state["facts"]["eval_sha256"]
    minibert.train(resume=half, eval_data=None)  # a part without an evaluation changes nothing in that
    with pytest.raises(BadInput, match="--eval_data: expected the file by which `best` was chosen"):
        minibert.train(resume=half, eval_data=other)


def test_a_run_that_goes_on_elsewhere_may_replace_what_is_there(finished, half, tmp_path):
    """For example what a first try left that was killed before it saved. Never the checkpoint that it begins with."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "metrics.jsonl").write_text('{"step": 6}\n', "utf-8")
    with pytest.raises(BadInput, match=r"is not empty; --resume .* --overwrite removes it"):
        minibert.train(resume=half, output_dir=there)
    minibert.train(resume=half, output_dir=there, overwrite=True)
    assert checkpoints(there)[-1].name == "checkpoint-14" and read_log(there)[0]["step"] == 7
    with pytest.raises(BadInput, match="--overwrite: removes what --resume continues"):
        minibert.train(resume=half, overwrite=True)
    if os.name != "nt":  # links need a privilege there
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "checkpoint-5").symlink_to(half / "checkpoint-5")
        with pytest.raises(BadInput, match="checkpoint-5: is an input, and --overwrite would remove it"):
            minibert.train(resume=tmp_path / "other" / "checkpoint-5", output_dir=half, overwrite=True)
    assert [path.name for path in checkpoints(half)] == ["checkpoint-5"]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_run_does_not_begin_beside_a_checkpoint_that_it_cannot_remove(finished, tmp_path, monkeypatch, is_new):
    """It would be the newest, or the best, of the new run."""
    folder, rename = shutil.copytree(finished.folder, tmp_path / "run"), Path.rename

    def refused(path, target):
        if path.name == "checkpoint-10":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    (folder / "best").write_text("checkpoint-5\n", "utf-8")
    with pytest.raises(BadInput, match="checkpoint-10: cannot be removed; remove it, or name another --output_dir"):
        if is_new:
            clear(folder)
        else:
            make_latest(folder / "checkpoint-5", keep_last=9)


def test_a_missing_optimizer_costs_no_best_model(finished, tmp_path):
    """The newest checkpoint cannot be resumed from, but its weights are whole: nothing may remove them unasked."""
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "best").write_text("checkpoint-14\n", "utf-8")
    (folder / "checkpoint-14/optimizer.safetensors").unlink()
    with pytest.raises(BadInput, match="going back to checkpoint-10 would remove checkpoint-14, the best"):
        minibert.train(resume=folder)
    weights = folder / "checkpoint-14/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])  # no model any more
    minibert.train(resume=folder)
    f1 = {path.name: read_scores(path).get("f1", -1) for path in checkpoints(folder)}
    assert f1[read_pointer(folder / "best")] == max(f1.values())


def test_a_best_that_is_gone_is_chosen_anew_from_all_scores(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "best").unlink()
    record_scores(folder, 14, {"f1": 3.0}, keep_last=9)
    assert read_pointer(folder / "best") == "checkpoint-7"
    record_scores(folder, 14, {"f1": 101.0}, keep_last=9)
    assert read_pointer(folder / "best") == "checkpoint-14"


def test_what_a_script_gives_again_is_what_the_run_had(half, tiny_folder, tmp_path):
    again = {"model": Path(tiny_folder), "learning_rate": None, "max_seq_length": None, "doc_stride": None}
    assert minibert.train(output_dir=half, resume=True, eval_data=None, **again).settings.seed == 7
    with pytest.raises(BadInput, match="--model: expected"):
        minibert.train(output_dir=half, resume=True, model=tmp_path)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [("tensorboard", "needs its package"), ("compile", "torch cannot compile here (no C++ compiler); leave it out")],
)
def test_a_flag_that_cannot_be_obeyed_removes_nothing(finished, tmp_path, monkeypatch, flag, reason):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its package is not installed
    monkeypatch.setattr(torch, "compile", lambda function: Mock(side_effect=RuntimeError("no C++ compiler\n\nmore")))
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    names = sorted(path.name for path in folder.iterdir())
    with pytest.raises(BadInput, match=re.escape(f"--{flag}: {reason}")):
        settings = finished.settings
        minibert.train(data=settings.data, model=settings.model, output_dir=folder, overwrite=True, **{flag: True})
    assert sorted(path.name for path in folder.iterdir()) == names


def test_train_loss_is_the_mean_over_all_steps_after_early_stopping_too(tmp_path, tiny_folder):
    """It ends at step 6, inside a line of metrics.jsonl. At a rate of 0, the whole run has the same losses there."""
    same = {"eval_steps": 2, "learning_rate": 0.0, "dropout": 0.0}
    for name in "ab":
        (tmp_path / name).mkdir()
    stopped = toy_run(tmp_path / "a", tiny_folder, early_stopping=3, epochs=9, **same)
    whole = toy_run(tmp_path / "b", tiny_folder, max_steps=6, **same)
    assert stopped.summary["train_loss"] == pytest.approx(whole.summary["train_loss"], rel=1e-6)


def test_data_without_any_answer_needs_its_empty_windows(tmp_path, tiny_folder):
    data = json.loads(write_toy_squad(tmp_path / "toy.json", 4, version_2=True).read_text("utf-8"))
    for paragraph in data["data"][0]["paragraphs"]:
        paragraph["qas"][0] |= {"answers": [], "is_impossible": True}
    (tmp_path / "none.json").write_text(json.dumps(data), "utf-8")
    chosen = {"data": tmp_path / "none.json", "model": tiny_folder, "max_seq_length": 64, "doc_stride": 16}
    with pytest.raises(BadInput, match="--empty_windows: leaves nothing to train on"):
        minibert.train(**chosen, empty_windows=0.0, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    minibert.train(**chosen, empty_windows=0.5, max_steps=1, output_dir=tmp_path / "run")


def test_a_run_that_goes_back_says_what_it_removes_unless_that_is_the_best(finished, tmp_path, capfd):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "best").write_text("checkpoint-10\n", "utf-8")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(BadInput, match="going back to checkpoint-5 would remove checkpoint-10, the best; name another"):
        minibert.train(resume=folder / "checkpoint-5")
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{step}" for step in (5, 7, 10, 14)]
    make_latest(folder / "checkpoint-5", keep_last=9)
    said = "removing checkpoint-7, checkpoint-10, checkpoint-14: the run goes back to checkpoint-5"
    assert capfd.readouterr().err.startswith(said)
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-5"]
    assert read_pointer(folder / "latest") == "checkpoint-5"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_resumed_run_does_not_replace_a_link(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "best").write_text("checkpoint-5\n", "utf-8")
    (folder / "metrics.jsonl").rename(tmp_path / "mine.jsonl")
    (folder / "metrics.jsonl").symlink_to(tmp_path / "mine.jsonl")
    for resume in (folder, folder / "checkpoint-5"):
        with pytest.raises(BadInput, match="found a symbolic link; remove it"):
            minibert.train(resume=resume)
    assert (folder / "metrics.jsonl").is_symlink() and len(checkpoints(folder)) > 1


def test_a_run_is_resumed_from_inside_its_checkpoint(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-14")
    (folder / "best").write_text("checkpoint-5\n", "utf-8")
    monkeypatch.chdir(folder / "checkpoint-10")
    assert minibert.train(resume=".").folder == folder and (folder / "checkpoint-14").is_dir()


def test_overwrite_spares_a_model_that_is_found_by_its_name(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished.folder, tmp_path / "weights/mine")
    monkeypatch.setattr(hub, "model_homes", lambda: [tmp_path / "weights"])
    with pytest.raises(BadInput, match="is an input, and --overwrite would remove it"):
        minibert.train(data=finished.settings.data, model="mine", output_dir=folder, overwrite=True)


def test_a_card_that_cannot_be_written_does_not_end_a_run(finished, tmp_path, capfd):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / read_pointer(folder / "best") / "trainer_state.json").unlink()
    write_card(folder)
    assert "README.md is not written: " in capfd.readouterr().err
