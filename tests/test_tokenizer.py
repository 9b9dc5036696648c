"""tokenizer.py: the same ids and offsets from every kind of file, as the peers have them; no text is ever special."""

import json

import numpy as np
import pytest
from conftest import VOCABULARY
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.errors import BadInput
from minibert.folders import WEIGHTS
from minibert.tokenizer import load_tokenizer

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
    "\u00a0blank\u3000blank\u2009x",
    "x" * 200,
    "the " + "clock" * 40 + " tower",
    "a" * 100 + " " + "a" * 101,
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u0639\u064e\u0631\u064e\u0628\u064a",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "$1,871.50 50% a_b c@d \u20ac3 \u2013 \u2014 \u201cold\u201d \u2019s ...",
    "##clock ##ed # #",
]


def write_folder(folder, files: dict) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = json.dumps(content) if isinstance(content, dict) else content
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def vocab_text(tokens) -> str:
    return "".join(f"{token}\n" for token in tokens)


def json_tokenizer(tokens, is_lower: bool = True) -> str:
    """A tokenizer.json as published ones are: special tokens that match in texts, cutting and padding switched on."""
    from tokenizers import BertWordPieceTokenizer

    backend = BertWordPieceTokenizer({token: i for i, token in enumerate(tokens)}, lowercase=is_lower)
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    return backend.to_str()


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Load a tokenizer from a fresh folder with these files."""

    def make(**files):
        folder = tmp_path_factory.mktemp("tokenizer")
        write_folder(folder, {name.replace("__", "."): content for name, content in files.items()})
        return load_tokenizer(folder)

    return make


@pytest.fixture(scope="module")
def from_json(make):
    return make(tokenizer__json=json_tokenizer(VOCABULARY))


def rows(encodings, i: int = 0) -> tuple[list[int], list[tuple[int, int]]]:
    part = slice(encodings.bounds[i], encodings.bounds[i + 1])
    return encodings.ids[part].tolist(), [tuple(pair) for pair in encodings.offsets[part].tolist()]


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.tokens(tokenizer.encode([text]).ids)


# --- ids and offsets


def test_encodings_are_flat_arrays_of_one_text_after_the_other(tokenizer):
    encodings = tokenizer.encode(["Clock tower", "", "cafes"])
    assert tokenizer.tokens(encodings.ids) == ["clock", "tower", "caf", "##e", "##s"]
    assert encodings.bounds.tolist() == [0, 2, 2, 5]
    assert encodings.lengths.tolist() == [2, 0, 3]
    assert encodings.offsets.tolist() == [[0, 5], [6, 11], [0, 3], [3, 4], [4, 5]]
    assert (encodings.ids.dtype, encodings.offsets.dtype) == (np.int32, np.int32)


@pytest.mark.parametrize("texts", [[], [""], ["", "\x00"]])
def test_texts_without_a_token_give_empty_arrays(tokenizer, texts):
    encodings = tokenizer.encode(texts)
    assert encodings.ids.shape == (0,) and encodings.offsets.shape == (0, 2)
    assert encodings.lengths.tolist() == [0] * len(texts)


def test_a_folder_without_config_json_serves(vocab_folder):
    assert [file.name for file in vocab_folder.iterdir()] == ["vocab.txt"]
    assert pieces(load_tokenizer(vocab_folder), "Clock") == ["clock"]


def test_many_texts_are_encoded_as_each_by_itself(tokenizer):
    texts = [f"clock {i} of {'x' * (i % 7)}" for i in range(2345)]
    together = tokenizer.encode(texts)
    for i in (0, 999, 1000, 1001, 1999, 2000, 2344):
        assert rows(together, i) == rows(tokenizer.encode([texts[i]]))
    assert len(together.lengths) == len(texts)


def test_both_kinds_of_file_give_the_same_ids_and_offsets(tokenizer, from_json):
    for text in [*ODD_TEXTS, "[CLS] clock [SEP][MASK]"]:
        assert rows(tokenizer.encode([text])) == rows(from_json.encode([text])), text


def test_cutting_and_padding_of_a_tokenizer_json_are_switched_off(from_json):
    encodings = from_json.encode(["the clock tower was made of iron", "clock"])
    assert encodings.lengths.tolist() == [7, 1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(max_size=30) | st.text("aclok \u00e9\u0301\u4e00\U0001f600\u200d[]SEP", max_size=30))
def test_any_text_has_the_same_tokens_from_both_kinds_and_offsets_inside_it(tokenizer, from_json, text):
    ids, offsets = rows(tokenizer.encode([text]))
    assert (ids, offsets) == rows(from_json.encode([text]))
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    assert offsets == sorted(offsets)
    assert not {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id} & set(ids)


@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_a_literal_special_token_stays_text(make, kind):
    tokenizer = make(
        **{kind.replace(".", "__"): {"vocab.txt": vocab_text, "tokenizer.json": json_tokenizer}[kind](VOCABULARY)}
    )
    assert pieces(tokenizer, "the [SEP] [CLS]") == ["the", "[", "sep", "]", "[", "cls", "]"]


def test_the_special_ids_and_the_vocabulary_size_are_those_of_the_file(make):
    tokens = ["a", "[UNK]", "b", "[SEP]", "[CLS]", "c", "[PAD]"]
    for tokenizer in (make(vocab__txt=vocab_text(tokens)), make(tokenizer__json=json_tokenizer([*tokens, "[MASK]"]))):
        assert (tokenizer.sep_id, tokenizer.cls_id, tokenizer.pad_id) == (3, 4, 6)
        assert tokenizer.vocab_size == len(tokenizer.backend.get_vocab())


# --- peers


def agrees_with_transformers(ours, theirs, texts) -> None:
    for text in texts:
        peer = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        assert rows(ours.encode([text])) == (peer["input_ids"], peer["offset_mapping"]), text


@pytest.mark.parametrize("is_lower", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_ids_and_offsets_are_those_of_transformers(tmp_path, is_lower, strip_accents):
    transformers = pytest.importorskip("transformers")
    tokens = [*VOCABULARY, "The", "Clock", "caf\u00e9", "\u00e9", "##\u00e9", "\u0301", "##\u0301", "\u4e00", "\u00e0"]
    settings = {"do_lower_case": is_lower, "strip_accents": strip_accents, "tokenizer_class": "BertTokenizer"}
    write_folder(tmp_path, {"vocab.txt": vocab_text(tokens), "tokenizer_config.json": settings})
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path, **settings)
    agrees_with_transformers(load_tokenizer(tmp_path), theirs, ODD_TEXTS)


def test_minilm_is_read_alike_from_each_of_its_files_and_as_transformers_reads_it(tmp_path):
    if not (WEIGHTS / "minilm").is_dir():
        pytest.skip("weights/minilm is not there")
    transformers = pytest.importorskip("transformers")
    write_folder(tmp_path, {"vocab.txt": (WEIGHTS / "minilm/vocab.txt").read_bytes()})
    theirs = transformers.AutoTokenizer.from_pretrained(WEIGHTS / "minilm")
    for folder in (WEIGHTS / "minilm", tmp_path):
        agrees_with_transformers(load_tokenizer(folder), theirs, ODD_TEXTS)


# --- casing and accents of a vocab.txt

CASED = [*VOCABULARY, "Clock"]


def test_a_bare_vocabulary_with_a_capital_is_cased(make):
    assert pieces(make(vocab__txt=vocab_text(CASED)), "Clock clock") == ["Clock", "clock"]


def test_a_bare_vocabulary_with_capitals_in_special_tokens_only_is_uncased(make):
    assert pieces(make(vocab__txt=vocab_text([*VOCABULARY, "[unused1]", "[Q]"])), "CLOCK") == ["clock"]


def test_a_capital_in_a_word_piece_counts(make):
    assert pieces(make(vocab__txt=vocab_text([*VOCABULARY, "##K"])), "cK") == ["c", "##K"]


@pytest.mark.parametrize("is_lower, expected", [(True, ["clock"]), (False, ["Clock"])])
def test_do_lower_case_of_the_settings_wins(make, is_lower, expected):
    tokenizer = make(vocab__txt=vocab_text(CASED), tokenizer_config__json={"do_lower_case": is_lower})
    assert pieces(tokenizer, "Clock") == expected


@pytest.mark.parametrize("key", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_a_setting_that_is_null_is_one_that_is_not_made(make, key):
    texts = ["Clock caf\u00e9 \u4e00\u4e8c", "CLOCK"]
    bare = make(vocab__txt=vocab_text(CASED))
    told = make(vocab__txt=vocab_text(CASED), tokenizer_config__json={key: None})
    assert [pieces(told, text) for text in texts] == [pieces(bare, text) for text in texts]


@pytest.mark.parametrize(
    "is_lower, strip, expected",
    [
        (True, None, "e"),  # unsaid: as do_lower_case says
        (True, True, "e"),
        (True, False, "\u00e9"),
        (False, None, "\u00e9"),
        (False, True, "e"),
    ],
)
def test_strip_accents_is_honoured(make, is_lower, strip, expected):
    settings = {"do_lower_case": is_lower, "strip_accents": strip}
    tokenizer = make(vocab__txt=vocab_text([*VOCABULARY, "\u00e9"]), tokenizer_config__json=settings)
    assert pieces(tokenizer, "\u00e9") == [expected]


def test_chinese_characters_are_split_unless_the_settings_say_otherwise(make):
    vocab = vocab_text([*VOCABULARY, "\u4e00", "\u4e8c"])
    assert pieces(make(vocab__txt=vocab), "\u4e00\u4e8c") == ["\u4e00", "\u4e8c"]
    told = make(vocab__txt=vocab, tokenizer_config__json={"tokenize_chinese_chars": False})
    assert pieces(told, "\u4e00\u4e8c") == ["[UNK]"]


@pytest.mark.parametrize(
    "name, raw",
    [
        ("CRLF", vocab_text(VOCABULARY).replace("\n", "\r\n").encode()),
        ("no last line end", vocab_text(VOCABULARY).rstrip("\n").encode()),
        ("byte order mark", b"\xef\xbb\xbf" + vocab_text(VOCABULARY).encode()),
    ],
)
def test_line_ends_of_a_vocabulary_do_not_matter(make, tokenizer, name, raw):
    other = make(vocab__txt=raw)
    assert other.backend.get_vocab() == tokenizer.backend.get_vocab()


def test_a_vocabulary_is_split_at_line_feeds_only(make):
    tokens = [*VOCABULARY, "\u2028", "\u0085", "x\x0cy"]
    assert make(vocab__txt=vocab_text(tokens)).backend.token_to_id("\u0085") == len(VOCABULARY) + 1


# --- what is refused


def without(token: str) -> list[str]:
    return [other for other in VOCABULARY if other != token]


BAD_FOLDERS = [
    ("no tokenizer at all", {"config.json": "{}"}, "neither tokenizer.json nor vocab.txt"),
    ("empty vocab.txt", {"vocab.txt": b""}, r"vocab.txt: \[CLS\]"),
    ("duplicate", {"vocab.txt": vocab_text([*VOCABULARY, "clock"])}, "vocab.txt: line .*'clock' stands at line 17"),
    ("duplicate under CRLF", {"vocab.txt": vocab_text([*VOCABULARY, "clock\r"])}, "vocab.txt: line .*'clock'"),
    ("latin-1", {"vocab.txt": vocab_text(VOCABULARY).encode() + b"caf\xe9\n"}, "vocab.txt: byte .*UTF-8"),
    ("UTF-16", {"vocab.txt": vocab_text(VOCABULARY).encode("utf-16")}, "vocab.txt: byte .*UTF-8"),
    *[
        (f"no {t}", {"vocab.txt": vocab_text(without(t))}, f"vocab.txt: \\{t}")
        for t in ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
    ],
    ("settings broken", {"vocab.txt": vocab_text(VOCABULARY), "tokenizer_config.json": "{"}, "tokenizer_config.json"),
    ("settings a list", {"vocab.txt": vocab_text(VOCABULARY), "tokenizer_config.json": "[]"}, "config.json.*object"),
    *[
        (
            f"{key} a string",
            {"vocab.txt": vocab_text(VOCABULARY), "tokenizer_config.json": {key: "false"}},
            f"{key}: must",
        )
        for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    ],
    ("tokenizer.json empty", {"tokenizer.json": b""}, "tokenizer.json: the file is empty"),
    ("tokenizer.json no JSON", {"tokenizer.json": b"<html>"}, "tokenizer.json: looks like HTML"),
    ("tokenizer.json no UTF-8", {"tokenizer.json": b'{"\xff"'}, "tokenizer.json: byte 2: is not UTF-8"),
    ("tokenizer.json an empty object", {"tokenizer.json": b"{}"}, "tokenizer.json: model: is not of type WordPiece"),
    ("tokenizer.json a list", {"tokenizer.json": b"[]"}, "tokenizer.json: model: is not of type WordPiece"),
    ("tokenizer.json cut off", {"tokenizer.json": json_tokenizer(VOCABULARY)[:500]}, "tokenizer.json: line "),
    (
        "tokenizer.json of another model",
        {"tokenizer.json": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}},
        "tokenizer.json: model: is not of type WordPiece",
    ),
]


@pytest.mark.parametrize("name, files, message", BAD_FOLDERS, ids=[row[0] for row in BAD_FOLDERS])
def test_is_refused(tmp_path, name, files, message):
    write_folder(tmp_path / "model", files)
    with pytest.raises(BadInput, match=message) as caught:
        load_tokenizer(tmp_path / "model")
    assert str(caught.value).startswith(str(tmp_path / "model"))


def test_a_broken_tokenizer_json_is_not_passed_over_for_a_good_vocabulary(tmp_path):
    write_folder(tmp_path, {"vocab.txt": vocab_text(VOCABULARY), "tokenizer.json": "{}"})
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


# --- saving


@pytest.mark.parametrize(
    "files",
    [
        {
            "tokenizer.json": json_tokenizer(VOCABULARY),
            "vocab.txt": vocab_text(VOCABULARY).replace("\n", "\r\n"),
            "tokenizer_config.json": '{"model_max_length":512,\n\n"do_lower_case" : true}',
            "special_tokens_map.json": '{ "cls_token":"[CLS]"}',
        },
        {"tokenizer.json": json_tokenizer(VOCABULARY)},
        {
            "vocab.txt": vocab_text(VOCABULARY).replace("\n", "\r\n"),
            "tokenizer_config.json": '{"model_max_length":512,\n\n"do_lower_case" : true}',
        },
    ],
    ids=["all files", "tokenizer.json", "vocab.txt that states its casing"],
)
def test_the_files_of_a_folder_are_saved_byte_for_byte(tmp_path, files):
    source, target = tmp_path / "source", tmp_path / "target"
    write_folder(source, files | {"config.json": "{}", "model.safetensors": b"x"})
    target.mkdir()
    load_tokenizer(source).save(target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == {n: t.encode() for n, t in files.items()}


@pytest.mark.parametrize("tokens, is_lower", [(VOCABULARY, True), (CASED, False)])
def test_the_casing_found_in_a_bare_vocabulary_is_stated_when_it_is_saved(tmp_path, tokens, is_lower):
    source, target = tmp_path / "source", tmp_path / "target"
    write_folder(source, {"vocab.txt": vocab_text(tokens)})
    target.mkdir()
    first = load_tokenizer(source)
    first.save(target)
    assert (target / "vocab.txt").read_text() == vocab_text(tokens)
    assert json.loads((target / "tokenizer_config.json").read_text()) == {"do_lower_case": is_lower}
    assert pieces(load_tokenizer(target), "Clock") == pieces(first, "Clock")
