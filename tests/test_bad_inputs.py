"""Bad input of 73 kinds, through the commands that a user runs: one line, the right exit code, and no file changed.

The row numbers are those of the project's list of bad inputs: 1-53 are data, 54-73 models, runs and flags.
"""

import fcntl
import gzip
import hashlib
import importlib
import json
import math
import os
import pickle
import re
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import VOCABULARY, load_script, run, write_toy_squad
from safetensors.torch import load_file, save_file

from minibert.errors import run_command

SIZES = "--max_seq_length 40 --doc_stride 8"
TRAIN = f"train.py --data data.json --model model --output_dir out --max_steps 1 --device cpu --dtype float32 {SIZES}"
EVALUATE = f"evaluate.py --ckpt model --data data.json --predictions out/p.json --device cpu --dtype float32 {SIZES}"
SCORE = "evaluate.py --score predictions.json --data data.json"
WINDOWS = f"minibert.windows --model model --data data.json {SIZES}"
ASK = f"ask.py --ckpt model --question Who? --context_file notes.txt --json {SIZES}"
STREAM = f"ask.py --ckpt model --input lines.jsonl --output out.jsonl {SIZES}"
RESUME = "train.py --data data.json --output_dir run --resume"
OF_DATA = (TRAIN, EVALUATE, SCORE, WINDOWS)
OF_MODELS = (TRAIN, EVALUATE, ASK)
OF_TOKENIZERS = (TRAIN, EVALUATE, ASK, WINDOWS)


@dataclass
class Case:
    """What is done to a good folder, the commands to run in it, and what each must end with.

    `says` is a pattern of the error line; `check` looks at what an accepted input gave.
    """

    row: int
    name: str
    spoil: Callable[[Path], object]
    says: str = ""
    commands: tuple[str, ...] = OF_DATA
    code: int = 2
    check: Callable[[SimpleNamespace], object] = field(default=lambda done: None)


# --- a good folder, and running commands in it


@pytest.fixture(scope="module")
def good(tmp_path_factory, tiny_folder) -> Path:
    """A folder with data, predictions for it, questions, a model, and a run of two steps."""
    folder = tmp_path_factory.mktemp("good")
    write_toy_squad(folder / "data.json", 4, words=12)
    predictions = {f"q{i}": "clock" for i in range(4)}
    (folder / "predictions.json").write_text(json.dumps(predictions), "utf-8")
    (folder / "notes.txt").write_text("the clock was made of copper by anna weiss. \u6642", "utf-8")
    line = {"id": 1, "question": "Who?", "context": "anna weiss"}
    (folder / "lines.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    shutil.copytree(tiny_folder, folder / "model")
    words = TRAIN.replace("dir out", "dir run").replace("--max_steps 1", "--max_steps 2")
    done = in_process(folder, f"{words} --eval_data data.json --save_steps 1 --batch_size 2", lambda: ("", ""))
    assert done.code == 0
    return folder


@pytest.fixture
def work(tmp_path, good) -> Iterator[Path]:
    """A copy of the good folder, to be spoiled."""
    yield shutil.copytree(good, tmp_path / "work")
    while HELD:
        os.close(HELD.pop())


@pytest.fixture
def call(capfd):
    """Run a command in a folder, in this process."""

    def command(folder: Path, words: str) -> SimpleNamespace:
        capfd.readouterr()
        return in_process(folder, words, capfd.readouterr)

    return command


def in_process(folder: Path, words: str, read: Callable) -> SimpleNamespace:
    """Exit code, stdout and stderr of a command; everything that it sets is put back."""
    name, *flags = words.split(" ")
    main = (importlib.import_module(name) if "." in name[:-3] else load_script(name.removesuffix(".py"))).main
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, *flags])
        run_command(main)
    out, err = read()
    return SimpleNamespace(code=ended.value.code, out=out, err=err, folder=folder)


def snapshot(folder: Path) -> dict[str, tuple]:
    """Every path below a folder, with size and sha256 of the files. A run's lock is no content."""
    found = {}
    for path in folder.rglob("*"):
        if path.name != ".lock":
            raw = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(folder))] = (path.is_dir(), len(raw), hashlib.sha256(raw).hexdigest())
    return found


def assert_one_error_line(done: SimpleNamespace, code: int, says: str) -> None:
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert done.err.endswith("\n")
    lines = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    if lines[0].startswith("usage: "):  # argparse shows the flags first
        lines = [lines[-1].partition(": ")[2]]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert re.search(says, lines[0]), lines[0][:500]
    assert lines[0].isprintable() and len(lines[0]) < 3000


# --- ways to spoil it


def data(content) -> Callable:
    """Other data: bytes or text as they are, anything else as JSON."""
    raw = content if isinstance(content, bytes) else (content if isinstance(content, str) else dumps(content)).encode()
    return lambda folder: (folder / "data.json").write_bytes(raw)


def dumps(content) -> str:
    return json.dumps(content)


def file(name: str, content) -> Callable:
    """Another content of a file of the folder; None removes it."""
    raw = content if isinstance(content, bytes) or content is None else content.encode()

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if raw is not None:
            (folder / name).write_bytes(raw)

    return spoil


def both(*spoils: Callable) -> Callable:
    return lambda folder: [spoil(folder) for spoil in spoils]


def nothing(folder: Path) -> None:
    pass


CONTEXT = "The clock of Basel was made of iron in 1871."
ANSWER = {"text": "1871", "answer_start": 39}
PLACE = r"data\[0\]\.paragraphs\[0\]\.qas\[0\]"
NFC, NFD = "caf\u00e9", "cafe\u0301"


def question(**changes) -> dict:
    """A good question with some keys changed; a key set to `...` is left out."""
    record = {"id": "q1", "question": "When?", "answers": [ANSWER]} | changes
    return {key: value for key, value in record.items() if value is not ...}


def squad(*questions, context=CONTEXT, **article) -> dict:
    paragraph = {"qas": list(questions)} | ({} if context is ... else {"context": context})
    return {"version": "1.1", "data": [{"title": "Basel", "paragraphs": [paragraph]} | article]}


def asks(*questions, context=CONTEXT) -> Callable:
    return data(squad(*questions, context=context))


def answered(context: str, text, start) -> Callable:
    return asks(question(answers=[{"text": text, "answer_start": start}]), context=context)


GOOD = dumps(squad(question()))
OTHER = question(id="q2")  # makes a file one that has answers
IMPOSSIBLE = question(answers=[], is_impossible=True)

MODEL, INDEX = "model/model.safetensors", "model/model.safetensors.index.json"
WORD = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
OURS = "encoder.layers.1.attention.query.weight"


def weights(change: Callable) -> Callable:
    """Other bytes of the weights."""
    return lambda folder: (folder / MODEL).write_bytes(change((folder / MODEL).read_bytes()))


def header(change: Callable) -> Callable:
    """Another header of the weights: a changed dict, or its text."""

    def changed(raw: bytes) -> bytes:
        end = 8 + int.from_bytes(raw[:8], "little")
        found = json.loads(raw[8:end])
        found = change(found) or found
        text = found if isinstance(found, bytes) else dumps(found).encode()
        return struct.pack("<Q", len(text)) + text + raw[end:]

    return weights(changed)


def of_query(**changes) -> Callable:
    """Another entry of one tensor in the header."""
    return header(lambda found: found[QUERY].update(changes))


def tensors(change: Callable) -> Callable:
    """Other tensors, in a file that is itself well formed."""

    def spoil(folder: Path) -> None:
        state = load_file(folder / MODEL)
        change(state)
        save_file(state, folder / MODEL, {"format": "pt"})

    return spoil


def put_tensor(name: str, tensor: torch.Tensor) -> Callable:
    return tensors(lambda state: state.update({name: tensor}))


def config(**changes) -> Callable:
    """Other values in config.json; `...` leaves a key out."""

    def spoil(folder: Path) -> None:
        found = json.loads((folder / "model/config.json").read_text("utf-8")) | changes
        found = {key: value for key, value in found.items() if value is not ...}
        (folder / "model/config.json").write_text(dumps(found), "utf-8")

    return spoil


def index(change: Callable) -> Callable:
    """Two shards with an index, which is changed; whole shards lie outside the folder too."""

    def spoil(folder: Path) -> None:
        state = load_file(folder / MODEL)
        (folder / MODEL).unlink()
        parts = {"a.safetensors": [WORD, QUERY], "b.safetensors": sorted(state.keys() - {WORD, QUERY})}
        for name, names in parts.items():
            save_file({key: state[key] for key in names}, folder / "model" / name)
            shutil.copy(folder / "model" / name, folder / name)
        weight_map = {key: name for name, names in parts.items() for key in names}
        content = change(weight_map, folder) or {"weight_map": weight_map}
        (folder / INDEX).write_text(content if isinstance(content, str) else dumps(content), "utf-8")

    return spoil


def word_in(name: str) -> Callable:
    """An index that looks for the word embeddings in this file; {} stands for the folder above."""
    return index(lambda weight_map, folder: weight_map.update({WORD: name.format(folder)}))


def vocab(tokens) -> Callable:
    raw = tokens if isinstance(tokens, bytes) else "".join(f"{token}\n" for token in tokens).encode()
    return file("model/vocab.txt", raw)


def without(token: str) -> list[str]:
    return [other for other in VOCABULARY if other != token]


def tokenizer_json(wordpiece=(), **changes) -> Callable:
    """A tokenizer.json with other parts; `wordpiece` changes its model."""
    from tokenizers import BertWordPieceTokenizer

    def spoil(folder: Path) -> None:
        backend = BertWordPieceTokenizer({token: i for i, token in enumerate(VOCABULARY)})
        backend.add_special_tokens(VOCABULARY[:5])
        content = json.loads(backend.to_str())
        content |= {"model": content["model"] | dict(wordpiece)} | changes
        (folder / "model/tokenizer.json").write_text(dumps(content), "utf-8")

    return spoil


class Payload:
    """Pickled, it touches a file as soon as it is opened."""

    def __reduce__(self):
        return Path.touch, (Path("touched"),)


EVIL = pickle.dumps(Payload())


def state(change: Callable) -> Callable:
    """Another training state of both checkpoints, in agreement with their manifests."""

    def spoil(folder: Path) -> None:
        for checkpoint in (folder / "run").glob("checkpoint-*"):
            path = checkpoint / "trainer_state.json"
            found = json.loads(path.read_text("utf-8"))
            path.write_text(dumps(change(found) or found), "utf-8")
            sign(checkpoint)

    return spoil


def sign(checkpoint: Path, **more) -> None:
    """Make the manifest agree with the files, or say more."""
    manifest = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
    (checkpoint / "manifest.json").write_text(dumps({name: entry(checkpoint / name) for name in manifest} | more))


def entry(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def manifests(content: Callable) -> Callable:
    """Another manifest in both checkpoints, as text."""

    def spoil(folder: Path) -> None:
        for checkpoint in (folder / "run").glob("checkpoint-*"):
            (checkpoint / "manifest.json").write_text(content(folder, checkpoint), "utf-8")

    return spoil


def names_outside(folder: Path, checkpoint: Path) -> str:
    found = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
    return dumps(found | {"../../data.json": entry(folder / "data.json")})


def signed(name: str, raw: bytes) -> Callable:
    """Another file in both checkpoints, in agreement with their manifests."""

    def spoil(folder: Path) -> None:
        for checkpoint in (folder / "run").glob("checkpoint-*"):
            (checkpoint / name).write_bytes(raw)
            sign(checkpoint)

    return spoil


def moments(tensor: torch.Tensor) -> Callable:
    """Another average of gradients in both checkpoints, in agreement with their manifests."""

    def spoil(folder: Path) -> None:
        for checkpoint in (folder / "run").glob("checkpoint-*"):
            found = load_file(checkpoint / "optimizer.safetensors")
            assert f"{OURS}.exp_avg" in found
            save_file(found | {f"{OURS}.exp_avg": tensor}, checkpoint / "optimizer.safetensors")
            sign(checkpoint)

    return spoil


def pickles_beside(folder: Path) -> None:
    for place in (folder / "model", folder / "run", *(folder / "run").glob("checkpoint-*")):
        for name in ("pytorch_model.bin", "optimizer.pt", "rng_state.pth", "training_args.bin", "scheduler.pt"):
            (place / name).write_bytes(EVIL)


def flipped(name: str) -> Callable:
    def spoil(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[len(raw) // 2] ^= 4
        (folder / name).write_bytes(raw)

    return spoil


def only(checkpoint: str) -> Callable:
    """A run that has this checkpoint alone."""

    def spoil(folder: Path) -> None:
        for other in (folder / "run").glob("checkpoint-*"):
            if other.name != checkpoint:
                shutil.rmtree(other)

    return spoil


HELD = []  # descriptors of the lock files of other runs


def second_run(name: str) -> Callable:
    """Another run holds this folder."""

    def spoil(folder: Path) -> None:
        (folder / name).mkdir(exist_ok=True)
        HELD.append(os.open(folder / name / ".lock", os.O_WRONLY | os.O_CREAT))
        fcntl.flock(HELD[-1], fcntl.LOCK_EX)

    return spoil


# --- what an accepted input gives


def counted(**counts: int) -> Callable:
    """The last line of `minibert.windows` has these counts."""

    def check(done: SimpleNamespace) -> None:
        found = json.loads(done.out.splitlines()[-1])
        assert {key: found[key] for key in counts} == counts

    return check


def sliced(done: SimpleNamespace) -> None:
    """The predictions are exact slices of the untouched context, offsets and all."""
    context = json.loads((done.folder / "data.json").read_bytes())["data"][0]["paragraphs"][0]["context"]
    n_best = json.loads((done.folder / "out/nbest_predictions.json").read_text("utf-8"))
    rows = [row for rows in n_best.values() for row in rows if row["text"]]
    assert rows and all(context[row["start"] : row["end"]] == row["text"] for row in rows)


def shown(text: str) -> Callable:
    """The picture of a window has the question as it was."""

    def check(done: SimpleNamespace) -> None:
        assert f": {text}?\n" in done.out

    return check


def untouched(done: SimpleNamespace) -> None:
    """No pickle was opened."""
    assert not (done.folder / "touched").exists()


def predicted(**texts: str) -> Callable:
    def check(done: SimpleNamespace) -> None:
        assert json.loads((done.folder / "out/p.json").read_text("utf-8")) == texts

    return check


def on_stderr(words: str) -> Callable:
    def check(done: SimpleNamespace) -> None:
        assert words in done.err and done.err.count("\n") == 1

    return check


def scores_with(**keys) -> Callable:
    def check(done: SimpleNamespace) -> None:
        found = json.loads(done.out.splitlines()[-1])
        assert all((key in found) is is_there for key, is_there in keys.items())

    return check


def rows(row: int, *cases: tuple, **common) -> list[Case]:
    """Cases of a row: (name, spoil, says) each."""
    return [Case(row, *case, **common) for case in cases]


def accepted(row: int, name: str, spoil: Callable, command: str, check: Callable = lambda done: None) -> Case:
    return Case(row, name, spoil, "", (command,), 0, check)


def flags(row: int, command: str, *words: tuple[str, str]) -> list[Case]:
    """Flags that are refused with a pattern."""
    return [Case(row, more[:40], nothing, says, (f"{command} {more}",)) for more, says in words]


DEEP = "[" * 100_000 + "]" * 100_000
NOT_WHOLE = r"model\.safetensors: \d+ bytes: is not a whole safetensors file"
ASIDE = "must name a file beside the index"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133466304\n"
PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
BPE = {"type": "BPE", "vocab": {token: i for i, token in enumerate(VOCABULARY)}, "merges": [], "unk_token": "none"}
UNIGRAM = {"type": "Unigram", "unk_id": None, "vocab": [[token, -1.0] for token in VOCABULARY]}
HUGE_IDS = {token: i for i, token in enumerate(VOCABULARY)} | {"clock": 2**32 - 1}

CASES = [
    # data
    *rows(
        1,
        ("missing", file("data.json", None), r"data\.json: cannot be read"),
        ("a folder", both(file("data.json", None), lambda folder: (folder / "data.json").mkdir()), r"data\.json"),
    ),
    Case(1, "missing eval_data", nothing, r"none\.json", (f"{TRAIN} --eval_data none.json",)),
    Case(1, "missing context file", nothing, r"none\.txt", (ASK.replace("notes", "none"),)),
    Case(1, "missing stream", nothing, r"none\.jsonl", (STREAM.replace("lines", "none"),)),
    *rows(2, ("empty", data(b""), r"data\.json: the file is empty"), ("blank", data(b" \n"), "the file is empty")),
    *rows(3, ("git-LFS pointer", data(LFS), r"data\.json: .*git-LFS pointer.*git lfs pull")),
    *rows(
        4, ("HTML", data("<!DOCTYPE html>\n<html></html>"), "looks like HTML"), ("XML", data("\n<a/>"), "HTML or XML")
    ),
    *rows(5, ("gzip", data(gzip.compress(GOOD.encode())), "compressed; gunzip"), ("zip", data(b"PK\x03\x04"), "zip")),
    accepted(6, "byte order mark", data(b"\xef\xbb\xbf" + GOOD.encode()), WINDOWS, counted(questions=1, exact=1)),
    *rows(
        7,
        ("UTF-16", data(GOOD.encode("utf-16")), r"data\.json: byte 0: is not UTF-8"),
        ("latin-1", data(GOOD.replace("iron", "\u00e9").encode("latin-1")), r"byte \d+: is not UTF-8"),
    ),
    Case(7, "latin-1 notes", file("notes.txt", b"caf\xe9"), r"notes\.txt: byte 3", (ASK,)),
    *rows(8, ("truncated", data(GOOD[:-9]), r"data\.json: line 1 column \d+")),
    *rows(
        9,
        ("trailing comma", data(GOOD[:-1] + ",}"), r"line 1 column \d+"),
        ("trailing data", data(GOOD + "x"), "Extra data"),
        ("JSON lines", data(GOOD + "\n" + GOOD), r"line 2 column 1.*JSON lines"),
    ),
    *rows(10, ("nested 100,000 deep", data(DEEP), r"data\.json: nested too deeply")),
    *rows(11, ("5,000 digits", data(GOOD.replace("39", "9" * 5000)), r"data\.json")),
    *rows(12, *((word, data(GOOD.replace("39", word)), f"{word} is not a JSON value") for word in ("NaN", "1e999"))),
    *rows(12, *((word, data(GOOD.replace("39", word)), "not a JSON value") for word in ("Infinity", "-Infinity"))),
    *rows(13, ("key twice", data(GOOD.replace('"title"', '"title": "x", "title"')), r"data\.json: .*'title'.*twice")),
    *rows(
        14,
        ("list", data([question()]), r"data\.json: data: expected a list"),
        ("string", data('"data"'), "expected a list"),
        ("flat rows", data({"data": [question(context=CONTEXT)]}), r"data\[0\]: flat rows"),
    ),
    *rows(
        15,
        ("predictions", data({"q1": "1871", "q2": ""}), "looks like a predictions file"),
        ("scores", data({"exact_match": 80.5, "f1": 88.1}), r"data\.json: data"),
    ),
    *rows(16, ("no articles", data({"data": []}), "0 questions"), ("no questions", asks(), "0 questions")),
    *rows(
        17,
        ("data null", data({"data": None}), "data: expected a list"),
        ("paragraphs missing", data({"data": [{"title": "x"}]}), r"data\[0\]\.paragraphs"),
        ("qas null", data({"data": [{"paragraphs": [{"context": "x", "qas": None}]}]}), r"paragraphs\[0\]\.qas"),
        ("a question a string", asks("When?"), f"{PLACE}.*expected an object"),
    ),
    *rows(
        18,
        ("context missing", asks(question(), context=...), r"paragraphs\[0\]\.context: .*missing"),
        ("context null", asks(question(), context=None), r"paragraphs\[0\]\.context"),
        ("context a list", asks(question(), context=["a", "b"]), r"paragraphs\[0\]\.context: .*a list"),
    ),
    *rows(19, ("answer in an empty context", answered("", "x", 0), PLACE)),
    Case(19, "empty context in training", asks(question(answers=[]), context=" "), f"{PLACE}.*no answers", (TRAIN,)),
    accepted(19, "empty context", asks(IMPOSSIBLE, context=""), EVALUATE, predicted(q1="")),
    *rows(
        20,
        ("question missing", asks(question(question=...)), f"{PLACE}.*question must be"),
        ("question empty", asks(question(question="")), f"{PLACE}.*question must be"),
        ("question of zero width", asks(question(question="\u200b\u200d")), f"{PLACE}.*question must be"),
        ("question a megabyte of blanks", asks(question(question=" " * 10**6)), f"{PLACE}.*question must be"),
    ),
    *rows(21, *((f"id {value}", asks(question(id=value)), f"{PLACE}.*id must be") for value in (17, None, "", [1]))),
    *rows(21, ("id missing", asks(question(id=...)), f"{PLACE}.*id must be")),
    *rows(
        22,
        ("id twice", asks(question(), question()), r"qas\[1\] \(id=q1\).*used before.*qas\[0\]"),
        (
            "id twice, with escape codes",
            asks(question(id="\x1b[2J\u202e"), question(id="\x1b[2J\u202e")),
            "used before",
        ),
    ),
    Case(22, "a file twice", nothing, "used before", (TRAIN.replace("data.json", "data.json data.json"),)),
    *rows(23, ("no answers beside others", asks(question(answers=[]), OTHER), f"{PLACE}.*no answers")),
    *rows(
        23,
        *((f"answers {a}", asks(question(answers=a)), f"{PLACE}.*no answers") for a in (..., None, [])),
        commands=(TRAIN,),
    ),
    *rows(24, ("answers as columns", asks(question(answers={"text": [], "answer_start": []})), "one object of lists")),
    accepted(
        25, "no answers at all", asks(question(answers=None)), EVALUATE, scores_with(exact_match=False, total=True)
    ),
    Case(25, "no answers to score", asks(question(answers=None)), "no answers", (SCORE,)),
    *rows(26, ("-1", answered(CONTEXT, "1871", -1), f"{PLACE}.*answer_start.*-1")),
    *rows(27, ("past the end", answered(CONTEXT, "1871", 99), f"{PLACE}.*only 44 characters")),
    *rows(28, *((f"{v!r}", answered(" x", "x", v), f"{PLACE}.*answer_start") for v in ("1", 1.0, True, None))),
    *rows(29, ("10^18", answered(CONTEXT, "1871", 10**18), f"{PLACE}.*answer_start")),
    *rows(
        30,
        ("one too far", answered(CONTEXT, "1871", 40), f"{PLACE}.*'1871' is not at.*'871.'.*39"),
        ("elsewhere", answered(CONTEXT, "1871", 3), "nearest one is at 39"),
    ),
    *rows(31, ("bytes", answered("\u00e9\u00e9 x, and so on", "x", 5), "offsets look like bytes")),
    *rows(32, ("UTF-16", answered("\U0001f600\U0001f600 x, and so on", "x", 5), "offsets look like UTF-16")),
    *rows(33, ("CRLF", answered("a\r\nb\r\nc x y", "x", 6), "line ends")),
    *rows(
        34, ("NFC in NFD", answered(NFD, NFC, 0), "nowhere"), ("NFD in NFC", answered(NFC + " x", NFD, 0), "nowhere")
    ),
    *rows(
        35,
        ("empty", answered(CONTEXT, "", 3), f"{PLACE}.*text"),
        ("blank", answered(CONTEXT, " ", 3), f"{PLACE}.*text"),
    ),
    accepted(36, "outer blanks", answered(CONTEXT, " 1871", 38), WINDOWS, counted(exact=1, widened=0)),
    accepted(37, "half a word", answered(CONTEXT, "lock", 5), WINDOWS, counted(widened=1, lost=0)),
    accepted(38, "in no window whole", answered("clock " * 90, ("clock " * 80).strip(), 0), WINDOWS, counted(lost=1)),
    accepted(38, "in no window whole", answered("clock " * 90, ("clock " * 80).strip(), 0), TRAIN),
    accepted(39, "too long an answer", answered(CONTEXT, CONTEXT, 0), f"{EVALUATE} --max_answer_length 1", sliced),
    *rows(40, ("impossible with answers", asks(question(is_impossible=True)), "is_impossible is true, yet")),
    *rows(41, ("possible, no answers", asks(question(answers=[], is_impossible=False), OTHER), f"{PLACE}.*no answers")),
    *rows(42, *((repr(v), asks(question(is_impossible=v)), "is_impossible must be") for v in ("true", 1, None))),
    accepted(43, "plausible answers", asks(IMPOSSIBLE | {"plausible_answers": [ANSWER]}, OTHER), TRAIN),
    accepted(
        43,
        "plausible answers",
        asks(IMPOSSIBLE | {"plausible_answers": [ANSWER]}, OTHER),
        WINDOWS,
        counted(unanswered=1),
    ),
    accepted(
        44, "v2.0 without the flag", asks(IMPOSSIBLE, OTHER), EVALUATE, scores_with(exact=True, exact_match=False)
    ),
    accepted(
        44, "v1.1 with the flag", asks(question()), f"{SCORE} --version_2_with_negative", scores_with(exact=False)
    ),
    *rows(
        45,
        ("in the context", answered("\ud83d x", "x", 2), f"{PLACE}.*surrogate"),
        ("in the question", asks(question(question="\ud83d?")), f"{PLACE}.*surrogate"),
        ("in the id", asks(question(id="\ud83d")), f"{PLACE}.*surrogate"),
    ),
    *(
        accepted(row, name, asks(question(question=f"{text}?", answers=[]), context=f"{text} x"), command, check)
        for row, name, text in (
            (46, "control characters", "\x00 nul \x1f\x7f"),
            (
                47,
                "bidi, zero width, emoji, combining",
                "\u202eab\u202c \u200b \U0001f469\u200d\U0001f680 e\u0301 \u05e9\u05dc",
            ),
            (48, "entities", "a &amp; b &#60;"),
            (49, "markup", "<script>alert('x')</script>"),
        )
        for command, check in ((EVALUATE, sliced), (f"{WINDOWS} --show 1", shown(text)))
    ),
    accepted(49, "script in id and title", data(squad(question(id="<script>"), title="<b>")), EVALUATE, sliced),
    accepted(50, "word of 150 characters", answered("x" * 150 + " y", "y", 151), EVALUATE, sliced),
    accepted(50, "megabyte without a blank", answered("x" * 10**6, "x", 7), WINDOWS, counted(windows=1, widened=1)),
    accepted(51, "context of a megabyte", answered("clock of iron " * 70_000, "iron", 9), WINDOWS, counted(exact=1)),
    accepted(52, "long question", asks(question(question="When? " * 500)), WINDOWS, counted(cut_questions=1)),
    accepted(52, "long question", asks(question(question="When? " * 500)), EVALUATE, sliced),
    accepted(53, "missing", file("predictions.json", '{"q0": "x"}'), SCORE, on_stderr("3 of 4")),
    *rows(
        53,
        ("not a string", file("predictions.json", '{"q0": 1}'), r"predictions\.json: q0: .*string"),
        ("key twice", file("predictions.json", '{"q0": "x", "q0": "y"}'), r"predictions\.json: .*'q0'.*twice"),
        ("a list", file("predictions.json", "[]"), r"predictions\.json"),
        ("nested deep", file("predictions.json", DEEP), r"predictions\.json: nested too deeply"),
        ("missing in v2.0", asks(question(id="q9", is_impossible=False)), "q9: no prediction for 1 of 1"),
        commands=(SCORE,),
    ),
    accepted(53, "extra in v2.0", asks(question(id="q0", is_impossible=False)), SCORE, on_stderr("3 predictions")),
    # weights
    *rows(
        54,
        ("empty", weights(lambda raw: b""), r"model\.safetensors: 0 bytes"),
        ("7 bytes", weights(lambda raw: raw[:7]), r"model\.safetensors: 7 bytes"),
        ("truncated", weights(lambda raw: raw[:-1]), NOT_WHOLE),
        ("tail", weights(lambda raw: raw + b"\n"), NOT_WHOLE),
        ("missing", file(MODEL, None), r"model\.safetensors: no such file"),
        commands=OF_MODELS,
    ),
    *rows(
        55,
        ("git-LFS pointer", weights(lambda raw: LFS), r"model\.safetensors: .*git-LFS pointer"),
        ("HTML", weights(lambda raw: b"<!DOCTYPE html><html></html>"), "looks like HTML"),
        ("zipped pickle", weights(lambda raw: b"PK\x03\x04" + EVIL), "zip archive.*pickled"),
        ("pickle", weights(lambda raw: EVIL), NOT_WHOLE),
        commands=OF_MODELS,
    ),
    *rows(
        56,
        *(
            (f"length {n}", weights(lambda raw, n=n: struct.pack("<Q", n) + raw[8:]), NOT_WHOLE)
            for n in (0, 10**5, 10**8 + 1, 2**63, 2**64 - 1)
        ),
        ("not JSON", header(lambda found: b"{" + b"x" * 99), NOT_WHOLE),
        ("nested deep", header(lambda found: b'{"a":' + b"[" * 100_000), NOT_WHOLE),
        commands=OF_MODELS,
    ),
    *rows(
        57,
        ("overlap", of_query(data_offsets=[0, 2304]), NOT_WHOLE),
        ("hole", header(lambda found: found.pop(QUERY) and None), NOT_WHOLE),
        ("shape overflow", of_query(shape=[2**33, 2**33]), NOT_WHOLE),
        ("negative shape", of_query(shape=[-24, -24]), NOT_WHOLE),
        ("float shape", of_query(shape=[24.0, 24]), NOT_WHOLE),
        ("unknown dtype", of_query(dtype="F33"), NOT_WHOLE),
        ("metadata a number", header(lambda found: found | {"__metadata__": {"format": 1}}), NOT_WHOLE),
        commands=OF_MODELS,
    ),
    *rows(
        58,
        (
            "tensor twice",
            header(lambda found: (dumps(found)[:-1] + f', "{QUERY}": {dumps(found[QUERY])}}}').encode()),
            f"'{QUERY}': stands twice",
        ),
        commands=OF_MODELS,
    ),
    *rows(
        59,
        *(
            (f"{name!r}", put_tensor(name, torch.zeros(2)), r"model\.safetensors: .*no place for")
            for name in ("../x", "a\0b", "\u202eb\x1b[2J", "a\nb", "x" * 900)
        ),
        commands=OF_MODELS,
    ),
    *rows(
        60,
        *(
            (f"{v} in {dtype}", put_tensor(QUERY, torch.full((24, 24), v, dtype=dtype)), f"'{QUERY}'.*not finite")
            for v, dtype in ((math.nan, torch.float32), (-math.inf, torch.float16), (1e300, torch.float64))
        ),
        commands=OF_MODELS,
    ),
    *rows(
        61,
        ("zero size", put_tensor(QUERY, torch.zeros(0, 24)), rf"'{QUERY}'.*\(0, 24\), not \(24, 24\)"),
        ("wrong shape", put_tensor(QUERY, torch.zeros(24, 23)), rf"'{QUERY}'.*\(24, 23\), not \(24, 24\)"),
        ("int", put_tensor(QUERY, torch.ones(24, 24, dtype=torch.int64)), f"'{QUERY}'.*I64"),
        ("fp8", put_tensor(QUERY, torch.ones(24, 24).to(torch.float8_e5m2)), f"'{QUERY}'.*F8_E5M2"),
        commands=OF_MODELS,
    ),
    *(
        accepted(61, f"{d}", put_tensor(QUERY, torch.ones(24, 24, dtype=d)), ASK)
        for d in (torch.bfloat16, torch.float64)
    ),
    accepted(62, "no metadata", header(lambda found: found.pop("__metadata__") and None), ASK),
    *rows(
        63,
        ("larger", vocab([*VOCABULARY, "more"]), "tokens, the model .*do not belong together"),
        ("smaller", vocab(VOCABULARY[:5]), "tokens, the model .*do not belong together"),
        commands=OF_MODELS,
    ),
    *rows(
        64,
        *(
            (f"{key}={value}"[:40], config(**{key: value}), rf"config\.json: {key}: ")
            for key, value in [
                *(
                    (key, value)
                    for key in ("hidden_size", "num_hidden_layers")
                    for value in (..., 0, -1, 10**9, True, "24")
                ),
                ("vocab_size", 10**9),
                ("intermediate_size", 2.5),
                ("num_attention_heads", None),
                ("max_position_embeddings", 0),
                ("hidden_dropout_prob", 1.0),
                ("layer_norm_eps", "small"),
                ("hidden_act", "relu"),
                ("model_type", "roberta"),
                ("model_type", ["bert"]),
                ("pad_token_id", 9999),
                ("position_embedding_type", "relative_key"),
            ]
        ),
        ("heads do not divide", config(num_attention_heads=5), r"config\.json: hidden_size: .*not a multiple"),
        ("NaN", config(layer_norm_eps=math.nan), "NaN is not a JSON value"),
        ("missing file", file("model/config.json", None), r"config\.json: no such file"),
        ("nested deep", file("model/config.json", DEEP), r"config\.json: nested too deeply"),
        ("a list", file("model/config.json", "[]"), r"config\.json: expected a JSON object"),
        commands=OF_MODELS,
    ),
    *flags(
        65,
        TRAIN,
        ("--max_seq_length 71", "--max_seq_length: .*70 positions"),
        ("--doc_stride 37", "--doc_stride: must be less"),
        ("--doc_stride -1", "--doc_stride"),
        ("--batch_size 0", "--batch_size"),
        ("--batch_size 4.0", "--batch_size"),
        ("--learning_rate nan", "--learning_rate"),
        ("--learning_rate inf", "--learning_rate"),
        ("--warmup_ratio 2", "--warmup_ratio"),
        ("--epochs 1.5", "--epochs"),
        ("--keep_last 1", "--keep_last"),
        ("--seed -1", "--seed"),
        (f"--seed {2**64}", "--seed"),
        ("--learning 1", "--learning"),
    ),
    *flags(65, WINDOWS, (f"--max_seq_length {10**20}", "--max_seq_length"), ("--show -1", "--show")),
    *flags(65, EVALUATE, ("--max_seq_length 71", "70 positions"), ("--null_score_diff_threshold nan", "--null_score")),
    *flags(65, ASK, ("--max_seq_length 71", "70 positions"), ("--top_k 0", "--top_k"), ("--context x", "needs one of")),
    *rows(
        66,
        ("..", word_in("../a.safetensors"), ASIDE),
        ("absolute path", word_in("{}/a.safetensors"), ASIDE),
        ("absolute path inside", word_in("{}/model/a.safetensors"), ASIDE),
        ("NUL", word_in("a\0.safetensors"), ASIDE),
        ("missing shard", word_in("c.safetensors"), ASIDE),
        ("tensor in no shard", word_in("b.safetensors"), f"'{WORD}': is listed in the index"),
        ("a list", index(lambda weight_map, folder: [1]), r"index\.json: weight_map"),
        ("nested deep", index(lambda weight_map, folder: DEEP), r"index\.json: nested too deeply"),
        commands=OF_MODELS,
    ),
    accepted(66, "whole shards", index(lambda weight_map, folder: None), ASK),
    *rows(
        67,
        ("no JSON", file("model/tokenizer.json", "{"), r"tokenizer\.json: "),
        ("no UTF-8", file("model/tokenizer.json", b'{"\xff"'), r"tokenizer\.json: "),
        ("nested deep", file("model/tokenizer.json", DEEP), r"tokenizer\.json: "),
        ("other version", tokenizer_json(version="9.0"), r"tokenizer\.json: "),
        ("ids beyond any vocabulary", tokenizer_json({"vocab": HUGE_IDS}), "tokenizer|vocab_size"),
        ("a normalizer that panics", tokenizer_json(normalizer=PRECOMPILED), r"tokenizer\.json: "),
        (
            "pieces of length 0",
            tokenizer_json(pre_tokenizer={"type": "FixedLength", "length": 0}),
            r"tokenizer\.json: ",
        ),
        ("latin-1", vocab(b"[PAD]\ncaf\xe9\n"), r"vocab\.txt: byte 9: is not UTF-8"),
        ("UTF-16", vocab("[PAD]\n".encode("utf-16")), r"vocab\.txt: byte 0"),
        ("duplicate", vocab([*VOCABULARY, "clock"]), r"vocab\.txt: line \d+: 'clock' stands at line"),
        *((f"no {token}", vocab(without(token)), rf"vocab\.txt: \{token}") for token in VOCABULARY[:4]),
        ("settings a list", file("model/tokenizer_config.json", "[]"), r"tokenizer_config\.json: expected"),
        ("settings nested deep", file("model/tokenizer_config.json", DEEP), r"tokenizer_config\.json: nested"),
        ("setting a string", file("model/tokenizer_config.json", '{"do_lower_case": "no"}'), "do_lower_case: must"),
        ("no tokenizer", file("model/vocab.txt", None), "model: has neither tokenizer.json nor vocab.txt"),
        commands=OF_TOKENIZERS,
    ),
    *rows(
        67,
        ("unknown token missing", tokenizer_json({"unk_token": "[NONE]"}), r"tokenizer\.json: "),
        ("BPE without its unknown token", tokenizer_json(model=BPE), r"tokenizer\.json: "),
        ("Unigram without an unknown token", tokenizer_json(model=UNIGRAM), r"tokenizer\.json: "),
        commands=(ASK,),
    ),
    accepted(67, "CRLF", vocab("".join(f"{token}\r\n" for token in VOCABULARY).encode()), ASK),
    *rows(
        68,
        *(
            (f"only {name}", both(file(MODEL, None), file(f"model/{name}", EVIL)), "never opened: convert it")
            for name in ("pytorch_model.bin", "model.pt", "optimizer.pt", "rng_state.pth", "training_args.bin")
        ),
        commands=OF_MODELS,
    ),
    *(accepted(68, "pickles beside", pickles_beside, command, untouched) for command in (*OF_MODELS, RESUME)),
    # runs
    *rows(
        69,
        ("half written", file("run/checkpoint-2/manifest.json", None), r"checkpoint-2: is not complete"),
        (
            "missing file",
            file("run/checkpoint-2/optimizer.safetensors", None),
            r"checkpoint-2: optimizer\.safetensors is missing or damaged",
        ),
        (
            "flipped bit",
            flipped("run/checkpoint-2/model.safetensors"),
            r"checkpoint-2: model\.safetensors is missing or damaged",
        ),
        ("manifest a list", manifests(lambda folder, checkpoint: "[]"), "checkpoint-2: "),
        ("manifest nested deep", manifests(lambda folder, checkpoint: DEEP), "checkpoint-2: "),
        ("manifest empty", manifests(lambda folder, checkpoint: "{}"), "checkpoint-2: "),
        ("manifest with a NUL", manifests(lambda folder, checkpoint: '{"a\\u0000": {}}'), "checkpoint-2: "),
        ("manifest with half a pair", manifests(lambda folder, checkpoint: '{"\\ud83d": {}}'), "checkpoint-2: "),
        ("manifest with a path", manifests(names_outside), "checkpoint-2: "),
        commands=(f"{RESUME} run/checkpoint-2",),
    ),
    Case(69, "none whole", both(only("checkpoint-2"), flipped("run/checkpoint-2/vocab.txt")), "no whole", (RESUME,)),
    accepted(
        69, "newest damaged", flipped("run/checkpoint-2/vocab.txt"), RESUME, on_stderr("trying an older checkpoint")
    ),
    accepted(69, "temporary folder", lambda folder: (folder / "run/.tmp-checkpoint-9").mkdir(), RESUME),
    *rows(
        69,
        ("state a list", state(lambda found: [1]), r"trainer_state\.json"),
        ("no settings", state(lambda found: found.pop("settings") and None), r"trainer_state\.json: settings"),
        ("settings a list", state(lambda found: found | {"settings": [1]}), r"trainer_state\.json: settings"),
        ("a setting a list", state(lambda found: found["settings"].update(epochs=[1])), "epochs"),
        ("a setting null", state(lambda found: found["settings"].update(doc_stride=None)), "doc_stride"),
        ("no position", state(lambda found: found.pop("position") and None), r"trainer_state\.json: position"),
        ("position a list", state(lambda found: found | {"position": [1]}), r"trainer_state\.json: position"),
        ("position short", state(lambda found: found["position"].pop("update") and None), "position"),
        ("step a string", state(lambda found: found["position"].update(step="1")), "position"),
        ("steps below zero", state(lambda found: found["position"].update(step=-1)), "position"),
        commands=(RESUME,),
    ),
    *rows(
        69,
        ("optimizer a pickle", signed("optimizer.safetensors", EVIL), r"optimizer\.safetensors: cannot be read"),
        ("moments of another shape", moments(torch.zeros(3)), rf"optimizer\.safetensors: .*{OURS}"),
        ("moments not finite", moments(torch.full((24, 24), math.nan)), rf"optimizer\.safetensors: .*{OURS}"),
        ("moments whole numbers", moments(torch.ones(24, 24).long()), rf"optimizer\.safetensors: .*{OURS}"),
        commands=(RESUME,),
    ),
    Case(69, "scores a list", file("run/checkpoint-2/eval_results.json", "[]"), r"eval_results\.json", (RESUME,)),
    *rows(
        69,
        (
            "evaluation data with a NUL",
            state(lambda found: found["settings"].update(eval_data="a\0")),
            "eval_data|a.*read",
        ),
        ("no evaluation data", state(lambda found: found["settings"].pop("eval_data") and None), "eval_data"),
        ("window size a string", state(lambda found: found["settings"].update(max_seq_length="40")), "max_seq_length"),
        commands=("evaluate.py --ckpt run/checkpoint-2",),
    ),
    *(
        accepted(70, f"latest {name!r}", file("run/latest", name), RESUME)
        for name in (b"../../etc", b"checkpoint-9", b"/etc", b"", b"\xff\xfe\x00")
    ),
    *(
        accepted(70, f"best {name!r}", both(only("checkpoint-1"), file("run/best", name)), RESUME)
        for name in (b"../model", b"checkpoint-9", b"", b"\xff\xfe\x00", b"a" * 300)
    ),
    *(
        accepted(
            70,
            f"latest says {name}, so the newest is taken",
            both(file("run/best", None), file("run/latest", name)),
            f"ask.py --ckpt run --question Who? --context x {SIZES}",
        )
        for name in ("../model", "checkpoint-9", "..")
    ),
    accepted(
        70, "best leads out", file("run/best", "../model"), f"ask.py --ckpt run --question Who? --context x {SIZES}"
    ),
    *flags(
        71,
        RESUME,
        ("--seed 7", "--seed: is 7, but .*42"),
        ("--batch_size 9", "--batch_size: is 9, but .*2"),
        ("--model other", "--model: is other"),
        ("--doc_stride 2", "--doc_stride: is 2"),
        ("--learning_rate 1", "--learning_rate: is 1"),
        ("--data notes.txt", "--data"),
    ),
    Case(71, "other ranks", state(lambda found: found["settings"].update(world_size=2)), "--world_size", (RESUME,)),
    Case(72, "not empty", nothing, "run: is not empty", (TRAIN.replace("dir out", "dir run"),)),
    Case(72, "a file", nothing, r"notes\.txt: is a file", (TRAIN.replace("dir out", "dir notes.txt"),)),
    Case(72, "below a file", nothing, r"notes\.txt", (TRAIN.replace("dir out", "dir notes.txt/out"),), 1),
    Case(
        72,
        "held by another run",
        second_run("run"),
        "run: another run is writing",
        (RESUME, f"{RESUME} run/checkpoint-1"),
    ),
    Case(
        72, "held by another new run", second_run("out"), "out: another run is writing", (TRAIN, f"{TRAIN} --overwrite")
    ),
    Case(72, "predictions below a file", nothing, "notes.txt", (EVALUATE.replace("out/p", "notes.txt/p"),), 1),
    Case(72, "predictions onto the data", nothing, "--predictions", (EVALUATE.replace("out/p.json", "data.json"),)),
    Case(72, "answers onto the questions", nothing, "--output", (STREAM.replace("out.jsonl", "lines.jsonl"),)),
    *(
        Case(
            73,
            name,
            nothing,
            re.escape(name),
            (f"{ASK} --ckpt {name}", f"{TRAIN} --model {name}", f"{EVALUATE} --ckpt {name}"),
        )
        for name in ("../x", "a/b/c", "https://huggingface.co/a/b", "./none", "a--b", "none/none", "x" * 300)
    ),
    Case(73, "unknown revision", nothing, "none/none: revision v9", (f"{ASK} --ckpt none/none --revision v9",)),
    Case(73, "offline", nothing, "none/none: .*HF_HUB_OFFLINE is set", (f"{ASK} --ckpt none/none",)),
]


def test_the_table_has_every_row():
    assert {case.row for case in CASES} == set(range(1, 74))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row:02}-{ascii(case.name)[1:-1]}"[:60].rstrip())
def test_bad_input(case, work, call, recwarn):
    case.spoil(work)
    before = snapshot(work)
    for words in case.commands:
        done = call(work, words)
        if case.code:
            assert_one_error_line(done, case.code, case.says)
            assert done.out == ""
            assert snapshot(work) == before
        else:
            assert done.code == 0, done.err
            assert "Traceback" not in done.err and "Warning" not in done.err
            after = snapshot(work)
            assert [name for name in before if after.get(name) != before[name] and not name.startswith("run")] == []
        case.check(done)
    assert not recwarn.list


def test_a_number_that_json_cannot_hold_is_no_id_of_the_stream(work, call):
    (work / "lines.jsonl").write_text('{"id": 1e999, "question": "Who?", "context": "anna weiss"}\n', "utf-8")
    call(work, STREAM)
    (answer,) = (work / "out.jsonl").read_text("utf-8").splitlines()
    json.loads(answer, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_the_pickle_of_these_tests_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(EVIL)
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "needed", "command", "code", "says"),
    [
        ("data.json", os.R_OK, TRAIN, 2, r"data\.json: cannot be read"),
        (MODEL, os.R_OK, ASK, 1, r"model\.safetensors"),
        (".", os.W_OK, TRAIN, 1, "out"),
        ("run", os.W_OK, f"{RESUME} run/checkpoint-1", 1, "run"),
    ],
)
def test_without_permission_one_line_says_so(work, call, name, needed, command, code, says):
    mode = (work / name).stat().st_mode
    (work / name).chmod(0o500 if needed == os.W_OK else 0)
    try:
        if os.access(work / name, needed):
            pytest.skip("the superuser may read and write everything")
        assert_one_error_line(call(work, command), code, says)
    finally:
        (work / name).chmod(mode)


# --- hostile sizes: refused in bounded time and memory

MEGABYTE = 1 << 20
ZERO_SIZE = '{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'


def only_header(text: str) -> Callable:
    """Weights of this header and no data."""
    return weights(lambda raw: struct.pack("<Q", len(text)) + text.encode())


def zero_size_tensors(names: Iterable) -> Callable:
    return only_header("{" + ",".join(f'"t{name}":{ZERO_SIZE}' for name in names) + "}")


def predictions_of(ids: Iterable) -> Callable:
    return file("predictions.json", "{" + ",".join(f'"q{number}":"x"' for number in ids) + "}")


def many(context: str, count: int, answers: Callable) -> Callable:
    """Many questions about one context; the answers depend on their numbers."""
    return asks(*(question(id=f"q{i}", answers=answers(i)) for i in range(count)), context=context)


WIDE = {"hidden_size": 65_536, "vocab_size": 10_000_000, "intermediate_size": 1_000_000, "num_attention_heads": 1}
MISPLACED = [{"text": "a", "answer_start": 7}]
HOSTILE = {
    "a large model": (config(hidden_size=60_000, num_attention_heads=100, num_hidden_layers=1000), ASK),
    "a deep model": (config(num_hidden_layers=1000), ASK),
    "a wide model": (config(**WIDE), ASK),
    "a header of 100 MB": (only_header("{" + " " * 99_999_998 + "}"), ASK),
    "a header of 50,000 tensors": (zero_size_tensors(range(50_000)), ASK),
    "the last of 15,000 tensors twice": (zero_size_tensors([*range(15_000), 14_999]), ASK),
    "the last of 30,000 predictions twice": (predictions_of([*range(30_000), 29_999]), SCORE),
    "half of 20,000 questions unanswered": (many(CONTEXT, 20_000, lambda i: [ANSWER][: i % 2]), SCORE),
    "100 questions about a megabyte of accents": (many("\u00e9" * MEGABYTE, 100, lambda i: MISPLACED), SCORE),
    "100 misplaced answers in a megabyte": (many("b" * MEGABYTE + "a " * 99, 100, lambda i: MISPLACED), SCORE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sizes_are_refused_in_bounded_time_and_memory(work, call, name):
    spoil, command = HOSTILE[name]
    spoil(work)
    begin, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = call(work, command)
    assert_one_error_line(done, 2, "")
    assert time.process_time() - begin < 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < 500 * MEGABYTE


@pytest.mark.slow
def test_a_context_of_100_megabytes_is_cut_or_refused_within_4_gigabytes(work):
    answered("clock of iron " * (100 * MEGABYTE // 14), "iron", 9)(work)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4096 * MEGABYTE, 4096 * MEGABYTE))

    done = run("-m", *WINDOWS.split(), cwd=work, preexec_fn=limit, timeout=600)
    assert done.returncode in (0, 2), done.stderr[-300:]
