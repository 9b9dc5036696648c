"""What must stay the same: from a run's first start to its last, and on all of its ranks.

A run that is resumed with other data or another learning rate is a different run. In: the settings that are given now,
and the state of a checkpoint. Out: the settings and facts of the run that goes on, or BadInput that names what differs.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.files import is_same
from minibert.support.hashes import fingerprint
from minibert.training.card import base_model
from minibert.training.progress import say
from minibert.training.run_folder import read_state
from minibert.training.settings import Settings, from_json


def resumed_settings(checkpoint: Path, given: dict[str, Any]) -> Settings:
    """The settings of a run's first start, with those that may change replaced by what is given now.

    Raises BadInput for another one that would make the resumed run a different run.
    """
    saved = from_json(read_state(checkpoint, "settings")["settings"], checkpoint / "trainer_state.json")
    if given.get("dtype") == "auto":
        given = given | {"dtype": saved.dtype}  # what `auto` was resolved to
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}  # as it is saved
    may_change = {field.name for field in dataclasses.fields(Settings) if field.metadata.get("may_change")}
    given = {name: value for name, value in given.items() if value is not None or name in may_change}  # None: a default
    fixed = {name: (getattr(saved, name), now) for name, now in given.items() if name not in may_change}
    different = [(f"--{name}", f"expected {one}, found {now}") for name, (one, now) in fixed.items() if now != one]
    if different:
        flag, first = different[0]
        others = "".join(f"; {other}: {what}" for other, what in different[1:])
        raise BadInput(flag, "", f"{first}{others}; --resume needs the same as in {checkpoint}")
    return dataclasses.replace(saved, **given)


def facts_of(settings: Settings) -> dict[str, Any]:
    """What a resumed run must share that no setting states. Raises BadInput for a file that cannot be read."""
    for file in settings.inputs:  # now, and not after minutes of loading
        if not is_readable(file):
            raise BadInput(file, "", "cannot be read")
    return {
        "data_sha256": [fingerprint(Path(file))["sha256"] for file in settings.files],
        "eval_sha256": fingerprint(Path(settings.eval_data))["sha256"] if settings.eval_data else None,
        "base_model": base_model(str(settings.model)),
        "world_size": ranks.world_size(),
        "threads": torch.get_num_threads(),
    }


def check_facts(checkpoint: Path, facts: dict[str, Any], run: Path) -> None:
    """BadInput if the data's content or the number of ranks are not those of the run that is resumed.

    Within one run folder the evaluation data must be the same, too, because `best` compares its scores. Which model the
    run began with is taken from the checkpoint.
    """
    saved = read_state(checkpoint, "settings")["facts"]
    for name, flag in (("data_sha256", "--data"), ("world_size", "torchrun")):
        if not isinstance(saved, dict) or name not in saved:
            raise BadInput(checkpoint / "trainer_state.json", name, "is missing")
        if saved[name] != facts[name]:
            named = "number of processes" if name == "world_size" else name
            what = f"expected {named} {saved[name]}, as in {checkpoint}, found {facts[name]}; --resume needs the same"
            raise BadInput(flag, "", what)
    before, now = saved.get("eval_sha256"), facts["eval_sha256"]
    if is_same(checkpoint.parent, run):
        if None not in (before, now) and before != now:
            what = "expected the file by which `best` was chosen, found another; name another --output_dir"
            raise BadInput("--eval_data", "", what)
        facts["eval_sha256"] = now or before  # for whoever evaluates again after a part without an evaluation
    facts |= {name: saved[name] for name in ("base_model", "commit") if name in saved}
    if saved.get("threads", facts["threads"]) != facts["threads"]:
        was = f"{saved['threads']} threads before, {facts['threads']} now"
        say(f"{was}: the last bits of the results will differ; OMP_NUM_THREADS sets the number")


def check_ranks(settings: Settings) -> None:
    """BadInput on every rank if they were not started with the same settings and the same content of the data."""
    if ranks.world_size() == 1:
        return
    values = settings.to_json() | {"resume": bool(settings.resume), "overwrite": settings.overwrite}
    for name in ("data", "eval_data", "output_dir", "model"):  # each machine may have its own paths
        values.pop(name)
    contents = [is_readable(file) and fingerprint(Path(file)) for file in settings.inputs]
    ranks.check_equal({f"--{name}": value for name, value in values.items()} | {"content of --data": contents})


def is_readable(file: str) -> bool:
    return os.path.isfile(file) and os.access(file, os.R_OK)
