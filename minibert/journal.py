"""What a run says: lines on stdout, a progress bar on stderr, and metrics.jsonl for machines. Only rank 0 speaks.

metrics.jsonl has one JSON object a line, with "step" and "epoch" and either the losses since the last such line or the
scores of an evaluation. Next: `training.py`.
"""

import json
from pathlib import Path

from tqdm import tqdm

from minibert import distributed
from minibert.checkpoint import write_aside


def say(line: str) -> None:
    """Print a line on stdout, around the progress bar."""
    if distributed.is_main():
        tqdm.write(line)


def progress_bar(done: int, total: int) -> tqdm:
    """A bar of steps; silent off a terminal (disable=None)."""
    return tqdm(initial=done, total=total, unit="step", disable=None if distributed.is_main() else True)


def log(run: Path, step: int, epoch: float, **values) -> None:
    """Add a line to the run's metrics.jsonl."""
    if distributed.is_main():
        line = {"step": step, "epoch": round(epoch, 4)} | values
        with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def truncate_log(run: Path, step: int, is_evaluated: bool) -> None:
    """Drop the lines that the run that resumes at a step is going to write again, and one that a crash cut short."""
    file = run / "metrics.jsonl"
    if not distributed.is_main() or not file.is_file():
        return
    kept = []
    for line in file.read_text("utf-8", errors="replace").splitlines(keepends=True):
        try:
            values = json.loads(line)
            is_kept = values["step"] < step or (values["step"] == step and (is_evaluated or "eval_loss" not in values))
        except (ValueError, TypeError, LookupError, RecursionError):
            is_kept = False
        kept += [line] if is_kept and line.endswith("\n") else []
    write_aside(file, "".join(kept))
