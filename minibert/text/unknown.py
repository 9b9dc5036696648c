"""How much of a text a vocabulary lacks.

A character that no token holds becomes [UNK], and with it its word. A model answers such a text all the same, from what
is left. In: windows and their tokenizer. Out: counts, and a warning on stderr.
"""

import os
from collections import Counter
from collections.abc import Mapping

from minibert.support.streams import tell
from minibert.text.tokenizer import Tokenizer
from minibert.text.windows import Windows

MOST_UNKNOWN = 0.05  # share of [UNK] above which a warning is due


def count_unknown(windows: Windows, tokenizer: Tokenizer) -> Counter[str]:
    """The `tokens` of questions and contexts in all windows, and how many of them are `unknown`: [UNK]."""
    specials = 3 * len(windows)  # [CLS] and two [SEP]
    return Counter(tokens=len(windows.ids) - specials, unknown=int((windows.ids == tokenizer.unk_id).sum()))


def warn_of_unknown(counts: Mapping[str, int], model: str | os.PathLike) -> None:
    """Warn if so many tokens are [UNK] that the model can hardly read the texts.

    counts: of `count_unknown`, perhaps of several sets of windows together. model: the name of the tokenizer's model.
    """
    share = counts["unknown"] / max(1, counts["tokens"])
    if share > MOST_UNKNOWN and counts["unknown"] > 1:  # not for one emoji in a short text
        lacks = f"the vocabulary of {model} lacks this language or its characters"
        tell(f"warning: {share:.1%} of the tokens are [UNK]: {lacks}")
