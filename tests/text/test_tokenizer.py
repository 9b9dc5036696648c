"""tokenizer.py: arrays of ids and offsets, the same from every kind of file; no text is ever special."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.text.tokenizer import load_tokenizer
from tests.builders import VOCABULARY, write_folder

ODD_TEXTS = [
    "",
    " ",
    "the clock tower, made in 1871 (iron).",
    "THE Clock\tof\r\nBasel\n\n",
    "caf\u00e9 CAF\u00c9 na\u00efve \u00e0",
    "cafe\u0301 n\u0303 a\u0301\u0323 b",
    "\u0301 leading mark",
    "\u0130stanbul stra\u00dfe \ufb01ne \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
    "clock\U0001f600tower \U0001f469\u200d\U0001f680 \U0001f1e8\U0001f1ed x",
    "\u4e00\u4e8cclock\u4e09 \u6771\u4eac\u3002 \U00020000 \u3042\u3044 \ud55c\uad6d\uc5b4",
    "the\u200bclock \u200d \ufeff \u00ad tower",
    "nul\x00in the\x00 \x07clock\x7f \ufffd",
    "tabs\t\tand\x0bfeeds\x0c \u2028line \u2029paragraph \u0085 next",
    "\u00a0spaces\u3000of\u2009x",
    "x" * 200,
    "the " + "clock" * 40 + " tower",
    "a" * 100 + " " + "a" * 101,
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u0639\u064e\u0631\u064e\u0628\u064a",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "$1,871.50 50% a_b c@d \u20ac3 \u2013 \u2014 \u201cold\u201d \u2019s ...",
    "##clock ##ed # #",
]


def lines(tokens) -> bytes:
    """The vocab.txt of these tokens."""
    return "".join(f"{token}\n" for token in tokens).encode()


def json_tokenizer(tokens=VOCABULARY, wordpiece=(), **changes) -> bytes:
    """A tokenizer.json as published ones are: special tokens that match in texts, truncation and padding switched on.

    `changes` are other parts, or `...` to leave one out; `wordpiece` changes its model.
    """
    from tokenizers import BertWordPieceTokenizer

    backend = BertWordPieceTokenizer({token: i for i, token in enumerate(tokens)})
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    content = json.loads(backend.to_str())
    content |= {"model": content["model"] | dict(wordpiece)} | changes
    return json.dumps({key: part for key, part in content.items() if part is not ...}).encode()


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Load the tokenizer of a new folder with these files."""
    return lambda files: load_tokenizer(write_folder(tmp_path_factory.mktemp("tokenizer"), files))


@pytest.fixture(scope="module")
def from_json(make):
    return make({"tokenizer.json": json_tokenizer()})


def encode(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    ((ids, offsets),) = tokenizer.encode([text])
    return ids.tolist(), [tuple(pair) for pair in offsets.tolist()]


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.tokens(tokenizer.encode([text])[0][0])


# ---- ids and offsets


def test_every_text_has_ids_and_offsets_as_arrays(tokenizer):
    encoded = tokenizer.encode(["Clock tower", "", "cafes"])
    assert [tokenizer.tokens(ids) for ids, _ in encoded] == [["clock", "tower"], [], ["caf", "##e", "##s"]]
    assert [offsets.tolist() for _, offsets in encoded] == [[[0, 5], [6, 11]], [], [[0, 3], [3, 4], [4, 5]]]
    assert {(ids.dtype, offsets.dtype) for ids, offsets in encoded} == {(np.dtype(np.int32),) * 2}
    assert [(ids.shape, offsets.shape) for ids, offsets in encoded] == [((2,), (2, 2)), ((0,), (0, 2)), ((3,), (3, 2))]
    assert tokenizer.encode([]) == []


def test_many_texts_are_encoded_as_each_by_itself(tokenizer):
    texts = [f"clock {i} of {'x' * (i % 7)}" for i in range(2345)]
    together = [(ids.tolist(), [tuple(pair) for pair in offsets.tolist()]) for ids, offsets in tokenizer.encode(texts)]
    assert len(together) == len(texts)
    assert all(together[i] == encode(tokenizer, texts[i]) for i in (0, 999, 1000, 1001, 1999, 2000, 2344))


def test_truncation_and_padding_of_a_tokenizer_json_are_switched_off(from_json):
    assert [len(ids) for ids, _ in from_json.encode(["the clock tower was made of iron", "clock"])] == [7, 1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    text=st.sampled_from(ODD_TEXTS) | st.text() | st.text("aclok \u00e9\u0301\u4e00\U0001f600\u200d[]SEP", max_size=30)
)
def test_any_text_has_the_same_tokens_from_both_kinds_and_offsets_inside_it(tokenizer, from_json, text):
    ids, offsets = encode(tokenizer, text)
    assert (ids, offsets) == encode(from_json, text)
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)  # `answer_span` needs both
    assert [end for _, end in offsets] == sorted(end for _, end in offsets)
    assert not {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id} & set(ids)


@pytest.mark.parametrize("kind", ["tokenizer", "from_json"])
def test_a_literal_special_token_stays_text(request, kind):
    tokenizer = request.getfixturevalue(kind)
    assert pieces(tokenizer, "the [SEP] [CLS]") == ["the", "[", "sep", "]", "[", "cls", "]"]


@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_the_special_ids_and_the_vocabulary_size_are_those_of_the_file(make, kind):
    tokens = ["a", "[UNK]", "b", "[SEP]", "[CLS]", "c", "[PAD]", "[MASK]"]
    tokenizer = make({kind: {"vocab.txt": lines, "tokenizer.json": json_tokenizer}[kind](tokens)})
    assert (tokenizer.sep_id, tokenizer.cls_id, tokenizer.pad_id, tokenizer.vocab_size) == (3, 4, 6, 8)
    assert repr(tokenizer) == "<uncased WordPiece tokenizer, 8 tokens>"
