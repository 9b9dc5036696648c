"""Damaged files of every kind that minibert reads: each is read, or refused with nothing but BadInput.

One generator damages all of them. `FUZZ_EXAMPLES=10000 FUZZ_SEED=7 pytest tests/commands/test_fuzz.py` looks longer and
at other examples. Plain random numbers, not hypothesis: they make ten times as many examples a second.
"""

import contextlib
import copy
import dataclasses
import json
import math
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import BertWordPieceTokenizer

from minibert.answers.confidence import Answering, read_answering, write_answering
from minibert.commands.check import check_file
from minibert.commands.notes import settings_of_run
from minibert.commands.stream import parse
from minibert.evaluation.predictions import read_n_best, read_null_odds, read_predictions
from minibert.evaluation.scorer import score
from minibert.model.config import config_json, load_config
from minibert.model.weights import load_model
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.support.machine import choose_machine
from minibert.text.repair import repair
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows
from minibert.training.consistency import check_facts, resumed_settings
from minibert.training.loop import Training
from minibert.training.run_folder import find_checkpoint, read_scores, record_scores
from minibert.training.settings import Settings
from tests.builders import VOCABULARY, write_toy_squad
from tests.commands.damage import put, sign, to_text

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))  # of each kind of file
SEED = os.environ.get("FUZZ_SEED", "")

# --- the generator

SCALARS = [None, True, False, 0, 1, -1, 2, 7, 2**31, 2**32 - 1, 2**63, 10**30, 10**400, 0.5, -1.5, 1e308, math.nan]
SCALARS += [math.inf, "", " ", "a", "1871", "\ud83d", "\0", "\u202e", "../a", "/", "..", "a" * 300, "é", "7", "@deep"]
PIECES = [b'"', b"{", b"[", b"]", b"}", b",", b":", b"\\", b"null", b"NaN", b"1e999", b"-1", b"0.5", b"\\ud83d", b"\0"]
PIECES += [b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\n", b" ", b"[" * 5000, b"9" * 4400, b"[PAD]", b"##", b"../", b""]


def draw_tree(draw: random.Random, depth: int = 3) -> Any:
    """A JSON value of any kind, or what stands where one should be."""
    kind = draw.random() if depth else 0
    if kind < 0.5:
        return draw.choice(SCALARS)
    inner = [draw_tree(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    return inner if kind < 0.75 else {draw.choice(["a", "", "7", "type"]): value for value in inner}


def places(parent) -> list[tuple]:
    """(container, key) of every value inside a JSON value."""
    pairs = parent.items() if isinstance(parent, dict) else enumerate(parent) if isinstance(parent, list) else ()
    return [place for key, child in pairs for place in ((parent, key), *places(child))]


def damaged(draw: random.Random, raw: bytes, values: list) -> bytes:
    """A file in which up to three values and then up to three bytes or pieces are replaced, removed, doubled or moved.

    The values are those of its JSON, or of a safetensors file's JSON header. `values` are replacements that are more
    to the point than random ones.
    """
    length = 8 + int.from_bytes(raw[:8], "little")
    is_header = raw[8:9] == b"{" and length <= len(raw)
    edits = draw.randint(0, 3)
    with contextlib.suppress(ValueError):  # a file that is not JSON has no values
        document = json.loads(raw[8:length] if is_header else raw)
        for _ in range(edits):
            found = places(document)
            if not found:
                break
            (parent, key), (other, other_key), action = draw.choice(found), draw.choice(found), draw.randint(0, 6)
            if action == 0:
                del parent[key]
            elif action == 1 and isinstance(parent, list):
                parent.insert(0, copy.deepcopy(parent[key]))
            elif action == 1:
                parent[str(other_key)] = parent.pop(key)
            elif action == 2:
                parent[key] = copy.deepcopy(other[other_key])
            else:
                parent[key] = copy.deepcopy(draw.choice(values) if values and action < 5 else draw_tree(draw))
        text = to_text(document).encode()
        raw = len(text).to_bytes(8, "little") + text + raw[length:] if is_header else text
    for _ in range(draw.randint(0, 3) if edits == 0 or draw.random() < 0.5 else 0):
        at = draw.randint(0, length if is_header else len(raw))
        after = at + draw.choice([0, 1, 1, 2, 9, len(raw)])
        piece = draw.choice(PIECES) if draw.random() < 0.5 else draw.randbytes(draw.randint(1, 2))
        raw = raw[:at] + piece + raw[after:]
    return raw


# --- the files, and how each is read


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_folder) -> Iterator[SimpleNamespace]:
    """A folder with one file of each kind, and the training run that its checkpoint is of."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny_folder, folder / "model")
    backend = BertWordPieceTokenizer({token: i for i, token in enumerate(VOCABULARY)})
    (folder / "json").mkdir()
    (folder / "json/tokenizer.json").write_text(backend.to_str(), "utf-8")
    data = write_toy_squad(folder / "squad.json", 3, words=6, version_2=True)
    (folder / "predictions.json").write_text('{"q0": "", "q1": "the clock", "q2": "wood"}', "utf-8")
    for name, text in FOREIGN.items():
        (folder / name).write_text(text, "utf-8")
    write_answering(folder / "model", CALIBRATED)
    (folder / "line.json").write_text('{"id": [1, {"k": "a"}], "question": "Who?", "context": "anna"}', "utf-8")

    model, tokenizer, examples = load_model(folder / "model"), load_tokenizer(folder / "model"), read_squad(data)
    windows, sizes = make_windows(examples, tokenizer, 24, 4), {"max_seq_length": 24, "doc_stride": 4, "epochs": 1}
    chosen = Settings(data=str(data), output_dir=str(folder / "run"), batch_size=2, learning_rate=1e-4, **sizes)
    machine, facts = choose_machine("cpu", "float32"), {"data_sha256": ["0"], "world_size": 1, "threads": 1}
    facts |= {"eval_sha256": None, "base_model": "m"}
    training = Training(model, tokenizer, (examples, windows), chosen, machine, None, facts)
    (folder / "run").mkdir()
    training.train()
    training.scaler = torch.amp.GradScaler("cpu", enabled=True)  # as a run in float16 has one
    training.save()
    record_scores(folder / "run", 2, {"exact": 50.0, "f1": 60.0, "total": 3}, keep_last=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # hundreds of waits for the disk would show nothing
        yield SimpleNamespace(folder=folder, training=training, examples=examples)


def read_data(world) -> None:
    with contextlib.suppress(BadInput):
        read = read_squad(world.folder / "squad.json", training=True, skip_bad_records=True)
        assert all(example.answers or example.is_impossible for example in read)
    examples = read_squad(world.folder / "squad.json")
    assert examples and len({example.id for example in examples}) == len(examples)
    for example in examples:
        assert example.id.strip() and example.question.strip() and isinstance(example.title, str)
        assert all(example.context[start : start + len(text)] == text for text, start in example.answers)
        f"{example.id}{example.question}{example.context}".encode()


def read_tokenizer(folder: Path) -> None:
    texts = ["a clocks \u00e9 \u6642\u8a08 b.", "", "[SEP] \U0001f600e\u0301 \0", "x" * 120]
    tokenizer = load_tokenizer(folder)
    for text, (ids, offsets) in zip(texts, tokenizer.encode(texts)):
        assert ((offsets >= 0) & (offsets <= len(text))).all() and (offsets[:, 0] <= offsets[:, 1]).all()
        assert all(0 <= i < tokenizer.vocab_size for i in ids) and all(map(str.encode, tokenizer.tokens(ids)))


def read_answers(world) -> None:
    predictions = read_predictions(world.folder / "predictions.json")
    assert all(0 <= value <= 100 for value in score(world.examples, predictions).values())


def read_line(world) -> None:
    record = parse((world.folder / "line.json").read_bytes().decode("utf-8", "replace"))
    json.dumps({"id": record.get("id"), "score": 0.5}, ensure_ascii=False, allow_nan=False).encode()
    if "error" in record:
        raise BadInput("line.json", "", record["error"])
    assert record["question"].strip() and isinstance(record["context"], str)


def read_config(world) -> None:
    config = load_config(world.folder / "model")
    assert config.hidden_size % config.num_attention_heads == 0 < config.hidden_size
    assert 0 <= config.pad_token_id < config.vocab_size and 0 <= config.hidden_dropout_prob < 1
    json.dumps(config_json(config), allow_nan=False)


def read_run(world) -> None:
    """Find the checkpoint of a run, and continue from it."""
    checkpoint, training = world.folder / "run/checkpoint-2", world.training
    assert find_checkpoint(world.folder / "run") == checkpoint
    settings_of_run(checkpoint, {})
    assert isinstance(resumed_settings(checkpoint, {}), Settings)
    check_facts(checkpoint, training.facts, world.folder / "run")
    training.losses.restart()
    training.resume(checkpoint)
    at = training.position
    assert all(type(value) is int and value >= 0 for value in (at.step, at.update, at.windows))
    assert all(math.isfinite(value) for value in (at.loss_sum, at.recent_loss, at.seconds))
    assert training.scaler.get_scale() > 0
    for parameter in training.model.parameters():
        moments = training.optimizer.state[parameter]
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape
        assert all(value.is_floating_point() and torch.isfinite(value).all() for value in moments.values())


def read_best(world) -> None:
    """Find the checkpoint that the pointers of a run name, and compare another F1 with its own."""
    run, scores = world.folder / "run", {"exact": 50.0, "f1": 61.0, "total": 3}
    assert find_folder(run) == run / "checkpoint-2"
    json.dumps(read_scores(run / "checkpoint-2"), allow_nan=False)
    record_scores(run, 2, scores, keep_last=2)
    assert (run / "best").read_text("utf-8").strip() == "checkpoint-2"


CALIBRATED = Answering(
    -1.25, {"bias": 2.1, "log_score": 0.9, "score": 1.1, "log_length": -0.7}, {"bias": -0.2, "null_odds": 0.7}
)
SPANS = SimpleNamespace(characters=np.array([[0, 3], [1, 9]]), scores=np.array([0.5, 0.0]), null_odds=1e9)


def read_calibration(world) -> None:
    answering = read_answering(world.folder / "model")
    sure = [answering.null_confidence(SPANS), *(() if answering.confidence is None else answering.confidences(SPANS))]
    assert all(value is None or 0 <= value <= 1 for value in sure)
    json.dumps([answering.null_score_diff_threshold, answering.fitted_on], allow_nan=False)


def read_odds(world) -> None:
    assert all(math.isfinite(value) for value in read_null_odds(world.folder / "odds.json").values())


def read_rows(world) -> None:
    found = read_n_best(world.folder / "n_best.json", {"q0": "a"})
    json.dumps(found, allow_nan=False)


WHO = {"id": 1, "question": "Who?", "context": "anna saw a bird"}
MARKED = {"was_cancelled": False, "result": [{"value": {"start": 0, "end": 4, "text": "anna"}}]}
FOUND = {"answer": "anna", "offsets_in_document": [{"start": 0, "end": 4}]}
WRONG = [{"text": " anna", "answer_start": 0}, {"text": "saw", "answer_start": "2"}]
# Data of other tools, which `check` converts and repairs; then what `evaluate --score` takes beside predictions.
FOREIGN = {
    "rows.json": json.dumps([WHO | {"answers": {"text": ["anna"], "answer_start": [0]}}]),
    "rows.jsonl": json.dumps(WHO | {"answer": "anna"}) + "\n" + json.dumps(WHO | {"id": 2, "answer": "saw"}) + "\n",
    "rows.csv": 'id,question,context,answer,answer_start\n1,Who?,"anna, saw",anna,0\n2,What?,"anna\n saw",saw,\n',
    "columns.json": json.dumps({"data": {name: {"0": value} for name, value in (WHO | {"answer": "anna"}).items()}}),
    "studio.json": json.dumps([{"id": 1, "data": {"text": "anna saw", "question": "Who?"}, "annotations": [MARKED]}]),
    "doccano.jsonl": json.dumps({"text": "anna saw", "label": [[0, 4, "A"]], "meta": {"question": "Who?"}}) + "\n" * 2,
    "haystack.json": json.dumps([{"query": "Who?", "document": {"content": "anna"}, "id": "1", "answer": FOUND}]),
    "broken.json": json.dumps([{"paragraphs": [{"context": "anna saw", "qas": [WHO | {"answers": WRONG}]}]}]),
    "odds.json": json.dumps({"q0": 1.5, "q1": -2, "q2": 0.25}),
    "n_best.json": json.dumps({"q0": [{"text": "a", "score": 0.5, "start": 0, "end": 1}]}),
}


def read_foreign(name: str) -> Callable:
    """Convert, check and repair a file of another tool; its repaired copy can be written."""

    def read(world) -> None:
        report, top, _ = check_file(str(world.folder / name), False)
        json.dumps([report, *repair(top)])

    return read


@dataclass
class Kind:
    """A kind of file: where it lies, how it is read, replacements for its values, and earlier finds.

    A find is the whole file, or a path in its JSON with a value.
    """

    file: str
    read: Callable
    values: list = dataclasses.field(default_factory=list)
    finds: list = dataclasses.field(default_factory=list)


DTYPES = ["F16", "F64", "I32", "F8_E4M3", [4], [0, 4], [4, 4], [2**33, 2**33]]
SAVED = [[1], {}, "float16", "compile", "format", {"scale": 0.0}]
POINTERS = [b"..", b"/", b"a\0b", b"a" * 300, b"checkpoint-9", b"\xff"]
KINDS = {
    "squad": Kind("squad.json", read_data, [{"text": "the"}, -0.5, "1", 2**63]),
    "predictions": Kind("predictions.json", read_answers, finds=[("q0", "\ud83d")]),
    "line": Kind("line.json", read_line, finds=[("id", math.inf), ("id", "\ud83d"), ("id", "@deep")]),
    "config": Kind("model/config.json", read_config, ["distilbert", "bert", "gelu"], [("hidden_size", 10**400)]),
    "weights": Kind("model/model.safetensors", lambda world: load_model(world.folder / "model"), DTYPES, [b"\xff" * 9]),
    "tokenizer": Kind(
        "json/tokenizer.json",
        lambda world: read_tokenizer(world.folder / "json"),
        ["NFKD", "BPE", "Unigram"],
        [("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}), ("model/vocab/the", 2**32 - 1)],
    ),
    "vocabulary": Kind("model/vocab.txt", lambda world: read_tokenizer(world.folder / "model")),
    "casing": Kind("model/tokenizer_config.json", lambda world: read_tokenizer(world.folder / "model")),
    "state": Kind(
        "run/checkpoint-2/trainer_state.json",
        read_run,
        SAVED,
        [
            ("settings/batch_size", 10**400),
            ("settings/data", [7]),
            ("settings/null_score_diff_threshold", -(10**400)),
            ("position/step", -1),
            ("position/recent_loss", 10**400),
            ("scaler/scale", True),
        ],
    ),
    "manifest": Kind("run/checkpoint-2/manifest.json", read_run, finds=[("\ud83d", {}), ("a\0", {}), ("", [])]),
    "optimizer": Kind("run/checkpoint-2/optimizer.safetensors", read_run, DTYPES, [b"\x80\x04."]),
    "log": Kind("run/metrics.jsonl", read_run, finds=[b"[]\n7\n{}\n" + b"[" * 5000, b'{"step": "1"}\n\xff']),
    "scores": Kind("run/checkpoint-2/eval_results.json", read_best, finds=[("f1", True), ("f1", 10**400)]),
    "best": Kind("run/best", read_best, finds=POINTERS),
    "latest": Kind("run/latest", read_best, finds=POINTERS),
    "calibration": Kind("model/answering.json", read_calibration, ["confidence", 1, "format"]),
    "odds": Kind("odds.json", read_odds, finds=[("q0", -(10**400))]),
    "n best": Kind("n_best.json", read_rows, ["text", "score", "wood"]),
    **{
        name: Kind(name, read_foreign(name), [{"text": "anna", "answer_start": 9}, ["anna"], "saw", "text", "answers"])
        for name in list(FOREIGN)[:-2]
    },
}


def attempt(world: SimpleNamespace, kind: Kind, raw: bytes) -> str:
    """Read a file with this content in place of the good one: "read", or "refused" with a BadInput that says why."""
    file, manifest = world.folder / kind.file, world.folder / "run/checkpoint-2/manifest.json"
    good, former = file.read_bytes(), manifest.read_bytes()
    file.write_bytes(raw)
    if file.name in json.loads(former):
        sign(file.parent)
    try:
        kind.read(world)
    except BadInput as error:
        assert error.what and "\n" not in str(error).strip()
        return "refused"
    finally:
        file.write_bytes(good)
        manifest.write_bytes(former)
    return "read"


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_read_or_refused(name, world):
    kind, counts = KINDS[name], Counter()
    good = (world.folder / kind.file).read_bytes()
    assert attempt(world, kind, good) == "read"
    for find in kind.finds:
        attempt(world, kind, find if isinstance(find, bytes) else to_text(put(json.loads(good), *find)).encode())

    draw = random.Random(SEED + name)
    for _ in range(EXAMPLES):
        raw = damaged(draw, good, kind.values)
        try:
            counts[attempt(world, kind, raw)] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {raw[:2000]!r}") from error
    can_be_refused = name not in ("log", "latest", "best")  # a run goes on without these
    assert counts["read"] > 0 and bool(counts["refused"]) is can_be_refused, counts
