"""text/unread.py: [UNK] is counted, and above a twentieth of the tokens a warning is due; so it is where a question is
truncated."""

import pytest

from minibert.text.records import Example
from minibert.text.unread import count_unread, warn_of_unread
from minibert.text.windows import make_windows


@pytest.mark.parametrize(
    ("tokens", "unknown", "share"),
    [(20, 1, None), (20, 2, "10.0%"), (20, 20, "100.0%"), (41, 2, None), (8, 1, None), (8, 2, "25.0%")],
)
def test_a_share_of_unknown_tokens_above_a_twentieth_is_a_warning(tokenizer, tokens, unknown, share, capsys):
    texts = ["\u0e01"] * unknown + ["a"] * (tokens - unknown)
    examples = [Example("a", "", " ".join(texts[-4:]), " ".join(texts[:-4]), ())]
    counts = count_unread(examples, make_windows(examples, tokenizer), tokenizer)
    assert counts == {"tokens": tokens, "unknown": unknown, "truncated": 0}
    warn_of_unread(counts, "minilm")
    warning = capsys.readouterr().err
    expected = f"warning: {share} of the tokens are [UNK]: the vocabulary of minilm lacks"
    assert warning == "" if share is None else warning.startswith(expected)


@pytest.mark.parametrize(("sizes", "truncated"), [((64, 8, 6), 1), ((64, 8, 5), 2), ((9, 2, 64), 2), ((64, 8, 7), 0)])
def test_truncated_questions_are_counted_and_a_warning(tokenizer, sizes, truncated, capsys):
    questions = ["a", "a b c d e f", " a b c d e f g ", "a b c d e"]
    examples = [Example(str(i), "", question, 9 * "c d ", ()) for i, question in enumerate(questions)]
    counts = count_unread(examples, make_windows(examples, tokenizer, *sizes), tokenizer)
    assert counts["truncated"] == truncated
    told = set()
    warn_of_unread(counts, "minilm", told)
    warn_of_unread(counts, "minilm", told)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(truncated)
    if truncated:
        assert lines[0].startswith("warning: questions are truncated") and "max_query_length" in lines[0]
