"""text/unknown.py: [UNK] is counted, and above a twentieth of the tokens a warning is due."""

import pytest

from minibert.text.records import Example
from minibert.text.unknown import count_unknown, warn_of_unknown
from minibert.text.windows import make_windows


@pytest.mark.parametrize(("unknown", "share"), [(1, None), (2, "10.0%"), (20, "100.0%")])
def test_a_share_of_unknown_tokens_above_a_twentieth_is_a_warning(tokenizer, unknown, share, capsys):
    texts = ["\u0e01"] * unknown + ["a"] * (20 - unknown)
    windows = make_windows([Example("a", "", " ".join(texts[-4:]), " ".join(texts[:-4]), ())], tokenizer)
    counts = count_unknown(windows, tokenizer)
    assert counts == {"tokens": 20, "unknown": unknown}
    warn_of_unknown(counts, "minilm")
    warning = capsys.readouterr().err
    expected = f"warning: {share} of the tokens are [UNK]: the vocabulary of minilm lacks"
    assert warning == "" if share is None else warning.startswith(expected)
