"""What a training run noted in its checkpoint, for the commands that answer with the model.

In: a model's folder. Out: settings and hashes; nothing for a published model, whose folder has no `trainer_state.json`,
or another program's.
"""

from pathlib import Path
from typing import Any

from minibert.support.files import read_json
from minibert.training.settings import Settings, from_json

# What the evaluation of a run takes over from its training, unless flags say otherwise.
KEPT = ("max_seq_length", "doc_stride", "max_query_length", "version_2_with_negative")


def read_notes(folder: Path) -> dict[str, Any]:
    """The content of `trainer_state.json`; {} without the file, or if it holds no object."""
    file = folder / "trainer_state.json"
    state = read_json(file) if file.is_file() else {}
    return state if isinstance(state, dict) else {}


def read_settings(folder: Path) -> Settings | None:
    """All settings of the run, or None for a model that no run of ours made."""
    notes = read_notes(folder)
    return from_json(notes["settings"], folder / "trainer_state.json") if "settings" in notes else None


def settings_of_run(folder: Path) -> dict[str, Any]:
    """The settings that an evaluation takes over, with the run's evaluation data as `data`."""
    settings = read_settings(folder)
    return {"data": settings.eval_data} | {name: getattr(settings, name) for name in KEPT} if settings else {}


def training_data(folder: Path) -> list[str]:
    """The sha256 of the files that the model was trained on."""
    notes = read_notes(folder)
    facts = notes.get("facts", notes.get("settings"))  # format 1 had no facts
    hashes = facts.get("data_sha256") if isinstance(facts, dict) else None
    return [one for one in hashes if isinstance(one, str)] if isinstance(hashes, list) else []
