"""Average the weights of models that were trained from the same start.

    minibert average runs/one runs/two --output_dir runs/mean

Fine-tuning moves weights a short way: two runs of MiniLM that differ in their seed end 0.06 to 0.11 of the weights'
length apart (docs/recipes.md). The loss stays low on the line between them, and averaging cancels part of each run's
errors. So the mean of runs that are trained to the end usually answers better than one of them, at the speed of one
(Wortsman et al., 2022, "Model soups"). The mean of models from different starts answers nothing, and is refused.

The last line of stdout is one JSON object: the number of models, and the largest distance from the first.
"""

import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minibert.answers.predict import check_head, check_pair
from minibert.commands import flags
from minibert.commands.notes import KEPT, read_facts, read_settings, training_data
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weights import load_model, save_model
from minibert.support.errors import BadInput
from minibert.support.hashes import MANIFEST, fingerprint
from minibert.support.hub import find_folder
from minibert.support.streams import tell
from minibert.support.writing import new_folder, write_json
from minibert.text.tokenizer import load_tokenizer
from minibert.training.settings import NAME_OR_DIR, option

FARTHEST = 0.5  # in lengths of the first model's weights; two pre-trained models are 1.4 apart


@dataclass(frozen=True, kw_only=True)
class AverageOptions:
    """Average the weights of models that were trained from the same start."""

    models: Sequence[str] = option((), f"two or more: {NAME_OR_DIR}", metavar="NAME_OR_DIR", positional="+")
    output_dir: str | None = option(None, "the new folder for the model; required", metavar="DIR")


def main(words: Sequence[str] | None = None) -> None:
    options = flags.read(AverageOptions, "average", words)
    if len(options.models) < 2:
        raise BadInput(options.models[0], "", "is one model; name at least two")
    if options.output_dir is None:
        raise BadInput("--output_dir", "", "name a new folder for the model")
    with new_folder(Path(options.output_dir)) as target:
        result = average([find_folder(name) for name in options.models], target)
    where = shlex.quote(options.output_dir)
    tell(f"wrote {options.output_dir}; score it: minibert evaluate --ckpt {where} --data FILE")
    print(json.dumps(result))


def average(folders: Sequence[Path], target: Path) -> dict[str, Any]:
    """Write the mean of the folders' models to an empty folder, with what their runs noted, and a manifest."""
    notes = shared_notes(folders)
    first, tokenizer = load_model(folders[0]), load_tokenizer(folders[0])
    check_pair(first, tokenizer, folders[0])
    mean = {name: torch.zeros_like(tensor) for name, tensor in first.state_dict().items()}
    farthest = 0.0
    for folder in folders:
        model = load_model(folder)
        check_head(model, folder)
        if load_tokenizer(folder).files != tokenizer.files:
            what = f"its tokenizer files are not those of {folders[0]}; average runs of one model"
            raise BadInput(folder, "", what)
        check_sizes(folders[0], first, folder, model)
        apart = distance(first, model)
        if not apart < FARTHEST:
            what = f"was not trained from the same start as {folders[0]}, so their mean has no answers; leave it out"
            raise BadInput(folder, "", what)
        farthest = max(farthest, apart)
        for name, tensor in model.state_dict().items():
            mean[name] += tensor / len(folders)
    first.load_state_dict(mean)
    save_model(first, tokenizer, target)
    if notes:
        write_json(target / "trainer_state.json", notes)
    write_json(target / MANIFEST, {file.name: fingerprint(file) for file in sorted(target.iterdir())})
    return {"models": len(folders), "farthest": round(farthest, 4)}


def check_sizes(
    first_folder: Path, first: BertForQuestionAnswering, folder: Path, model: BertForQuestionAnswering
) -> None:
    """BadInput if two models differ in more than their dropout."""
    for name, expected in dataclasses.asdict(first.config).items():
        found = getattr(model.config, name)
        if found != expected and "dropout" not in name:
            raise BadInput(folder, name, f"expected {expected}, as in {first_folder}, found {found}; leave it out")


def distance(first: BertForQuestionAnswering, model: BertForQuestionAnswering) -> float:
    """How far the second model's weights are from the first's, in lengths of the first: 0 if they are equal."""
    apart = length = 0.0
    for ours, theirs in zip(first.state_dict().values(), model.state_dict().values()):
        apart += float((ours - theirs).double().square().sum())
        length += float(ours.double().square().sum())
    return math.sqrt(apart / length) if length else math.inf


def shared_notes(folders: Sequence[Path]) -> dict[str, Any]:
    """A `trainer_state.json` for the mean: the first run's settings, and the data of all; {} unless all are of runs.

    Raises BadInput for a run whose evaluation would have other windows than the first one's, or other rules.
    """
    runs = [read_settings(folder) for folder in folders]
    settings = [run for run in runs if run]
    if len(settings) < len(folders):
        return {}
    data: dict[str, str] = {}  # sha256 -> file
    for folder, run in zip(folders, settings):
        for name in KEPT:
            expected, found = getattr(settings[0], name), getattr(run, name)
            if found != expected:
                raise BadInput(folder, name, f"expected {expected}, as in {folders[0]}, found {found}; leave it out")
        data |= zip(training_data(folder), run.files)
    facts = {"data_sha256": list(data), "is_average": True}
    facts |= {key: value for key, value in read_facts(folders[0]).items() if key in ("base_model", "commit")}
    return {"settings": settings[0].to_json() | {"data": list(data.values())}, "facts": facts}
