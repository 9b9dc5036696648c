"""The folder of a run: its checkpoints, which of them are kept, and the pointers `best` and `latest`.

    runs/first/  checkpoint-80/  checkpoint-120/   each a complete model folder with a manifest
                 latest  best                      one line each: the name of a checkpoint
                 metrics.jsonl                     losses and scores
                 .lock                             held by the process that writes here

Next: `checkpoint.py`.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibert.support.errors import BadInput
from minibert.support.files import (
    LOCK,
    checkpoints,
    fingerprint,
    read_json,
    read_pointer,
    remove,
    run_lock,
    write_atomically,
    write_pointer,
)
from minibert.support.streams import tell

MANIFEST = "manifest.json"
# By a run that was killed.
LEFT_HALF_WRITTEN = (
    *(".tmp-checkpoint-*", ".tmp-old-checkpoint-*", ".tmp-best-*", ".tmp-latest-*", ".tmp-metrics.jsonl-*"),
    *(".tmp-README.md-*", "checkpoint-*/.tmp-eval_results.json-*"),
)
NEEDED = {"config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"}


NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)


@contextlib.contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Create a run's folder if there is none and hold its lock; a new folder that stays empty is removed again."""
    if run.exists() and not run.is_dir():
        raise BadInput(run, "", "is a file; name a folder with --output_dir")
    try:
        str(run.absolute()).encode()
    except UnicodeEncodeError as error:
        raise BadInput(run, "", "is not UTF-8, and weights there could not be opened; name another folder") from error
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    with run_lock(run):
        remove(run, *LEFT_HALF_WRITTEN)
        try:
            yield
        finally:
            if is_new and os.listdir(run) == [LOCK]:
                with contextlib.suppress(OSError):  # another run has just come to the same folder
                    (run / LOCK).unlink()
                    run.rmdir()


def check_fresh(run: Path, overwrite: bool) -> None:
    """BadInput if a new run would write into a folder that holds something, or `overwrite` would remove what is not
    ours."""
    if not run.is_dir():
        return
    if any(path.name != LOCK for path in run.iterdir()) and not overwrite:
        what = "is not empty; --resume continues the run there, --overwrite removes it; or name another --output_dir"
        raise BadInput(run, "", what)
    foreign = set(checkpoints(run)) - set(own_checkpoints(run))
    foreign |= {run / name for name in ("best", "latest") if not is_own_pointer(run / name)}
    foreign |= {file for file in [run / "metrics.jsonl"] if not is_own_log(file)}
    for path in sorted(foreign):
        raise BadInput(path, "", "is not of a run, and is in its way; move it, or name another --output_dir")


def own_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first: the folders that have a manifest. Nobody else's is ever removed."""
    return [checkpoint for checkpoint in checkpoints(run) if (checkpoint / MANIFEST).is_file()]


def is_own_pointer(pointer: Path) -> bool:
    """Whether a run may have written this file, or nothing is there: one line, the name of a checkpoint."""
    if not os.path.lexists(pointer):
        return True
    name = read_pointer(pointer)
    return name is not None and name.startswith("checkpoint-") and name[11:].isdecimal()


def is_own_log(file: Path) -> bool:
    """Whether a run may have written this file, or nothing is there: its first line has a step."""
    if not os.path.lexists(file):
        return True
    if not file.is_file():
        return False
    with open(file, encoding="utf-8", errors="replace") as opened:
        line = opened.readline(1000)
    return not line or line.startswith('{"step": ')


def clear(run: Path) -> None:
    """Remove what an earlier run left in the folder; `check_fresh` has found nothing else under these names."""
    remove(run, *(checkpoint.name for checkpoint in own_checkpoints(run)), "best", "latest", "metrics.jsonl")


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint that `best` names, if it is one of the run's."""
    name = read_pointer(run / "best")
    return next((checkpoint for checkpoint in checkpoints(run) if checkpoint.name == name), None)


def record_scores(run: Path, step: int, scores: dict[str, float], keep_last: int) -> None:
    """Save the scores in run/checkpoint-<step>; update `best` if F1 improved."""
    checkpoint = run / f"checkpoint-{step}"
    if not checkpoint.is_dir():  # the run was resumed from another folder
        return
    best = best_checkpoint(run)
    if best is None or scores["f1"] > read_scores(best).get("f1", -1.0):
        write_pointer(run / "best", checkpoint.name)
    # Last, because a checkpoint with scores counts as evaluated: after a crash in between, `best` is updated again.
    write_atomically(checkpoint / "eval_results.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
    prune(run, keep_last)  # the former best may be superseded


def read_scores(checkpoint: Path) -> dict[str, float]:
    """The scores saved in a checkpoint; {} if it has not been evaluated."""
    file = checkpoint / "eval_results.json"
    scores = read_json(file) if file.is_file() else {}
    if not isinstance(scores, dict) or not all(type(value) in (int, float) for value in scores.values()):
        raise BadInput(file, "", "expected an object of numbers; remove the file, and the run evaluates again")
    return scores


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints, the best and the latest."""
    # After a resume from an older checkpoint, the latest one written is not the one with the highest number.
    named = read_pointer(run / "best"), read_pointer(run / "latest")
    remove(
        run, ".tmp-old-checkpoint-*", *(old.name for old in own_checkpoints(run)[:-keep_last] if old.name not in named)
    )


def remove_after(checkpoint: Path, keep_last: int) -> None:
    """Remove newer checkpoints, which the resumed run is going to write again, and those not pruned before a crash."""
    names = [path.name for path in own_checkpoints(checkpoint.parent)]
    remove(checkpoint.parent, *(names[names.index(checkpoint.name) + 1 :] if checkpoint.name in names else ()))
    prune(checkpoint.parent, keep_last)


def find_checkpoint(resume: Path) -> Path:
    """The newest intact checkpoint of a run folder, or the checkpoint folder itself; BadInput if there is none."""
    if (resume / "trainer_state.json").is_file():
        if fault := verify(resume):
            raise BadInput(resume, "", f"{fault}; resume from another checkpoint")
        return resume
    for checkpoint in reversed(checkpoints(resume)):
        fault = verify(checkpoint)
        if not fault:
            return checkpoint
        tell(f"warning: {checkpoint}: {fault}; trying an older checkpoint")
    raise BadInput(resume, "", "holds no intact checkpoint to resume from")


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None: it must hold what a run needs, with the sizes and sha256 listed.

    Raises OSError if it cannot be read now: that proves nothing about its content.
    """
    try:
        if os.path.lexists(checkpoint / MANIFEST) and not (checkpoint / MANIFEST).is_file():
            return f"{MANIFEST} is not a regular file"
        manifest, present = read_json(checkpoint / MANIFEST), os.listdir(checkpoint)
        if not isinstance(manifest, dict) or not set(manifest) >= NEEDED:
            return f"its manifest does not list {', '.join(sorted(NEEDED))}"
        for name, expected in manifest.items():
            # Only names from the folder's own list, because a name with `..` would lead out of the folder.
            if name not in present or fingerprint(checkpoint / name) != expected:
                return f"{name} is missing or damaged"
    except (BadInput, OSError) as error:
        cause = error.__cause__ if isinstance(error, BadInput) else error
        if isinstance(cause, OSError) and cause.errno not in NOT_THERE:
            raise cause from None
        return f"is not complete ({error})"
    return None


def read_state(checkpoint: Path, *keys: str) -> dict[str, Any]:
    """`trainer_state.json`, which must have all of the keys: none is ever filled in with a default."""
    file = checkpoint / "trainer_state.json"
    state = read_json(file)
    for key in keys:
        if not isinstance(state, dict) or key not in state:
            raise BadInput(file, key, "is missing")
    return state
