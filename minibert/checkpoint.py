"""Save, verify, resume. A checkpoint is a complete model folder with the training state beside the model:

    checkpoint-120/  config.json  model.safetensors  tokenizer files   what `evaluate.py` and other libraries open
                     optimizer.safetensors  trainer_state.json         what a resumed run needs besides
                     manifest.json                                     size and sha256 of every file above
                     eval_results.json                                 its scores, added after an evaluation

It is written aside, flushed to the disk and then renamed, so that at any instant the newest complete one can be
loaded. Safetensors and JSON only: nothing here can run code. Next: `journal.py`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from minibert.errors import BadInput
from minibert.model import BertForQuestionAnswering
from minibert.squad import read_json
from minibert.tokenizer import Tokenizer
from minibert.weights import save_model, save_tensors

MANIFEST = "manifest.json"
LOCK = ".lock"
NEEDED = {"config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"}


def save_checkpoint(
    run: Path,
    step: int,
    model: BertForQuestionAnswering,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    state: dict,
    keep_last: int,
) -> Path:
    """Write run/checkpoint-<step>, point `latest` at it, and remove all but the newest `keep_last` and the best.

    Raises OSError, with the earlier checkpoints untouched, where it cannot be written.
    """
    target, aside = run / f"checkpoint-{step}", run / f".tmp-checkpoint-{step}"
    former = run / f".tmp-old-checkpoint-{step}"
    try:
        save_model(model, tokenizer, aside)
        save_tensors(optimizer_tensors(model, optimizer), aside / "optimizer.safetensors")
        write_json(aside / "trainer_state.json", state)
        write_json(aside / MANIFEST, {file.name: fingerprint(file) for file in sorted(aside.iterdir())})
        for path in (*aside.iterdir(), aside):
            flush(path)
        if target.exists():  # a run that was resumed at an older step comes by again
            target.rename(former)
        aside.rename(target)
        flush(run)
        point(run / "latest", target.name)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if former.exists() and not target.exists():
            former.rename(target)
        free = shutil.disk_usage(run).free
        what = f"cannot save {target}: {error} ({free} bytes are free); the earlier checkpoints are untouched"
        raise OSError(what) from error
    prune(run, keep_last)
    return target


def record_scores(run: Path, step: int, scores: dict[str, float], keep_last: int) -> None:
    """Note the scores of run/checkpoint-<step> in it, as eval_results.json, and point `best` at it if its F1 is."""
    checkpoint = run / f"checkpoint-{step}"
    if not checkpoint.is_dir():  # a run that goes on in another folder than it began in
        return
    best = best_checkpoint(run)
    if best is None or scores["f1"] > read_scores(best).get("f1", -1.0):
        point(run / "best", checkpoint.name)
    # Last: with its scores a checkpoint counts as evaluated, and nobody would look at `best` again.
    write_aside(checkpoint / "eval_results.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
    prune(run, keep_last)  # the one that was the best may not be any more


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint that `best` names, if it is one of the run's."""
    name = read_line(run / "best")
    return next((checkpoint for checkpoint in checkpoints(run) if checkpoint.name == name), None)


def read_scores(checkpoint: Path) -> dict[str, float]:
    """The scores that were noted in a checkpoint; none if it has not been evaluated."""
    file = checkpoint / "eval_results.json"
    scores = read_json(file) if file.is_file() else {}
    if not isinstance(scores, dict) or not all(type(value) in (int, float) for value in scores.values()):
        raise BadInput(file, "", "expected an object of numbers; remove the file, and the run evaluates again")
    return scores


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder for a `with` block; BadInput if another process does. The lock dies with its process."""
    with open(run / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(run, "", "another run is writing here; wait for it, or name another --output_dir") from error
        clear(run, ".tmp-*")  # what a run that was killed left half-written
        yield


def clear(run: Path, *patterns: str) -> None:
    """Remove what a run has written under these names; a failure only costs disk space."""
    for path in (path for pattern in patterns for path in run.glob(pattern)):
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            print(f"warning: cannot remove {path}: {error}", file=sys.stderr)


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    found = [path for path in run.glob("checkpoint-*") if path.name[11:].isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def clear_after(checkpoint: Path, keep_last: int) -> None:
    """Remove what a run that continues from a checkpoint does not have: newer ones, which it is going to write again,
    and those that it was killed before it could prune."""
    names = [path.name for path in checkpoints(checkpoint.parent)]
    clear(checkpoint.parent, *(names[names.index(checkpoint.name) + 1 :] if checkpoint.name in names else ()))
    prune(checkpoint.parent, keep_last)


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints and the best."""
    named = read_line(run / "best"), read_line(run / "latest")  # a run that went back is behind older checkpoints
    clear(run, ".tmp-old-*", *(old.name for old in checkpoints(run)[:-keep_last] if old.name not in named))


def find_checkpoint(resume: Path) -> Path:
    """The newest whole checkpoint of a run folder, or the checkpoint folder itself; BadInput if there is none."""
    if (resume / "trainer_state.json").is_file():
        if fault := verify(resume):
            raise BadInput(resume, "", f"{fault}; resume from another checkpoint")
        return resume
    for checkpoint in reversed(checkpoints(resume)):
        fault = verify(checkpoint)
        if not fault:
            return checkpoint
        print(f"warning: {checkpoint}: {fault}; trying an older checkpoint", file=sys.stderr)
    raise BadInput(resume, "", "holds no whole checkpoint to resume from")


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None: it must have what a run needs, as its manifest says."""
    try:
        manifest, present = read_json(checkpoint / MANIFEST), os.listdir(checkpoint)
        if not isinstance(manifest, dict) or not set(manifest) >= NEEDED:
            return f"its manifest does not list {', '.join(sorted(NEEDED))}"
        for name, expected in manifest.items():
            # A name that is not in the folder's own list could lead out of it.
            if name not in present or fingerprint(checkpoint / name) != expected:
                return f"{name} is missing or damaged"
    except (BadInput, OSError) as error:
        return f"is not complete ({error})"
    return None


def fingerprint(file: Path) -> dict:
    """Size in bytes and sha256 of a file."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state under our parameters' names: "<parameter>.exp_avg", ".exp_avg_sq" and ".step"."""
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill the optimizer from a checkpoint; BadInput names what is missing."""
    file = checkpoint / "optimizer.safetensors"
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise BadInput(file, "", f"cannot be read: {error}") from error
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensor = tensors.pop(f"{name}.{key}", None)
            shape = torch.Size() if key == "step" else parameter.shape
            if tensor is None or tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.isfinite().all():
                raise BadInput(file, f"{name}.{key}", f"must hold finite float32 numbers of shape {tuple(shape)}")
            optimizer.state[parameter][key] = tensor.to(parameter.device)


def load_state(checkpoint: Path, keys: tuple[str, ...]) -> dict:
    """`trainer_state.json`, which must have all of the keys: none is ever filled in with a default."""
    file = checkpoint / "trainer_state.json"
    state = read_json(file)
    for key in keys:
        if not isinstance(state, dict) or key not in state:
            raise BadInput(file, key, "is missing")
    return state


def write_json(file: Path, content) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n", "utf-8")


def point(pointer: Path, name: str) -> None:
    """Make a one-line file say `name`."""
    write_aside(pointer, name + "\n")


def read_line(pointer: Path) -> str | None:
    """What a one-line file says, or None without one."""
    return pointer.read_text("utf-8", errors="replace").strip() if pointer.is_file() else None


def write_aside(file: Path, text: str) -> None:
    """Replace a file's content: it holds the old text or the new one at any instant."""
    aside = file.with_name(f".tmp-{file.name}")
    try:
        aside.write_text(text, "utf-8")
        flush(aside)
        os.replace(aside, file)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    flush(file.parent)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
