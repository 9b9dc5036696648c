"""The benchmarks: both sides do the same work, and every command runs through with tiny sizes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
from benchmarks import breakdown, engines, ours, peers, pipeline_parity, rows, theirs
from minibert.answers.pipeline import pipeline
from minibert.answers.spans import search
from minibert.evaluation.scorer import score
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weights import save_model
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows
from tests.builders import ROOT, draw_weights, run, tiny_config, write_toy_squad

DATA = str(ROOT / "examples" / "dev.json")
DEV = read_squad(DATA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer) -> str:
    """A tiny model of 384 positions, the peers' window length."""
    path = tmp_path_factory.mktemp("wide")
    save_model(draw_weights(BertForQuestionAnswering(tiny_config(max_position_embeddings=384))), tokenizer, path)
    return str(path)


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory) -> str:
    """Short windows, 73 of them."""
    return str(write_toy_squad(tmp_path_factory.mktemp("toy") / "toy.json", 73))


def assert_same_windows(folder: str, examples: list[Example]) -> int:
    """Compare ids and labels; return the number of windows."""
    windows = make_windows(examples, load_tokenizer(folder))
    features = peers.with_lists(theirs.load_tokenizer(folder), examples, True)
    assert [window.ids.tolist() for window in windows] == features["input_ids"]
    assert windows.start_positions[:, 0].tolist() == features["start_positions"]
    assert windows.end_positions[:, 0].tolist() == features["end_positions"]
    return len(windows)


def test_both_sides_make_the_same_windows_and_labels(folder):
    assert assert_same_windows(folder, DEV) >= len(DEV)


def test_both_sides_make_the_same_windows_and_labels_of_squad(squad_dir, tmp_path):
    shutil.copy(squad_dir / "bert-base-cased-vocab.txt", tmp_path / "vocab.txt")
    folder = tmp_path / "model"
    config = tiny_config(vocab_size=28996, max_position_embeddings=384)
    save_model(BertForQuestionAnswering(config), load_tokenizer(tmp_path), folder)
    examples = read_squad(squad_dir / "dev-v1.1.json")[:1000]
    assert assert_same_windows(str(folder), examples) > len(examples)  # some contexts need two windows


def test_both_sides_find_the_same_answers(folder):
    """In logits whose best span has its start and its end among the 20 best of each, where the peers search."""
    windows = make_windows(DEV, load_tokenizer(folder))
    logits = np.random.default_rng(0).standard_normal((2, len(windows.ids))).astype(np.float32)
    for values, positions in zip(logits, (windows.start_positions, windows.end_positions)):
        values[windows.bounds[:-1] + positions[:, 0]] += 9
    grid = np.full((2, len(windows), peers.MAX_LENGTH), -10_000.0, np.float32)
    grid[:, np.arange(peers.MAX_LENGTH) < windows.lengths[:, None]] = logits
    features = peers.as_rows(peers.with_lists(theirs.load_tokenizer(folder), DEV, False))
    their_texts = peers.n_best_answers(peers.as_rows(peers.columns(DEV)), features, grid)
    our_texts = {e.id: prediction.best().text for e, prediction in zip(DEV, search(windows, *logits, DEV))}
    assert our_texts == their_texts
    assert score(DEV, our_texts)["f1"] > 90


@pytest.mark.parametrize("peer", "DT")
@pytest.mark.parametrize("work", "training preprocessing postprocessing evaluation latency".split())
def test_a_peer_does_the_work_that_minibert_does(work, peer, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(theirs, "fastest", lambda works: works[0])  # without trying out the others
    if peer == "D" and work in ("preprocessing", "postprocessing", "evaluation"):
        pytest.importorskip("datasets")
    more = {"training": {"count": 1, "changes": {}}, "postprocessing": {"file": str(tmp_path / "logits.npy")}}
    arguments = {"data": DATA, "model": folder} | more.get(work, {})
    our_result = getattr(ours, work)(**arguments)()
    their_result = getattr(theirs, work)(peer=peer, **arguments)()
    if work == "training" and peer == "D":  # D takes a few windows of each batch, in smaller batches
        our_result["amount"] = 8
    assert their_result["amount"] == our_result["amount"]
    if work == "evaluation":
        assert their_result["f1"] == pytest.approx(our_result["f1"], abs=3)
    if work == "postprocessing":  # the peers miss a span whose start or end is not among the 20 best
        assert np.mean(np.array(their_result["texts"]) == our_result["texts"]) > 0.7


def test_the_profiler_gives_each_kind_of_operation_its_time(folder):
    kinds = breakdown.profiled(ours.training)(data=DATA, model=folder, count=1, changes={})()["kinds"]
    assert all(seconds >= 0 for seconds in kinds.values())
    assert kinds["matrix products"] > 0 and kinds["clipping and AdamW"] > 0
    assert sum(float(line[2][:-2]) for line in rows.shares("", kinds)) == pytest.approx(100, abs=5)


def test_the_growth_is_measured_with_as_many_questions_as_asked_for(folder):
    result = ours.growth(data=DATA, model=folder, count=150)()  # more than the file has
    assert result["pre"] > 0 and result["post"] > 0 and result["mib"] >= 0


def test_answers_are_compared_with_those_of_the_removed_pipeline(folder, tmp_path, capsys):
    texts = {example.id: (example.question, example.context) for example in DEV[:2]}
    qa, reference, results = pipeline(model=folder), tmp_path / "results.json", {"ids": list(texts)}
    for options, _ in (pipeline_parity.CASES[i] for i in (0, 8, 10)):  # plain, a list, other texts
        results[json.dumps(options)] = pipeline_parity.answers(qa, list(texts.values()), **options)
    for shift, code in ((0, 0), (1, 1)):
        results[json.dumps(pipeline_parity.CASES[0][0])][0]["start"] += shift
        reference.write_text(json.dumps(results), "utf-8")
        assert pipeline_parity.compare(folder, texts, str(reference)) == code
        assert ("1 of 2 equal" in capsys.readouterr().out) == bool(code)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory) -> str:
    """The files of the engines that are installed."""
    path = str(tmp_path_factory.mktemp("engines"))
    installed = [name for name in engines.ENGINES if not engines.missing(name)]
    if not installed:
        pytest.skip("neither ONNX Runtime nor OpenVINO is installed")
    engines.export(data=DATA, model=folder, folder=path, engines=installed)()
    return path


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_another_engine_computes_what_minibert_computes(engine, folder, exported):
    if names := engines.missing(engine):
        pytest.skip(f"needs {names}")
    result = engines.difference(data=DATA, model=folder, engine=engine, folder=exported)()
    allowed = {"float32": 1e-3, "auto": 0.1 * result["largest"], "int8": 0.2 * result["largest"]}
    assert 0 < result["difference"] < allowed[engines.ENGINES[engine].dtype]


def test_the_optimizer_of_onnx_runtime_fuses_every_layer(exported):
    onnx = pytest.importorskip("onnx")
    if engines.missing("ONNX Runtime int8"):
        pytest.skip("needs onnxruntime")
    for file, attention in (("fused.onnx", "Attention"), ("fused-int8.onnx", "QAttention")):
        kinds = [node.op_type for node in onnx.load(f"{exported}/{file}").graph.node]
        assert (
            kinds.count(attention) == 2 and kinds.count("SkipLayerNormalization") == 4 and kinds.count("BiasGelu") == 2
        )


@pytest.mark.parametrize("engine", ["minibert float32", *engines.ENGINES])
def test_every_engine_does_the_works(engine, folder, exported, monkeypatch):
    if engine in engines.ENGINES and engines.missing(engine):
        pytest.skip("is not installed")
    monkeypatch.setattr(engines, "fastest", lambda works: works[-1])
    arguments = {"data": DATA, "model": folder, "engine": engine, "folder": exported}
    assert engines.latency(**arguments)()["amount"] == 10
    assert engines.batch(**arguments)()["amount"] % 5 == 0
    result, expected = engines.evaluation(**arguments)(), ours.evaluation(data=DATA, model=folder)()
    assert result["amount"] == expected["amount"]
    assert result["f1"] == pytest.approx(expected["f1"], abs=8)


def test_the_answer_without_torch_is_that_of_minibert(folder, exported):
    if engines.missing("ONNX Runtime float32"):
        pytest.skip("needs onnxruntime")
    import onnxruntime
    import tokenizers

    from benchmarks import onnx_answer

    session, reader = onnxruntime.InferenceSession(f"{exported}/fused.onnx"), pipeline(model=folder)
    tokenizer = tokenizers.Tokenizer.from_file(f"{exported}/tokenizer.json")
    windows = make_windows(DEV, load_tokenizer(folder))
    whole = [DEV[i] for i in np.flatnonzero(np.bincount(windows.example) == 1)[:12]]  # contexts of one window
    asked = [(example.question, example.context) for example in whole]
    options = {"max_answer_len": onnx_answer.MAX_ANSWER_LENGTH, "align_to_words": False}
    expected = [reader(*texts, **options)["answer"] for texts in asked]
    assert [onnx_answer.answer(tokenizer, session, *texts) for texts in asked] == expected


def test_what_cannot_be_compared_is_left_out_with_its_reason(folder, headless_folder, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda package: None if package == "openvino" else package)
    names, lines = rows.choose_engines(folder)
    assert names == ["ONNX Runtime float32", "ONNX Runtime int8"]
    assert [line[0] for line in lines] == ["OpenVINO float32", "OpenVINO default", "OpenVINO int8"]
    assert {line[4] for line in lines} == {"left out: pip install openvino"}
    names, lines = rows.choose_engines(str(headless_folder))
    assert names == [] and "no trained span head" in lines[-1][4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            [
                "benchmarks",
                "--rounds",
                1,
                "--rows",
                "training_recipes",
                "training_no_attention_dropout",
                "memory",
                "startup",
            ],
            [
                "but not in attention, windows/s | T",
                "attention dropout 0, windows/s | T",
                "batch 8, MiB | D",
                "import and load",
            ],
        ),
        (
            ["benchmarks", "--rounds", 1, "--rows", "engines", "first_answer"],
            ["one question of 150 tokens, answers/s | ONNX Runtime float32", "EM / F1", "import torch alone"],
        ),
        (["benchmarks.recipe", "--epochs", 3], ['"attention": ', '"train_runtime": ', '"f1": ']),
        (
            ["benchmarks.gpu", "--device", "cpu", "--tiny", "--seconds", 0.3],
            ["minibert --compile, batch 32", "T, batch 32", "evaluation of"],
        ),
    ],
    ids=["table", "engines", "recipe", "gpu"],
)
def test_a_command_runs_through(words, says, folder, toy_data):
    for package in ("onnx", "onnxruntime") if "engines" in words else ():
        pytest.importorskip(package)
    data = ["--data", toy_data, "--model", folder] + ["--eval_data", toy_data] * (words[0] == "benchmarks.recipe")
    done = run("-m", *words, *data, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [what for what in says if what not in done.stdout] == []


@pytest.mark.slow
def test_the_memory_of_a_stream_is_measured(folder):
    ((what, _, start, end, speed),) = rows.stream(DATA, folder, 1, count=300)
    assert "300 lines" in what
    # 300 lines take less time than the start: a tenth of it may lie before torch is imported.
    assert float(start.split()[0]) > 0 and float(end.split()[0]) > 50 and float(speed.split()[0]) > 1


def copy_of_this(path: Path, more: str = "") -> Path:
    """A checkout with this package, and more at the end of `bert.py`."""
    shutil.copytree(ROOT / "minibert", path / "minibert")
    with open(path / "minibert" / "model" / "bert.py", "a", encoding="utf-8") as file:
        file.write(more)
    return path


OTHER_LOSS = """
half_the_loss = span_loss
def span_loss(*values):
    return 2 * half_the_loss(*values)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, changed",
    [
        (copy_of_this, set()),
        (lambda path: copy_of_this(path, OTHER_LOSS), {"losses of 3 training steps", "weights after them, sha256"}),
    ],
    ids=["equal", "another loss"],
)
def test_two_checkouts_are_compared(make, changed, folder, tmp_path):
    words = [make(tmp_path), "--data", DATA, "--model", folder, "--questions", 21, "--steps", 3]
    words += ["--rounds", 0 if changed else 1]
    done = run("-m", "benchmarks.former", *words, timeout=900)
    cells = re.findall(r"^\| (windows|\w+): (.+) \| (.+) \|$", done.stdout, re.MULTILINE)
    differing = {name for _, name, found in cells if found != "equal"}
    assert len(cells) >= 13 and done.returncode == bool(differing), done.stdout + done.stderr
    assert differing == changed
    if not changed:
        assert re.search(r"one question, answers/s \| [\d.]+ \| [\d.]+ \| [\d.]+ \([\d.]+-[\d.]+\)", done.stdout)


def test_an_incomplete_checkout_is_refused(tmp_path):
    (tmp_path / "minibert" / "text").mkdir(parents=True)
    (tmp_path / "minibert" / "__init__.py").touch()
    done = run("-m", "benchmarks.checkout", tmp_path, "training", "{}")
    assert done.returncode == 1
    assert "expected all of minibert there" in done.stderr or "No module named 'minibert." in done.stderr


def test_the_candidates_for_ranking_documents_are_counted(tiny_folder, tmp_path, monkeypatch, capsys):
    from benchmarks import ranking

    data = write_toy_squad(tmp_path / "toy.json", 12)
    monkeypatch.setattr("sys.argv", ["ranking", "--model", str(tiny_folder), "--data", str(data), "--questions", "3"])
    ranking.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 * len(ranking.CANDIDATES)
    assert all(0 <= row["own paragraph"] <= 100 and 0 <= row["exact_match"] <= 100 for row in rows)
