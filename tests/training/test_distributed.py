"""Two ranks under torchrun against one process: the same steps, the same predictions."""

import json

import pytest

from tests.builders import run, write_toy_squad

FLAGS = ["--max_seq_length", "64", "--doc_stride", "16", "--dtype", "float32", "--device", "cpu"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


# 33: one rank gets no micro-batch in an epoch's last step
@pytest.mark.slow
@pytest.mark.parametrize("questions", [33, 24])
def test_two_ranks_equal_one_process_with_twice_the_accumulation(tmp_path, still_folder, questions):
    data = write_toy_squad(tmp_path / "toy.json", questions)
    losses, predictions = [], []
    for name, launcher, accumulation in (("two", TORCHRUN, 1), ("one", [], 2)):
        words = ["--data", data, "--eval_data", data, "--model", still_folder, "--batch_size", 4]
        words += ["--output_dir", tmp_path / name, "--gradient_accumulation_steps", accumulation]
        ended = run(*launcher, "train.py", *words, "--learning_rate", "1e-3", *FLAGS)
        assert ended.returncode == 0, ended.stderr[-2000:]
        log = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text("utf-8").splitlines()]
        losses.append([line[key] for line in log for key in ("loss", "eval_loss") if key in line])
        words = ["--ckpt", tmp_path / name, "--data", data, "--predictions", tmp_path / name / "predictions.json"]
        ended = run(*launcher, "evaluate.py", *words, "--dtype", "float32")
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert len(ended.stdout.splitlines()) == 1  # one rank prints
        predictions.append(json.loads((tmp_path / name / "predictions.json").read_text("utf-8")))
    assert len(losses[0]) >= 4 and losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert predictions[0] == predictions[1]


def test_every_rank_stops_on_bad_input(tmp_path, still_folder):
    ended = run(*TORCHRUN, "train.py", "--data", tmp_path / "none.json", "--model", still_folder, timeout=60)
    assert ended.returncode != 0 and "none.json: cannot be read" in ended.stderr
