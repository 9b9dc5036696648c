"""What a folder's files must be: by a manifest, by the names in the hub's cache, and what differs."""

import hashlib
import os
from pathlib import Path

import pytest

from minibert.support.errors import BadInput
from minibert.support.hashes import MINILM_FILES, Known, fault, fingerprint, known_files, mismatch, model_fault
from minibert.support.writing import write_json
from tests.builders import write_folder

CONTENT = b"the content\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT = hashlib.sha1(b"blob 12\0" + CONTENT).hexdigest()  # as `git hash-object` says


@pytest.mark.parametrize("known", [Known(SHA256, 12, "x"), Known(SHA256, None, "x"), Known(GIT, None, "x")])
def test_a_file_is_compared_by_its_size_and_by_either_kind_of_hash(tmp_path, known):
    file = tmp_path / "file"
    assert mismatch(file, known) == "is missing"
    file.write_bytes(CONTENT)
    assert mismatch(file, known) is None
    file.write_bytes(CONTENT + b" ")
    assert mismatch(file, known).startswith("is damaged: expected ")
    file.write_bytes(CONTENT.swapcase())
    os.utime(file, ns=(1, 1))  # where file times are coarse, both contents have the same
    kind = "git sha1" if known.hash == GIT else "sha256"
    assert mismatch(file, known).startswith(f"is damaged: expected {kind} {known.hash} by x, found ")


def test_a_change_of_the_same_size_is_seen_although_hashes_are_remembered(tmp_path):
    file, known = tmp_path / "file", Known(SHA256, 12, "x")
    file.write_bytes(CONTENT)
    assert mismatch(file, known) is None
    file.write_bytes(CONTENT.swapcase())
    os.utime(file, ns=(1, 1))
    assert mismatch(file, known) is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO")
def test_a_fifo_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "file")
    assert mismatch(tmp_path / "file", Known(SHA256, 12, "x")) == "is missing"


def test_the_first_fault_is_told_and_some_files_may_be_absent(tmp_path):
    known = {"a": Known(SHA256, 12, "x"), "b": Known(SHA256, 12, "x")}
    (tmp_path / "a").write_bytes(CONTENT)
    assert fault(tmp_path, known) == "b is missing" and fault(tmp_path, known, may_lack=("b",)) is None


ROW = {"bytes": 12, "sha256": SHA256}


@pytest.mark.parametrize(
    "manifest",
    [
        *({name: ROW} for name in ("../x", "/x", "..", ".", "", "a/b")),
        {"a": ROW, "b": None},
        {"a": ROW, "b": {"sha256": SHA256}},
        {"a": {"bytes": "12", "sha256": SHA256}},
        {"a": {"bytes": 12, "sha256": 12}},
    ],
)
def test_a_manifest_that_is_damaged_or_leads_out_of_the_folder_is_a_fault(tmp_path, manifest):
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(BadInput):
        known_files(tmp_path)
    assert model_fault(tmp_path).startswith("manifest.json is damaged: ")


@pytest.mark.parametrize("manifest", [{}, [], 3, {"name": "app"}, {"name": "app", "icons": {"src": "x"}}])
def test_another_programs_manifest_says_nothing(tmp_path, manifest):
    write_json(tmp_path / "manifest.json", manifest)
    assert known_files(tmp_path) == {} and model_fault(tmp_path) is None


def test_an_answer_needs_neither_the_optimizer_nor_the_state(tmp_path):
    write_folder(tmp_path, dict.fromkeys(["config.json", "optimizer.safetensors", "trainer_state.json"], CONTENT))
    write_json(tmp_path / "manifest.json", {file.name: fingerprint(file) for file in tmp_path.iterdir()})
    (tmp_path / "optimizer.safetensors").write_bytes(b"")
    (tmp_path / "trainer_state.json").unlink()
    assert model_fault(tmp_path) is None
    (tmp_path / "config.json").unlink()
    assert model_fault(tmp_path) == "config.json is missing"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_the_names_in_the_hubs_cache_are_hashes_and_other_links_are_not(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (tmp_path / SHA256).write_bytes(CONTENT)
    for name, target in {"a": blobs / SHA256, "b": blobs / GIT, "c": blobs / "short", "d": tmp_path / SHA256}.items():
        target.write_bytes(CONTENT)
        (snapshot / name).symlink_to(os.path.relpath(target, snapshot))
    (snapshot / "e").write_bytes(CONTENT)
    assert known_files(snapshot) == {"a": Known(SHA256, None, "the hub"), "b": Known(GIT, None, "the hub")}
    assert model_fault(snapshot) is None
    assert known_files(blobs) == {}
    # A manifest that came with the model from the hub is not used: the hub's own hashes are.
    write_json(snapshot / "manifest.json", {"a": {"bytes": 1, "sha256": "0" * 64}})
    assert model_fault(snapshot) is None
    (snapshot / "manifest.json").unlink()
    # A blob that is itself a link, into a store for all models with names of its own.
    store = tmp_path / "blobs" / ("f" * 64)
    store.parent.mkdir()
    (blobs / SHA256).rename(store)
    (blobs / SHA256).symlink_to(os.path.relpath(store, blobs))
    assert known_files(snapshot)["a"] == Known(SHA256, None, "the hub") and model_fault(snapshot) is None
    store.write_bytes(CONTENT.swapcase())
    os.utime(store, ns=(1, 1))
    assert model_fault(snapshot).startswith("a is damaged: expected sha256")


def test_the_pinned_files_of_the_default_model_are_those_on_this_machine(minilm_folder: Path):
    known = {name: file for name, file in MINILM_FILES.items() if name != "README.md"}
    assert fault(minilm_folder, known) is None


def test_a_fingerprint_is_size_and_sha256(tmp_path):
    raw = bytes(range(251)) * 5000  # more than one block
    (tmp_path / "a").write_bytes(raw)
    assert fingerprint(tmp_path / "a") == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
