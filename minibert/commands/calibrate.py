"""Fit a model's null threshold and its confidence on questions that training has not seen.

    minibert calibrate --ckpt runs/first --data held.json

The result is `answering.json` in the model's folder, which `ask`, `serve`, `evaluate` and `rank` read; see
`answers/confidence.py`. A command of its own, because `evaluate` only measures, while this changes what the model
answers. The last line of stdout is one JSON object: the file's content, and how far `score` and confidence can be
trusted on the data of the fit.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minibert.answers.confidence import ANSWERING_FILE, is_answering, write_answering
from minibert.commands import flags
from minibert.commands.notes import settings_of_run, training_data
from minibert.evaluation.calibration import evaluation_trust, fit_answering
from minibert.evaluation.scorer import has_golds
from minibert.support.errors import BadInput
from minibert.support.hashes import fingerprint
from minibert.support.hub import find_folder
from minibert.support.streams import tell
from minibert.support.writing import check_target
from minibert.text.squad import read_squad
from minibert.training.card import write_card
from minibert.training.settings import (
    AnswerSettings,
    CheckpointSettings,
    MachineSettings,
    WindowSettings,
    option,
    values_of,
)

FEW = 200  # questions: the error of a share of right answers is then above 3 points


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(CheckpointSettings, WindowSettings, AnswerSettings, MachineSettings):
    """Fit a model's null threshold and its confidence on data that training has not seen."""

    data: str | None = option(None, "SQuAD JSON that the model was not trained on", metavar="FILE")
    skip_bad_records: bool = option(False, "drop and count questions with faults instead of stopping")
    max_questions: int | None = option(None, "fit on the first N questions only", least=1)
    null_score_diff_threshold: float | None = option(None, "store this threshold; without it, the best is fitted")


def main(words: Sequence[str] | None = None) -> None:
    given = flags.parse(CalibrateOptions, "calibrate", words)
    options = flags.make(CalibrateOptions, given)
    if options.ckpt is None:
        raise BadInput("--ckpt", "", "name the model to calibrate")
    if options.data is None:
        raise BadInput("--data", "", "name a SQuAD file that the model was not trained on")
    folder = find_folder(options.ckpt, options.revision)
    options = flags.make(CalibrateOptions, settings_of_run(folder, given))
    calibrate(folder, options)


def calibrate(folder: Path, options: CalibrateOptions) -> None:
    """Answer the questions, fit, write `answering.json` and print it. A given threshold is kept as it is."""
    from minibert.answers.predict import check_head
    from minibert.evaluation.evaluate import evaluate
    from minibert.model.weights import load_model
    from minibert.text.tokenizer import load_tokenizer

    file = folder / ANSWERING_FILE
    if file.is_file() and not is_answering(file):
        raise BadInput(file, "", "is not a calibration; move it away")
    if file.is_symlink():
        raise BadInput(file, "", "is a link, as in the hub's cache; copy the model to a folder and calibrate that")
    check_target(file, lambda: True)
    data = Path(str(options.data))
    rules = options.skip_bad_records, options.version_2_with_negative
    examples = read_squad(data, False, *rules)[: options.max_questions]
    if not has_golds(examples):
        raise BadInput(data, "", "has no answers: there is nothing to fit on")
    sha256 = fingerprint(data)["sha256"]
    if sha256 in training_data(folder):
        tell(f"warning: {data} is what the model was trained on: its confidence will be too high")
    if len(examples) < FEW:
        tell(f"warning: few questions ({len(examples)}): the fit is rough below {FEW}")
    chosen = values_of(options, WindowSettings, AnswerSettings, MachineSettings)
    # Loaded here, without the former calibration: it may be that of another version, whose features are no more.
    model = load_model(folder)
    check_head(model, folder)
    evaluation = evaluate(model, examples, tokenizer=load_tokenizer(folder), **chosen)
    fitted_on = {"data": data.name, "sha256": sha256, "questions": len(examples)}
    threshold, is_v2 = options.null_score_diff_threshold, evaluation.is_version_2
    answering = fit_answering(examples, evaluation.predictions, is_v2, fitted_on, threshold)
    write_answering(folder, answering)
    run = folder.resolve().parent
    if (run / "README.md").is_file():
        write_card(run)  # it shows the calibration
    tell(f"wrote {file}, which ask, serve and evaluate read; remove it to undo the calibration")
    cut = answering.null_score_diff_threshold or 0.0
    texts = {name: one.best(is_v2, cut).text for name, one in evaluation.predictions.items()}
    fitted = dataclasses.replace(evaluation, texts=texts, answering=answering)
    print(json.dumps(dataclasses.asdict(answering) | evaluation_trust(examples, fitted)))
