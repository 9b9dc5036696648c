"""The log of a run, whoever wrote its lines."""

import errno
import os
from unittest.mock import Mock

import pytest

from minibert.training.progress import log, read_log


def test_a_line_of_the_log_is_on_the_disk_before_a_checkpoint_follows(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_size))
    log(tmp_path, 2, 0.5, loss=1.0)
    assert flushed == [(tmp_path / "metrics.jsonl").stat().st_size]


def test_a_full_disk_is_named_with_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        log(tmp_path, 2, 0.5, loss=1.0)


def test_lines_of_the_log_that_hold_anything_but_numbers_are_left_out(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert read_log(tmp_path) == []
    bad = ["NaN", "[1]", '{"step": 1, "loss": NaN}', '{"step": "x"}', '{"loss": 1}', '{"step": 1, "f1": {}}']
    log.write_text("\n".join([*bad, "[" * 10**5, '{"step": 2, "loss": 0.5}', '{"st']), "utf-8")
    assert read_log(tmp_path) == [{"step": 2, "loss": 0.5}]
