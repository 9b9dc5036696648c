"""Damaged files of every kind that minibert reads: each is read and holds what it promises, or is a BadInput.

`python tests/test_fuzz.py --examples 1000000 --seconds 1200` spreads more examples over the same targets.
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import ROOT, drawn, load_script, tiny_config, write_toy_squad

from minibert.checkpoint import checkpoints, find_checkpoint, load_state, read_scores, record_scores
from minibert.config import load_config
from minibert.device import choose_machine
from minibert.errors import BadInput
from minibert.folders import find_folder
from minibert.metrics import read_predictions, score
from minibert.model import BertForQuestionAnswering
from minibert.squad import Example, Gold, read_squad
from minibert.tokenizer import load_tokenizer
from minibert.training import Training
from minibert.weights import load_with_report, save_model
from minibert.windows import make_windows

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads cost more than they give on three short texts
EXAMPLES = 300  # of each target, in the tests
TINY = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}
TOKENS = "[PAD] [UNK] [CLS] [SEP] a clock ##s b . é".split()
TEXTS = ["a clocks é 時計 b.", "", "[SEP] \U0001f600e\u0301 \x00", "x" * 120]

# --- random damage

SCALARS = [None, True, False, 0, 1, -1, 2, 7, 2**31, 2**32 - 1, 2**63, -(2**63), 10**30, 0.5, -1.5, 1e308]
SCALARS += [
    math.nan,
    math.inf,
    "",
    " ",
    "a",
    "1871",
    "\ud83d",
    "\x00",
    "\u202e",
    "../a",
    "/",
    "..",
    "a" * 300,
    "é",
    "7",
]
PIECES = [
    b'"',
    b"{",
    b"[",
    b"]",
    b"}",
    b",",
    b":",
    b"\\",
    b"null",
    b"true",
    b"NaN",
    b"1e999",
    b"-1",
    b"0.5",
    b"\\ud83d",
]
PIECES += [b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\n", b" ", b"[" * 5000, b"9" * 4400, b"[PAD]", b"##", b"../"]


def changed_bytes(draw: random.Random, raw: bytes) -> bytes:
    """The bytes with up to four places overwritten, cut out, filled in, doubled or cut off."""
    changed = bytearray(raw)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(changed) + 1), draw.randint(1, 9)
        kind = draw.randrange(10)
        if kind < 4:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind < 6:
            del changed[at : at + length]
        elif kind < 8:
            changed[at:at] = draw.choice(PIECES)
        elif kind < 9:
            changed[at:at] = changed[at // 2 : at // 2 + length]
        else:
            del changed[at:]
    return bytes(changed)


def tree(draw: random.Random, keys: list[str], depth: int = 3):
    """A random JSON value."""
    kind = draw.randrange(4) if depth else 0
    if kind < 2:
        return draw.choice(SCALARS)
    children = [tree(draw, keys, depth - 1) for _ in range(draw.randrange(4))]
    return children if kind == 2 else {draw.choice(keys): child for child in children}


def nodes(parent) -> list[tuple]:
    """(parent, key) of every value inside a JSON value."""
    found = []
    if isinstance(parent, (dict, list)):
        for key, child in parent.items() if isinstance(parent, dict) else enumerate(parent):
            found += [(parent, key), *nodes(child)]
    return found


def changed_tree(draw: random.Random, content, keys: list[str], values=()) -> str:
    """The JSON text of a content in which up to three values are gone, replaced, doubled or swapped.

    `values` are replacements that are more to the point than random ones.
    """
    content = json.loads(json.dumps(content))
    for _ in range(draw.randint(1, 3)):
        places = nodes(content)
        if not places:
            break
        (parent, key), (other, other_key) = draw.choice(places), draw.choice(places)
        kind = draw.randrange(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(draw.randrange(len(parent) + 1), json.loads(json.dumps(parent[key])))
        elif kind == 2:
            parent[key] = json.loads(json.dumps(other[other_key]))
        elif kind == 3 and values:
            parent[key] = json.loads(json.dumps(draw.choice(values)))  # a copy, to be changed in turn
        elif kind == 4 and isinstance(parent, dict):
            parent[draw.choice(keys)] = parent.pop(key)
        elif kind == 5 and draw.random() < 0.1:
            parent[key] = "@deep"
        else:
            parent[key] = tree(draw, keys)
    depth = draw.choice([50, 500, draw.randint(900, 1000), 5000])
    return json.dumps(content).replace('"@deep"', "[" * depth + "]" * depth)


def damaged(draw: random.Random, content, keys: list[str], values=()) -> bytes:
    """JSON, damaged as a tree or as bytes or both."""
    text = changed_tree(draw, content, keys, values) if draw.random() < 0.7 else json.dumps(content)
    raw = text.encode()
    return changed_bytes(draw, raw) if draw.random() < 0.4 else raw


def keys_of(content) -> list[str]:
    return sorted({key for _, key in nodes(content) if isinstance(key, str)} | {"a", ""})


# --- what is damaged


@cache
def whole_files() -> dict[str, bytes]:
    """The files of a tiny model folder, with a tokenizer.json and a vocab.txt."""
    from tokenizers import BertWordPieceTokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.txt").write_text("".join(token + "\n" for token in TOKENS), "utf-8")
        config = tiny_config(vocab_size=len(TOKENS), max_position_embeddings=16, **TINY)
        save_model(drawn(BertForQuestionAnswering(config)), load_tokenizer(folder), folder)
        backend = BertWordPieceTokenizer({token: i for i, token in enumerate(TOKENS)})
        backend.add_special_tokens(TOKENS[:4])
        return {file.name: file.read_bytes() for file in folder.iterdir()} | {
            "tokenizer.json": backend.to_str().encode()
        }


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write these files and no others into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


CONTEXT = "The clock of Baſel é was made in 1871."
GOLD = {"text": "1871", "answer_start": CONTEXT.index("1871")}
QUESTIONS = [
    {"id": "a", "question": "When?", "answers": [GOLD, GOLD], "is_impossible": False},
    {"id": "b", "question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": [GOLD]},
    {"id": "c", "question": "What?", "answers": [{"text": "é", "answer_start": CONTEXT.index("é")}]},
]
SQUAD = {
    "version": "v2.0",
    "data": [
        {"title": "Basel", "paragraphs": [{"context": CONTEXT, "qas": QUESTIONS[:2]}]},
        {"title": "Basel", "paragraphs": [{"context": CONTEXT, "qas": QUESTIONS[2:]}]},
    ],
}
SQUAD_KEYS = keys_of(SQUAD)
EXAMPLES_V1 = [Example(name, "", "Who?", CONTEXT, (Gold("1871", 33), Gold("the", 0))) for name in "abc"]
EXAMPLES_V2 = [Example("a", "", "Who?", CONTEXT, (Gold("1871", 33),), False), Example("b", "", "?", CONTEXT, (), True)]

# --- targets: each damages one file, and checks what comes of it; BadInput says that it was refused


def squad_file(draw: random.Random, folder: Path) -> None:
    kind = draw.randrange(4)
    if kind == 0:
        raw = json.dumps(tree(draw, SQUAD_KEYS, 6)).encode()
    elif kind == 1:
        inner = {"paragraphs": [{"context": CONTEXT, "qas": [tree(draw, SQUAD_KEYS, 4)]}]}
        raw = json.dumps({"data": [inner]}).encode()
    else:
        raw = damaged(draw, SQUAD, SQUAD_KEYS)
    file, training = folder / "data.json", draw.random() < 0.5
    file.write_bytes(raw)
    with redirect_stderr(StringIO()):
        examples = read_squad(file, training, skip_bad_records=draw.random() < 0.3)
    assert examples and len({e.id for e in examples}) == len(examples)
    for example in examples:
        assert example.id.strip() and example.question.strip() and isinstance(example.title, str)
        assert all(example.context[start : start + len(text)] == text for text, start in example.answers)
        assert example.answers or example.is_impossible or not training
        f"{example.id}{example.question}{example.context}".encode()


def predictions_file(draw: random.Random, folder: Path) -> None:
    file = folder / "predictions.json"
    file.write_bytes(damaged(draw, {"a": "1871", "b": "", "c": "The clock, of Baſel"}, ["a", "b", "d", "data"]))
    predictions = read_predictions(file)
    with redirect_stderr(StringIO()):
        scores = score(draw.choice([EXAMPLES_V1, EXAMPLES_V2]), predictions)
    assert all(0 <= value <= 100 for value in scores.values())


def config_file(draw: random.Random, folder: Path) -> None:
    content = json.loads(whole_files()["config.json"])
    (folder / "config.json").write_bytes(damaged(draw, content, keys_of(content), ["distilbert", "bert", "gelu"]))
    config = load_config(folder)
    assert config.hidden_size % config.num_attention_heads == 0 < config.hidden_size
    assert 0 <= config.pad_token_id < config.vocab_size and 0 <= config.hidden_dropout_prob < 1
    json.dumps(config.to_json(), allow_nan=False)


def load_finite(folder: Path) -> None:
    model, _ = load_with_report(folder)
    for parameter in model.state_dict().values():
        assert parameter.device.type == "cpu" and parameter.dtype is torch.float32 and torch.isfinite(parameter).all()


def weights_file(draw: random.Random, folder: Path) -> None:
    raw = whole_files()["model.safetensors"]
    length = 8 + int.from_bytes(raw[:8], "little")
    header, kind = json.loads(raw[8:length]), draw.randrange(4)
    if kind == 0:
        raw = changed_bytes(draw, raw[:length]) + raw[length:]
    elif kind == 1:
        raw = raw[:length] + changed_bytes(draw, raw[length:])
    elif kind == 2:
        text = changed_tree(
            draw, header, keys_of(header), ["F16", "F64", "I32", "F8_E4M3", [4], [0, 4], [4, 4]]
        ).encode()
        raw = len(text).to_bytes(8, "little") + text + raw[length:]
    else:
        raw = (
            draw.choice([0, 1, 7, 10**8, 10**8 + 1, 2**63, 2**64 - 1, draw.randrange(5000)]).to_bytes(8, "little")
            + raw[8:]
        )
    load_finite(put(folder / "weights", {"config.json": whole_files()["config.json"], "model.safetensors": raw}))


@cache
def shards() -> tuple[dict[str, bytes], dict]:
    state = load(whole_files()["model.safetensors"])
    names = sorted(state)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    return {file: save({name: state[name] for name in part}) for file, part in parts.items()}, index


def shard_index(draw: random.Random, folder: Path) -> None:
    files, index = shards()
    inside = folder / "shards"
    if not inside.is_dir():
        put(inside, files | {"config.json": whole_files()["config.json"]})
        put(folder / "outside", files)
    names = ["a.safetensors", "b.safetensors", "../outside/a.safetensors", str(inside / "a.safetensors"), "config.json"]
    raw = damaged(draw, index, [*list(index["weight_map"])[:3], "weight_map", "x"], names)
    (inside / "model.safetensors.index.json").write_bytes(raw)
    load_finite(inside)
    named = json.loads(raw.decode("utf-8-sig"))["weight_map"].values()
    assert all(os.sep not in name for name in named)


# Parts of the tokenizers library that a BERT tokenizer does not have, but a file may ask for.
PARTS = [
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Replace", "pattern": {"Regex": "a*"}, "content": ""},
    {"type": "Prepend", "prepend": "x"},
    {"type": "NFKD"},
    {"type": "FixedLength", "length": 0},
    {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]},
    {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(TOKENS)}, "unk_token": "none"},
    {"type": "BPE", "vocab": {token: i for i, token in enumerate(TOKENS)}, "merges": [], "unk_token": "none"},
    {"type": "Unigram", "unk_id": None, "vocab": [[token, -1.0] for token in TOKENS]},
    {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 9},
]


def use_tokenizer(folder: Path) -> None:
    """Encode some texts, and cut windows."""
    tokenizer = load_tokenizer(folder)
    encodings = tokenizer.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        offsets = encodings.offsets[encodings.bounds[i] : encodings.bounds[i + 1]]
        assert ((offsets >= 0) & (offsets <= len(text))).all() and (offsets[:, 0] <= offsets[:, 1]).all()
    assert not len(encodings.ids) or 0 <= encodings.ids.min() <= encodings.ids.max() < tokenizer.vocab_size
    assert all(isinstance(token, str) for token in tokenizer.tokens(encodings.ids))
    text = "a clock s b " * 3
    windows = make_windows([Example("q", "", "a b", text, (Gold("clock", 2),))], tokenizer, 12, 2, 4)
    assert len(windows) and windows.lengths.max() <= 12


def tokenizer_json(draw: random.Random, folder: Path) -> None:
    content = json.loads(whole_files()["tokenizer.json"])
    parts = ["normalizer", "pre_tokenizer", "model", "post_processor", "decoder", "truncation", "padding"]
    if draw.random() < 0.2:
        content[draw.choice(parts)] = json.loads(json.dumps(draw.choice(PARTS)))
    raw = damaged(draw, content, keys_of(content), PARTS)
    use_tokenizer(put(folder / "tokenizer", {"tokenizer.json": raw}))


def vocab_file(draw: random.Random, folder: Path) -> None:
    lines = list(TOKENS)
    for _ in range(draw.randrange(3)):
        lines.insert(
            draw.randrange(len(lines)), draw.choice(["", " ", "Clock", "##", "[X]", "a\r", "\x00", "\u2028", "é"])
        )
    raw = "\n".join(lines).encode()
    settings = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, "unk_token": "[UNK]"}
    files = {"vocab.txt": changed_bytes(draw, raw) if draw.random() < 0.6 else raw}
    if draw.random() < 0.6:
        files["tokenizer_config.json"] = damaged(draw, settings, keys_of(settings))
    use_tokenizer(put(folder / "vocab", files))


def stream_line(draw: random.Random, folder: Path) -> None:
    record = {"id": draw.choice([1, "a", [1], {"k": 1}, tree(draw, ["a"])]), "question": "Who?", "context": CONTEXT}
    line = damaged(draw, record, keys_of(record)).decode("utf-8", "replace")
    record = script("ask").parse(line)
    json.dumps({"id": record.get("id"), "score": 0.5}, ensure_ascii=False, allow_nan=False).encode()
    if "error" in record:
        raise BadInput("line", "", record["error"])
    assert record["question"].strip() and isinstance(record["context"], str)


@cache
def script(name: str):
    return load_script(name)


@cache
def trained() -> tuple[Training, dict[str, bytes], dict]:
    """A run of two steps, the files of its checkpoint, and its settings; the scaler is one of float16."""
    with tempfile.TemporaryDirectory() as name:
        folder = put(Path(name) / "model", {k: v for k, v in whole_files().items() if k != "tokenizer.json"})
        file, run = write_toy_squad(Path(name) / "data.json", 3, words=6), Path(name) / "run"
        words = ["--data", file, "--model", folder, "--output_dir", run, "--max_seq_length", 16, "--doc_stride", 2]
        words += ["--max_steps", 2, "--batch_size", 2, "--device", "cpu", "--dtype", "float32", "--eval_data", file]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", *map(str, words)])
            args, _ = script("train").read_settings()
        args.learning_rate = 1e-4
        model, tokenizer, examples = load_with_report(folder)[0], load_tokenizer(folder), read_squad(file)
        windows = make_windows(examples, tokenizer, 16, 2)
        run.mkdir()
        training = Training(model, tokenizer, (examples, windows), args, choose_machine("cpu", "float32"))
        training.train()
        training.scaler = torch.amp.GradScaler("cpu", enabled=True)
        training.save()
        return training, {path.name: path.read_bytes() for path in (run / "checkpoint-2").iterdir()}, vars(args)


def signed(files: dict[str, bytes]) -> bytes:
    """The manifest of these files."""
    prints = {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()}
    return json.dumps(prints).encode()


def run_folder(draw: random.Random, folder: Path) -> None:
    """Which checkpoint a run folder means, and the settings that a resumed run and an evaluation take from it."""
    state = json.loads(trained()[1]["trainer_state.json"])
    state["settings"]["output_dir"] = str(folder / "run")
    state["settings"]["data_sha256"] = [hashlib.sha256(b"data").hexdigest()]
    (folder / "data").write_bytes(b"data")
    keys = [*state["settings"], "settings", "position", "scaler"]
    files = {"trainer_state.json": json.dumps(state).encode()}
    if draw.random() < 0.8:
        files["trainer_state.json"] = damaged(draw, draw.choice([state, {"settings": state["settings"]}]), keys)
    files |= {name: b"{}" for name in ("config.json", "model.safetensors", "optimizer.safetensors")}
    manifest = json.loads(signed(files))
    names = ["trainer_state.json", "..", "../../data", str(folder / "data"), "a\x00", "\ud83d", "a" * 300]
    files["manifest.json"] = signed(files) if draw.random() < 0.7 else damaged(draw, manifest, names, names)
    put(folder / "run" / "checkpoint-2", files)
    for pointer in ("best", "latest"):
        raw = draw.choice([b"checkpoint-2\n", b"checkpoint-9", b"..", b"/", b"\xff", b"", b"a\x00b", b"a" * 300])
        (folder / "run" / pointer).write_bytes(changed_bytes(draw, raw) if draw.random() < 0.3 else raw)
    meant = find_folder(folder / "run")
    assert meant in (folder / "run", folder / "run" / "checkpoint-2")
    quiet = redirect_stderr(StringIO())
    with quiet:
        found = find_checkpoint(folder / "run")
    assert found == folder / "run" / "checkpoint-2"
    kinds = script("evaluate").settings_of_run(found)
    assert isinstance(kinds["max_seq_length"], int) and isinstance(kinds["eval_data"], str | None)
    words = ["train.py", "--data", str(folder / "data"), "--output_dir", str(folder / "run"), "--resume"]
    with pytest.MonkeyPatch.context() as patch, quiet:
        patch.setattr(sys, "argv", words)
        try:
            settings, _ = script("train").read_settings()
        except SystemExit as error:
            raise BadInput("settings", "", "refused by their flag") from error
    for name, value in trained()[2].items():
        if isinstance(value, (int, float)) and name not in ("resume", "overwrite"):
            kinds = (int, float, type(None)) if name == "max_steps" else (int, float)  # for it, null means no limit
            assert isinstance(getattr(settings, name), kinds), f"--{name}"


def resumed_run(draw: random.Random, folder: Path) -> None:
    """A checkpoint whose files agree with its manifest, but whose content is damaged."""
    training, files, _ = trained()
    files = dict(files)
    state = json.loads(files["trainer_state.json"])
    state = {key: state[key] for key in ("position", "scaler")}
    kind = draw.randrange(4)
    if kind == 0:
        tensors = load(files["optimizer.safetensors"])
        name = draw.choice(sorted(tensors))
        other = draw.choice([torch.zeros(3), torch.full_like(tensors[name], math.nan), tensors[name].long(), None])
        tensors.pop(name) if other is None else tensors.update({name: other})
        raw = save(tensors)
        files["optimizer.safetensors"] = raw if draw.random() < 0.5 else changed_bytes(draw, raw)
    elif kind == 1:
        state = json.loads(json.dumps(state))
        files["trainer_state.json"] = damaged(draw, state, keys_of(state))
    elif kind == 2:
        scores = {"exact_match": 50.0, "f1": 60.0, "total": 3}
        files["eval_results.json"] = damaged(draw, scores, keys_of(scores))
    log = b'{"step": 1, "epoch": 0.5, "loss": 3.5}\n{"step": 2, "epoch": 1.0, "eval_loss": 3.0, "f1": 5.0}\n'
    run = folder / "resumed"
    put(run / "checkpoint-2", files)
    (run / "metrics.jsonl").write_bytes(changed_bytes(draw, log) if kind == 3 else log)
    training.run, training.recent_loss = run, torch.zeros(())
    training.resume(run / "checkpoint-2")
    at = training.at
    assert all(type(value) is int and value >= 0 for value in (at.step, at.update, at.windows))
    assert all(math.isfinite(value) for value in (at.loss_sum, at.recent_loss, at.seconds))
    assert training.scaler.get_scale() > 0
    for values in training.scores, read_scores(run / "checkpoint-2"):
        assert all(math.isfinite(value) for value in values.values())
    for parameter in training.model.parameters():
        moments = training.optimizer.state[parameter]
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape
        assert all(value.is_floating_point() and torch.isfinite(value).all() for value in moments.values())
    load_state(run / "checkpoint-2", ("position",))


def best_pointer(draw: random.Random, folder: Path) -> None:
    """An evaluation compares its F1 with that of the checkpoint that `best` names."""
    run, scores = folder / "best", {"exact_match": 50.0, "f1": 60.0, "total": 3}
    for step in (1, 2):
        put(run / f"checkpoint-{step}", {"eval_results.json": damaged(draw, scores, keys_of(scores))})
    raw = draw.choice([b"checkpoint-1\n", b"checkpoint-7", b"..", b"/", b"", b"a" * 300])
    (run / "best").write_bytes(changed_bytes(draw, raw) if draw.random() < 0.3 else raw)
    record_scores(run, 2, scores, keep_last=2)
    assert (run / "best").read_text("utf-8").strip() in ("checkpoint-1", "checkpoint-2")
    assert len(checkpoints(run)) == 2


# name -> the target, and its share of the examples of a long run: the cheap ones take the most
TARGETS = {
    "squad": (squad_file, 40),
    "predictions": (predictions_file, 24),
    "config": (config_file, 14),
    "stream": (stream_line, 10),
    "vocab": (vocab_file, 4),
    "tokenizer": (tokenizer_json, 3),
    "weights": (weights_file, 1.5),
    "index": (shard_index, 1),
    "run": (run_folder, 1),
    "resumed": (resumed_run, 1),
    "best": (best_pointer, 0.5),
}


def attempt(name: str, seed: int, folder: Path) -> tuple[str, str]:
    """Run a target on the damage of a seed: ("read", ""), ("refused", "") or ("escaped", what and where)."""
    try:
        TARGETS[name][0](random.Random(f"{name} {seed}"), folder)
    except BadInput as error:
        return ("refused", "") if error.what else ("escaped", "BadInput that does not say what is wrong")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the tokenizers library's panics are no Exception
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(ROOT)]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        return "escaped", f"{type(error).__name__} at {where}: {str(error)[:200]}"
    return "read", ""


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_read_or_refused(name, tmp_path):
    torch.manual_seed(0)
    counts, escaped = Counter(), {}
    examples = 100 if name == "best" else EXAMPLES  # each of those waits for the disk
    for seed in range(examples):
        outcome, what = attempt(name, seed, tmp_path)
        counts[outcome] += 1
        if what:
            escaped.setdefault(what.split(": ")[0], f"seed {seed}: {what}")
    assert not escaped, "\n".join(escaped.values())
    assert counts["refused"] and counts["read"] > 3  # the damage is neither too slight nor too great


def main() -> None:
    flags = argparse.ArgumentParser(description="Damage files for a while.")
    flags.add_argument("--examples", type=int, default=10_000, help="in all")
    flags.add_argument("--seconds", type=float, default=math.inf, help="stop after this long")
    flags.add_argument("--seed", type=int, default=EXAMPLES, help="the first; the tests use those below the default")
    flags.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    args = flags.parse_args()
    whole, begin = sum(TARGETS[name][1] for name in args.only), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            counts, first, kinds = Counter(), {}, Counter()
            share = TARGETS[name][1] / whole
            started = time.perf_counter()
            for seed in range(args.seed, args.seed + round(args.examples * share)):
                if time.perf_counter() - begin > args.seconds:
                    break
                outcome, what = attempt(name, seed, Path(folder))
                counts[outcome] += 1
                if what:
                    kinds[what.split(": ")[0]] += 1
                    first.setdefault(what.split(": ")[0], f"seed {seed}: {what}")
            print(f"{name}: {dict(counts)} in {time.perf_counter() - started:.0f} s", flush=True)
            for kind, count in kinds.most_common():
                print(f"    {count} x {first[kind]}", flush=True)


if __name__ == "__main__":
    main()
