"""Input that no command can use: one line on stderr that begins with `error:`, the exit code, and no file changed.

The rows are a few per kind of input, through the real commands; the tests of the functions that read a file have the
whole tables.
"""

import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import minibert
from minibert.support.streams import printable
from tests.builders import write_toy_squad
from tests.commands.damage import DEEP, damage, snapshot

SIZES = "--max_seq_length 40 --doc_stride 8"
TRAIN = f"train --data data.json --model model --output_dir out --max_steps 1 --device cpu --dtype float32 {SIZES}"
EVALUATE = f"evaluate --ckpt model --data data.json --predictions out/p.json --device cpu --dtype float32 {SIZES}"
SCORE = "evaluate --score predictions.json --data data.json"
WINDOWS = f"windows --model model --data data.json {SIZES}"
ASK = f"ask --ckpt model --question Who? --context_file notes.txt --json {SIZES}"
STREAM = f"ask --ckpt model --input lines.jsonl --output out.jsonl {SIZES}"
RESUME = "train --resume run/checkpoint-2"
OF_DATA, OF_MODELS, OF_TOKENIZERS = (TRAIN, EVALUATE, SCORE, WINDOWS), (TRAIN, EVALUATE, ASK), (TRAIN, ASK, WINDOWS)


@pytest.fixture(scope="module")
def good(tmp_path_factory, tiny_folder, headless_folder) -> Path:
    """A folder with data, predictions for it, a text, questions, models, and a run of two steps."""
    folder = tmp_path_factory.mktemp("good")
    data = write_toy_squad(folder / "data.json", 4, words=12)
    bare = json.loads(data.read_text("utf-8"))
    for paragraph in bare["data"][0]["paragraphs"]:
        paragraph["qas"][0]["answers"] = []
    (folder / "bare.json").write_text(json.dumps(bare), "utf-8")
    (folder / "predictions.json").write_text(json.dumps({f"q{i}": "clock" for i in range(4)}), "utf-8")
    (folder / "notes.txt").write_text("the clock was made of copper by anna weiss. \u6642", "utf-8")
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (folder / "lines.jsonl").write_text('{"id": 1, "question": "Who?", "context": "anna weiss"}\n', "utf-8")
    (folder / "old.jsonl").write_text('{"id": 1, "score": 1.0, "start": 0, "end": 4, "answer": "anna"}\n', "utf-8")
    (folder / "empty").mkdir()
    shutil.copytree(tiny_folder, folder / "model")
    shutil.copytree(headless_folder, folder / "headless")
    settings = {"max_seq_length": 40, "doc_stride": 8, "dtype": "float32", "device": "cpu", "save_steps": 1}
    minibert.train(
        data=data, eval_data=data, model=tiny_folder, output_dir=folder / "run", batch_size=2, max_steps=2, **settings
    )
    return folder


@pytest.fixture
def work(tmp_path, good) -> Path:
    """A copy of the good folder, to be damaged."""
    return shutil.copytree(good, tmp_path / "work")


@pytest.fixture
def call(command, monkeypatch):
    """Run a command, given as one string, in a folder."""

    def in_folder(folder: Path, words: str, *more: str):
        monkeypatch.chdir(folder)
        return command(*words.split(" "), *more)

    return in_folder


# --- command lines that cannot be followed, in the good folder: (words, what the line says)

LINES = [
    (f"{TRAIN} --eval_data none.json", r"none\.json: cannot be read"),
    (f"{TRAIN} --eval_data bare.json", r"bare\.json: answers"),
    (f"{TRAIN} --data bare.json", r"bare\.json: .*no answers"),
    (f"{TRAIN} --early_stopping 2", "--eval_data: .*--early_stopping"),
    (f"{TRAIN} --eval_steps 2", "--eval_data: .*--eval_steps"),
    (f"{TRAIN} --model ./none", "no such folder"),
    (f"{TRAIN} --model headless --max_seq_length 71", "--max_seq_length: .*70"),
    (f"{TRAIN} --dtype float16", "--dtype"),
    (f"{TRAIN} --output_dir run", "run: is not empty.*--resume.*--overwrite"),
    (f"{TRAIN} --output_dir notes.txt", r"notes\.txt: is a file"),
    (f"{TRAIN} --output_dir model --resume", "model: .*no intact checkpoint"),
    (f"{TRAIN} --output_dir run --resume --overwrite", "--overwrite"),
    ("train", "--data"),
    ("train --resume", "--data|--output_dir"),
    (f"{RESUME} --seed 7", "--seed: .*42.*7"),
    (f"{RESUME} --model other", "--model: .*other"),
    (f"{RESUME} --data bare.json", "--data: "),
    ("evaluate", "--ckpt"),
    ("evaluate --ckpt model --score predictions.json --data data.json", "--ckpt"),
    ("evaluate --ckpt model", "--data"),
    ("evaluate --score predictions.json", "--data"),
    ("evaluate --score none.json --data data.json", r"none\.json: cannot be read"),
    ("evaluate --score data.json --data data.json", r"data\.json: data: .*string, .*one object"),
    ("evaluate --score predictions.json --data predictions.json", r"predictions\.json: .*predictions file"),
    ("evaluate --score empty --data data.json", "empty: cannot be read"),
    ("evaluate --score predictions.json --data bare.json", "no answers"),
    (f"{EVALUATE} --ckpt none/none --revision v9", "none/none: revision v9: .*HF_HUB_OFFLINE is set"),
    (f"{EVALUATE} --ckpt headless", "headless"),
    (EVALUATE.replace("out/p", "notes.txt/p"), r"notes\.txt: is a file"),
    (f"{EVALUATE} --predictions data.json", "--predictions"),
    (f"{EVALUATE} --report -", "-: is not stdout here; name a file"),
    (f"{EVALUATE} --predictions out/null_odds.json", "--predictions"),
    (f"{EVALUATE} --predictions nbest_predictions.json", "--predictions"),
    (f"{EVALUATE} --rows x.csv --predictions x.csv", "--rows: .*another output"),
    (f"{SCORE} --rows x.csv --report x.csv", "--report: .*another output"),
    (f"{SCORE} --rows notes.txt/x.csv", "is a file"),
    (f"{SCORE} --report run/latest --against run/latest", "the file at --against"),
    (f"{SCORE} --predictions out.json", "--predictions: .*--ckpt"),
    (f"{SCORE} --max_answer_length 5", "--max_answer_length: .*--ckpt"),
    ("ask --question Who? --context x", "--ckpt"),
    ("ask --ckpt model --question Who?", "--context"),
    (f"{ASK} --context x", "--context"),
    (f"{STREAM} --context x", "--context"),
    (f"{STREAM} --question Who?", "--question"),
    (f"{STREAM} --output empty/../lines.jsonl", "--output: .*is the input itself"),
    (f"{STREAM} --ckpt none --output lines.jsonl/out", "is a file"),
    (f"{ASK} --output out.jsonl", r"--output: out\.jsonl: goes with --input"),
    (f"{ASK} --explain notes.txt --overwrite", "--explain: .*the text itself"),
    ("ask --ckpt model --context x --explain out.html", "--explain: shows one question"),
    (f"{ASK} --context_file empty", r"empty: expected a folder with files \.txt"),
    (f"{ASK} --min_confidence 0.5", "needs a calibrated model"),
    ("ask --\x1b[31m", r"--\\x1b"),
    (f"{STREAM} --input none.jsonl --output old.jsonl", r"none\.jsonl"),
    (f"{ASK} --max_seq_length 71", "70 positions|max_seq_len.*70"),
    (f"{ASK} --question ", "question"),
    (f"{ASK} --question \udcff", "surrogate"),
    ("ask --ckpt model --context_file -", "--question: is missing; .*stdin"),
    (f"{ASK} --context_file none.txt", r"none\.txt: cannot be read"),
    (f"{ASK} --context_file latin.txt", r"latin\.txt: byte 3"),
    (f"{ASK} --ckpt ../x", r"\.\./x: no such folder"),
    (f"{ASK} --ckpt {'x' * 300}", "x" * 300),
    ("windows", "--data"),
    (f"{WINDOWS} --data none.json", r"none\.json: cannot be read"),
    ("lesson --model model", "--model: goes with --question"),
]


@pytest.mark.parametrize(("words", "says"), LINES, ids=lambda part: ascii(part)[1:-1][-60:])
def test_a_command_line_that_cannot_be_followed(call, good, words, says, recwarn):
    before = snapshot(good)
    call(good, words).assert_refused(says)
    assert snapshot(good) == before and not recwarn.list


# --- damaged files: (commands, what the line says, file, change, value), the last three as `damage` takes them

QAS, PLACE = "data/0/paragraphs/0/qas/0", r"data\[0\]\.paragraphs\[0\]\.qas\[0\]"
MODEL, OURS = "model/model.safetensors", "encoder.layers.1.attention.query.weight.exp_avg"
MANIFEST, STATE, OPTIMIZER = (
    f"run/checkpoint-2/{name}" for name in ("manifest.json", "trainer_state.json", "optimizer.safetensors")
)
STRANGE_ID = {"context": "x", "qas": [{"id": "\x1b[2J\u202e", "question": "Who?", "answers": []}]}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133466304\n"


class Payload:
    """Pickled, it touches a file as soon as it is opened."""

    def __reduce__(self):
        return Path.touch, (Path("touched"),)


EVIL = pickle.dumps(Payload())


def flip_a_bit(raw: bytes) -> bytes:
    return raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:]


def many_predictions() -> bytes:
    """So many that a search through all of them for each would take minutes; the last one stands twice."""
    return ("{" + ",".join(f'"q{i}":"x"' for i in [*range(30_000), 29_999]) + "}").encode()


DAMAGE = [
    (OF_DATA, r"data\.json: .*git-LFS pointer.*git lfs pull", "data.json", LFS),
    (OF_DATA, r"data\.json: nested too deeply", "data.json", DEEP.encode()),
    (OF_DATA, f"{PLACE}.*answer_start.*99", "data.json", f"{QAS}/answers/0/answer_start", 99),
    (OF_DATA, f"{PLACE}.*surrogate", "data.json", f"{QAS}/id", "\ud83d"),
    (OF_DATA[:3], r"qas\[0\].*(used before|no answers)", "data.json", "data/0/paragraphs", [STRANGE_ID, STRANGE_ID]),
    (SCORE, r"predictions\.json: q1: .*string", "predictions.json", "q1", 7),
    (SCORE, r"predictions\.json: .*'q29999'.*twice", "predictions.json", lambda raw: many_predictions()),
    (OF_MODELS, r"model\.safetensors: \d+ bytes: ", MODEL, lambda raw: raw[:-1]),
    (OF_MODELS, r"model\.safetensors: ", MODEL, {"../x\0\u202e\x1b[2J\n": torch.zeros(2)}),
    (OF_MODELS, "zip archive.*pickled", MODEL, b"PK\x03\x04" + EVIL),
    (OF_MODELS, r"config\.json: hidden_size: ", "model/config.json", "hidden_size", ...),
    (OF_MODELS, r"config\.json: nested too deeply", "model/config.json", "hidden_size", "@deep"),
    (OF_TOKENIZERS, r"neither tokenizer\.json nor vocab\.txt", "model/vocab.txt", None),
    (OF_TOKENIZERS, r"tokenizer\.json: ", "model/tokenizer.json", b"{"),
    (OF_MODELS, "tokens", "model/vocab.txt", lambda raw: raw + b"more\n"),
    (RESUME, r"checkpoint-2: .*not complete", MANIFEST, None),
    (RESUME, "checkpoint-2: .*does not list", MANIFEST, "optimizer.safetensors", ...),
    (RESUME, "checkpoint-2: ", MANIFEST, "..", {"bytes": 0}),
    (RESUME, r"checkpoint-2: .*model\.safetensors is .*damaged", "run/checkpoint-2/model.safetensors", flip_a_bit),
    (RESUME, r"trainer_state\.json: settings", STATE, "settings", ...),
    (RESUME, r"trainer_state\.json: settings\.format: .*3", STATE, "settings/format", 3),
    (RESUME, r"gone\.json", STATE, "settings/data", ["gone.json"]),
    (RESUME, r"trainer_state\.json: .*data_sha256", STATE, "facts", ...),
    (RESUME, "number of processes .*2.*1", STATE, "facts/world_size", 2),
    (RESUME, r"trainer_state\.json: position", STATE, "position/update", ...),
    (RESUME, r"trainer_state\.json: position.step", STATE, "position/step", -1),
    (RESUME, r"trainer_state\.json: position: expected .*<= 2", STATE, "position/step", 10**9),
    (RESUME, r"trainer_state\.json: position: expected update <= step", STATE, "position/update", 3),
    (RESUME, r"trainer_state\.json: scaler", STATE, "scaler", {"scale": 2.0}),
    (RESUME, rf"optimizer\.safetensors: .*{OURS}", OPTIMIZER, {OURS: torch.zeros(3)}),
    (RESUME, rf"optimizer\.safetensors: .*{OURS}", OPTIMIZER, {OURS: torch.full((24, 24), math.nan)}),
    (RESUME, rf"optimizer\.safetensors: .*{OURS}", OPTIMIZER, {OURS: torch.ones(24, 24).long()}),
    (RESUME, r"eval_results\.json", "run/checkpoint-2/eval_results.json", b"[]"),
    ("evaluate --ckpt run", "eval_data|a.*read", STATE, "settings/eval_data", "a\0"),
    ("evaluate --ckpt run", r"trainer_state\.json: settings\.max_seq_length", STATE, "settings/max_seq_length", "40"),
]
CASES = [
    (words, *row) for commands, *row in DAMAGE for words in ([commands] if isinstance(commands, str) else commands)
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(f"{case[0].split()[0]}-{case[1]}")[1:60])
def test_a_damaged_file(call, work, case, recwarn):
    words, says, name, *change = case
    damage(work / name, *change)
    before = snapshot(work)
    call(work, words).assert_refused(says)
    assert snapshot(work) == before and not recwarn.list


# --- what looks bad and is not


def test_pickles_are_never_opened(call, work):
    for place in (work / "model", work / "run", work / "run/checkpoint-2"):
        for name in ("pytorch_model.bin", "optimizer.pt", "rng_state.pth", "training_args.bin", "scheduler.pt"):
            (place / name).write_bytes(EVIL)
    for words in (TRAIN, EVALUATE, ASK, RESUME):
        assert call(work, words).code == 0
    shutil.rmtree(work / "out")
    (work / MODEL).unlink()
    for words in OF_MODELS:
        call(work, words).assert_refused("is never opened")
    assert not (work / "touched").exists()
    pickle.loads(EVIL)  # would have shown it
    assert (work / "touched").exists()


STRANGE = [
    "\x00 nul \x1f\x7f",
    "\u202eab\u202c \u200b \U0001f469\u200d\U0001f680 e\u0301 \u05e9\u05dc",  # bidi, zero width, emoji, combining
    "a &amp; b &#60;",
    "<script>alert('x')</script>",
    "x" * 150 + " y",
    " ",
]


def test_strange_text_goes_through_each_command_unchanged(call, work):
    impossible = {"answers": [], "is_impossible": True}
    paragraphs = [
        {"context": text, "qas": [impossible | {"id": f"<b>{i}", "question": f"{text} {'When? ' * 90}"}]}
        for i, text in enumerate(STRANGE)
    ]
    answer = {"answers": [{"text": " clock", "answer_start": 3}], "question": "What?", "id": "\x1b[2J\u202e"}
    paragraphs.append({"context": "the clock of iron", "qas": [answer]})
    (work / "data.json").write_text(json.dumps({"data": [{"title": "<i>", "paragraphs": paragraphs}]}), "utf-8")
    done = call(work, f"{EVALUATE} --null_score_diff_threshold 1e9")
    assert (done.code, done.err.count("\n")) == (0, 3) and done.result["NoAns_total"] == len(STRANGE)
    lines = done.err.splitlines()  # the last says by which rules it was scored
    assert "of the tokens are [UNK]" in lines[0] and "questions are truncated" in lines[1]
    nbest = json.loads((work / "out/nbest_predictions.json").read_text("utf-8"))
    for paragraph, rows in zip(paragraphs, nbest.values()):
        assert rows and all(paragraph["context"][row["start"] : row["end"]] == row["text"] for row in rows)
    shutil.rmtree(work / "out")
    assert call(work, TRAIN).code == 0
    done = call(work, f"{WINDOWS} --show 9")
    assert done.code == 0 and done.result["cut_questions"] == len(STRANGE)
    assert all(f": {printable(text)} When?" in done.out for text in STRANGE)
