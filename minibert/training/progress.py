"""What a run reports: lines on stdout, and metrics.jsonl for programs. Only rank 0 prints.

metrics.jsonl has one JSON object per line, with "step" and "epoch" and either the losses since the last such line or
the scores of an evaluation.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.files import parse_json, regular
from minibert.support.streams import deliver, printable
from minibert.support.writing import naming, write_atomically


def say(line: str) -> None:
    """Print a line on stdout, above the progress bar. A run goes on when nobody receives it."""
    if ranks.is_main():
        with contextlib.suppress(OSError, ValueError):
            tqdm.write(printable(line))
        deliver()


def board_writer() -> Any:
    """The class of TensorBoard's writer; BadInput without its package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadInput("--tensorboard", "", "needs its package: pip install tensorboard") from error
    return SummaryWriter


def open_board(run: Path, step: int) -> Any:
    """TensorBoard's writer, which drops what a resumed run is going to write again."""
    return board_writer()(str(run / "tensorboard"), purge_step=step + 1)


def log(run: Path, step: int, epoch: float, board: Any = None, **values: float) -> None:
    """Append a line to the run's metrics.jsonl, and its values to TensorBoard's files if there are any."""
    if ranks.is_main():
        line = {"step": step, "epoch": round(epoch, 4)} | values
        file = run / "metrics.jsonl"
        with naming(file), open(file, "a", encoding="utf-8", opener=regular) as opened:
            opened.write(json.dumps(line, allow_nan=False) + "\n")
            opened.flush()
            os.fsync(opened.fileno())  # a checkpoint that follows says that the line is there
        for name, value in values.items() if board else ():
            board.add_scalar(name, value, step)


def read_log(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl, [] without the file. A line of anything but finite numbers is left out."""
    file = run / "metrics.jsonl"
    lines = []
    for text in file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []:
        try:
            line = parse_json(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and "step" in line and all(type(value) in (int, float) for value in line.values()):
            lines.append(line)
    return lines


def truncate_log(run: Path, step: int, is_evaluated: bool) -> None:
    """Drop the lines that a run resumed at `step` is going to write again, and a line that a crash left incomplete."""
    file = run / "metrics.jsonl"
    if not ranks.is_main() or not file.is_file():
        return
    kept = []
    for line in file.read_text("utf-8", errors="replace").splitlines(keepends=True):
        try:
            values = json.loads(line)
            is_kept = values["step"] < step or (values["step"] == step and (is_evaluated or "eval_loss" not in values))
        except (ValueError, TypeError, LookupError, RecursionError):
            is_kept = False
        kept += [line] if is_kept and line.endswith("\n") else []
    write_atomically(file, "".join(kept))
