"""What a question is like, whatever a system predicts: its words, its lengths, the place of its answer, the agreement.

In: an `Example`. Out: the properties by which `rows.py` and `analysis.py` group results. Length, position and overlap
are those of the first annotated answer, so that two systems are compared on the same slices.
"""

import bisect
import re
from functools import lru_cache
from typing import Any

import numpy as np

from minibert.evaluation.scorer import exact_match, f1, normalize
from minibert.text.records import Example
from minibert.text.windows import MOST_ANSWERS

QUESTION_WORDS = {word: word for word in "what who when where which why how".split()} | {"whom": "who", "whose": "who"}
# Words of a question that say nothing about where its answer stands.
COMMON_WORDS = frozenset(
    "what who whom whose when where which why how many much is are was were be been do does did has have had can could "
    "of in on at to for from by with as and or that this it its their his her there".split()
)
# After ".", "!" or "?" and before a capital or a digit; not after an initial ("J. Smith", "U.S. Army").
SENTENCE_END = re.compile(r"(?<!\b[A-Z])[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W_a-z])|[。！？]|\n+")


def properties(example: Example) -> dict[str, Any]:
    """The properties of a question, under the names of the fields of `Row`."""
    first = example.answers[0] if example.answers else None
    agreed = agreement(example)
    return {
        "agreement": agreed[1] if agreed else None,
        "question_word": question_word(example.question),
        "question_length": len(example.question.split()),
        "context_length": count_words(example.context),
        "answer_length": len(first.text.split()) if first else 0,
        "position": first.start / len(example.context) if first else None,
        "overlap": lexical_overlap(example),
    }


def question_word(question: str) -> str:
    """what, who, when, .., "how many" for a number, "other" without a question word: the first in the question."""
    words = normalize(question).split()
    for i, word in enumerate(words):
        if word in QUESTION_WORDS:
            is_number = word == "how" and words[i + 1 : i + 2] in (["many"], ["much"])
            return "how many" if is_number else QUESTION_WORDS[word]
    return "other"


def lexical_overlap(example: Example) -> float | None:
    """Share of the question's words, common ones aside, that the sentence of the first answer has."""
    words = set(normalize(example.question).split()) - COMMON_WORDS
    if not words or not example.answers:
        return None
    sentence = sentence_of(example.context, example.answers[0].start)
    return len(words & sentence_words(example.context, sentence)) / len(words)


@lru_cache(maxsize=1024)
def sentence_words(context: str, sentence: int) -> set[str]:
    """The normalized words of one sentence, by its number."""
    bounds = [0, *sentence_ends(context), len(context)]
    return set(normalize(context[bounds[sentence] : bounds[sentence + 1]]).split())


def sentence_of(context: str, character: int) -> int:
    """The number of the sentence that a character is in."""
    return bisect.bisect_right(sentence_ends(context), character)


@lru_cache(maxsize=64)  # questions of one context follow each other
def sentence_ends(context: str) -> list[int]:
    """The first character after each sentence but the last, by a rule of punctuation; abbreviations can mislead it."""
    return [match.end() for match in SENTENCE_END.finditer(context)]


@lru_cache(maxsize=64)
def count_words(context: str) -> int:
    return len(context.split())


def agreement(example: Example) -> tuple[float, float] | None:
    """Exact match and F1 of each annotator against all others, averaged; None with fewer than two answers.

    Of MOST_ANSWERS annotators at most: the pairs grow with the square of their number.
    """
    golds = [gold.text for gold in example.answers[:MOST_ANSWERS]]
    if len(golds) < 2:
        return None
    pairs = [[match(one, other) for j, other in enumerate(golds) if j != i] for i, one in enumerate(golds)]
    exact, overlap = np.array(pairs).max(axis=1).mean(axis=0)  # of (annotators, others, 2)
    return float(exact), float(overlap)


@lru_cache(maxsize=1024)  # annotators often agree
def match(one: str, other: str) -> tuple[float, float]:
    """Exact match and F1 of two texts, 0 to 1."""
    return exact_match(one, other), f1(one, other)
