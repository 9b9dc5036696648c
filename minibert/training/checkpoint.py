"""Save and load the state of a run. A checkpoint is a complete model folder with the training state beside the model:

    checkpoint-120/  config.json  model.safetensors  tokenizer files   what `evaluate.py` and other libraries open
                     optimizer.safetensors  trainer_state.json         what a resumed run needs besides
                     manifest.json                                     size and sha256 of every file above
                     eval_results.json                                 its scores, added after an evaluation

It is written under another name, flushed to the disk and then renamed, so that the newest complete one can be loaded
whatever happens. Safetensors and JSON only: loading one runs no code.
"""

import dataclasses
import errno
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weight_files import WeightFile, save_tensors
from minibert.model.weights import save_model
from minibert.support.errors import BadInput
from minibert.support.hashes import MANIFEST, fingerprint
from minibert.support.run_files import remove, write_pointer
from minibert.support.writing import sync_to_disk, write_json
from minibert.text.tokenizer import Tokenizer
from minibert.training.run_folder import prune


@dataclass
class Position:
    """Where a run stands: all that a checkpoint has to know beside the tensors and the settings."""

    step: int = 0  # steps taken: decides the data and the dropout
    update: int = 0  # those among them that changed the weights: decides the learning rate
    windows: int = 0  # windows seen
    loss_sum: float = 0.0  # over the steps up to the last line of metrics.jsonl
    recent_loss: float = 0.0  # over the steps since the current line began
    seconds: float = 0.0  # spent, evaluations and saves included


def save_checkpoint(
    run: Path,
    step: int,
    model: BertForQuestionAnswering,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep_last: int,
) -> Path:
    """Write run/checkpoint-<step>, point `latest` at it, and prune older checkpoints.

    Raises OSError, with the earlier checkpoints untouched, if it cannot be written.
    """
    target, aside = run / f"checkpoint-{step}", run / f".tmp-checkpoint-{step}"
    former = run / f".tmp-old-checkpoint-{step}"
    try:
        save_model(model, tokenizer, aside)
        save_tensors(optimizer_tensors(model, optimizer), aside / "optimizer.safetensors")
        write_json(aside / "trainer_state.json", state)
        write_json(aside / MANIFEST, {file.name: fingerprint(file) for file in sorted(aside.iterdir())})
        for path in (*aside.iterdir(), aside):
            sync_to_disk(path)
        if target.exists() and not (target / MANIFEST).is_file():
            raise FileExistsError(errno.EEXIST, "is there and is not of a run; move it", str(target))
        if target.exists():  # a run that was resumed from an older checkpoint reaches this step again
            target.rename(former)
        aside.rename(target)
        sync_to_disk(run)
        write_pointer(run / "latest", target.name)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if former.exists() and not target.exists():
            former.rename(target)
        free = shutil.disk_usage(run).free
        what = f"cannot save {target}: {error} ({free} bytes are free); the earlier checkpoints are untouched"
        raise OSError(what) from error
    remove(run, former.name)
    prune(run, keep_last)
    return target


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state under our parameters' names: "<parameter>.exp_avg", ".exp_avg_sq" and ".step"."""
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def read_position(checkpoint: Path, saved: Any, total_steps: int) -> Position:
    """The position that a checkpoint states; BadInput unless every field is there, and all lie within the run."""
    file = checkpoint / "trainer_state.json"
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Position)}
    for name, kind in kinds.items():
        value: Any = saved.get(name) if isinstance(saved, dict) else None
        if type(value) not in (kind, int) or not 0 <= value < 2**63:
            raise BadInput(file, f"position.{name}", f"expected a number of at least 0, found {value!r}")
    position = Position(**{name: saved[name] for name in kinds})
    if not position.update <= position.step <= total_steps:
        raise BadInput(file, "position", f"expected update <= step <= {total_steps}, found {position}")
    return position


def load_scaler(checkpoint: Path, saved: Any, scaler: torch.amp.GradScaler) -> None:
    """Restore float16's loss scale; BadInput unless it is as a run of this dtype would save it."""
    kinds = {name: type(value) for name, value in scaler.state_dict().items()}
    is_alike = isinstance(saved, dict) and {name: type(value) for name, value in saved.items()} == kinds
    if not is_alike or not all(0 < value < math.inf for name, value in saved.items() if name != "_growth_tracker"):
        raise BadInput(checkpoint / "trainer_state.json", "scaler", f"cannot be used: {saved!r}")
    if saved:  # empty where nothing is scaled
        scaler.load_state_dict(saved)


def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill the optimizer from a checkpoint, in memory of its own; BadInput names what is missing."""
    file = WeightFile(checkpoint / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            entry, shape = f"{name}.{key}", torch.Size() if key == "step" else parameter.shape
            if entry not in file.entries:
                raise BadInput(file.path, entry, "tensor not found")
            optimizer.state[parameter][key] = file.read(entry, shape).to(parameter.device)
