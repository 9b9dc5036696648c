"""A machine with too little memory: one line with the remedy, code 1, and what was saved before stays."""

import sys

import pytest
import torch

from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weights import save_model
from minibert.training import loop
from tests.builders import draw_weights, run, tiny_config, write_toy_squad
from tests.commands.damage import snapshot

SIZES = ["--max_seq_length", "64", "--doc_stride", "16", "--dtype", "float32", "--device", "cpu"]
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..")
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_a_run_that_has_no_memory_left_keeps_its_checkpoints_and_goes_on(
    command, data, tiny_folder, tmp_path, monkeypatch
):
    results = iter([loop.update] * 4)  # the fifth update has no memory

    def update(*values):
        compute = next(results, None)
        if compute is None:
            raise CPU
        return compute(*values)

    monkeypatch.setattr(loop, "update", update)
    words = ["--data", data, "--model", tiny_folder, "--output_dir", tmp_path / "run", *SIZES]
    done = command("train", *words, "--batch_size", 4, "--save_steps", 2, "--max_steps", 6)
    assert done.code == 1 and "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("error: out of memory: use a smaller --batch_size")
    saved = snapshot(tmp_path / "run/checkpoint-4")
    monkeypatch.undo()
    done = command("train", "--resume", "--output_dir", tmp_path / "run", "--keep_last", 9)
    assert done.code == 0 and (tmp_path / "run/checkpoint-6").is_dir()
    assert snapshot(tmp_path / "run/checkpoint-4") == saved


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("answers.predict.load_model", MemoryError()),
        ("evaluation.evaluate.predict_logits", CPU),
        ("evaluation.evaluate.predict_logits", CUDA),
    ],
)
def test_an_evaluation_that_has_no_memory_left_leaves_the_old_files(
    command, data, tiny_folder, tmp_path, monkeypatch, where, error
):
    def fail(*_, **__):
        raise error

    (tmp_path / "out.json").write_text('{"q0": "old"}', "utf-8")
    monkeypatch.setattr(f"minibert.{where}", fail)
    words = ["--ckpt", tiny_folder, "--data", data, "--predictions", tmp_path / "out.json", *SIZES]
    command("evaluate", *words).assert_refused("out of memory: .*--eval_batch_size", code=1)
    assert (tmp_path / "out.json").read_text("utf-8") == '{"q0": "old"}'


# The limit is set after the imports, above what they have taken.
LIMITED = """
import resource, sys
import minibert.evaluation.evaluate, minibert.training.run
from minibert.__main__ import run
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run(sys.argv[2], sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are as Linux has them")
@pytest.mark.parametrize("name", ["load", "evaluate", "train", "resume"])
def test_a_real_limit_of_memory_ends_a_command_with_one_line(tmp_path, tokenizer, name):
    data = write_toy_squad(tmp_path / "toy.json", 300)
    config = tiny_config(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    save_model(draw_weights(BertForQuestionAnswering(config)), tokenizer, tmp_path / "model")  # 57 MiB
    model, words = tmp_path / "model", ["--data", data, *SIZES]
    train = ["train", "--model", model, "--output_dir", tmp_path / "run", *words, "--batch_size", 300]
    if name == "resume":
        assert run("-m", "minibert", *train, "--batch_size", 1, "--max_steps", 1).returncode == 0
        saved = snapshot(tmp_path / "run")
    command = {
        "load": (30, "evaluate", "--ckpt", model, *words),
        "evaluate": (150, "evaluate", "--ckpt", model, *words),
        "train": (200, *train),
        "resume": (140, "train", "--resume", "--output_dir", tmp_path / "run"),
    }[name]
    # The tokenizers' threads reserve memory of their own, and Rust ends a process that gets none.
    done = run("-c", LIMITED, *command, env={"TOKENIZERS_PARALLELISM": "false"})
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: out of memory: "), done.stderr
    if name == "resume":
        assert snapshot(tmp_path / "run") == saved
