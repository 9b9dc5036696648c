"""text/unknown.py: [UNK] is counted, and above a twentieth of the tokens a warning is due."""

import pytest

from minibert.text.records import Example
from minibert.text.unknown import count_unknown, warn_of_unknown
from minibert.text.windows import make_windows


@pytest.mark.parametrize(
    ("tokens", "unknown", "share"),
    [(20, 1, None), (20, 2, "10.0%"), (20, 20, "100.0%"), (41, 2, None), (8, 1, None), (8, 2, "25.0%")],
)
def test_a_share_of_unknown_tokens_above_a_twentieth_is_a_warning(tokenizer, tokens, unknown, share, capsys):
    texts = ["\u0e01"] * unknown + ["a"] * (tokens - unknown)
    windows = make_windows([Example("a", "", " ".join(texts[-4:]), " ".join(texts[:-4]), ())], tokenizer)
    counts = count_unknown(windows, tokenizer)
    assert counts == {"tokens": tokens, "unknown": unknown}
    warn_of_unknown(counts, "minilm")
    warning = capsys.readouterr().err
    expected = f"warning: {share} of the tokens are [UNK]: the vocabulary of minilm lacks"
    assert warning == "" if share is None else warning.startswith(expected)
