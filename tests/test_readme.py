"""What the README says is so: its commands parse, its files exist, and its first command does what it promises."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
from conftest import ROOT, load_script, run

import minibert

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\$ )?(python|torchrun|pip|echo|hf|git) ", line)
]
FIRST = next(command for command in COMMANDS if command.startswith("pip install -e . && "))


def test_the_two_commands_are_there():
    assert "pip install -e '.[dev]' && pytest" in COMMANDS
    assert "python train.py --data examples/train.json --eval_data examples/dev.json --output_dir runs/first" in FIRST
    assert "pip install -e '.[dev]' && pytest" in (ROOT / ".ci/run").read_text("utf-8").splitlines()


def script_calls() -> list[tuple[str, list[str]]]:
    calls = []
    for command in COMMANDS:
        for part in re.split(r"&&|\|", command):
            words = shlex.split(part)
            for script in ("train.py", "evaluate.py", "ask.py"):
                if script in words:
                    calls.append((script.removesuffix(".py"), words[words.index(script) + 1 :]))
    return calls


def test_every_script_is_shown():
    assert {script for script, _ in script_calls()} == {"train", "evaluate", "ask"}


@pytest.mark.parametrize(("script", "words"), script_calls(), ids=lambda value: " ".join(value)[:60])
def test_the_flags_of_every_command_exist(script, words):
    source = (ROOT / f"{script}.py").read_text("utf-8") + (ROOT / "minibert/flags.py").read_text("utf-8")
    for word in words:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in source


def test_the_reading_order_is_that_of_the_package():
    order = re.findall(r"^    (\w+)  ", minibert.__doc__, flags=re.MULTILINE)
    assert re.findall(r"^\| `(\w+)\.py` \|", README, flags=re.MULTILINE) == order


def test_the_size_it_states_is_right():
    stated = int(re.search(r"in about ([\d,]+) lines of Python", README).group(1).replace(",", ""))
    lines = sum(file.read_text("utf-8").count("\n") for file in [*ROOT.glob("*.py"), *(ROOT / "minibert").glob("*.py")])
    assert abs(lines - stated) <= 100


def test_the_real_recipe_is_the_default():
    train = load_script("train")
    args = train.make_flags().parse(["--data", "train-v1.1.json", "--model", "bert-base-uncased"])
    assert (args.epochs, args.batch_size, args.max_seq_length, args.doc_stride) == (2, 16, 384, 128)
    assert (args.warmup_ratio, args.weight_decay, args.max_grad_norm, args.seed) == (0.1, 0.01, 1.0, 42)


@pytest.mark.slow
def test_the_first_command_teaches_a_model(tmp_path):
    """As a newcomer runs it, in a copy of the repository; fetches the weights where they are not there yet."""
    clone = tmp_path / "minibert"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in files:
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, clone / file)
    if (ROOT / "weights/minilm").is_dir():
        shutil.copytree(ROOT / "weights/minilm", clone / "weights/minilm")
    train = shlex.split(FIRST.split("&&")[1])[1:]
    ended = run(*train, cwd=clone, env={"PYTHONPATH": str(clone), "OMP_NUM_THREADS": ""}, timeout=900)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    before = float(re.search(r"untrained head: .*f1 ([\d.]+)", ended.stdout).group(1))
    summary = json.loads(lines[-1])
    assert summary["f1"] >= before + 10
    last = (clone / "runs/first/latest").read_text().strip()
    scored = run("evaluate.py", "--ckpt", f"runs/first/{last}", "--data", "examples/dev.json", cwd=clone)
    assert json.loads(scored.stdout.splitlines()[-1]).items() <= summary.items()  # what training printed
    ask = next(line for line in lines if line.strip().startswith("python ask.py"))
    answered = run(*shlex.split(ask)[1:], cwd=clone, env={"PYTHONPATH": str(clone)})
    promised = re.search(r"--question .*\n.*--context .*\n(.+?) {2,}\(score", README).group(1)
    assert answered.stdout.split("  ")[0] == promised
    scored = run("evaluate.py", "--ckpt", "runs/first", "--data", "examples/train.json", cwd=clone)
    assert json.loads(scored.stdout.splitlines()[-1])["f1"] >= 80
