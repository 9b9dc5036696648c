"""tokenizer.py: the same ids and offsets from every kind of file and as in transformers; no text is ever special."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.support.errors import BadInput
from minibert.text.tokenizer import load_tokenizer
from minibert.text.tokenizer_files import SETTINGS, SPECIAL_TOKENS
from tests.builders import VOCABULARY, edit_bytes

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


VOCAB = {"vocab.txt": lines(VOCABULARY)}
CASED = {"vocab.txt": lines([*VOCABULARY, "Clock"])}


def as_bytes(content) -> bytes:
    """Bytes as they are, anything else as JSON."""
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def write_folder(folder, files: dict):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(as_bytes(content))
    return folder


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Load the tokenizer of a new folder with these files; keywords are entries of its tokenizer_config.json."""

    def make(files, **settings):
        files = files | ({"tokenizer_config.json": settings} if settings else {})
        return load_tokenizer(write_folder(tmp_path_factory.mktemp("tokenizer"), files))

    return make


@pytest.fixture(scope="module")
def from_json(make):
    return make({"tokenizer.json": json_tokenizer()})


def encode(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    ((ids, offsets),) = tokenizer.encode([text])
    return ids.tolist(), [tuple(pair) for pair in offsets.tolist()]


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.tokens(tokenizer.encode([text]).ids)


# ---- ids and offsets


def test_encodings_are_flat_arrays_of_one_text_after_the_other(tokenizer):
    encodings = tokenizer.encode(["Clock tower", "", "cafes"])
    assert tokenizer.tokens(encodings.ids) == ["clock", "tower", "caf", "##e", "##s"]
    assert encodings.bounds.tolist() == [0, 2, 2, 5]
    assert encodings.offsets.tolist() == [[0, 5], [6, 11], [0, 3], [3, 4], [4, 5]]
    assert (encodings.ids.dtype, encodings.offsets.dtype) == (np.int32, np.int32)
    assert [(ids.tolist(), offsets.tolist()) for ids, offsets in encodings] == [
        (encodings.ids[first:stop].tolist(), encodings.offsets[first:stop].tolist())
        for first, stop in ((0, 2), (2, 2), (2, 5))
    ]
    assert (len(encodings), repr(encodings)) == (3, "<5 tokens of 3 texts>")


@pytest.mark.parametrize("texts", [[], [""], ["", "\x00"]])
def test_texts_without_a_token_give_empty_arrays(tokenizer, texts):
    encodings = tokenizer.encode(texts)
    assert encodings.ids.shape == (0,) and encodings.offsets.shape == (0, 2)
    assert encodings.bounds.tolist() == [0] * (len(texts) + 1)


def test_many_texts_are_encoded_as_each_by_itself(tokenizer):
    texts = [f"clock {i} of {'x' * (i % 7)}" for i in range(2345)]
    together = [(ids.tolist(), [tuple(pair) for pair in offsets.tolist()]) for ids, offsets in tokenizer.encode(texts)]
    assert len(together) == len(texts)
    assert all(together[i] == encode(tokenizer, texts[i]) for i in (0, 999, 1000, 1001, 1999, 2000, 2344))


def test_truncation_and_padding_of_a_tokenizer_json_are_switched_off(from_json):
    assert np.diff(from_json.encode(["the clock tower was made of iron", "clock"]).bounds).tolist() == [7, 1]


@settings(max_examples=200, deadline=None, derandomize=True)
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


# ---- peers


def assert_as_in_transformers(tokenizer, peer) -> None:
    for text in ODD_TEXTS:
        expected = peer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encode(tokenizer, text) == (expected["input_ids"], expected["offset_mapping"]), text


@pytest.mark.parametrize(("is_lower", "strip"), list(product([True, False], [None, True, False])))
def test_ids_and_offsets_are_those_of_transformers(tmp_path, is_lower, strip):
    transformers = pytest.importorskip("transformers")
    tokens = [*VOCABULARY, "The", "Clock", "caf\u00e9", "\u00e9", "##\u00e9", "\u0301", "##\u0301", "\u4e00", "\u00e0"]
    settings = {"do_lower_case": is_lower, "strip_accents": strip, "tokenizer_class": "BertTokenizer"}
    write_folder(tmp_path, {"vocab.txt": lines(tokens), "tokenizer_config.json": settings})
    peer = transformers.BertTokenizerFast.from_pretrained(tmp_path, **settings)
    assert_as_in_transformers(load_tokenizer(tmp_path), peer)


def test_minilm_is_read_alike_from_each_of_its_files_and_as_transformers_reads_it(minilm_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    write_folder(tmp_path, {"vocab.txt": (minilm_folder / "vocab.txt").read_bytes()})
    peer = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    for folder in (minilm_folder, tmp_path):
        assert_as_in_transformers(load_tokenizer(folder), peer)


# ---- casing and accents of a vocab.txt


@pytest.mark.parametrize(
    ("added", "settings", "text", "expected"),
    [
        (["Clock"], {}, "Clock clock", ["Clock", "clock"]),  # a capital: cased
        (["##K"], {}, "cK", ["c", "##K"]),  # in a word piece too
        (["[unused1]", "[Q]"], {}, "CLOCK", ["clock"]),  # capitals in special tokens only: uncased
        (["Clock"], {"do_lower_case": True}, "Clock", ["clock"]),  # the settings win
        (["Clock"], {"do_lower_case": False}, "Clock", ["Clock"]),
        (["\u00e9"], {"do_lower_case": True}, "\u00e9", ["e"]),  # accents not mentioned: as do_lower_case says
        (["\u00e9"], {"do_lower_case": True, "strip_accents": True}, "\u00e9", ["e"]),
        (["\u00e9"], {"do_lower_case": True, "strip_accents": False}, "\u00e9", ["\u00e9"]),
        (["\u00e9"], {"do_lower_case": False}, "\u00e9", ["\u00e9"]),
        (["\u00e9"], {"do_lower_case": False, "strip_accents": True}, "\u00e9", ["e"]),
        (["\u4e00", "\u4e8c"], {}, "\u4e00\u4e8c", ["\u4e00", "\u4e8c"]),
        (["\u4e00", "\u4e8c"], {"tokenize_chinese_chars": False}, "\u4e00\u4e8c", ["[UNK]"]),
    ],
)
def test_casing_accents_and_chinese_characters_are_as_vocabulary_and_settings_say(
    make, added, settings, text, expected
):
    assert pieces(make({"vocab.txt": lines([*VOCABULARY, *added])}, **settings), text) == expected


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_that_is_null_is_one_that_is_absent(make, key):
    bare, told = make(CASED), make(CASED, **{key: None})
    assert all(pieces(told, text) == pieces(bare, text) for text in ("Clock caf\u00e9 \u4e00\u4e8c", "CLOCK"))


@pytest.mark.parametrize(
    "raw",
    [lines(VOCABULARY).replace(b"\n", b"\r\n"), lines(VOCABULARY).rstrip(b"\n"), b"\xef\xbb\xbf" + lines(VOCABULARY)],
    ids=["CRLF", "no last line end", "byte order mark"],
)
def test_line_ends_of_a_vocabulary_do_not_matter(make, tokenizer, raw):
    assert make({"vocab.txt": raw}).backend.get_vocab() == tokenizer.backend.get_vocab()


def test_a_vocabulary_is_split_at_line_feeds_only(make):
    tokens = [*VOCABULARY, "\u2028", "\u0085", "x\x0cy"]
    assert make({"vocab.txt": lines(tokens)}).backend.token_to_id("\u0085") == len(VOCABULARY) + 1


def test_an_old_tokenizer_json_does_not_name_the_type_of_its_model(make, tokenizer):
    content = json.loads(json_tokenizer())
    del content["model"]["type"]
    assert make({"tokenizer.json": content}).backend.get_vocab() == tokenizer.backend.get_vocab()


# ---- what is refused: name -> (files, message); the message is a regular expression


def changed(wordpiece=(), **changes) -> dict[str, bytes]:
    return {"tokenizer.json": json_tokenizer(VOCABULARY, wordpiece, **changes)}


CONFIG = "tokenizer_config.json"
DEEP = b"[" * 100_000 + b"]" * 100_000
IDS = {token: i for i, token in enumerate(VOCABULARY)}
BPE = {"type": "BPE", "vocab": IDS, "merges": [], "unk_token": "none"}
UNIGRAM = {"type": "Unigram", "unk_id": None, "vocab": [[token, -1.0] for token in VOCABULARY]}
PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}  # makes the library panic
FIXED_LENGTH = {"type": "FixedLength", "length": 0}
NO_WORDPIECE = "tokenizer.json: model: is not of type WordPiece"


def without(token: str) -> bytes:
    return lines(other for other in VOCABULARY if other != token)


REFUSED = {
    "no tokenizer at all": ({"config.json": b"{}"}, "has neither tokenizer.json nor vocab.txt"),
    "empty vocab.txt": ({"vocab.txt": b""}, r"vocab.txt: \[CLS\]"),
    "latin-1": ({"vocab.txt": lines(VOCABULARY) + b"caf\xe9\n"}, r"vocab.txt: byte \d+: is not UTF-8"),
    "UTF-16": ({"vocab.txt": lines(VOCABULARY).decode().encode("utf-16")}, "vocab.txt: byte 0: is not UTF-8"),
    **{f"no {t}": ({"vocab.txt": without(t)}, f"vocab.txt: .{t[1:-1]}.: is not in") for t in SPECIAL_TOKENS},
    "settings broken": (VOCAB | {CONFIG: b"{"}, f"{CONFIG}: line 1"),
    "settings a list": (VOCAB | {CONFIG: []}, f"{CONFIG}: expected a JSON object, found a list"),
    "settings nested deep": (VOCAB | {CONFIG: DEEP}, f"{CONFIG}: nested too deeply"),
    **{f"{key} a string": (VOCAB | {CONFIG: {key: "no"}}, f"{key}: expected true .* found 'no'") for key in SETTINGS},
    "empty tokenizer.json": ({"tokenizer.json": b""}, "tokenizer.json: the file is empty"),
    "HTML": ({"tokenizer.json": b"<html>"}, "tokenizer.json: looks like HTML"),
    "not UTF-8": ({"tokenizer.json": b'{"\xff"'}, "tokenizer.json: byte 2: is not UTF-8"),
    "nested deep": ({"tokenizer.json": DEEP}, "tokenizer.json: nested too deeply"),
    "truncated": ({"tokenizer.json": json_tokenizer()[:500]}, "tokenizer.json: line "),
    "a list": ({"tokenizer.json": []}, NO_WORDPIECE),
    "broken beside a good vocabulary": (VOCAB | {"tokenizer.json": {}}, NO_WORDPIECE),
    "BPE": (changed(model=BPE), NO_WORDPIECE),
    "Unigram": (changed(model=UNIGRAM), NO_WORDPIECE),
    "another normalizer": (changed(normalizer=PRECOMPILED), "normalizer: is not of type"),
    "no normalizer": (changed(normalizer=...), "normalizer: is not of type"),
    "another pre-tokenizer": (changed(pre_tokenizer=FIXED_LENGTH), "pre_tokenizer: is not"),
    "another version": (changed(version="9.0"), "version: expected '1.0', found '9.0'"),
    "another unknown token": (changed({"unk_token": "x"}), "model.unk_token: expected .* found 'x'"),
    "another prefix": (changed({"continuing_subword_prefix": "@"}), "_prefix: expected '##', found '@'"),
    "no vocabulary": (changed({"vocab": None}), "model.vocab: expected an object"),
    "ids beyond any vocabulary": (
        changed({"vocab": IDS | {"clock": 2**32 - 1}}),
        "model.vocab: expected .* ids from 0",
    ),
    "an id twice": (changed({"vocab": {"a": 1, "b": 1}}), "model.vocab: two"),
    "half a surrogate pair": (changed({"vocab": {**IDS, "\ud83d": 1000}}), "token .*surrogate"),
    "added tokens a string": (changed(added_tokens="x"), "added_tokens: expected a list"),
    "an added token without an id": (changed(added_tokens=[{"content": "none"}]), "expected an id .*found None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(tmp_path, name):
    files, message = REFUSED[name]
    write_folder(tmp_path / "model", files)
    with pytest.raises(BadInput, match=message) as caught:
        load_tokenizer(tmp_path / "model")
    assert str(caught.value).startswith(str(tmp_path / "model"))
    str(caught.value).encode()


# ---- random damage: a tokenizer that holds what it promises, or BadInput

TEXTS = ["a clocks \u00e9 \u6642\u8a08 b.", "", "[SEP] \U0001f600e\u0301 \x00", "x" * 120]
FEW_TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK] a clock ##s b . \u00e9".split()
PARTS = [BPE, UNIGRAM, PRECOMPILED, FIXED_LENGTH, {"type": "NFKD"}, {"type": "WordLevel", "vocab": {}}]
VALUES = st.none() | st.booleans() | st.integers(-1, 2**63) | st.floats() | st.text(max_size=3) | st.sampled_from(PARTS)
EDITS = st.just([]) | st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=5)), max_size=3)
GOOD_SETTINGS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(has_json=st.booleans(), place=st.integers(0, 10**6), value=VALUES, edits=EDITS, more_edits=EDITS)
def test_damaged_files_are_used_or_refused(make, has_json, place, value, edits, more_edits):
    content = json.loads(json_tokenizer(FEW_TOKENS))
    nodes = [(content, key) for key in content] + [(content["model"]["vocab"], token) for token in FEW_TOKENS]
    nodes += [(part, key) for part in content.values() if isinstance(part, dict) for key in part]
    parent, key = nodes[place % len(nodes)]
    parent[key] = value
    files = {"vocab.txt": edit_bytes(lines(FEW_TOKENS), edits), CONFIG: edit_bytes(as_bytes(GOOD_SETTINGS), more_edits)}
    try:
        tokenizer = make({"tokenizer.json": edit_bytes(as_bytes(content), edits)} if has_json else files)
    except BadInput as error:
        assert error.what and str(error).encode()
        return
    for text, (ids, offsets) in zip(TEXTS, tokenizer.encode(TEXTS)):
        assert ((offsets >= 0) & (offsets <= len(text))).all() and (offsets[:, 0] <= offsets[:, 1]).all()
        assert all(0 <= i < tokenizer.vocab_size for i in ids) and all(map(str.encode, tokenizer.tokens(ids)))


# ---- saving


@pytest.mark.parametrize(
    "files",
    [
        {
            "tokenizer.json": json_tokenizer(),
            "vocab.txt": lines(VOCABULARY).replace(b"\n", b"\r\n"),
            CONFIG: b'{"model_max_length":512,\n\n"do_lower_case" : true}',
            "special_tokens_map.json": b'{ "cls_token":"[CLS]"}',
        },
        {"tokenizer.json": json_tokenizer()},
        {"vocab.txt": lines(VOCABULARY), CONFIG: b'{"model_max_length":512,\n\n"do_lower_case" : true}'},
    ],
    ids=["all files", "tokenizer.json", "vocab.txt with its casing stated"],
)
def test_the_files_of_a_folder_are_saved_byte_for_byte(tmp_path, files):
    source = write_folder(tmp_path / "source", files | {"config.json": b"{}", "model.safetensors": b"x"})
    target = write_folder(tmp_path / "target", {})
    load_tokenizer(source).save(target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == files


@pytest.mark.parametrize(("files", "is_lower"), [(VOCAB, True), (CASED, False)])
def test_the_casing_found_in_a_bare_vocabulary_is_stated_when_it_is_saved(tmp_path, files, is_lower):
    """A folder with only a vocab.txt serves, and every later reader of a saved folder takes the same casing."""
    first = load_tokenizer(write_folder(tmp_path / "source", files))
    target = write_folder(tmp_path / "target", {})
    first.save(target)
    assert (target / "vocab.txt").read_bytes() == files["vocab.txt"]
    assert json.loads((target / CONFIG).read_bytes()) == {"do_lower_case": is_lower}
    assert pieces(load_tokenizer(target), "Clock") == pieces(first, "Clock")
    assert repr(first).startswith("<uncased" if is_lower else "<cased")
