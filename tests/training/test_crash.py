"""Runs that are killed, lose power or fill the disk: the last good checkpoint loads, and a resumed run ends like one
that nothing interrupted."""

import contextlib
import errno
import importlib
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("resource", reason="faults are injected into forked processes, which Windows lacks")

from minibert.model.weights import load_model
from minibert.support import hashes
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.support.run_files import read_pointer, run_lock
from minibert.training.checkpoint import load_optimizer, save_checkpoint
from minibert.training.run_folder import (
    check_fresh,
    checkpoints,
    claimed,
    clear,
    find_checkpoint,
    read_scores,
    read_state,
    record_scores,
    verify,
)
from minibert.training.step import make_optimizer
from tests.training.forks import (
    OPTIMIZER,
    STEPS,
    STEPS_PER_EPOCH,
    assert_one_line,
    at_step,
    leftovers,
    outcome,
)

# --- a fault at every point of a save ---------------------------------------------------------------------------------


class Unplugged(BaseException):
    """The power is gone: no `except OSError` sees it."""


class Disk:
    """Within a `with` block every call that changes the disk is counted, and call number `fails_at` fails.

    A write fails half-way. A full disk (`OSError`) works on for what follows; after `Unplugged` nothing works any more,
    and what was not flushed is lost.
    """

    CALLS = (
        (os, "fsync replace unlink rmdir"),
        (Path, "mkdir rename unlink chmod write_text write_bytes"),
        (importlib.import_module("minibert.model.weight_files"), "save_file"),
    )

    def __init__(self, run: Path, fails_at: int = 0, error: BaseException | None = None):
        self.run, self.fails_at, self.error, self.count, self.names = run, fails_at, error, 0, []

    def __enter__(self) -> "Disk":
        self.safe = {path.stat().st_ino for path in self.run.rglob("*")}
        self.patch = pytest.MonkeyPatch()
        for owner, names in self.CALLS:
            for name in names.split():
                self.patch.setattr(owner, name, self.counted(name, getattr(owner, name)))
        return self

    def __exit__(self, *_) -> None:
        self.patch.undo()
        if isinstance(self.error, Unplugged) and self.count >= self.fails_at:
            for path in self.run.rglob("*"):
                if path.is_file() and path.stat().st_ino not in self.safe:
                    os.truncate(path, 0)

    def counted(self, name: str, function):
        def call(*arguments, **options):
            self.count += 1
            self.names.append(name)
            is_dead = isinstance(self.error, Unplugged) and self.count > self.fails_at
            if self.count == self.fails_at or is_dead:
                if not is_dead and name.startswith("write"):
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:], **options)
                if not is_dead and name == "save_file":
                    function(*arguments, **options)
                    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                raise self.error
            if name == "fsync":  # waiting for a real disk would prove nothing here
                return self.safe.add(os.fstat(arguments[0]).st_ino)
            return function(*arguments, **options)

        return call


def save(run: Path, step: int, parts, marker: float | None = None, f1: float | None = None) -> None:
    """A save whose weights and state hold a marker, by default the step."""
    marker = float(marker or step)
    with torch.no_grad():
        parts[0].span_head.bias.fill_(marker)
    save_checkpoint(run, step, *parts, {"position": {"step": step}, "marker": marker}, 2)
    if f1 is not None:
        record_scores(run, step, {"f1": f1}, keep_last=2)


def content(checkpoint: Path) -> float:
    """The marker of a checkpoint, once all of it has been read."""
    assert verify(checkpoint) is None
    model = load_model(checkpoint)
    load_optimizer(checkpoint, model, make_optimizer(model, 1e-3, 0.01))
    marker = read_state(checkpoint, "position", "marker")["marker"]
    assert model.span_head.bias.tolist() == [marker, marker]
    return marker


ERRORS = {"full": lambda: OSError(errno.ENOSPC, "No space left on device"), "unplugged": Unplugged}


def with_each_fault(before: Path, kind: str, change) -> Iterator[tuple[Path, Disk, str]]:
    """Copies of a run in which `change` met a fault: in its first call, in its second, .., and at last in none."""
    for fails_at in itertools.count(1):
        run = before.with_name(f"run-{fails_at}")
        shutil.copytree(before, run)
        with Disk(run, fails_at, ERRORS[kind]()) as disk, contextlib.suppress(OSError, Unplugged):
            change(run)
        yield run, disk, f"{kind} at call {fails_at} of {disk.names}"
        shutil.rmtree(run)
        if disk.count < fails_at:
            return


@pytest.mark.parametrize("kind", [pytest.param("full", marks=pytest.mark.slow), "unplugged"])
def test_a_fault_anywhere_in_a_save_costs_at_most_that_save(tmp_path, parts, kind):
    before, saved, faults = tmp_path / "before", set(), set()
    with Disk(before):
        for step, f1 in ((1, 50.0), (2, 20.0), (3, 30.0)):
            save(before, step, parts, f1=f1)
    assert [path.name for path in checkpoints(before)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]

    def save_4(run: Path) -> None:
        save(run, 4, parts)
        saved.add(run)
        record_scores(run, 4, {"f1": 60.0}, keep_last=2)

    for run, disk, where in with_each_fault(before, kind, save_4):
        assert content(find_checkpoint(run)) in ([4.0] if run in saved else [3.0, 4.0]), where
        if disk.count < disk.fails_at:  # no fault
            assert content(find_folder(run)) == 4.0 and leftovers(run) == []
            continue
        fault = disk.names[disk.fails_at - 1]
        faults.add(fault)
        assert content(find_folder(run)) in (1.0, 4.0), where  # the best
        assert kind == "unplugged" or fault in ("unlink", "rmdir") or leftovers(run) == [], where
        with Disk(run), claimed(run):  # as a resumed run does: it evaluates what has no scores
            newest = find_checkpoint(run)
            if newest.name == "checkpoint-4" and not read_scores(newest):
                record_scores(run, 4, {"f1": 60.0}, keep_last=2)
            best = "checkpoint-4" if newest.name == "checkpoint-4" else "checkpoint-1"
            assert read_pointer(run / "best") == best, where
            save(run, 5, parts)
        assert content(find_checkpoint(run)) == 5.0 and leftovers(run) == [], where
    assert disk.count >= 40 and faults > {"fsync", "rename", "replace", "unlink", "rmdir", "save_file", "write_text"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
def test_a_fault_while_a_step_is_saved_again_leaves_a_run_that_loads(tmp_path, parts, kind):
    """A run that was resumed at step 2 comes by step 3 for the second time; it has not been evaluated yet."""
    before = tmp_path / "before"
    with Disk(before):
        save(before, 2, parts)
        save(before, 3, parts)
    for run, disk, where in with_each_fault(before, kind, lambda run: save(run, 3, parts, marker=3.5)):
        if disk.count < disk.fails_at:  # no fault
            assert content(find_checkpoint(run)) == 3.5
            continue
        # Between its two renames there is no step 3; the one that the run was resumed from is always there.
        assert content(find_checkpoint(run)) in (2.0, 3.0, 3.5), where
        assert (find_folder(run) / "model.safetensors").is_file(), where
        assert content(find_folder(run)) in (2.0, 3.0, 3.5), where
        with Disk(run), claimed(run):
            save(run, 4, parts)
        assert content(find_checkpoint(run)) == 4.0 and leftovers(run) == [], where
    assert disk.count >= 30


def test_what_is_saved_after_going_back_is_not_pruned(tmp_path, parts):
    """The newest two are damaged, the run resumes at the best: its first save must outlive its own pruning."""
    for step, f1 in ((1, 50.0), (8, 20.0), (9, 30.0)):
        save(tmp_path, step, parts, f1=f1)
    for step in (8, 9):
        (tmp_path / f"checkpoint-{step}" / "config.json").unlink()
    assert content(find_checkpoint(tmp_path)) == 1.0
    save(tmp_path, 2, parts)
    assert content(find_checkpoint(tmp_path)) == 2.0
    assert content(tmp_path / read_pointer(tmp_path / "latest")) == 2.0


# --- pointers that lie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../elsewhere", "checkpoint-77", "", ".", "checkpoint-2/../../elsewhere", "\udcff\0"])
def test_a_pointer_never_leads_out_of_the_run(tmp_path, parts, name):
    run = tmp_path / "run"
    save(run, 2, parts, f1=10.0)
    shutil.copytree(run / "checkpoint-2", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "eval_results.json").write_text('{"f1": 99.0}', "utf-8")
    (run / "best").write_text(name + "\n", "utf-8", "surrogateescape")
    assert find_folder(run).resolve() == (run / "checkpoint-2").resolve()  # by `latest`
    save(run, 3, parts, f1=20.0)
    assert read_pointer(run / "best") == "checkpoint-3"  # and the scores of `elsewhere` do not count
    (run / "best").unlink()
    (run / "latest").write_text(name + "\n", "utf-8", "surrogateescape")
    assert find_folder(run) == run or find_folder(run).parent == run
    assert find_checkpoint(run) == run / "checkpoint-3"  # a resumed run does not ask it


# --- stops and kills, then --resume -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "call"),
    [
        ("minibert.training.loop.log", 3),  # the losses of step 10
        ("minibert.training.checkpoint.sync_to_disk", 30),  # in the middle of a save
        ("minibert.training.checkpoint.write_pointer", STEPS_PER_EPOCH),  # before `latest` is updated
        ("minibert.training.checkpoint.write_pointer", STEPS),  # and no other save follows
        ("minibert.training.run_folder.write_pointer", 1),  # before `best` is
        ("minibert.training.loop.record_scores", 3),
        ("minibert.training.checkpoint.prune", 7),
    ],
)
def test_a_run_killed_inside_a_write_ends_as_the_whole_one(tmp_path, train, job, whole, at, call):
    words = [*job, "--output_dir", tmp_path / "run"]
    assert train(*words, fault={"at": at, "call": call, "signals": [signal.SIGKILL]}).code == -signal.SIGKILL
    assert train(*words, "--resume").code == 0
    assert outcome(tmp_path / "run") == whole["outcome"]


@pytest.fixture
def stopped(tmp_path, train, job):
    """stopped(step) -> the folder of a run that SIGTERM has stopped after this step."""

    def call(step: int, *words) -> Path:
        assert train(*job, "--output_dir", tmp_path / "run", *words, fault=at_step(step, signal.SIGTERM)).code == 143
        return tmp_path / "run"

    return call


def test_a_run_killed_after_it_went_back_ends_as_the_whole_one(train, stopped, whole):
    """Resumed by hand at step 3 of 9, killed at step 5, and resumed again."""
    run = stopped(9, "--keep_last", 9)
    (run / "best").unlink()  # it would stand in the way
    back = ["--resume", run / "checkpoint-3", "--keep_last", 9]
    assert train(*back, fault=at_step(3, signal.SIGKILL)).code == -signal.SIGKILL
    assert train("--resume", run, "--keep_last", 2).code == 0
    assert outcome(run) == whole["outcome"]


def test_a_stop_between_two_saves_of_the_run_leaves_no_checkpoint_behind(tmp_path, train, job, stopped):
    """It would take the place of an epoch's among those that are kept."""
    rare = ["--save_steps", 100]
    assert train(*job, "--output_dir", tmp_path / "whole", *rare).code == 0
    run, before = stopped(1, *rare), 1
    for stop, kept in ((2, [1, 2]), (3, [2, 3]), (5, [4, 5]), (10, [4, 8, 10])):  # 4 is the best
        assert train("--resume", run, fault=at_step(stop - before, signal.SIGTERM)).code == 143
        assert [path.name for path in checkpoints(run)] == [f"checkpoint-{step}" for step in kept]
        before = stop
    assert train("--resume", run).code == 0
    assert outcome(run) == outcome(tmp_path / "whole")
    assert [path.name for path in checkpoints(run)] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]


# --- a disk that takes no more ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "save"), [("model.safetensors", 1), (OPTIMIZER, 7)])
def test_a_full_disk_ends_a_run_with_one_line_and_nothing_lost(tmp_path, train, job, whole, tiny_folder, file, save):
    run = tmp_path / "run"
    limit = 10_000 + (0 if file == "model.safetensors" else (tiny_folder / "model.safetensors").stat().st_size)
    fault = {"at": "minibert.training.loop.save_checkpoint", "call": save, "limit": limit}
    full = train(*job, "--output_dir", run, fault=fault)
    assert_one_line(full, 1, f"cannot save {run / f'checkpoint-{save}'}: ", " bytes are free", "are untouched")
    assert leftovers(run) == []
    assert [path.name for path in checkpoints(run)] == [f"checkpoint-{i}" for i in (4, 5, 6) if save > 1]
    assert all(verify(checkpoint) is None for checkpoint in checkpoints(run))
    again = ["--resume"] if save > 1 else ["--overwrite"]
    assert train(*job, "--output_dir", run, *again).code == 0
    assert outcome(run) == whole["outcome"]


def test_a_run_resumed_on_a_full_disk_loses_nothing(train, stopped, whole):
    run = stopped(6)
    fault = {"at": "minibert.training.loop.truncate_log", "call": 1, "limit": 1}
    assert_one_line(train("--resume", run, fault=fault), 1)
    assert train("--resume", run).code == 0
    assert outcome(run) == whole["outcome"]


def test_a_folder_that_cannot_be_made_ends_a_run_with_one_line(tmp_path, train, job):
    (tmp_path / "file").write_text("mine", "utf-8")
    assert_one_line(train(*job, "--output_dir", tmp_path / "file" / "run"), 1, "Not a directory")
    assert (tmp_path / "file").read_text("utf-8") == "mine"
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if not os.access(closed, os.W_OK):  # root may write anywhere
        assert_one_line(train(*job, "--output_dir", closed), 1, "Permission denied")


# --- two runs, one folder ---------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_in_the_same_folder_is_refused(train, job, stopped):
    run = stopped(2)
    before = snapshot(run)
    with run_lock(run):
        for words in ("--resume", "--overwrite"):
            assert_one_line(train(*job, "--output_dir", run, words), 2, str(run), "another run is writing here")
    assert snapshot(run) == before


def test_overwrite_removes_nothing_but_the_old_run(train, job, stopped, whole):
    run = stopped(3, "--seed", 6)
    mine = ["note.txt", "checkpoint-notes.txt", "checkpoint-best/weights.txt", "plots/loss.txt"]
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine", "utf-8")
    assert train(*job, "--output_dir", run, "--overwrite").code == 0
    assert outcome(run) == whole["outcome"]
    assert all((run / name).is_file() for name in mine)


@pytest.mark.parametrize("words", ["--data RUN/checkpoint-3/toy.json", "--model RUN", "--model RUN/../run"])
def test_overwrite_refuses_to_remove_an_input(train, job, stopped, words):
    run = stopped(3)
    shutil.copy(job[1], run / "checkpoint-3/toy.json")
    before = snapshot(run)
    done = train(*job, "--output_dir", run, "--overwrite", *words.replace("RUN", str(run)).split())
    assert done.code == 2 and "is an input, and --overwrite would remove it" in done.err
    assert snapshot(run) == before


@pytest.mark.parametrize("name", ["best", "latest", "checkpoint-500", "metrics.jsonl"])
def test_overwrite_refuses_what_is_not_of_a_run(tmp_path, name):
    """Another program's folders, or the user's own files, have our names."""
    (tmp_path / name).mkdir()
    (tmp_path / name / ("config.json" if name == "checkpoint-500" else "manifest.json")).write_text("{}", "utf-8")
    before = snapshot(tmp_path)
    with pytest.raises(BadInput, match=f"{name}: is not of a run"):
        check_fresh(tmp_path, overwrite=True)
    clear(tmp_path)
    assert snapshot(tmp_path) == before
    if name != "checkpoint-500":
        shutil.rmtree(tmp_path / name)
        for text, is_own in (("my own notes\nof two lines", False), ("checkpoint-5\n", True), ('{"step": 0}\n', True)):
            (tmp_path / name).write_text(text, "utf-8")
            with contextlib.nullcontext() if is_own else pytest.raises(BadInput, match="is not of a run"):
                check_fresh(tmp_path, overwrite=True)


def test_a_resumed_run_never_removes_a_foreign_checkpoint(train, stopped):
    """One that is in its way is named before the training: it would end at the save, and so again each time."""
    run = stopped(2)
    for name in ("checkpoint-12", "checkpoint-500"):
        (run / name).mkdir()
        (run / name / "pytorch_model.bin").write_text("mine", "utf-8")
    before = snapshot(run)
    ended = train("--resume", run)
    assert ended.code == 2 and "checkpoint-12: is not of a run, and is in its way; move it" in ended.err
    assert snapshot(run) == before
    shutil.rmtree(run / "checkpoint-12")
    assert train("--resume", run).code == 0 and (run / "checkpoint-500" / "pytorch_model.bin").is_file()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, parts, monkeypatch, number):
    for step in (1, 2):
        save(tmp_path, step, parts)
    before = snapshot(tmp_path)

    def unreadable(file, *_):
        raise OSError(number, os.strerror(number), str(file))

    for owner, name in ((hashes, "hash_once"), (Path, "read_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, unreadable)
            with pytest.raises(OSError, match=os.strerror(number)):
                find_checkpoint(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow only UTF-8 names")
def test_data_whose_path_is_not_utf8_is_saved_and_such_a_run_folder_refused(tmp_path, train, job, stopped):
    """Other libraries cannot open weights in such a folder."""
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    data = shutil.copy(job[1], folder / "toy\udce9.json")  # README.md names the file
    run = stopped(3, "--data", data)
    assert train(*job, "--output_dir", folder / "run").code == 2 and not (folder / "run").exists()
    assert train("--resume", run).code == 0
    assert find_checkpoint(run).name == f"checkpoint-{STEPS}"


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_a_fifo_in_a_run_folder_ends_the_run(train, stopped, name):
    run = stopped(2)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert_one_line(train("--resume", run), 2, name, "regular file")


def test_two_runs_are_identical(tmp_path, train, job, whole):
    assert train(*job, "--output_dir", tmp_path / "run", "--deterministic").code == 0
    assert outcome(tmp_path / "run") == whole["outcome"]
