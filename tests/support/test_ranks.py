"""One process is rank 0 of 1 and needs no group; two ranks agree on sums, flags and order."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.exits import is_rank
from tests.builders import ROOT, write_folder


@pytest.mark.parametrize("flag", [True, False])
def test_without_torchrun_there_is_one_rank(monkeypatch, flag):
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    model = nn.Linear(3, 2)
    ranks.join()
    with ranks.main_first():
        assert (ranks.rank(), ranks.world_size(), ranks.local_rank(), ranks.is_main()) == (0, 1, 0, True)
        assert ranks.any_rank(flag) is flag
        assert ranks.sum_over_ranks(torch.tensor([2.5])).item() == 2.5
        assert ranks.replicate(model) is model
        assert list(ranks.synced_at_last(model, ["a", "b", "c"])) == ["a", "b", "c"]


@pytest.mark.parametrize("value", ["2", "two"])
def test_a_world_size_without_torchrun_is_named(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadInput, match=f"WORLD_SIZE: {value}: .*torchrun"):
        ranks.join()


@pytest.mark.parametrize("value", ["", "0", "1"])
def test_such_a_world_size_means_one_process(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    ranks.join()
    assert ranks.world_size() == 1 and not is_rank()


class Replica(nn.Linear):
    """Stands for DistributedDataParallel: `syncs` is False while the gradients are not to be averaged."""

    def __init__(self, model: nn.Linear, **_: object):
        super().__init__(model.in_features, model.out_features)
        self.syncs = True

    @contextlib.contextmanager
    def no_sync(self):
        self.syncs = False
        yield
        self.syncs = True


@pytest.mark.parametrize(("count", "expected"), [(1, [True]), (3, [False, False, True])])
def test_with_several_ranks_only_the_last_micro_batch_of_a_step_averages_gradients(monkeypatch, count, expected):
    monkeypatch.setattr(ranks, "DistributedDataParallel", Replica)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    replica = ranks.replicate(nn.Linear(3, 2))
    assert isinstance(replica, Replica)
    for _ in range(2):
        assert [replica.syncs for _ in ranks.synced_at_last(replica, list(range(count)))] == expected


TWO_RANKS = """
import json, sys, time, torch
from pathlib import Path
from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.exits import run_command

@run_command
def main():
    ranks.join()
    file = Path(sys.argv[1])
    found = {"rank": ranks.rank(), "local": ranks.local_rank(), "size": ranks.world_size(), "main": ranks.is_main()}
    found["sum"] = ranks.sum_over_ranks(torch.tensor([1.0, 10.0 * (ranks.rank() + 1)])).tolist()
    found["flags"] = [ranks.any_rank(False), ranks.any_rank(ranks.rank() == 0), ranks.any_rank(ranks.rank() == 1)]
    with ranks.main_first():
        if ranks.is_main():
            time.sleep(0.3)
            file.write_text("written by rank 0")
        found["saw"] = file.exists()
    found["unequal"] = []
    for facts, package in (({"a": 1}, ranks.PACKAGE), ({"a": ranks.rank()}, ranks.PACKAGE), ({}, Path(sys.argv[2]))):
        ranks.PACKAGE = package
        try:
            ranks.check_equal(facts)
        except BadInput as error:
            found["unequal"].append(error.where)
    print(json.dumps(found))
"""


def test_two_ranks_agree_and_end_cleanly(tmp_path):
    """Two plain processes with the variables that torchrun would set."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    place |= {"CUDA_VISIBLE_DEVICES": ""}
    if loopback := {"linux": "lo", "darwin": "lo0"}.get(sys.platform):
        place["GLOO_SOCKET_IFNAME"] = loopback
    for rank in range(2):  # two versions of the package
        write_folder(tmp_path / f"code {rank}", {"module.py": f"VERSION = {rank}".encode()})
    words = [[sys.executable, "-c", TWO_RANKS, tmp_path / "file", tmp_path / f"code {rank}"] for rank in range(2)]
    envs = [os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(word, cwd=ROOT, env=env, **pipes) for word, env in zip(words, envs)]
    try:
        results = [child.communicate(timeout=150) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], results
    for rank, (out, _) in enumerate(results):
        expected = {"rank": rank, "local": rank, "size": 2, "main": rank == 0, "sum": [2.0, 30.0]}
        expected |= {"flags": [False, True, True], "saw": True, "unequal": ["a", "code of minibert"]}
        assert json.loads(out) == expected
