"""What a model does not read of a text: characters that its vocabulary lacks, and the ends of long questions.

A character that no token holds becomes [UNK], and with it its word. A question is truncated to `max_query_length`
tokens. A model answers all the same, from what is left. In: windows and their tokenizer. Out: counts, and warnings on
stderr.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from minibert.support.streams import tell
from minibert.text.records import Example
from minibert.text.tokenizer import Tokenizer
from minibert.text.windows import Windows

MOST_UNKNOWN = 0.05  # share of [UNK] above which a warning is due


def count_unread(examples: Sequence[Example], windows: Windows, tokenizer: Tokenizer) -> Counter[str]:
    """Tokens of questions and contexts in all windows, the `unknown` ones among them, and `truncated` questions."""
    specials = 3 * len(windows)  # [CLS] and two [SEP]
    unknown = int((windows.ids == tokenizer.unk_id).sum())
    kept = windows.context_start[np.searchsorted(windows.example, np.arange(len(examples)))] - 2  # of each question
    most = int(kept.max(initial=0))  # all truncated questions have this length: only these are encoded again
    longest = [example.question.strip() for example, size in zip(examples, kept) if size == most]
    truncated = sum(len(ids) > most for ids, _ in tokenizer.encode(longest))
    return Counter(tokens=len(windows.ids) - specials, unknown=unknown, truncated=truncated)


def warn_of_unread(counts: Mapping[str, int], model: str | os.PathLike, told: set[str] | None = None) -> None:
    """Warn if so many tokens are [UNK] that the model can hardly read the texts, and if questions are truncated.

    counts: of `count_unread`, perhaps of several sets of windows together. model: the name of the tokenizer's model.
    told: the warnings that were given before, and need not be again; new ones are added.
    """
    told = set() if told is None else told
    share = counts["unknown"] / max(1, counts["tokens"])
    is_foreign = share > MOST_UNKNOWN and counts["unknown"] > 1  # not for one emoji in a short text
    if is_foreign and "unknown" not in told:
        told.add("unknown")
        lacks = f"the vocabulary of {model} lacks this language or its characters"
        tell(f"warning: {share:.1%} of the tokens are [UNK]: {lacks}")
    if counts["truncated"] and "truncated" not in told:
        told.add("truncated")
        remedy = "a larger max_query_length (in a pipeline max_question_len) or max_seq_length keeps more"
        tell(f"warning: questions are truncated to the tokens that fit; {remedy}")
