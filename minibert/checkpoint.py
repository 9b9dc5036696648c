"""Save, verify, resume. A checkpoint is a complete model folder with the training state beside the model:

    checkpoint-120/  config.json  model.safetensors  tokenizer files   what `evaluate.py` and other libraries open
                     optimizer.safetensors  trainer_state.json         what a resumed run needs besides
                     manifest.json                                     size and sha256 of every file above

It is written aside, flushed to the disk and then renamed, so that at any instant the newest complete one can be
loaded. Safetensors and JSON only: nothing here can run code. Next: `journal.py`.
"""

import hashlib
import json
import os
import shutil
import sys
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


def save_checkpoint(
    run: Path,
    step: int,
    model: BertForQuestionAnswering,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    state: dict,
    keep_last: int,
    is_best: bool,
) -> Path:
    """Write run/checkpoint-<step>, point `latest` (and `best`) at it, and remove all but the newest `keep_last`."""
    target, aside = run / f"checkpoint-{step}", run / f".tmp-checkpoint-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    save_model(model, tokenizer, aside)
    save_tensors(optimizer_tensors(model, optimizer), aside / "optimizer.safetensors")
    write_json(aside / "trainer_state.json", state)
    manifest = {file.name: fingerprint(file) for file in sorted(aside.iterdir())}
    write_json(aside / MANIFEST, manifest)
    for path in (*aside.iterdir(), aside):
        flush(path)
    if target.exists():  # a run that was resumed at an older step comes by again
        shutil.rmtree(target)
    aside.rename(target)
    flush(run)
    if is_best:
        point(run / "best", target.name)
    point(run / "latest", target.name)
    prune(run, keep_last)
    return target


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    found = [path for path in run.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints and the best; a failure only costs disk space."""
    best = (run / "best").read_text("utf-8").strip() if (run / "best").is_file() else None
    for old in checkpoints(run)[:-keep_last]:
        if old.name != best:
            shutil.rmtree(
                old, onerror=lambda _, path, error: print(f"cannot remove {path}: {error[1]}", file=sys.stderr)
            )


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
    """What is wrong with a checkpoint, or None: every file must be as its manifest says."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
        for name, expected in manifest.items():
            if fingerprint(checkpoint / name) != expected:
                return f"{name} is damaged"
    except (BadInput, OSError, AttributeError) as error:
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
            if tensor is None:
                raise BadInput(file, f"{name}.{key}", "is missing")
            device = parameter.device
            optimizer.state[parameter][key] = tensor.to(device)


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
    """Make a one-line file say `name`; it holds the old name or the new one at any instant."""
    aside = pointer.with_name(f".tmp-{pointer.name}")
    aside.write_text(name + "\n", "utf-8")
    flush(aside)
    os.replace(aside, pointer)
    flush(pointer.parent)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
