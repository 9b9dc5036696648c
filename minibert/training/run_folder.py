"""The folder of a run: its checkpoints, which of them are kept, and the pointers `best` and `latest`.

    runs/first/  checkpoint-80/  checkpoint-120/   each a complete model folder with a manifest
                 latest  best                      one line each: the name of a checkpoint
                 metrics.jsonl                     losses and scores
                 .lock                             held by the process that writes here

Next: `checkpoint.py`.
"""

import contextlib
import json
import os
import sys
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

MANIFEST = "manifest.json"
NEEDED = {"config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"}


@contextlib.contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Create a run's folder if there is none and hold its lock; a new folder that stays empty is removed again."""
    if run.exists() and not run.is_dir():
        raise BadInput(run, "", "is a file; name a folder with --output_dir")
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    with run_lock(run):
        remove(run, ".tmp-*")  # what a run that was killed left half-written
        try:
            yield
        finally:
            if is_new and os.listdir(run) == [LOCK]:
                with contextlib.suppress(OSError):  # another run has just come to the same folder
                    (run / LOCK).unlink()
                    run.rmdir()


def check_fresh(run: Path, overwrite: bool) -> None:
    """BadInput if a new run would write into a folder that already holds something."""
    if run.is_dir() and any(path.name != LOCK for path in run.iterdir()) and not overwrite:
        what = "is not empty; --resume continues the run there, --overwrite removes it; or name another --output_dir"
        raise BadInput(run, "", what)


def clear(run: Path) -> None:
    """Remove what an earlier run left in the folder."""
    remove(run, *(checkpoint.name for checkpoint in checkpoints(run)), "best", "latest", "metrics.jsonl")


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
    remove(run, ".tmp-old-*", *(old.name for old in checkpoints(run)[:-keep_last] if old.name not in named))


def remove_after(checkpoint: Path, keep_last: int) -> None:
    """Remove newer checkpoints, which the resumed run is going to write again, and those not pruned before a crash."""
    names = [path.name for path in checkpoints(checkpoint.parent)]
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
        print(f"warning: {checkpoint}: {fault}; trying an older checkpoint", file=sys.stderr)
    raise BadInput(resume, "", "holds no intact checkpoint to resume from")


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None: it must hold what a run needs, with the sizes and sha256 listed."""
    try:
        manifest, present = read_json(checkpoint / MANIFEST), os.listdir(checkpoint)
        if not isinstance(manifest, dict) or not set(manifest) >= NEEDED:
            return f"its manifest does not list {', '.join(sorted(NEEDED))}"
        for name, expected in manifest.items():
            # Only names from the folder's own list, because a name with `..` would lead out of the folder.
            if name not in present or fingerprint(checkpoint / name) != expected:
                return f"{name} is missing or damaged"
    except (BadInput, OSError) as error:
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
