"""What a training run noted in its checkpoint, for the commands that answer with the model.

In: a model's folder. Out: settings and hashes; nothing for a published model, whose folder has no `trainer_state.json`,
or another program's.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.support.files import read_json
from minibert.training.settings import Settings, from_json

# What the commands take over from the training of a run, unless flags say otherwise.
WINDOWS = ("max_seq_length", "doc_stride", "max_query_length")
KEPT = (*WINDOWS, "version_2_with_negative")


def read_notes(folder: Path) -> dict[str, Any]:
    """The content of `trainer_state.json`; {} without the file, or if it holds no object."""
    file = folder / "trainer_state.json"
    state = read_json(file, constant=str) if file.is_file() else {}  # other programs write NaN there
    return state if isinstance(state, dict) else {}


def read_settings(folder: Path) -> Settings | None:
    """All settings of the run, or None for a model that no run of ours made."""
    notes = read_notes(folder)
    return from_json(notes["settings"], folder / "trainer_state.json") if "settings" in notes else None


def settings_of_run(folder: Path, given: Mapping[str, Any], names: Sequence[str] = KEPT) -> dict[str, Any]:
    """The given settings, and the run's for the other `names`.

    Drops the run's doc_stride if the given max_seq_length has no room for it.
    """
    settings = read_settings(folder)
    kept = {name: getattr(settings, name) for name in names} if settings else {}
    if (kept.get("doc_stride") or 0) >= given.get("max_seq_length", math.inf) - 3:
        del kept["doc_stride"]
    return kept | dict(given)


def read_facts(folder: Path) -> dict[str, Any]:
    """What the run noted besides its settings; format 1 had it among them."""
    notes = read_notes(folder)
    facts = notes.get("facts", notes.get("settings"))
    return facts if isinstance(facts, dict) else {}


def training_data(folder: Path) -> list[str]:
    """The sha256 of the files that the model was trained on."""
    hashes = read_facts(folder).get("data_sha256")
    return [one for one in hashes if isinstance(one, str)] if isinstance(hashes, list) else []
