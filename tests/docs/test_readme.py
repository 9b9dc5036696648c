"""What the documents say is so: commands parse, files and links exist, defaults are the defaults, examples run."""

import ast
import dataclasses
import json
import os
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest

import minibert
from minibert.__main__ import COMMANDS
from minibert.answers.options import DEFAULTS
from minibert.commands import flags
from minibert.commands.stream import WAIT_SECONDS
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weights import save_model
from minibert.support import hub
from minibert.support.machine import has_fast_bfloat16
from minibert.support.progress import LINE_SECONDS
from minibert.training.loop import LOG_STEPS
from minibert.training.settings import Settings
from tests.builders import ROOT, draw_weights, run, tiny_config, write_toy_squad

OPTIONS = {
    command: getattr(import_module(f"minibert.commands.{command}"), f"{command.title()}Options", Settings)
    for command in COMMANDS
}
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("weights/*.md"), *ROOT.glob("examples/*.md")])
README, GUIDE = ((ROOT / page).read_text("utf-8") for page in ("README.md", "docs/guide.md"))
PYPROJECT, CI = ((ROOT / file).read_text("utf-8") for file in ("pyproject.toml", ".github/workflows/ci.yml"))
FIRST = (
    "pip install -e . && python train.py --data examples/train.json --eval_data examples/dev.json "
    "--output_dir runs/first --epochs 8"
)
TESTS = "pip install -e '.[dev]' && pytest"
# Files that a reader downloads; the guide says where.
DOWNLOADS = "train-v1.1.json dev-v1.1.json shifts-new-wiki.json shifts-amazon.json shifts-reddit.json".split()
# Files that `benchmarks.split`, `hold_out`, `join` and `negatives` write, and the reader's own.
MADE = "v2-train.json v2-held.json v2-test.json held.json all.json long-train.json long-held.json".split()
MADE += ["mine.csv", "mine.json", "negatives.json"]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in this language; "" for those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command that a page shows, each part of a pipe or an `&&` by itself."""
    found = []
    names = r"python|minibert|torchrun|pip|pytest|srun|make|echo|hf|cp|sed"
    for page in PAGES:
        lines = "\n".join(blocks(page, "")).replace("\\\n", " ").splitlines()
        lines += re.findall(rf"`((?:{names}) [^`\n]+)`", unquoted(page))
        for line in lines:
            if re.match(rf"(\$ )?({names}) ", line):
                words = shlex.split(re.split(" {3,}", line.removeprefix("$ "))[0])  # a remark may follow
                while words:
                    end = next((i for i, word in enumerate(words) if word in ("&&", "|")), len(words))
                    found.append((page.name, words[:end]))
                    words = words[end + 1 :]
    return found


def minibert_calls() -> list[tuple[str, list[str]]]:
    """(command, its words) of every call of ours."""
    calls = []
    for _, words in commands():
        for i, word in enumerate(words):
            if word in ("train.py", "evaluate.py", "ask.py"):
                calls.append((word.removesuffix(".py"), words[i + 1 :]))
            elif word == "minibert" and words[i + 1 : i + 2] and words[i + 1] in COMMANDS:
                calls.append((words[i + 1], words[i + 2 :]))
    return [(command, [word for word in words if not word.startswith("$")]) for command, words in calls]


def unquoted(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_two_commands_are_there_word_for_word():
    lines = "\n".join(blocks(ROOT / "README.md", "")).splitlines()
    assert FIRST in lines and TESTS in lines
    assert README.index(FIRST) < README.index("## From Python")
    assert TESTS in (ROOT / ".ci/run").read_text("utf-8").splitlines()
    assert FIRST in CI


def test_the_readme_is_short_and_has_no_placeholder():
    assert README.count("\n") <= 136
    assert not re.search(r"<(this|your|the) ", README, flags=re.IGNORECASE)


def test_every_command_is_shown():
    assert {command for command, _ in minibert_calls()} == set(COMMANDS)
    assert all(f"`minibert {command}`" in README for command in COMMANDS)


def test_the_flags_of_every_command_exist_and_take_these_values():
    for command, words in minibert_calls():
        if not words:  # only its name
            continue
        given = flags.parse(OPTIONS[command], command, words)
        flags.make(OPTIONS[command], given)
        named = [given.get(name, ()) for name in ("data", "eval_data", "context_file")]
        for file in (file for files in named for file in ([files] if isinstance(files, str) else files)):
            assert file in [*DOWNLOADS, *MADE] or (ROOT / file).is_file(), (command, words)
    assert all(f"`{file}`" in GUIDE for file in DOWNLOADS)


def test_what_every_command_names_exists():
    for page, words in commands():
        for word in words:
            if re.fullmatch(r"(tests|docs|examples|benchmarks)/[\w./-]+", word):
                assert (ROOT / word).exists(), (page, word)
            for extra in re.findall(r"^\.\[(\w+)\]$", word):
                assert re.search(rf"^{extra} = \[", PYPROJECT, flags=re.MULTILINE), (page, word)
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text("utf-8"), (page, words)
        if words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("benchmarks", "docs"):
            module = ROOT / words[2].replace(".", "/")
            source = (module / "__main__.py" if module.is_dir() else module.with_suffix(".py")).read_text("utf-8")
            assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == [], page
        if "--rows" in words and any("benchmarks" in word for word in words):
            rows = (ROOT / "benchmarks/rows.py").read_text("utf-8")
            assert [row for row in words[words.index("--rows") + 1 :] if not re.search(rf"\b{row}\b", rows)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_path_leads_somewhere(page):
    text = unquoted(page)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        file = page if not file else page.parent / file
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
    for path in re.findall(r"`((?:tests|docs|minibert|benchmarks|examples|\.github)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_the_text_names_exists(page):
    ours = {field.name for options in OPTIONS.values() for field in dataclasses.fields(options)}
    for flag in re.findall(r"`--(\w+)", unquoted(page)):
        assert flag in ours | set(flags.OTHER_NAMES) | set(flags.NOT_NEEDED) | {"rows", "rounds"}, flag  # of benchmarks


@pytest.mark.parametrize("command", OPTIONS)
def test_the_guide_explains_every_flag_with_its_default(command):
    section = GUIDE.split(f"### Flags of `{command}`")[1].split("\n#")[0]
    rows = dict(re.findall(r"^\| `--(\w+)[^`]*` \| (.*?) \|", section, flags=re.MULTILINE))
    fields = dataclasses.fields(OPTIONS[command])
    defaults = {field.name: field.default for field in fields if "positional" not in field.metadata}
    assert set(rows) == set(defaults)
    for name, default in defaults.items():
        is_empty = default in (None, ())
        stated = rows[name].split(":")[0] if is_empty or default is False else rows[name]
        expected = ["none", "required"] if is_empty else ["off"] if default is False else [f"`{default}`"]
        assert stated in expected, name


def test_the_guide_lists_the_settings_that_a_resumed_run_may_change():
    sentence = " ".join(GUIDE.split()).split("Flags that may change: ")[1].split(". On a CPU")[0]
    may_change = {field.name for field in dataclasses.fields(Settings) if field.metadata.get("may_change")}
    assert set(re.findall(r"`--(\w+)`", sentence)) == may_change - {"resume", "overwrite"}


def test_numbers_that_follow_from_the_code():
    settings = {field.name: field.default for field in dataclasses.fields(Settings)}
    steps = -(-88_524 // settings["batch_size"]) * settings["epochs"]
    assert f"{steps:,} steps of {settings['batch_size']} windows" in GUIDE
    assert f"losses every {LOG_STEPS} steps" in GUIDE
    assert f"every {LINE_SECONDS} seconds" in GUIDE
    assert f"answered after {WAIT_SECONDS * 1000:.0f} ms" in GUIDE
    assert f"steps of {8 * settings['batch_size']} windows" in (ROOT / "docs/several-gpus.md").read_text("utf-8")


def test_the_page_on_the_removed_pipeline_states_the_defaults():
    text = (ROOT / "docs/migration.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| defaults |"))
    stated = dict(re.findall(r"`(\w+)=(\w+)`", row))
    assert {name: str(default) for name, default in DEFAULTS.items() if name in stated} == stated
    assert len(stated) >= 6


def test_each_message_of_the_troubleshooting_table_is_one_of_ours():
    trees = [ast.parse(file.read_text("utf-8")) for file in (ROOT / "minibert").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    texts = [str(node.value) for node in nodes if isinstance(node, ast.Constant) and node not in docstrings]
    section = GUIDE.split("## Troubleshooting")[1].split("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)
    assert len(messages) >= 7
    assert [message for message in messages if not any(message in text for text in texts)] == []


def test_every_promise_names_its_test():
    text = (ROOT / "docs/reliability.md").read_text("utf-8")
    rows = re.findall(r"^\| .*$(?!\n\|---)", text, flags=re.MULTILINE)  # all but the heads of tables
    assert len(rows) >= 15
    assert [row for row in rows if "`tests/" not in row] == []
    assert [name for name in re.findall(r"`(tests/[^`]+)`", text) if not (ROOT / name).exists()] == []


def test_versions_are_the_same_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## ([\d.]+)", changes, flags=re.M).group(1) == minibert.__version__
    assert f'version = "{minibert.__version__}"' in PYPROJECT
    dependencies = re.search(r"^dependencies = \[.*?\]", PYPROJECT, re.M | re.S).group()
    lowest = dict(re.findall(r'"(\w+)>=([\d.]+)"', dependencies))
    for name, version in lowest.items():
        assert f"| {'PyTorch' if name == 'torch' else name} | {version} to " in GUIDE
    assert f"torch=={lowest['torch']}.0" in CI
    pythons = re.search(r"python: \[(.*)\]", CI).group(1).replace('"', "").split(", ")
    assert f'requires-python = ">={pythons[0]}"' in PYPROJECT
    assert f"| Python | {pythons[0]} to {pythons[-1]} |" in GUIDE


@pytest.fixture
def clone(tmp_path, tokenizer, monkeypatch) -> Path:
    """A folder with the examples and a trained run, where every model that the pages name is a tiny one."""
    folder = tmp_path / "models/minilm"
    save_model(draw_weights(BertForQuestionAnswering(tiny_config(max_position_embeddings=384))), tokenizer, folder)
    shutil.copytree(folder, tmp_path / "models/distilbert-base-cased-distilled-squad")
    shutil.copytree(folder, tmp_path / "runs/first")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    write_toy_squad(tmp_path / "examples/train.json", 20)  # the tiny vocabulary would make long windows of the real one
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "model_homes", lambda: [tmp_path / "models"])
    monkeypatch.setattr(hub, "fault", lambda *_, **__: None)  # this one has other hashes
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/migration.md"])
def test_the_python_examples_run(page, clone):
    (block,) = blocks(ROOT / page, "python")
    names: dict = {}
    exec(compile(block, page, "exec"), names)
    if "evaluation" in names:
        assert names["evaluation"].scores["total"] == len(names["evaluation"].texts) == 60
        scores = minibert.score(minibert.read_squad("examples/dev.json"), names["evaluation"].texts)
        assert scores.items() <= names["evaluation"].scores.items()


@pytest.mark.slow
def test_the_first_command_teaches_a_model(tmp_path):
    """As a newcomer runs it, in a copy of the repository; fetches the weights if they are not there yet.

    A processor without bfloat16 takes several times as long: there 3 of the 8 epochs must do.
    """
    epochs = "8" if has_fast_bfloat16() else "3"
    clone = tmp_path / "minibert"
    for name in ("minibert", "examples"):
        shutil.copytree(ROOT / name, clone / name)
    for file in [*ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(file, clone)
    if (ROOT / "weights/minilm").is_dir():
        shutil.copytree(ROOT / "weights/minilm", clone / "weights/minilm")
    here = {"cwd": clone, "env": {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": str(min(2, os.cpu_count() or 1))}}
    command = FIRST.replace("--epochs 8", f"--epochs {epochs}")
    ended = run(*shlex.split(command.split("&&")[1])[1:], **here, timeout=2700)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    before = float(re.search(r"untrained head: .*f1 ([\d.]+)", ended.stdout).group(1))
    summary = json.loads(lines[-1])
    assert summary["f1"] >= before + 10
    last = (clone / "runs/first/latest").read_text().strip()
    scored = run("evaluate.py", "--ckpt", f"runs/first/{last}", "--data", "examples/dev.json", **here)
    assert json.loads(scored.stdout.splitlines()[-1]).items() <= summary.items()  # what training printed
    ask = next(line for line in lines if line.strip().startswith("python ask.py"))
    answered = run(*shlex.split(ask)[1:], **here)
    promised = re.search(r"--question .*\n.*--context .*\n(.+?) {2,}\(score", README).group(1)
    assert answered.returncode == 0 and (promised in answered.stdout.split("  ")[0] or epochs != "8")
