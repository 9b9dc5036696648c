"""The folder of a run: its checkpoints, which of them are kept, and the pointers `best` and `latest`.

    runs/first/  checkpoint-80/  checkpoint-120/   each a complete model folder with a manifest
                 latest  best                      one line each: the name of a checkpoint
                 metrics.jsonl                     losses and scores
                 .lock                             held by the process that writes here

Only rank 0 writes here.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minibert.support.errors import BadInput
from minibert.support.files import is_same, read_json
from minibert.support.hashes import MANIFEST, fault, manifest_files, model_fault
from minibert.support.layouts import is_model
from minibert.support.run_files import LOCK, checkpoints, read_pointer, remove, run_lock, write_pointer
from minibert.support.streams import tell
from minibert.support.writing import check_utf8, write_atomically

# What a killed run left half-written. The names are exact: other commands may write their files in the same folder.
HALF_WRITTEN = re.compile(r"\.tmp-((old-)?checkpoint-\d+|(best|latest|metrics\.jsonl|README\.md)-[0-9a-f]{8})")
IN_THE_WAY = "is not of a run, and is in its way; move it, or name another --output_dir"
NEEDED = {"config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"}


@contextlib.contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Create a run's folder if there is none and hold its lock; a new folder that stays empty is removed again."""
    if run.exists() and not run.is_dir():
        raise BadInput(run, "", "is a file; name a folder with --output_dir")
    check_utf8(run)
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    with run_lock(run):
        remove(run, *filter(HALF_WRITTEN.fullmatch, os.listdir(run)), "checkpoint-*/.tmp-eval_results.json-*")
        try:
            yield
        finally:
            if is_new and os.listdir(run) == [LOCK]:
                with contextlib.suppress(OSError):  # another run has just come to the same folder
                    (run / LOCK).unlink()
                    run.rmdir()


def check_fresh(run: Path, overwrite: bool, inputs: Sequence[str] = ()) -> None:
    """BadInput if a new run would write into a folder that holds something, or `overwrite` would remove what is not
    ours, or one of the inputs: data, or the model that is trained on."""
    try:
        names, ours = os.listdir(run), with_our_names(run)
    except (FileNotFoundError, NotADirectoryError):  # there is none, or rank 0 has just removed the one that it made
        return
    if is_model(run):  # its weights would hide those of the run
        raise BadInput(run, "", "is a model folder; name another --output_dir")
    if any(name != LOCK for name in names) and not overwrite:
        what = "is not empty; --resume continues the run there, --overwrite removes it; or name another --output_dir"
        raise BadInput(run, "", what)
    for path in ours:
        if not is_own(path):
            raise BadInput(path, "", IN_THE_WAY)
        for source in map(Path.resolve, map(Path, inputs)):
            if lies_in(source, path) or lies_in(path.resolve(), source):
                raise BadInput(source, "", "is an input, and --overwrite would remove it; name another --output_dir")


def lies_in(inner: Path, outer: Path) -> bool:
    """Whether `inner`, without links, is `outer` or lies somewhere inside it."""
    return any(is_same(folder, outer) for folder in (inner, *inner.parents))


def clear(run: Path) -> None:
    """Remove what an earlier run left in the folder."""
    remove_all(run, [path.name for path in with_our_names(run) if is_own(path)])


def remove_all(run: Path, names: list[str]) -> None:
    """Remove some of a run's files and folders. BadInput if one stays: the new run would take it for its own."""
    remove(run, *names)
    for name in names:
        if os.path.lexists(run / name):
            raise BadInput(run / name, "", "cannot be removed; remove it, or name another --output_dir")


def with_our_names(run: Path) -> list[Path]:
    """What lies in the folder under the names that a run gives, whoever made it."""
    files = [run / name for name in ("best", "latest", "metrics.jsonl")]
    return [*checkpoints(run), *(file for file in files if os.path.lexists(file))]


def is_own(path: Path) -> bool:
    """Whether a run may have written this: a folder with a manifest, a checkpoint's name, or a log that has steps."""
    if path.name.startswith("checkpoint-"):
        return (path / MANIFEST).is_file()
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as opened:
        text = opened.read(1000)
    return bool(re.fullmatch(r'(checkpoint-\d+\s*|\{"step": .*)?', text, re.DOTALL))


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint that `best` names, if it is one of the run's."""
    name = read_pointer(run / "best")
    return next((checkpoint for checkpoint in checkpoints(run) if checkpoint.name == name), None)


def record_scores(run: Path, step: int, scores: dict[str, float], keep_last: int) -> None:
    """Save the scores in run/checkpoint-<step>; update `best` if F1 improved."""
    checkpoint = run / f"checkpoint-{step}"
    if not checkpoint.is_dir():  # the run was resumed from another folder
        return
    f1 = {one.name: read_scores(one).get("f1", -1.0) for one in own_checkpoints(run)} | {checkpoint.name: scores["f1"]}
    best = best_checkpoint(run)
    highest = max(f1, key=lambda name: (f1[name], best is not None and name == best.name))
    if best is None or highest != best.name:
        write_pointer(run / "best", highest)
    # Last, because a checkpoint with scores counts as evaluated: after a crash in between, `best` is updated again.
    write_atomically(checkpoint / "eval_results.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
    prune(run, keep_last)  # the former best may be superseded


def read_scores(checkpoint: Path) -> dict[str, float]:
    """The scores saved in a checkpoint; {} if it has not been evaluated."""
    file = checkpoint / "eval_results.json"
    scores = read_json(file) if file.is_file() else {}
    if not isinstance(scores, dict) or not all(type(v) in (int, float) and abs(v) < 1e9 for v in scores.values()):
        raise BadInput(file, "", "expected an object of numbers; remove the file, and the run evaluates again")
    return scores


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` planned checkpoints, the best and the latest.

    A checkpoint saved for a signal is kept only until the next planned one, so that a stopped and resumed run leaves
    the same checkpoints as an uninterrupted one.
    """
    names = {checkpoint.name: is_planned(checkpoint) for checkpoint in own_checkpoints(run)}  # oldest first
    planned = [name for name in names if names[name]]
    since = list(names)[list(names).index(planned[-1]) + 1 :] if planned else list(names)
    # After a resume from an older checkpoint, the latest one written is not the one with the highest number.
    kept = {*planned[-keep_last:], *since[-keep_last:], read_pointer(run / "best"), read_pointer(run / "latest")}
    remove(run, *(name for name in names if name not in kept))


def is_planned(checkpoint: Path) -> bool:
    """Whether the run would have saved it without a signal; an older version has not noted it."""
    try:
        return read_state(checkpoint, "position").get("is_planned", True) is not False
    except BadInput:
        return True


def own_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first. Nobody else's is ever removed."""
    return [checkpoint for checkpoint in checkpoints(run) if is_own(checkpoint)]


def make_latest(checkpoint: Path, keep_last: int) -> None:
    """Name a checkpoint in `latest`, and remove newer ones, which the resumed run is going to write again.

    Both also complete a save that a crash cut off: `latest` may name the checkpoint before, and pruning may be due.
    """
    run = checkpoint.parent
    if read_pointer(run / "latest") != checkpoint.name:
        write_pointer(run / "latest", checkpoint.name)
    if newer := newer_checkpoints(checkpoint):
        tell(f"removing {', '.join(newer)}: the run goes back to {checkpoint.name} and writes them again")
    remove_all(run, newer)
    prune(run, keep_last)


def check_way(checkpoint: Path, total_steps: int) -> None:
    """BadInput if resuming here would remove the best checkpoint, write the log through a link, or need the name of a
    folder that no run wrote."""
    run = checkpoint.parent
    if (run / "metrics.jsonl").is_symlink():
        raise BadInput(run / "metrics.jsonl", "", "expected a regular file, found a symbolic link; remove it")
    for path in after(checkpoint, checkpoints(run)):
        if not is_own(path) and int(path.name.removeprefix("checkpoint-")) <= total_steps:
            raise BadInput(path, "", IN_THE_WAY)
    best = read_pointer(run / "best")
    if best in newer_checkpoints(checkpoint) and not model_fault(run / best):
        what = f"going back to {checkpoint.name} would remove {best}, the best; name another --output_dir"
        raise BadInput(checkpoint, "", what)


def newer_checkpoints(checkpoint: Path) -> list[str]:
    """The names of its run's checkpoints that are newer."""
    return [path.name for path in after(checkpoint, own_checkpoints(checkpoint.parent))]


def after(checkpoint: Path, ordered: list[Path]) -> list[Path]:
    """Those that come after a checkpoint among the checkpoints of its folder, oldest first."""
    names = [path.name for path in ordered]
    return ordered[names.index(checkpoint.name) + 1 :] if checkpoint.name in names else []


def find_checkpoint(resume: Path) -> Path:
    """The newest intact checkpoint of a run folder, or the checkpoint folder itself; BadInput if there is none."""
    if (resume / "trainer_state.json").is_file():
        if found := verify(resume):
            raise BadInput(resume, "", f"{found}; resume from another checkpoint, or train on with --model {resume}")
        return resume
    for checkpoint in reversed(checkpoints(resume)):
        found = verify(checkpoint)
        if not found:
            return checkpoint
        tell(f"warning: {checkpoint}: {found}; trying an older checkpoint")
    raise BadInput(resume, "", "holds no intact checkpoint to resume from")


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None: it must hold what a run needs, with the sizes and sha256 listed.

    Raises OSError if it cannot be read now: that proves nothing about its content.
    """
    try:
        known = manifest_files(checkpoint)
    except BadInput as error:
        return f"its manifest cannot be used ({error})"
    if lacking := sorted(NEEDED - known.keys()):
        return f"is not complete: its {MANIFEST} is missing or does not list {', '.join(lacking)}"
    return fault(checkpoint, known)


def read_state(checkpoint: Path, *keys: str) -> dict[str, Any]:
    """`trainer_state.json`, which must have all of the keys: none is ever filled in with a default.

    Format 1 kept the facts about a run among its settings.
    """
    file = checkpoint / "trainer_state.json"
    state = read_json(file)
    for key in keys:
        if not isinstance(state, dict) or key not in state:
            raise BadInput(file, key, "is missing")
    return {"facts": state.get("settings")} | state
