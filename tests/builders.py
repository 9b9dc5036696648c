"""What the tests build: a small vocabulary, tiny models, random SQuAD files, predictions, and calls of a command."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

import minibert
from minibert.answers.spans import Answer, Prediction
from minibert.model.bert import BertConfig, BertForQuestionAnswering
from minibert.text.windows import Windows

if TYPE_CHECKING:
    from minibert.training.run import Run

ROOT = Path(__file__).resolve().parents[1]

WORDS = """the a of in and to was is it by with clock tower made built iron copper who what where when how many year
john anna weiss maria town river bridge water red blue old new stone wood king queen city basel lyon paris school
train school day night 1871 1902 seven nine . , ? ! ' " ( ) - [ ] sep cls caf ##e ##s ##ing ##ed ##er un ##able
a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9
##a ##b ##c ##d ##f ##g ##h ##i ##j ##k ##l ##m ##n ##o ##p ##q ##r ##t ##u ##v ##w ##x ##y ##z
##0 ##1 ##2 ##3 ##4 ##5 ##6 ##7 ##8 ##9""".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]

Model = TypeVar("Model", bound=torch.nn.Module)


def tiny_config(**changes) -> BertConfig:
    """A BertConfig whose sizes are all different, so that a swapped axis cannot pass."""
    sizes = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 50,
        "max_position_embeddings": 70,
    }
    return BertConfig(**sizes | changes)


def draw_weights(model: Model, seed: int = 0) -> Model:
    """Draw parameters so large that the logits spread: an error cannot hide in numbers near 0. Sets eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        is_gain = "norm" in name.lower() and name.endswith("weight")
        spread = 0.2 if parameter.dim() == 1 else 1.5 / parameter.size(-1) ** 0.5
        parameter.data = is_gain + spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def tiny_model(**changes) -> BertForQuestionAnswering:
    return draw_weights(BertForQuestionAnswering(tiny_config(**changes)))


def tiny_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, attention_mask and token_type_ids (3, 17): windows of 17, 9 and 12 tokens."""
    ids = torch.randint(5, 80, (3, 17), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(17) < torch.tensor([[17], [9], [12]])).long()
    return ids, mask, mask - (torch.arange(17) < 4).long()


def write_toy_squad(file: Path, questions: int, seed: int = 0, words: int = 0, version_2: bool = False) -> Path:
    """A SQuAD file of random words from `VOCABULARY`: the answer follows the word that the question names.

    `words` fixes the length of every context, so that all windows have the same number of tokens. With `version_2`
    every third question, the first included, is marked as impossible.
    """
    generator = random.Random(seed)
    nouns = "clock tower iron copper river bridge water stone wood king queen city school train day night".split()
    paragraphs = []
    for i in range(questions):
        context = [generator.choice(nouns) for _ in range(words or generator.randint(9, 40))]
        position = generator.randrange(len(context) - 1)
        asked, answer = context[position], context[position + 1]
        start = len(" ".join(context[: position + 1])) + 1
        record: dict = {"id": f"q{i}", "question": f"what was by the {asked} ?"}
        record["answers"] = [{"text": answer, "answer_start": start}]
        if version_2:
            record["is_impossible"] = i % 3 == 0
            record["answers"] = [] if i % 3 == 0 else record["answers"]
        paragraphs.append({"context": " ".join(context), "qas": [record]})
    file.write_text(json.dumps({"version": "toy", "data": [{"title": "toy", "paragraphs": paragraphs}]}), "utf-8")
    return file


def toy_run(folder: Path, model: Path, questions: int = 25, name: str = "toy.json", **settings) -> "Run":
    """Train a model on a toy file, into the folder's subfolder `run`, and evaluate it on the same file."""
    data = write_toy_squad(folder / name, questions)
    small = {"max_seq_length": 64, "doc_stride": 16, "dtype": "float32", "device": "cpu", "batch_size": 4}
    return minibert.train(data=data, eval_data=data, model=model, output_dir=folder / "run", **small | settings)


def run(
    *words: object, env: dict | None = None, cwd: Path = ROOT, timeout: int = 170, **options
) -> subprocess.CompletedProcess:
    """Run Python with these arguments, as in `run("train.py", "--data", file)`, and return what the process printed."""
    command = [sys.executable, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {})
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=timeout, **options
    )


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    """The folder, created if needed, with these files in it or below it: bytes as they are, anything else as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def lone_batch(windows: Windows, i: int) -> dict[str, torch.Tensor]:
    """The batch of window i alone, without padding."""
    window = windows[i]
    types = (torch.arange(len(window.ids)) >= window.context_start).long()
    return {
        "input_ids": torch.from_numpy(window.ids).long()[None],
        "token_type_ids": types[None],
        "start_positions": torch.from_numpy(windows.start_positions[[i]]),
        "end_positions": torch.from_numpy(windows.end_positions[[i]]),
    }


def make_prediction(
    context: str, *spans: tuple[int, int, float, float], null_sum: float, scores: Sequence[float] = ()
) -> Prediction:
    """A prediction of spans (start, end, start logit, end logit), best first; without scores, each scores 0.5."""
    rows = np.array(spans, np.float32).reshape(-1, 4)
    values = np.array(scores or [0.5] * len(spans), np.float32)
    return Prediction(context, rows[:, :2].astype(int), rows[:, 2:], values, Answer("", 0, 0, 0.25, null_sum - 1, 1.0))


def page_data(page: str) -> Any:
    """What a page shows: the JSON in its only element of data."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(text)
