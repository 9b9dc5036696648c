"""Compare two systems on the same questions: is the difference more than chance, and where is it?

    minibert compare predictions-a.json predictions-b.json --data dev-v1.1.json

Each of the two is a file of predictions, a folder with `predictions.json`, or a model, which then answers first. The
last line of stdout is one JSON object. Files are compared without loading torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibert.commands import flags
from minibert.commands.notes import settings_of_run
from minibert.evaluation.analysis import METRICS, PROPERTIES, difference, groups
from minibert.evaluation.intervals import paired_interval
from minibert.evaluation.predictions import read_answers
from minibert.evaluation.rows import Row, make_rows
from minibert.evaluation.scorer import has_golds, needs_version_2
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.support.streams import counted, json_line, printable
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.training.settings import MachineSettings, option

LEAST_QUESTIONS = 30  # in a slice that is listed: of fewer, chance decides
SHOWN_SLICES = 8


@dataclass(frozen=True, kw_only=True)
class CompareOptions(MachineSettings):
    """Compare two files of predictions, or two models, on the same questions."""

    systems: Sequence[str] = option((), "predictions file, folder of one, or model", metavar="SYSTEM", positional=2)
    data: str | None = option(None, "SQuAD JSON that both answer; required", metavar="FILE")
    skip_bad_records: bool = option(False, "drop and count questions with faults instead of stopping")
    show: int = option(5, "print this many questions that only one of them answers right, for each", least=0)


def main(words: Sequence[str] | None = None) -> None:
    options = flags.read(CompareOptions, "compare", words)
    if options.data is None:
        raise BadInput("--data", "", "name the SQuAD file that both answer")
    examples = read_squad(options.data, skip_bad_records=options.skip_bad_records, version_2_with_negative=True)
    if not has_golds(examples):
        raise BadInput(options.data, "", "has no answers: there is nothing to compare by")
    is_v2 = needs_version_2(examples, True)
    first, second = (make_rows(examples, answers_of(name, examples, options), is_v2) for name in options.systems)
    result = compare(first, second)
    print_result(options, first, second, result)
    print(json.dumps(result))


def answers_of(name: str, examples: list[Example], options: CompareOptions) -> Mapping[str, str]:
    """The predictions in a file or a folder of outputs, else those that a model makes now."""
    for file in (Path(name), Path(name) / "predictions.json"):
        if file.is_file():
            return read_answers(file, examples, str(options.data))
    from minibert.evaluation.evaluate import evaluate

    folder = find_folder(name)
    machine = {"device": options.device, "dtype": options.dtype}
    return evaluate(folder, examples, **settings_of_run(folder, {"version_2_with_negative": True} | machine)).texts


def compare(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
    """Differences A - B in percentage points, with intervals and p-values; slices; ids that only one answers right.

    Swapping A and B negates the differences and changes nothing else.
    """
    result: dict[str, Any] = {"total": len(first)}
    result |= {metric: difference(first, second, metric) for metric in METRICS}
    result["slices"] = slice_differences(first, second, result["f1"]["difference"])
    pairs = list(zip(first, second))
    result["won"] = [a.id for a, b in pairs if a.exact_match > b.exact_match]
    result["lost"] = [a.id for a, b in pairs if a.exact_match < b.exact_match]
    return result


def slice_differences(first: Sequence[Row], second: Sequence[Row], whole: float) -> list[dict[str, Any]]:
    """The slices of at least LEAST_QUESTIONS questions, those first whose F1 differs most from the whole difference."""
    found: list[dict[str, Any]] = []
    for name in PROPERTIES:
        for label, group in groups(first, name).items():
            if len(group) >= min(LEAST_QUESTIONS, len(first)):
                a, b = ([100 * rows[i].f1 for i in group] for rows in (first, second))
                part = {"property": name, "value": label, "questions": len(group)}
                numbers = {"difference": (sum(a) - sum(b)) / len(group), "interval": list(paired_interval(a, b))}
                found.append(part | numbers)
    return sorted(found, key=lambda part: -round(abs(part["difference"] - whole), 9))


def print_result(options: CompareOptions, first: Sequence[Row], second: Sequence[Row], result: dict[str, Any]) -> None:
    """The comparison as a table for a person."""
    names = [printable(str(name), kept="") for name in (*options.systems, options.data)]
    print(f"A  {names[0]}\nB  {names[1]}\n{counted(result['total'], 'question')} of {names[2]}\n")
    print(f"{'':12}{'A':>8}{'B':>8}{'A - B':>8}   95 % interval         p")
    for name, title in METRICS.items():
        values = result[name]
        low, high = values["interval"]
        numbers = f"{values['a']:8.2f}{values['b']:8.2f}{values['difference']:+8.2f}"
        print(f"{title:12}{numbers}   {low:+.2f} to {high:+.2f}{values['p']:>12.4f}")
    print("\nF1, where the difference is most unlike that:")
    for part in result["slices"][:SHOWN_SLICES]:
        low, high = part["interval"]
        what = f"{part['property'].replace('_', ' ')}: {part['value']}"
        print(f"  {what:34}{part['questions']:>7}{part['difference']:+8.2f}   {low:+.2f} to {high:+.2f}")
    by_id = {a.id: (a, b) for a, b in zip(first, second)}
    for title, key in (("A is right and B is not", "won"), ("B is right and A is not", "lost")):
        print(f"\n{title}: {counted(len(result[key]), 'question')}")
        for name in result[key][: options.show]:
            a, b = by_id[name]
            gold = a.gold if key == "won" else b.gold
            shown = {"id": name, "question": a.question, "A": a.prediction, "B": b.prediction, "annotated": gold}
            print("  " + json_line(shown))
