"""What several test files share: tiny models and tokenizers, toy data, and the path to real SQuAD data."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches for the network; the fake hub's tests set their own


@pytest.fixture(autouse=True)
def signal_handlers_put_back():
    """A command sets its own, and takes no more signals once it ends: many a test runs one in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def squad_dir() -> Path:
    """The folder of real SQuAD files, from SQUAD_DIR (see README.md); skips where there is none."""
    folder = os.environ.get("SQUAD_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SQUAD_DIR names no folder with the real SQuAD files")
    return Path(folder)


WORDS = """the a of in and to was is it by with clock tower made built iron copper who what where when how many year
john anna weiss maria town river bridge water red blue old new stone wood king queen city basel lyon paris school
train school day night 1871 1902 seven nine . , ? ! ' " ( ) - [ ] sep cls caf ##e ##s ##ing ##ed ##er un ##able
a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9
##a ##b ##c ##d ##f ##g ##h ##i ##j ##k ##l ##m ##n ##o ##p ##q ##r ##t ##u ##v ##w ##x ##y ##z
##0 ##1 ##2 ##3 ##4 ##5 ##6 ##7 ##8 ##9""".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]


@pytest.fixture(scope="session")
def vocab_folder(tmp_path_factory) -> Path:
    """A folder with nothing but a small uncased vocab.txt."""
    folder = tmp_path_factory.mktemp("vocab")
    (folder / "vocab.txt").write_text("".join(token + "\n" for token in VOCABULARY), "utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer(vocab_folder):
    from minibert.tokenizer import load_tokenizer

    return load_tokenizer(vocab_folder)


def tiny_config(**changes):
    """A BertConfig whose sizes are all different, so that a swapped axis cannot pass."""
    from minibert.config import BertConfig

    sizes = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 50,
        "max_position_embeddings": 70,
    }
    return BertConfig(**sizes | changes)


def drawn(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with parameters drawn so large that its logits spread: a fault cannot hide in small numbers."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        is_gain = "norm" in name.lower() and name.endswith("weight")
        spread = 0.2 if parameter.dim() == 1 else 1.5 / parameter.size(-1) ** 0.5
        parameter.data = is_gain + spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tokenizer) -> Path:
    """A whole model folder with a drawn span head, as `save_model` writes it."""
    from minibert.model import BertForQuestionAnswering
    from minibert.weights import save_model

    folder = tmp_path_factory.mktemp("tiny")
    save_model(drawn(BertForQuestionAnswering(tiny_config())), tokenizer, folder)
    return folder


def run(
    *words, env: dict | None = None, cwd: Path = ROOT, timeout: int = 170, **options
) -> subprocess.CompletedProcess:
    """Run a command of the project, `run("train.py", "--data", ..)`, and return what it printed."""
    command = [sys.executable, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {})
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=timeout, **options
    )


def load_script(name: str):
    """One of the project's scripts as a module, to call in this process."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_toy_squad(file: Path, questions: int, seed: int = 0, words: int = 0, version_2: bool = False) -> Path:
    """A SQuAD file of random sentences from the tiny vocabulary: the answer follows the word that the question names.

    `words` fixes the length of every context, so that all windows have the same number of tokens.
    """
    generator = random.Random(seed)
    nouns = "clock tower iron copper river bridge water stone wood king queen city school train day night".split()
    paragraphs = []
    for i in range(questions):
        context = [generator.choice(nouns) for _ in range(words or generator.randint(9, 40))]
        at = generator.randrange(len(context) - 1)
        asked, answer = context[at], context[at + 1]
        start = len(" ".join(context[: at + 1])) + 1
        record = {"id": f"q{i}", "question": f"what was by the {asked} ?"}
        record["answers"] = [{"text": answer, "answer_start": start}]
        if version_2:
            record["is_impossible"] = i % 3 == 0
            record["answers"] = [] if i % 3 == 0 else record["answers"]
        paragraphs.append({"context": " ".join(context), "qas": [record]})
    file.write_text(json.dumps({"version": "toy", "data": [{"title": "toy", "paragraphs": paragraphs}]}), "utf-8")
    return file


@pytest.fixture(scope="session")
def still_folder(tmp_path_factory, tokenizer) -> Path:
    """Like `tiny_folder`, but without dropout: runs that differ in nothing but their ranks must agree."""
    from minibert.model import BertForQuestionAnswering
    from minibert.weights import save_model

    folder = tmp_path_factory.mktemp("still")
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    save_model(drawn(BertForQuestionAnswering(config)), tokenizer, folder)
    return folder


def lone_batch(windows, i: int) -> dict[str, torch.Tensor]:
    """The batch of one window, without padding."""
    window = windows[i]
    types = (torch.arange(len(window.ids)) >= window.context_start).long()
    return {
        "input_ids": torch.from_numpy(window.ids).long()[None],
        "token_type_ids": types[None],
        "start_positions": torch.tensor([window.start_position]),
        "end_positions": torch.tensor([window.end_position]),
    }
