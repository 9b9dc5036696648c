"""Settings: one declaration of each, checked at the door, saved, and read again from checkpoints of any age."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from minibert.support.errors import BadInput
from minibert.training import settings as settings_module
from minibert.training.consistency import resumed_settings
from minibert.training.settings import FORMAT, OLDER, Settings, WindowSettings, from_json, value_kinds

FILE = Path("checkpoint-5/trainer_state.json")


def as_saved(**changes) -> dict:
    return json.loads(json.dumps(Settings(data="a.json", **changes).to_json()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 2**31),
        ("batch_size", 4.0),
        ("batch_size", True),
        ("batch_size", "4"),
        ("epochs", None),
        ("learning_rate", -1e-5),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("warmup_ratio", 1.1),
        ("null_score_diff_threshold", -math.inf),
        ("keep_last", 1),
        ("seed", -1),
        ("dtype", "float8"),
        ("device", "tpu"),
        ("overwrite", 1),
        ("doc_stride", 381),
        ("max_seq_length", 7),
        ("data", 5),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name, value):
    with pytest.raises(BadInput, match=name):
        Settings(**{"data": "a.json"} | {name: value})


def test_numbers_of_numpy_become_pythons():
    made = Settings(data="d.json", seed=np.int64(7), learning_rate=np.float32(0.5), overwrite=np.bool_(True))
    assert made == Settings(data="d.json", seed=7, learning_rate=0.5, overwrite=True)
    assert json.dumps(made.to_json()) and type(made.seed) is int and made.overwrite is True
    with pytest.raises(BadInput, match=r"^seed: expected int, found True"):
        Settings(data="d.json", seed=np.bool_(True))


def test_the_default_overlap_fits_windows_of_every_length():
    for length in (None, 8, 40, 128, 131, 384):
        assert WindowSettings(max_seq_length=length).sizes == (length or 384, 128, 64)
    assert WindowSettings(max_seq_length=128, doc_stride=0).sizes == (128, 0, 64)
    with pytest.raises(BadInput, match="expected less than max_seq_length - 3 = 125, found 128"):
        WindowSettings(max_seq_length=128, doc_stride=128)


def test_every_number_that_counts_something_is_positive():
    kinds = value_kinds(Settings)
    least = {field.name: field.metadata["least"] for field in dataclasses.fields(Settings) if int in kinds[field.name]}
    assert {name for name, value in least.items() if value < 1} == {"seed", "doc_stride"} and min(least.values()) == 0


def test_what_is_saved_gives_the_same_settings():
    changes = {"learning_rate": 2e-5, "max_steps": 7, "model": "bert-base-cased", "dtype": "float32", "epochs": 3}
    assert from_json(as_saved(**changes), FILE) == Settings(data=["a.json"], **changes)
    assert as_saved()["format"] == FORMAT


def test_a_setting_that_an_older_checkpoint_lacks_means_what_it_did_then(monkeypatch):
    """Adding a flag must not make older checkpoints unresumable: with its line in OLDER they load."""
    saved = as_saved(compile=True)
    for name in OLDER:
        del saved[name]
    assert from_json(saved, FILE).compile is False
    del saved["weight_decay"]
    with pytest.raises(BadInput, match=r"settings\.weight_decay: is missing"):
        from_json(saved, FILE)
    monkeypatch.setattr(settings_module, "OLDER", OLDER | {"weight_decay": 0.25})
    assert from_json(saved, FILE).weight_decay == 0.25


def test_format_1_kept_facts_of_the_run_among_the_settings():
    saved = as_saved(seed=7)
    del saved["format"]
    del saved["most_answers"]  # training learned from the first answer alone
    settings = from_json(saved | {"data_sha256": ["00"], "world_size": 1}, FILE)
    assert (settings.seed, settings.most_answers) == (7, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": FORMAT + 1}, r"settings\.format: .*update minibert"),
        ({"no_such_setting": 1}, r"settings\.no_such_setting"),
        ({"batch_size": 0}, r"settings\.batch_size"),
        ({"learning_rate": "fast"}, r"settings\.learning_rate"),
        ({"model": None}, r"settings\.model"),
    ],
)
def test_a_damaged_setting_is_named_with_its_file(change, match):
    with pytest.raises(BadInput, match=f"trainer_state.json: {match}"):
        from_json(as_saved() | change, FILE)
    with pytest.raises(BadInput, match="expected an object"):
        from_json([], FILE)


def test_only_some_settings_may_change_when_a_run_is_resumed(tmp_path):
    saved = as_saved(dtype="bfloat16")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"settings": saved}), "utf-8")
    free = {"save_steps": 3, "keep_last": 4, "eval_batch_size": 8, "eval_data": "b.json", "output_dir": "x"}
    resumed = resumed_settings(tmp_path, free | {"seed": 42, "dtype": "auto"})
    assert resumed == dataclasses.replace(from_json(saved, FILE), **free)
    for change in (
        {"seed": 43},
        {"epochs": 3},
        {"dropout": 0.5},
        {"dtype": "float32"},
        {"model": "other"},
        {"compile": True},
    ):
        with pytest.raises(BadInput, match=f"--{next(iter(change))}: .*--resume needs the same"):
            resumed_settings(tmp_path, change)
    both = r"^--seed: expected 42, found 43; --epochs: expected \d+, found 9; --resume needs the same as in "
    with pytest.raises(BadInput, match=both):
        resumed_settings(tmp_path, {"seed": 43, "epochs": 9})


def test_the_run_folder_follows_from_the_settings(tmp_path):
    assert Settings(data="d/train-v1.1.json", model="a/b").run_folder == Path("runs/train-v1.1-b")
    assert Settings(data="a.json", output_dir="out", resume="elsewhere").run_folder == Path("out")
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{}")
    # Where the folder lies now, not where it lay when the run began.
    assert Settings(resume=tmp_path / "checkpoint-5").run_folder == Settings(resume=tmp_path).run_folder == tmp_path
    with pytest.raises(BadInput, match="data"):
        _ = Settings().run_folder
