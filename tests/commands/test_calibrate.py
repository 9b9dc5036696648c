"""`calibrate`: it writes answering.json, `evaluate` obeys it, flags override it, and the checkpoint stays whole."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from minibert.answers.confidence import read_answering
from minibert.evaluation.evaluate import evaluate
from minibert.support.hashes import fingerprint
from minibert.support.run_files import write_pointer
from minibert.support.writing import write_json
from minibert.training.card import write_card
from minibert.training.run_folder import NEEDED, verify
from minibert.training.settings import Settings
from tests.builders import write_toy_squad
from tests.commands.damage import damage, snapshot

SIZES = {"max_seq_length": 40, "doc_stride": 8}
WORDS = ["--max_seq_length", 40, "--doc_stride", 8, "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def data(tiny_folder, tmp_path):
    """Held-out data of 24 questions: the untrained model's own answer is right for every other answerable one."""
    file = write_toy_squad(tmp_path / "held.json", 24, version_2=True)
    predictions = evaluate(tiny_folder, file, dtype="float32", device="cpu", **SIZES).predictions
    squad = json.loads(file.read_text("utf-8"))
    for i, paragraph in enumerate(squad["data"][0]["paragraphs"]):
        record = paragraph["qas"][0]
        answer = predictions[record["id"]].answer(0)
        if i % 2 and not record["is_impossible"]:
            record["answers"] = [{"text": answer.text, "answer_start": answer.start}]
    file.write_text(json.dumps(squad), "utf-8")
    return file


@pytest.fixture
def checkpoint(tiny_folder, data, tmp_path):
    """A checkpoint with its manifest, trained on `seen.json`, which has the content of `data`."""
    folder = shutil.copytree(tiny_folder, tmp_path / "run" / "checkpoint-7")
    settings = Settings(data="seen.json", learning_rate=1e-4, **SIZES).to_json()
    write_json(folder / "trainer_state.json", {"settings": settings, "facts": {"data_sha256": ["0" * 64]}})
    (folder / "optimizer.safetensors").write_bytes(b"")
    names = NEEDED | {path.name for path in folder.iterdir()}
    write_json(folder / "manifest.json", {name: fingerprint(folder / name) for name in sorted(names)})
    assert verify(folder) is None
    return folder


def test_evaluate_obeys_what_calibrate_stored_unless_a_flag_overrides_it(command, checkpoint, data, tmp_path):
    evaluated = ["evaluate", "--ckpt", checkpoint, "--data", data, *WORDS, "--calibration"]
    before = command(*evaluated).result
    assert "score_ece" in before and "confidence_ece" not in before

    done = command("calibrate", "--ckpt", checkpoint, "--data", data, *WORDS)
    answering = read_answering(checkpoint)
    assert done.code == 0 and done.result["null_score_diff_threshold"] == answering.null_score_diff_threshold
    assert answering.fitted_on == {"data": "held.json", "sha256": fingerprint(data)["sha256"], "questions": 24}
    assert "few" in done.err and "trained on" not in done.err and "answering.json" in done.err
    assert verify(checkpoint) is None

    after = command(*evaluated, "--predictions", tmp_path / "out" / "p.json")
    assert after.result["f1"] == pytest.approx(before["best_reachable_f1"])
    added = {f"confidence_{name}" for name in ("ece", "brier", "risk_at_50", "risk_at_80")}
    assert after.result.keys() - before.keys() == added
    assert after.result["confidence_brier"] < after.result["score_brier"]
    rows = json.loads((tmp_path / "out" / "nbest_predictions.json").read_text("utf-8"))
    assert all(0 < row["confidence"] < 1 for answers in rows.values() for row in answers)
    assert command(*evaluated, "--null_score_diff_threshold", 0).result["f1"] == before["f1"]

    kept = command("calibrate", "--ckpt", checkpoint, "--data", data, *WORDS, "--null_score_diff_threshold", 3)
    assert kept.result["null_score_diff_threshold"] == read_answering(checkpoint).null_score_diff_threshold == 3


def test_the_card_of_a_run_shows_the_calibration(command, checkpoint, data, monkeypatch):
    run, words = checkpoint.parent, ["calibrate", "--ckpt", checkpoint, "--data", data, *WORDS]
    assert command(*words).code == 0 and not (run / "README.md").exists()  # the folder around a model is not ours
    write_pointer(run / "latest", checkpoint.name)
    (checkpoint / "answering.json").unlink()
    write_card(run)
    assert "## Calibration" not in (run / "README.md").read_text("utf-8")
    monkeypatch.chdir(checkpoint)
    assert command(*words[:2], ".", *words[3:]).code == 0
    assert "# run\n" in (run / "README.md").read_text("utf-8")
    assert '"questions": 24' in (run / "README.md").read_text("utf-8").partition("## Calibration")[2]


def test_data_of_the_training_is_named(command, checkpoint, data):
    damage(checkpoint / "trainer_state.json", "facts/data_sha256", [fingerprint(data)["sha256"]])
    done = command("calibrate", "--ckpt", checkpoint.parent, "--data", data, *WORDS)
    assert done.code == 0 and "warning: " in done.err and "trained on" in done.err


def test_data_that_nothing_can_be_fitted_on(command, checkpoint, data):
    before, words = snapshot(checkpoint), ["calibrate", "--ckpt", checkpoint, *WORDS]
    command(*words).assert_refused("--data: name")
    command(*words, "--data", data, "--max_questions", 1).assert_refused("both right and wrong")
    squad = json.loads(data.read_text("utf-8"))
    for paragraph in squad["data"][0]["paragraphs"]:
        paragraph["qas"][0] |= {"answers": [], "is_impossible": False}
    data.write_text(json.dumps(squad), "utf-8")
    command(*words, "--data", data).assert_refused("no answers")
    assert snapshot(checkpoint) == before


def test_a_damaged_answering_file_is_one_line(command, checkpoint, data):
    (checkpoint / "answering.json").write_text('{"format": 1, "confidence": {"bias": "high"}}', "utf-8")
    command("evaluate", "--ckpt", checkpoint, "--data", data, *WORDS).assert_refused("answering.json: confidence: ")


def test_a_calibration_of_another_version_is_replaced_and_another_file_is_not(command, checkpoint, data):
    """ "Calibrate again" is what the message about such a file advises."""
    file = checkpoint / "answering.json"
    words = ["--ckpt", checkpoint, "--data", data, *WORDS]
    file.write_text('{"format": 1, "confidence": {"bias": 0.5, "margin": 1.5}}', "utf-8")
    command("evaluate", *words).assert_refused("calibrate again")
    assert command("calibrate", *words).code == 0 and read_answering(checkpoint).confidence
    file.write_text('{"answers": "of the user"}', "utf-8")
    command("calibrate", *words).assert_refused("answering.json: is not a calibration")
    assert file.read_text("utf-8") == '{"answers": "of the user"}'


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only administrators make symbolic links")
def test_a_calibration_in_the_hubs_cache_is_not_replaced(command, checkpoint, data):
    words = ["--ckpt", checkpoint, "--data", data, *WORDS]
    assert command("calibrate", *words, "--null_score_diff_threshold", "1e9").code == 0
    assert read_answering(checkpoint).null_score_diff_threshold == 1e9  # the largest thresholds can be read again
    (checkpoint / "answering.json").rename(checkpoint / "blob")
    (checkpoint / "answering.json").symlink_to("blob")
    command("calibrate", *words).assert_refused("answering.json: is a link, .*copy the model")


def test_a_model_without_a_trained_head_is_refused_by_its_name(command, tiny_folder, data, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "encoder")
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "qa_outputs" not in k}, folder / "model.safetensors")
    command("calibrate", "--ckpt", folder, "--data", data, *WORDS).assert_refused(f"--model {folder}")


def test_bad_questions_are_dropped_when_asked(command, checkpoint, data):
    content = json.loads(data.read_text("utf-8"))
    content["data"][0]["paragraphs"][1]["qas"][0]["answers"][0]["answer_start"] = 999
    data.write_text(json.dumps(content), "utf-8")
    words = ["calibrate", "--ckpt", checkpoint, "--data", data, *WORDS]
    command(*words).assert_refused("999")
    done = command(*words, "--skip_bad_records")
    assert done.code == 0 and done.result["fitted_on"]["questions"] == 23 and "dropped 1 question" in done.err
