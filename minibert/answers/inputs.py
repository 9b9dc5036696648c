"""The questions and contexts of a call of the pipeline, in any of their forms, as examples.

In: texts, lists, arrays, dicts. Out: `Example`s without answers, or BadInput for anything but text.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from minibert.support.errors import BadInput
from minibert.text.records import Example, text_fault


class Indexed(Protocol):
    """Items by their numbers, without `__iter__`: a `Dataset` of torch."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> str | Mapping[str, Any]: ...


Texts: TypeAlias = str | Mapping[str, Any] | Iterable[str] | Iterable[Mapping[str, Any]] | Indexed | None


def as_list(values: Any) -> list[Any] | None:
    """The items of a list, an array or another collection; None for one text or one dict, and for what has no items."""
    if isinstance(values, (str, bytes, Mapping)) or getattr(values, "ndim", 1) == 0:  # an array of no dimensions
        return None
    if isinstance(values, Iterable):
        return list(values)
    if hasattr(values, "__getitem__") and hasattr(values, "__len__"):
        # Python's own way without __iter__ ends at an IndexError, which such an object need not raise.
        return [values[i] for i in range(len(values))]
    return None


def is_pair(sample: Any) -> bool:
    """Whether this is a dict of a question and its context."""
    return isinstance(sample, Mapping) and {"question", "context"} <= sample.keys()


def split(samples: Any) -> tuple[Any, Any]:
    """The question and the context of a dict, or the lists of both of several dicts."""
    if is_pair(samples):
        return samples["question"], samples["context"]
    if (rows := as_list(samples)) is None:
        raise BadInput("pipeline", "", f"expected a question and a context, or a dict of both, found {samples!r:.80}")
    return split_dicts(rows)


def split_dicts(rows: list[Any], first: int = 0) -> tuple[list[Any], list[Any]]:
    """The questions and contexts of dicts; `first` is the number of the first one, for the message."""
    for i, row in enumerate(rows, first):
        if not is_pair(row):
            raise BadInput("pipeline", f"question {i}", f"expected a dict of question and context, found {row!r:.80}")
    return [row["question"] for row in rows], [row["context"] for row in rows]


def pair(question: Any, context: Any) -> list[Example]:
    """An example for each question with its context; one text goes with all texts of the other list."""
    questions, contexts = ([one] if (many := as_list(one)) is None else many for one in (question, context))
    for name, texts in (("question", questions), ("context", contexts)):
        for i, text in enumerate(texts):
            if fault := text_fault(text, may_be_blank=name == "context"):
                raise BadInput("pipeline", f"{name} {i}", fault)
    size = max(len(questions), len(contexts)) if questions and contexts else 0
    if any(len(texts) not in (1, size) for texts in (questions, contexts)):
        what = f"expected as many contexts as questions, or one; found {len(contexts)} for {len(questions)} questions"
        raise BadInput("pipeline", "", what)
    questions, contexts = (texts * size if len(texts) == 1 else texts for texts in (questions, contexts))
    return [Example(str(i), "", *texts) for i, texts in enumerate(zip(questions, contexts))]
