"""The README.md of a run is a model card that the hub's own library reads, without a path of this machine."""

import json
import shutil

import pytest

import minibert
from minibert.support.errors import BadInput
from minibert.training.card import MARK, card, write_card
from tests.builders import toy_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder):
    return toy_run(tmp_path_factory.mktemp("card"), tiny_folder, 12, name='toy "one".json', epochs=1)


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run.folder, tmp_path / "run")


def test_the_hub_reads_the_scores_back(run):
    hub = pytest.importorskip("huggingface_hub")
    parsed = hub.ModelCard(card(run.checkpoint, "mine: a 'test'")).data
    assert parsed.pipeline_tag == "question-answering"
    scores = {result.metric_type: result.metric_value for result in parsed.eval_results}
    assert scores == pytest.approx({name: run.summary[name] for name in ("exact_match", "f1")}, abs=1e-3)
    assert {result.dataset_name for result in parsed.eval_results} == {'toy "one"'}
    assert parsed.model_name == "mine: a 'test'"


def test_it_names_data_recipe_and_calibration(copy):
    checkpoint = copy / (copy / "best").read_text().strip()
    (checkpoint / "answering.json").write_text('{"temperature": 1.5}')
    text = card(checkpoint, "mine")
    state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    assert state["facts"]["data_sha256"][0] in text and '"epochs": 1' in text and '"temperature": 1.5' in text
    assert state["settings"]["model"] not in text and str(copy.parent) not in text  # no path of this machine


@pytest.mark.parametrize(
    ("model", "licence", "lines"),
    [
        ("minilm", None, ['license: "apache-2.0"', 'base_model: "sentence-transformers/all-MiniLM-L6-v2"']),
        ("some/bert", None, ['base_model: "some/bert"']),
        ("some/bert", "mit", ['license: "mit"']),
        ("/home/me/bert", None, []),
    ],
)
def test_base_model_and_licence_are_stated_only_where_they_are_known(copy, model, licence, lines):
    checkpoint = copy / (copy / "best").read_text().strip()
    state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    state["settings"]["model"] = model
    del state["facts"]["base_model"]  # an older run has no such fact
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    head = card(checkpoint, "mine", licence=licence).split("---")[1].splitlines()
    stated = [line for line in head if line.startswith(("license", "base_model"))]
    assert set(lines) <= set(stated) and len(stated) == (2 if licence else len(lines))


def test_a_folder_as_base_model_is_not_taken_for_one_of_the_hub_where_it_is_gone(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(shutil.copytree(tiny_folder, tmp_path / "here/secret/bert").parents[1])
    run = toy_run(tmp_path, "secret/bert", questions=2, max_steps=1)
    monkeypatch.chdir(tmp_path)
    text = card(run.checkpoint, "mine")
    assert "`bert`, fine-tuned" in text and "base_model" not in text and "secret" not in text


def test_the_commit_of_a_model_from_the_hub_is_noted_and_stays(tmp_path, tiny_folder):
    source = shutil.copytree(tiny_folder, tmp_path / "models--a--b/snapshots/c0ffee")
    run = toy_run(tmp_path, source, questions=8, max_steps=2, save_steps=1)
    there = minibert.train(resume=run.folder / "checkpoint-1", output_dir=tmp_path / "there")
    assert all("(commit c0ffee), fine-tuned" in card(one.checkpoint, "mine") for one in (run, there))


@pytest.mark.parametrize(
    "facts",
    [
        *([], {"data_sha256": 5}, {"data_sha256": [None]}, {"data_sha256": [], "base_model": 5}),
        {"data_sha256": [], "commit": 5},
    ],
)
def test_facts_of_another_form_are_refused(copy, facts):
    checkpoint = copy / (copy / "best").read_text().strip()
    state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8")) | {"facts": facts}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(BadInput, match=r"trainer_state\.json: facts: expected"):
        card(checkpoint, "mine")


def test_a_readme_of_the_user_stays(copy):
    (copy / "README.md").unlink(missing_ok=True)
    write_card(copy)
    assert MARK in (copy / "README.md").read_text("utf-8") and "--resume" in (copy / "README.md").read_text("utf-8")
    (copy / "README.md").write_text("my notes")
    write_card(copy)
    assert (copy / "README.md").read_text() == "my notes"
