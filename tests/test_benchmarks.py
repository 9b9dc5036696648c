"""The benchmarks: both sides do the same work, and the script for a CUDA card runs through."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

pytest.importorskip("transformers")
from benchmarks import peers
from minibert.metrics import score
from minibert.spans import search
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.windows import make_windows


@pytest.fixture(scope="module")
def both(tiny_folder):
    """Our windows of a file and the peers' features of it, by the same vocabulary."""
    examples = read_squad(ROOT / "examples" / "dev.json")
    features = peers.with_lists(peers.load_tokenizer(tiny_folder), examples, True)
    return examples, make_windows(examples, load_tokenizer(tiny_folder)), features


def test_both_sides_cut_and_label_the_same_windows(both):
    _, windows, features = both
    assert [window.ids.tolist() for window in windows] == features["input_ids"]
    assert windows.start_positions.tolist() == features["start_positions"]
    assert windows.end_positions.tolist() == features["end_positions"]


def test_both_sides_find_the_same_answers(both, tiny_folder):
    """In logits whose best span is made of a start and an end among the 20 best of each, where the peers look."""
    examples, windows, _ = both
    features = peers.with_lists(peers.load_tokenizer(tiny_folder), examples, False)
    rows = [dict(zip(features, values)) for values in zip(*features.values())]
    logits = np.random.default_rng(0).standard_normal((2, len(windows.ids))).astype(np.float32)
    gold = windows.bounds[:-1] + windows.start_positions, windows.bounds[:-1] + windows.end_positions
    logits[0, gold[0]] += 9
    logits[1, gold[1]] += 9
    grid = np.full((2, len(windows), 384), -10_000.0, np.float32)
    grid[:, np.arange(384) < windows.lengths[:, None]] = logits
    columns = peers.columns(examples)
    theirs = peers.n_best_answers([dict(zip(columns, values)) for values in zip(*columns.values())], rows, grid)
    ours = {e.id: p.best().text for e, p in zip(examples, search(windows, *logits, examples))}
    assert ours == theirs and score(examples, ours)["f1"] > 90


@pytest.mark.slow
def test_the_whole_run_of_the_peer_runs_through(tiny_folder, tmp_path):
    """From random weights: the tiny model's own have too few positions."""
    folder = shutil.copytree(tiny_folder, tmp_path / "wide", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 384}
    (folder / "config.json").write_text(json.dumps(config))
    data = str(ROOT / "examples" / "dev.json")
    words = ["--data", data, "--eval_data", data, "--model", str(folder), "--epochs", "3"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.recipe", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["attention"] in ("sdpa", "eager") and found["train_runtime"] > 0 and 0 <= found["f1"] <= 100


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_the_script_for_a_card_runs_through(tiny_folder, device):
    words = ["--data", ROOT / "examples" / "dev.json", "--model", tiny_folder, "--device", device, "--tiny"]
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, words), "--seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| ok |") > 6 and "FAILED" not in done.stdout
    assert "T, batch 32" in done.stdout and "end to end" in done.stdout
