"""A repaired copy of a SQuAD file, and the list of its changes. Only what leaves no choice is changed.

A wrong offset is repaired if the answer's text stands in the context once, or if one unit (bytes, UTF-16) fits every
wrong offset of the question. What is read as it is (numbers as ids, "true" as text) is written as SQuAD has it. In:
parsed JSON, which is edited. Out: the content of the copy, and its changes.
"""

from collections import Counter
from typing import Any, NamedTuple

from minibert.text.offsets import Search, short
from minibert.text.records import answer_list, start_of, to_gold, to_id, to_mark
from minibert.text.squad import articles, is_paragraph, walk


class Change(NamedTuple):
    """A value of the copy that is not as it was."""

    place: str
    what: str


def repair(top: Any) -> tuple[Any, list[Change]]:
    """Edit the content of a SQuAD file in place; return it in SQuAD's nesting, with the changes.

    What cannot be repaired with certainty stays as it was.
    """
    changes: list[Change] = []
    search = Search()
    for place, _, context, record in walk(top):
        if isinstance(context, str) and isinstance(record, dict):
            changes += [Change(place, what) for what in repair_record(record, context, place, search)]
    above, listed = articles(top)
    if any(is_paragraph(article) for article in listed):
        listed = [
            {"title": str(article.get("title") or ""), "paragraphs": [article]} if is_paragraph(article) else article
            for article in listed
        ]
        changes.append(Change(above, "paragraphs put into articles"))
    if above:
        return top | {"data": listed}, changes
    return {"version": "1.1", "data": listed}, [*changes, Change("data", "the articles put under this key")]


def repair_record(record: dict[str, Any], context: str, place: str, search: Search) -> list[str]:
    """Repair one question's record and say what was changed."""
    changes = []

    def put(key: str, value: Any) -> None:
        if key not in record or type(record[key]) is not type(value) or record[key] != value:
            changes.append(f"{key}: {short(record.get(key))} -> {short(value)}")
            record[key] = value

    put("id", to_id(record.get("id"), place))
    try:
        mark = to_mark(record.get("is_impossible"))
        if mark is not None:
            put("is_impossible", mark)
        elif "is_impossible" in record:
            changes.append(f"is_impossible: {short(record.pop('is_impossible'))} removed")
        answers = [{"text": one} if isinstance(one, str) else one for one in answer_list(record, mark)]
    except ValueError:
        return changes
    if answers != (record.get("answers") or []):
        changes.append("answers: made a list of {'text', 'answer_start'}")
        record["answers"] = answers
    kept = []
    for number, answer in enumerate(answers):
        new = repair_answer(answer, context, search, answers)
        is_empty = new is None and answer is not None
        if not is_empty:
            kept.append(new)
        if is_empty:
            changes.append(f"answers[{number}]: removed, its text is empty")
        elif new is not answer and (new != answer or type(new["answer_start"]) is not type(answer["answer_start"])):
            before, after = ((a.get("text"), a.get("answer_start")) for a in (answer, new))
            changes.append(f"answers[{number}]: {short(before[0])} at {before[1]!r} -> {short(after[0])} at {after[1]}")
    if "answers" in record and record["answers"] is not None:
        record["answers"] = kept
    return changes


def repair_answer(answer: Any, context: str, search: Search, answers: list[Any]) -> Any:
    """The repaired answer; the answer itself if it is right or its repair is not certain; None if its text is empty."""
    try:
        gold = to_gold(answer, context, search, Counter())
    except ValueError:
        start = certain_start(answer, context, search, answers)
        return answer if start is None else answer | {"text": str(answer["text"]).strip(), "answer_start": start}
    return None if gold is None else answer | {"text": gold.text, "answer_start": gold.start}


def certain_start(answer: Any, context: str, search: Search, answers: list[Any]) -> int | None:
    """Where the text must start: its only place, or where the one unit puts it that fits all answers of the record."""
    try:
        text, start = str(answer["text"]).strip(), start_of(answer)
        diagnosis = search.diagnose(text, start, context)
        if diagnosis.start is None and diagnosis.unit:
            wrong = [a for a in answers if not context.startswith(str(a["text"]), start_of(a) or 0)]
            found = (search.diagnose(str(a["text"]).strip(), start_of(a), context) for a in wrong)
            return diagnosis.unit_start if {one.unit for one in found} == {diagnosis.unit} else None
        return diagnosis.start
    except (ValueError, TypeError, KeyError):
        return None
