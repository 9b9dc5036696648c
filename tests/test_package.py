"""The package as it is installed: it works outside the clone, and writes only where it says."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import ROOT, run, write_toy_squad

SESSION = """
import minibert
run = minibert.train(data="toy.json", model="tiny", output_dir="out", max_steps=2, batch_size=4, max_seq_length=64,
                     doc_stride=16)
qa = minibert.pipeline("question-answering", model=run.folder)
context = "the clock was made in basel"
answer = qa(question="what was by the clock ?", context=context)
assert context[answer["start"] : answer["end"]] == answer["answer"]
examples = minibert.read_squad("toy.json")
evaluation = minibert.evaluate(run.folder, examples, max_seq_length=64, doc_stride=16)
texts = {example.id: example.answers[0].text for example in examples}
assert minibert.score(examples, texts)["exact_match"] == 100.0
print(evaluation.scores["total"])
"""


def build_wheel(source: Path, target: Path) -> Path:
    """A wheel of the package in `source`, with the file times that make two builds equal."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps"]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([*pip, "-w", target, source], check=True, cwd=target.parent, env=environment)
    (wheel,) = target.glob("minibert-*.whl")
    return wheel


@pytest.mark.slow
def test_two_builds_give_the_same_wheel(tmp_path):
    hashes = []
    for name in ("first", "second"):
        clone = tmp_path / name
        clone.mkdir()
        for part in ("minibert", "pyproject.toml", "README.md", "LICENSE"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, clone / part)
        hashes.append(hashlib.sha256(build_wheel(clone, tmp_path / f"{name}-dist").read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
def test_an_installed_package_works_in_an_empty_folder(tmp_path, tiny_folder):
    """A wheel is built and installed beside the libraries of this environment, far from the clone."""
    site, home, work = tmp_path / "site", tmp_path / "home", tmp_path / "work"
    for folder in (home, work):
        folder.mkdir()
    wheel = build_wheel(ROOT, tmp_path / "dist")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, cwd=tmp_path)
    (work / "tiny").symlink_to(tiny_folder)
    write_toy_squad(work / "toy.json", 12)
    before = files_in(work)

    environment = {"PYTHONPATH": str(site), "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}

    def call(*words: str) -> str:
        ended = run(*words, cwd=work, env=environment | {"PYTHONDONTWRITEBYTECODE": "1"})
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    where = call("-c", "import minibert; print(minibert.__file__)")
    assert where.startswith(str(site)) and (site / "minibert" / "py.typed").is_file()
    assert "train" in call("-m", "minibert", "--help")
    assert "--learning_rate" in call("-m", "minibert", "train", "--help")
    assert (site / "bin" / "minibert").is_file() or (site / "Scripts").is_dir()
    assert call("-c", SESSION).splitlines()[-1] == "12"
    words = ["--ckpt", "out", "--data", "toy.json"]
    assert json.loads(call("-m", "minibert", "evaluate", *words).splitlines()[-1])["total"] == 12
    assert {name for name in files_in(work) - before if not name.startswith("out")} == set()
    assert {name for name in files_in(home) if not name.startswith(".cache")} == set()
