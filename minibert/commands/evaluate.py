"""Score a model on SQuAD-format questions, or score a file of predictions.

    python evaluate.py --ckpt runs/first --data dev-v1.1.json --predictions predictions.json
    python evaluate.py --score predictions.json --data dev-v1.1.json

The last line of stdout is one JSON object of scores, under the official keys. `--score` never loads torch.
"""

import functools
import json
import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibert.commands import flags
from minibert.commands.notes import read_facts, read_settings, settings_of_run
from minibert.evaluation.analysis import METRICS, percents
from minibert.evaluation.intervals import interval
from minibert.evaluation.languages import LANGUAGES
from minibert.evaluation.predictions import (
    N_BEST_FILE,
    NULL_ODDS_FILE,
    Evaluation,
    check_targets,
    n_best_rows,
    read_answers,
    read_n_best,
    read_null_odds,
    read_predictions,
    write_predictions,
)
from minibert.evaluation.report import PAGE, Source, make_report
from minibert.evaluation.rows import Row, is_table, make_rows, write_rows
from minibert.evaluation.scorer import OFFICIAL_THRESHOLD, has_golds, needs_version_2, score
from minibert.support.errors import BadInput
from minibert.support.hashes import fingerprint
from minibert.support.hub import find_folder
from minibert.support.page import is_filled
from minibert.support.streams import tell
from minibert.support.writing import check_target, write_atomically
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.training.settings import (
    AnswerSettings,
    CheckpointSettings,
    MachineSettings,
    WindowSettings,
    option,
    values_of,
)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CheckpointSettings, WindowSettings, AnswerSettings, MachineSettings):
    """Score a model, or a file of predictions, on SQuAD data."""

    data: str | None = option(
        None, "SQuAD JSON; default: the --eval_data that the model was trained with", metavar="FILE"
    )
    predictions: str | None = option(None, f"write {{id: answer}} here, and {N_BEST_FILE} beside it", metavar="OUT")
    overwrite: bool = option(False, "replace files at any OUT that hold something else")
    skip_bad_records: bool = option(False, "drop and count questions with faults instead of stopping")
    score: str | None = option(None, "score this file instead of a model", metavar="PREDICTIONS")
    null_odds: str | None = option(
        None, "with --score, v2.0: {id: null odds}, the official --na-prob-file", metavar="FILE"
    )
    metric_language: str | None = option(
        None,
        f"score by this language's words and articles ({', '.join(sorted(LANGUAGES))}), not by the official rules",
        choices=tuple(sorted(LANGUAGES)),
        metavar="LANGUAGE",
    )
    calibration: bool = option(False, "also score how far score and confidence can be trusted: ECE, Brier score, risk")
    rows: str | None = option(None, "write a table with a row for each question, .csv or .jsonl", metavar="OUT")
    report: str | None = option(None, "write a page to explore the results with, .html", metavar="OUT")
    against: str | None = option(None, "compare with this file of predictions in the report", metavar="PREDICTIONS")
    intervals: bool = option(False, "add 95 % bootstrap intervals to the scores")

    @property
    def is_analysed(self) -> bool:
        """Whether more than the scores is asked for."""
        return bool(self.rows or self.report or self.intervals)


OF_SCORE = set("score null_odds data rows report against intervals overwrite skip_bad_records".split())
OF_SCORE |= {"metric_language", "null_score_diff_threshold", "version_2_with_negative"}


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    command = shlex.join(["minibert", "evaluate", *words])
    given = flags.parse(EvaluateOptions, "evaluate", words)
    options = flags.make(EvaluateOptions, given)
    check(options, given)
    if options.score is not None:
        check_outputs(options)
        score_file(options, command)
    else:
        folder = find_folder(str(options.ckpt), options.revision)
        settings = read_settings(folder)
        data = {"data": settings.eval_data} if settings else {}
        options = flags.make(EvaluateOptions, data | settings_of_run(folder, given))
        if options.data and "data" not in given:
            check_noted(Path(options.data), folder)
        check_outputs(options)
        score_model(folder, options, command)


def check(options: EvaluateOptions, given: Collection[str]) -> None:
    """BadInput for flags that do not go together."""
    if (options.ckpt is None) == (options.score is None):
        raise BadInput("--ckpt", "", "name either a model (--ckpt) or a file of predictions (--score)")
    if options.score and (unused := sorted(set(given) - OF_SCORE)):
        raise BadInput(f"--{unused[0]}", "", "goes with --ckpt; --score scores the predictions as they are")
    if options.null_odds and options.ckpt:
        raise BadInput("--null_odds", "", "goes with --score; a model computes its own")
    if options.rows and Path(options.rows).suffix not in (".csv", ".jsonl"):
        raise BadInput("--rows", options.rows, "expected a name that ends in .csv or .jsonl")
    if options.against and not options.report:
        raise BadInput("--against", options.against, "needs --report, the page that shows the comparison")
    if options.metric_language and options.is_analysed:
        what = "--rows, --report and --intervals follow the official rules; leave them out, or evaluate twice"
        raise BadInput("--metric_language", "", what)
    if options.score and not options.null_odds and options.null_score_diff_threshold is not None:
        what = "compares null odds; with --score, name them with --null_odds"
        raise BadInput("--null_score_diff_threshold", "", what)


def check_noted(data: Path, folder: Path) -> None:
    """BadInput if the evaluation data that a run noted cannot be read here, and a warning if it is another file."""
    if not (data.is_file() and os.access(data, os.R_OK)):  # a stranger's note may name a pipe, which would never end
        what = "the run's --eval_data: not found, not readable, or no regular file; name the data with --data"
        raise BadInput(data, "", what)
    noted = read_facts(folder).get("eval_sha256")
    if noted and fingerprint(data)["sha256"] != noted and os.environ.get("RANK", "0") == "0":
        tell(f"warning: {data}: is not the file that the run was scored on, or was changed since")


def check_outputs(options: EvaluateOptions) -> None:
    """BadInput if there is no data to score on, or if an output would replace it, another file, or another output."""
    if options.data is None:
        raise BadInput("--data", "", "name the SQuAD file to score on")
    outputs = [(name, Path(file)) for name in ("predictions", "rows", "report") if (file := getattr(options, name))]
    if options.predictions:
        folder = Path(options.predictions).parent
        outputs = [("predictions", folder / name) for name in (N_BEST_FILE, NULL_ODDS_FILE)] + outputs
    for i, (name, file) in enumerate(outputs):
        if file.resolve() in [other.resolve() for _, other in outputs[:i]]:
            raise BadInput(f"--{name}", str(file), "is the name of another output; name another file")
        for source in ("data", "score", "against", "null_odds"):
            if flags.is_same_file(file, getattr(options, source)):
                raise BadInput(f"--{name}", str(file), f"is the file at --{source}; name another file")
    if options.predictions:
        check_targets(options.predictions, options.overwrite)
    if options.rows:
        check_target(Path(options.rows), functools.partial(is_table, options.rows), options.overwrite)
    if options.report:
        file = Path(options.report)
        check_target(file, functools.partial(is_filled, PAGE, file), options.overwrite)


def score_file(options: EvaluateOptions, command: str) -> None:
    """Score a file of predictions."""
    given = options.null_score_diff_threshold
    threshold = OFFICIAL_THRESHOLD if given is None else given
    file, data = Path(str(options.score)), Path(str(options.data))
    # The official scorer calls a question unanswerable if its list of answers is empty, whatever else marks it.
    examples = read_squad(data, skip_bad_records=options.skip_bad_records, version_2_with_negative=True, needs_ids=True)
    against = read_answers(options.against, examples, data) if options.against else None  # before the work
    texts = read_predictions(file)
    null_odds = None if options.null_odds is None else read_null_odds(options.null_odds)
    scores = score(examples, texts, null_odds, threshold, options.metric_language)
    source = None
    if options.is_analysed:
        source = Source(file.stem, data.name, command, read_n_best(file.with_name(N_BEST_FILE), texts) or {})
    odds = null_odds or {}
    answers = {name: "" if odds.get(name, threshold) > threshold else text for name, text in texts.items()}
    evaluation = Evaluation(scores, {}, answers, needs_version_2(examples, True), threshold)
    finish(options, examples, evaluation, source, against)


def score_model(folder: Path, options: EvaluateOptions, command: str) -> None:
    """Answer the questions with a model, and score the answers."""
    from minibert.evaluation.calibration import evaluation_trust
    from minibert.evaluation.evaluate import evaluate
    from minibert.support import ranks
    from minibert.support.machine import keep_memory

    data = Path(str(options.data))
    ranks.join()
    keep_memory()
    if ranks.world_size() > 1:
        own = ("ckpt", "data", "predictions")  # each machine may have its own paths
        shared = {f"--{name}": value for name, value in vars(options).items() if name not in own}
        ranks.check_equal(shared | {"content of --data": fingerprint(data)})
    examples = read_squad(
        data,
        skip_bad_records=options.skip_bad_records,
        version_2_with_negative=options.version_2_with_negative,
    )
    against = read_answers(options.against, examples, data) if options.against else None  # before the work
    if options.is_analysed and not has_golds(examples):
        raise BadInput(data, "", "has no answers: there is nothing to analyse")
    chosen = values_of(options, WindowSettings, AnswerSettings, MachineSettings)
    chosen["metric_language"] = options.metric_language
    evaluation = evaluate(folder, examples, **chosen, keep_logits=options.is_analysed)
    if not ranks.is_main():
        return
    if not evaluation.scores:
        never_empty = '; "no answer" is not predicted without --version_2_with_negative'
        tell(f"{data} has no answers: there is nothing to score{'' if evaluation.is_version_2 else never_empty}")
    elif options.calibration:
        evaluation.scores.update(evaluation_trust(examples, evaluation, options.metric_language))
    source = source_of(evaluation, folder, options, command) if options.is_analysed else None
    finish(options, examples, evaluation, source, against)


def source_of(evaluation: Evaluation, folder: Path, options: EvaluateOptions, command: str) -> Source:
    """What a report shows of a model, beside its answers."""
    from minibert.training.progress import read_log

    n_best = {
        name: n_best_rows(one, evaluation.is_version_2, evaluation.answering)
        for name, one in evaluation.predictions.items()
    }
    lines = read_log(folder.parent)  # of the run whose checkpoint it is
    data = Path(str(options.data)).name
    explain = shlex.join(["minibert", "ask", "--ckpt", str(options.ckpt), "--explain", "answer.html"])
    return Source(str(options.ckpt), data, command, n_best, evaluation.windows, evaluation.logits, lines, explain)


def finish(
    options: EvaluateOptions,
    examples: list[Example],
    evaluation: Evaluation,
    source: Source | None,
    against: Mapping[str, str] | None,
) -> None:
    """Print the scores, and write what the options ask for.

    source: of the analysis, if there is one. against: the predictions that a report shows beside these.
    """
    scores: dict[str, Any] = evaluation.scores or {"total": len(examples)}
    rows: list[Row] = []
    if source:
        texts, is_v2, longest = evaluation.texts, evaluation.is_version_2, options.max_answer_length
        rows = make_rows(examples, texts, is_v2, source.n_best, source.windows, longest)
    if options.intervals:
        scores |= {f"{metric}_interval": interval(percents(rows, metric)) for metric in METRICS}
    try:  # printed first, because stdout needs no disk; the files are written even if printing fails
        print_scores(scores, evaluation.threshold, options.metric_language)
    finally:
        if options.predictions:
            write_predictions(Path(options.predictions), evaluation)
        if options.rows:
            write_rows(options.rows, rows)
        if options.report and source:
            beside = None
            if against is not None:
                beside = Path(str(options.against)).stem, make_rows(examples, against, evaluation.is_version_2)
            file = Path(options.report)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, make_report(examples, rows, source, beside))


def print_scores(scores: dict[str, Any], threshold: float, metric_language: str | None) -> None:
    """The scores as the last line of stdout; on stderr, what they may be compared with.

    For v2.0, what the threshold gives stands beside what the best one would have given on the same data.
    """
    if "best_reachable_f1" in scores:
        best = "best_reachable_exact", "best_reachable_exact_thresh", "best_reachable_f1", "best_reachable_f1_thresh"
        exact, at, f1, f1_at = (scores[key] for key in best)
        print(f"at the threshold:  exact {scores['exact']:.2f}, f1 {scores['f1']:.2f} at {threshold:g}")
        print(f"best on this data: exact {exact:.2f} at {at:g}, f1 {f1:.2f} at {f1_at:g} (optimistic)")
    print(json.dumps(scores), flush=True)
    if "f1" in scores:
        rules = "official rules, which are made for English; for other texts see --metric_language"
        if metric_language:
            rules = f"rules of --metric_language {metric_language}, not the official ones"
        tell(f"scored as SQuAD v{'2.0' if 'exact' in scores else '1.1'} by the {rules}")
