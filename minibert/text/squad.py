"""SQuAD JSON -> `Example`s: a question, its context, and the answers as slices of the context.

The file is nested: articles with paragraphs, a paragraph with its context and its questions (`qas`):

    {"data": [{"title": .., "paragraphs": [{"context": "Made in 1871.", "qas": [
        {"id": "q1", "question": "When?", "answers": [{"text": "1871", "answer_start": 8}]}]}]}]}

SQuAD v2.0 adds `is_impossible`: true for a question that its context does not answer. In: file names. Out: a list of
`Example`s, or BadInput that names file, place and fault.
"""

import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.support.streams import counted, printable, tell
from minibert.text.formats import format_of_file, format_of_json, refuse_format
from minibert.text.offsets import Search, short
from minibert.text.records import Example, text_fault, to_example

NO_ANSWERS = "no answers, and not marked is_impossible; --version_2_with_negative takes it as unanswerable"
MOST_FAULTS = 20  # shown; a file has the rest


def read_squad(
    files: str | Path | Iterable[str | Path],
    training: bool = False,
    skip_bad_records: bool = False,
    version_2_with_negative: bool = False,
    needs_ids: bool = False,
) -> list[Example]:
    """Read the questions of one file or several, in order.

    In training, and in a file that has any answer, a question must have an answer or be marked `is_impossible`; a file
    without a single answer (a test set) can be read for prediction. With `version_2_with_negative` a question without
    answers is unanswerable and needs no mark. Ids must be unique within a file, except in training. A missing id is the
    question's place, unless `needs_ids`. Raises BadInput with the first fault after all have been listed on stderr, or,
    with `skip_bad_records`, drops and counts the bad questions.
    """
    examples: list[Example] = []
    faults: list[BadInput] = []
    for file in [files] if isinstance(files, (str, Path)) else files:
        taken: Counter[str] = Counter()
        top = read_top(file)
        records = check_records(top, training, version_2_with_negative, needs_ids, taken)
        good = [record for _, record in records if isinstance(record, Example)]
        bad = [BadInput(file, place, record) for place, record in records if isinstance(record, str)]
        if taken and os.environ.get("RANK", "0") == "0":
            tell(f"warning: {file}: " + "; ".join(f"{what}: {count}" for what, count in taken.items()))
        if bad and skip_bad_records:
            dropped = (
                f"dropped {counted(count_questions(top) - len(good), 'question')} for {counted(len(bad), 'fault')}"
            )
            tell(f"{file}: {dropped}, the first at {bad[0].where}, {bad[0].what}")
        else:
            faults += bad
        if not good and not faults:
            raise BadInput(file, "data", "0 questions")
        examples += good
    if faults:
        raise list_faults(faults)
    return examples


def has_impossible(examples: Iterable[Example]) -> bool:
    """Whether some question is marked as unanswerable; a key that is false everywhere does not count."""
    return any(example.is_impossible for example in examples)


def list_faults(faults: list[BadInput]) -> BadInput:
    """Print the faults on stderr, if there are several, and return the error that ends the command."""
    first = faults[0]
    if len(faults) == 1:
        return first
    for line in shown([str(fault) for fault in faults]):
        tell(f"warning: {line}")
    fix = f"`minibert check --data {shlex.quote(str(first.file))} --fix OUT.json` repairs what is certain"
    what = f"{first.what} (the first of {len(faults)} faults, listed above; {fix})"
    return BadInput(first.file, first.where, what)


def shown(lines: list[str]) -> list[str]:
    """The first lines for the terminal, control characters escaped; all of them go to a file if they are more."""
    lines = [escape(line) for line in lines]
    if len(lines) <= MOST_FAULTS:
        return lines
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".faults.txt", delete=False) as opened:
        opened.writelines(line + "\n" for line in lines)
    return [*lines[:MOST_FAULTS], f".. all {len(lines)} are in {opened.name}"]


def escape(text: str) -> str:
    """The text on one line, with control characters escaped: a file must not steer the terminal."""
    return printable(text, kept="")


def read_top(file: str | Path) -> Any:
    """The JSON content of a SQuAD file; BadInput names another format and the command that converts it."""
    try:
        top = read_json(file)
    except BadInput:
        refuse_format(file, format_of_file(file))
        raise
    refuse_format(file, format_of_json(top))
    check_top(file, top)
    return top


def check_top(file: str | Path, top: Any) -> None:
    """BadInput unless the content has a list of articles, or what `articles` takes for one."""
    if isinstance(top, dict) and top and "data" not in top and all(isinstance(value, str) for value in top.values()):
        raise BadInput(file, "", "looks like a predictions file; expected SQuAD data {'data': [..]}")
    if not isinstance(listed := articles(top)[1], list):
        raise BadInput(file, "data", f"expected a list, {found_instead(listed)}{keys_of(top)}")


def articles(top: Any) -> tuple[str, Any]:
    """The place and the list of articles: under "data", or what stands in its place if a tool left out a level."""
    if isinstance(top, list):
        return "", top
    if isinstance(top, dict) and "data" not in top and ("paragraphs" in top or "qas" in top):
        return "", [top]
    return "data", top.get("data") if isinstance(top, dict) else None


def is_paragraph(article: Any) -> bool:
    """Whether a paragraph stands in the place of an article."""
    return isinstance(article, dict) and "qas" in article and "paragraphs" not in article


def walk(top: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (place, title, context, record) of every question; with a context of None, record says what is wrong."""
    above, listed = articles(top)
    for a, article in enumerate(listed):
        place = f"{above}[{a}]"
        if is_paragraph(article):
            yield from walk_paragraph(place, str(article.get("title") or ""), article)
            continue
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield f"{place}.paragraphs", "", None, f"expected a list, {found_instead(paragraphs)}{keys_of(article)}"
            continue
        for p, paragraph in enumerate(paragraphs):
            yield from walk_paragraph(f"{place}.paragraphs[{p}]", str(article.get("title") or ""), paragraph)


def walk_paragraph(place: str, title: str, paragraph: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """The (place, title, context, record) of each question of one paragraph, as `walk` gives them."""
    context, qas = (paragraph.get(key) if isinstance(paragraph, dict) else None for key in ("context", "qas"))
    if not isinstance(context, str):
        yield f"{place}.context", "", None, f"expected a string, {found_at(paragraph, 'context')}"
    elif fault := text_fault(context, may_be_blank=True):
        yield f"{place}.context", "", None, fault
    elif not isinstance(qas, list):
        yield f"{place}.qas", "", None, f"expected a list, {found_at(paragraph, 'qas')}"
    else:
        for q, record in enumerate(qas):
            yield f"{place}.qas[{q}]", title, context, record


def count_questions(top: Any) -> int:
    """All questions of a file, those of paragraphs that cannot be read included."""
    _, listed = articles(top)
    groups = [[one] if is_paragraph(one) else one.get("paragraphs") for one in listed if isinstance(one, dict)]
    paragraphs = [one for group in groups if isinstance(group, list) for one in group if isinstance(one, dict)]
    return sum(len(one["qas"]) for one in paragraphs if isinstance(one.get("qas"), list))


def found_instead(value: Any) -> str:
    return "but it is missing" if value is None else f"found a {type(value).__name__}"


def found_at(parent: Any, key: str) -> str:
    """What stands at a key instead of the right value, or beside which keys it is missing."""
    if isinstance(parent, dict) and key in parent:
        return "found null" if parent[key] is None else found_instead(parent[key])
    return f"but it is missing{keys_of(parent)}"


def keys_of(value: Any) -> str:
    """What stands where the right key does not, and where the formats are described."""
    found = f"the keys there are {short(list(value))}" if isinstance(value, dict) and value else f"found {short(value)}"
    return f"; {found}; docs/guide.md shows the formats that are read or converted"


def check_records(
    top: Any,
    training: bool,
    version_2_with_negative: bool,
    needs_ids: bool,
    taken: Counter[str],
    ids_may_repeat: bool = False,
) -> list[tuple[str, Example | str]]:
    """The place of each question, and its Example or, as text, what is wrong with it. In the order of the file.

    taken: counts non-standard input that was accepted. In training ids may repeat, too.
    """
    search, first_use = Search(), dict[str, str]()  # id -> place
    records: list[tuple[str, Example | str]] = []
    for place, title, context, record in walk(top):
        if context is None:
            records.append((place, record))
            continue
        try:
            example = to_example(record, title, context, None if needs_ids else place, search, taken)
            if not (training or ids_may_repeat) and first_use.setdefault(example.id, place) != place:
                where = first_use[example.id]
                raise ValueError(f"the id was used before, at {where}; to be scored, a file needs unique ids")
            records.append((place, example))
        except ValueError as fault:
            name = f" (id={short(record.get('id'))})" if isinstance(record, dict) else ""
            records.append((f"{place}{name}", str(fault)))
    if not version_2_with_negative and (training or any(getattr(record, "answers", ()) for _, record in records)):
        for i, (place, record) in enumerate(records):
            if isinstance(record, Example) and not record.answers and not record.is_impossible:
                records[i] = f"{place} (id={short(record.id)})", NO_ANSWERS
    return records
