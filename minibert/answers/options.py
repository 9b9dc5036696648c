"""The options of the pipeline and of its calls: their names, defaults and least values.

In: keyword arguments. Out: a dict with a value for every option, or BadInput for one that is unknown or too small.
"""

import operator
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypedDict

from minibert.answers.predict import SHORTEST_WINDOW
from minibert.answers.spans import EVAL_BATCH_SIZE
from minibert.support.errors import BadInput
from minibert.text.windows import DOC_STRIDE, MAX_QUERY_LENGTH


class Options(TypedDict, total=False):
    """What a call can be told, and `pipeline` for all calls; None stands for the default."""

    top_k: int | None  # answers to a question
    topk: int | None  # the same
    doc_stride: int | None  # tokens that neighbouring windows share
    max_answer_len: int | None  # tokens
    max_seq_len: int | None  # tokens of a window; None is 384, or the model's positions if fewer
    max_question_len: int | None  # tokens, the rest is cut off
    handle_impossible_answer: bool | None  # the empty answer takes part, with its own score
    align_to_words: bool | None  # widen answers to the words that they cut, as was that pipeline's default
    batch_size: int | None  # windows computed together
    padding: bool | str | None  # no effect


DEFAULTS: Options = {
    "top_k": 1,
    "doc_stride": DOC_STRIDE,
    "max_answer_len": 15,
    "max_seq_len": None,
    "max_question_len": MAX_QUERY_LENGTH,
    "handle_impossible_answer": False,
    "align_to_words": False,
    "batch_size": EVAL_BATCH_SIZE,
    "padding": None,
}
LEAST = dict.fromkeys(("top_k", "max_answer_len", "max_question_len", "batch_size"), 1)
LEAST |= {"doc_stride": 0, "max_seq_len": SHORTEST_WINDOW}


def merge(defaults: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with the changes that are not None. Raises BadInput for an unknown name or a size too small."""
    given = {name: value for name, value in changes.items() if value is not None}
    if "topk" in given:
        given["top_k"] = one_of("top_k", given.get("top_k"), "topk", given.pop("topk"))
    for name, value in given.items():
        if name not in DEFAULTS:
            raise BadInput("pipeline", name, f"is not an option; expected one of {', '.join(DEFAULTS)}")
        if name in LEAST:
            number = whole(value)
            if number is None or number < LEAST[name]:
                raise BadInput("pipeline", name, f"expected an integer of at least {LEAST[name]}, found {value!r}")
            given[name] = number
    return {**defaults, **given}


def whole(value: Any) -> int | None:
    """An integer of Python, numpy or torch as an `int`; None for anything else, a bool included."""
    with suppress(TypeError):
        return None if isinstance(value, bool) else operator.index(value)
    return None


def one_of(name: str, value: Any, other: str, other_value: Any) -> Any:
    """The value of a setting with two names; BadInput if both are given."""
    if value is not None and other_value is not None:
        raise BadInput("pipeline", name, f"is the same as {other}; give one of them")
    return other_value if value is None else value
