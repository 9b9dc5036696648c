"""Find the faults of a data file, count what it holds, and write a repaired copy, converted to SQuAD if need be.

    minibert check --data train.json --eval_data dev.json --model minilm
    minibert check --data rows.csv --fix train.json

Never loads torch; without a model, tokens are not counted.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibert.answers.spans import MAX_ANSWER_LENGTH
from minibert.commands import flags
from minibert.evaluation.check import count_examples, count_tokens, count_windows, leakage, oracle, repeated_ids
from minibert.evaluation.scorer import has_golds
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.support.streams import counted, tell
from minibert.support.writing import check_target, write_together
from minibert.text.convert import convert
from minibert.text.records import Example
from minibert.text.repair import Change, repair
from minibert.text.squad import check_records, check_top, escape, shown
from minibert.text.unread import count_unread, warn_of_unread
from minibert.text.windows import make_windows
from minibert.training.settings import NAME_OR_DIR, REVISION, WindowSettings, option


@dataclass(frozen=True, kw_only=True)
class CheckOptions(WindowSettings):
    """Find the faults of a data file, count what it holds, and repair or convert it."""

    data: str | None = option(None, "the file to check: SQuAD JSON, or a format that can be converted", metavar="FILE")
    eval_data: str | None = option(
        None, "a second file to check, and to compare with --data for leakage", metavar="FILE"
    )
    model: str | None = option(None, f"whose tokenizer counts tokens: {NAME_OR_DIR}", metavar="NAME_OR_DIR")
    revision: str | None = option(None, REVISION, metavar="REV")
    fix: str | None = option(None, "write a repaired copy of --data here, in SQuAD's format", metavar="OUT")
    overwrite: bool = option(False, "let --fix replace an existing file")
    json: bool = option(False, "print the report as one JSON object")
    max_answer_length: int = option(MAX_ANSWER_LENGTH, "longest answer, in tokens", least=1)
    version_2_with_negative: bool = option(
        False, "a question without answers is unanswerable, even where the file does not mark it is_impossible"
    )


def main(words: Sequence[str] | None = None) -> None:
    options = flags.read(CheckOptions, "check", words)
    if options.data is None:
        raise BadInput("--data", "", "name the file to check")
    if options.fix:
        check_output(options)
    is_v2 = options.version_2_with_negative
    report, top, examples = check_file(options.data, is_v2, ids_may_repeat=True)
    if options.fix:
        top, changes = repair(top)
        changes = [Change(line, "NaN -> null") for line in report["nan"]] + changes
        write_copy(Path(options.fix), top, changes)
        report["changes"] = [change._asdict() for change in changes]
        report["faults_left"], examples, _ = check_content(top, is_v2, ids_may_repeat=True)
    if options.eval_data:
        report["eval_data"], _, eval_examples = check_file(options.eval_data, is_v2)
        report["eval_data"] |= count_examples(eval_examples, is_v2)
        report["leakage"] = leakage(examples, eval_examples)
    report |= count_examples(examples, is_v2) | {"repeated_ids": repeated_ids(examples)}
    report |= model_part(examples, options) if options.model and examples else {}
    faults = report.get("faults_left", report["faults"])
    if not faults and not has_golds(examples):
        what = "no question has an answer: the file can be answered, but not trained on or scored"
        tell(f"warning: {options.data}: {what}")
    if report["repeated_ids"]["count"]:
        tell(f"warning: {options.data}: ids repeat: train takes such a file, evaluate refuses it")
    if options.json:
        print(json.dumps(report, ensure_ascii=True))
    else:
        print_report(report, options)
    if faults := faults + report.get("eval_data", {}).get("faults", []):
        raise BadInput(options.data, "", f"{counted(len(faults), 'fault')}, listed above")


def check_output(options: CheckOptions) -> None:
    """BadInput if the copy or the list of its changes could not be written, or would replace what it must not."""
    copy = Path(str(options.fix))
    if not copy.parent.is_dir():
        raise BadInput("--fix", str(options.fix), "its folder does not exist")
    for file in (copy, changes_of(copy)):
        if any(flags.is_same_file(file, data) for data in (options.data, options.eval_data)):
            raise BadInput("--fix", str(file), "is the data itself; name another file")
        check_target(file, lambda: False, options.overwrite)


def changes_of(copy: Path) -> Path:
    """The file beside a copy that lists its changes."""
    return Path(f"{copy}.changes.txt")


def check_file(
    file: str, version_2_with_negative: bool, ids_may_repeat: bool = False
) -> tuple[dict[str, Any], Any, list[Example]]:
    """The report on a file's faults, its content as SQuAD has it, and its good questions.

    Raises BadInput for a file without any question.
    """
    name, top, nan_lines = convert(file)
    check_top(file, top)
    faults, examples, taken = check_content(top, version_2_with_negative, ids_may_repeat)
    if not examples and not faults:
        raise BadInput(file, "data", "0 questions")
    nan = [{"place": line, "what": "NaN is not a JSON value; write null"} for line in nan_lines]
    report = {"data": file, "format": name or "SQuAD", "faults": nan + faults, "taken": taken, "nan": nan_lines}
    return report, top, examples


def check_content(
    top: Any, version_2_with_negative: bool, ids_may_repeat: bool = False
) -> tuple[list[dict[str, str]], list[Example], dict[str, int]]:
    """All faults of the questions, the good questions, and how often something was read that SQuAD writes otherwise."""
    taken: Counter[str] = Counter()
    records = check_records(top, False, version_2_with_negative, False, taken, ids_may_repeat)
    faults = [{"place": place, "what": record} for place, record in records if isinstance(record, str)]
    return faults, [record for _, record in records if isinstance(record, Example)], dict(taken)


def write_copy(copy: Path, top: Any, changes: Sequence[Change]) -> None:
    """Write the copy and the list of changes: both appear whole, or neither."""
    text = json.dumps(top, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    write_together({changes_of(copy): "".join(f"{escape(': '.join(change))}\n" for change in changes), copy: text})


def model_part(examples: Sequence[Example], options: CheckOptions) -> dict[str, Any]:
    """What only a tokenizer can tell: windows, unknown tokens, lengths, and the oracle's scores."""
    from minibert.text.tokenizer import load_tokenizer

    folder = find_folder(str(options.model), options.revision)
    tokenizer, options = load_tokenizer(folder), flags.fitted(options, folder)
    windows = make_windows(examples, tokenizer, *options.sizes)
    counts = count_windows(examples, windows, tokenizer, options.max_answer_length)
    warn_of_unread(count_unread(examples, windows, tokenizer), str(options.model))
    return {
        "windows": counts,
        "tokens": count_tokens(windows),
        "oracle": oracle(examples, tokenizer, options.sizes, options.max_answer_length),
    }


def print_report(report: dict[str, Any], options: CheckOptions) -> None:
    """The report for people, on stdout."""
    for part in filter(None, (report, report.get("eval_data"))):
        print(f"{escape(part['data'])}: {part['format']}, {counted(len(part['faults']), 'fault')}")
        print_faults(part["faults"])
        for what, count in part["taken"].items():
            print(f"{what}: {count}")
        if "faults_left" in part:
            changes = f"{counted(len(report['changes']), 'change')}, listed in {escape(str(options.fix))}.changes.txt"
            print(f"{escape(str(options.fix))}: {changes}; left to repair by hand: {len(part['faults_left'])}")
            print_faults(part["faults_left"])
        for name, value in part.items():
            if isinstance(value, (int, str)) and name not in ("data", "format"):
                print(f"{name.replace('_', ' ')}: {value}")
            elif isinstance(value, dict) and "ids" in value:
                print_ids(name.replace("_", " "), value)
    for name, value in report.get("leakage", {}).items():
        print_ids(f"in both files: {name.replace('_', ' ')}", value)
    if report["format"] != "SQuAD" and not options.fix:
        print("not SQuAD yet: train and evaluate read the copy that --fix OUT.json writes")
    if "windows" in report:
        print_windows(report)
    else:
        print("tokens and windows are not counted: name a model with --model")


def print_windows(report: dict[str, Any]) -> None:
    """The counts that need a tokenizer, and a histogram of the contexts' lengths."""
    tokens = report["tokens"]
    print(f"windows: {json.dumps(report['windows'])}")
    print(
        f"tokens of each question's context: median {tokens['median']}, 95 % up to {tokens['percentile_95']}, "
        f"longest {tokens['longest']}"
    )
    most = max(count for _, _, count in tokens["histogram"])
    for low, high, count in tokens["histogram"]:
        print(f"  {low:>6} - {high:<6} {'#' * -(-40 * count // most):<40} {count}")
    print(f"the best score that is possible: {json.dumps(report['oracle'])}")


def print_ids(name: str, value: dict[str, Any]) -> None:
    shown = ", ".join(escape(one) for one in value["ids"][:5]) + (", .." if value["count"] > 5 else "")
    print(f"{name}: {value['count']}" + (f" ({shown})" if value["ids"] else ""))


def print_faults(faults: Sequence[dict[str, str]]) -> None:
    for line in shown([f"{fault['place']}: {fault['what']}" for fault in faults]):
        print(f"  {line}")
