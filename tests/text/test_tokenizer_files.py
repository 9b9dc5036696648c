"""A folder's tokenizer files: split as transformers splits, or refused with the file, the key and a remedy.

The faults of any JSON file are in tests/support/test_files.py, random damage in tests/commands/test_fuzz.py.
"""

import json
import os
from itertools import product
from pathlib import Path

import pytest

from minibert.support.errors import BadInput
from minibert.text.tokenizer import load_tokenizer
from minibert.text.tokenizer_settings import SETTINGS, SPECIAL_TOKENS
from tests.builders import VOCABULARY, write_folder
from tests.text.test_tokenizer import ODD_TEXTS, encode, json_tokenizer, lines, pieces

CONFIG, ADDED, MAP, V = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", len(VOCABULARY)
VOCAB = {"vocab.txt": lines(VOCABULARY)}
TEXTS = [*ODD_TEXTS, "COVIDVAX <e1>"]
TEXTS += ["the CovidVax covidvax xcovidvaxy <e1> <E1> a <e1>b  <e1>  clock [E] [e] [unused1] \u00e9<e1>"]

FIVE = json.loads(json_tokenizer())["added_tokens"]
COVID = dict(id=V, content="covidvax", single_word=False, lstrip=False, rstrip=False, normalized=True, special=False)
E1 = COVID | dict(id=V + 1, content="<e1>", lstrip=True, normalized=False, special=True)
DECODER = {str(row["id"]): {key: row[key] for key in row if key != "id"} for row in (*FIVE, COVID, E1)}
DECODER_OF_FIVE = {key: DECODER[key] for key in list(DECODER)[:5]}
JSON = {"tokenizer.json": json_tokenizer(added_tokens=[*FIVE, COVID, E1])}


def uncased(tokens=VOCABULARY, **keys) -> dict:
    """A vocab.txt with its casing stated, and these keys of tokenizer_config.json."""
    return {"vocab.txt": lines(tokens), CONFIG: {"do_lower_case": True} | keys}


# name -> files. All are read as transformers reads them.
HONOURED = {
    "plain": uncased(),
    "BertTokenizerFast": uncased(tokenizer_class="BertTokenizerFast"),
    "DistilBertTokenizer": uncased(tokenizer_class="DistilBertTokenizer"),
    "ElectraTokenizer": uncased(tokenizer_class="ElectraTokenizer"),
    "added_tokens.json": uncased() | {ADDED: {"covidvax": V}},
    "not in the order of ids": uncased() | {ADDED: {"<e1>": V + 1, "CovidVax": V}},
    "one of them special": uncased(additional_special_tokens=["<e1>"]) | {ADDED: {"<e1>": V + 1, "covidvax": V}},
    "added in capitals": uncased() | {ADDED: {"COVIDVAX": V}},
    "added to a cased one": uncased(do_lower_case=False) | {ADDED: {"CovidVax": V}},
    "one of the vocabulary": uncased() | {ADDED: {"clock": VOCABULARY.index("clock")}},
    "additional special tokens": uncased(additional_special_tokens=["<e1>", "[E]"]),
    "extra special tokens": uncased(extra_special_tokens={"image_token": "[E]"}),
    "special_tokens_map.json": uncased() | {MAP: {"additional_special_tokens": ["<e1>"], "cls_token": "[CLS]"}},
    "an unused token is special": uncased([*VOCABULARY, "[unused1]"], additional_special_tokens=["[unused1]"]),
    "another mask token": uncased(mask_token="<e1>", add_bos_token=False),
    "a beginning and an end": uncased(bos_token="<e1>", eos_token="[SEP]"),
    "decoder": uncased(added_tokens_decoder=DECODER),
    "decoder, others ignored": uncased(added_tokens_decoder=DECODER_OF_FIVE)
    | {ADDED: {"covidvax": V}, MAP: {"additional_special_tokens": ["[E]"]}},
    "tokenizer.json": JSON | {CONFIG: {"do_lower_case": True}},
    "tokenizer.json alone": JSON,
    "tokenizer.json and a decoder": JSON | {CONFIG: {"added_tokens_decoder": DECODER}},
    "tokenizer.json and a decoder without them": JSON | {CONFIG: {"added_tokens_decoder": DECODER_OF_FIVE}},
    "general class": JSON | {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}},
    "general class and a decoder": {"tokenizer.json": json_tokenizer()}
    | {CONFIG: {"tokenizer_class": "TokenizersBackend", "added_tokens_decoder": DECODER}},
    "general class in config.json": {"tokenizer.json": json_tokenizer(added_tokens=[*FIVE, COVID])}
    | {"config.json": {"model_type": "bert", "tokenizer_class": "PreTrainedTokenizerFast"}},
    "never_split null": uncased(never_split=None, do_basic_tokenize=True),
    "never_split of special tokens": uncased(never_split=["[UNK]", "[MASK]"]),
    "a token twice": uncased([*VOCABULARY, "clock", "##s"]),
    "empty lines": uncased([*VOCABULARY, "", "", ""]),
    "spaces after a token": uncased(["[PAD] ", *VOCABULARY[1:], "Basel \u3000"], do_lower_case=False),
    "other line separators": uncased([*VOCABULARY, "\u2028", "\u0085", "x\x0cy"]),
    "no Chinese characters": uncased([*VOCABULARY, "\u4e00"], tokenize_chinese_chars=False),
}
TOKENS = [*VOCABULARY, "The", "Clock", "caf\u00e9", "\u00e9", "##\u00e9", "\u0301", "##\u0301", "\u4e00", "\u00e0"]
HONOURED |= {
    f"lower-cased {lower}, accents stripped {strip}": uncased(TOKENS, do_lower_case=lower, strip_accents=strip)
    for lower, strip in product([True, False], [None, True, False])
}


def assert_as_in_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer, peer = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        expected = peer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encode(tokenizer, text) == (expected["input_ids"], expected["offset_mapping"]), text


def written(folder: Path, files: dict) -> Path:
    return write_folder(folder, {"config.json": {"model_type": "bert"}} | files)


@pytest.mark.parametrize("name", HONOURED)
def test_a_folder_is_read_as_transformers_reads_it_also_after_saving(tmp_path, name):
    folder, saved = written(tmp_path / "model", HONOURED[name]), written(tmp_path / "saved", {})
    assert_as_in_transformers(folder)
    load_tokenizer(folder).save(saved)
    assert_as_in_transformers(saved)


@pytest.mark.parametrize("class_name", [None, "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(("lower", "strip", "chinese"), [*product([True, False], [None, True, False], [True, False])])
def test_files_that_disagree_on_casing_are_read_as_in_transformers_or_both_are_named(
    tmp_path, class_name, lower, strip, chinese
):
    normalizer = {"type": "BertNormalizer", "clean_text": True, "lowercase": lower, "strip_accents": strip}
    normalizer["handle_chinese_chars"] = chinese
    backend = json_tokenizer([*VOCABULARY, "Clock", "\u00e9", "\u4e00\u4e8cclock\u4e09"], normalizer=normalizer)
    is_read = []
    for number, (states_lower, states_strip) in enumerate(product([None, True, False], repeat=2)):
        settings = {"tokenizer_class": class_name, "do_lower_case": states_lower, "strip_accents": states_strip}
        settings = {key: value for key, value in settings.items() if value is not None}
        folder = written(tmp_path / str(number), {"tokenizer.json": backend, CONFIG: settings})
        try:
            load_tokenizer(folder)
        except BadInput as error:
            assert "tokenizer.json: normalizer: asks for " in str(error) and f"{CONFIG} does not state" in str(error)
            is_read.append(False)
        else:
            assert_as_in_transformers(folder)
            is_read.append(True)
    if class_name == "PreTrainedTokenizerFast":
        assert all(is_read)
    elif chinese:
        assert is_read[4:6] == is_read[7:9] == [True, True] and is_read[0] is (lower and strip is not False)


def test_minilm_is_read_alike_from_each_of_its_files_and_as_transformers_reads_it(minilm_folder, tmp_path):
    assert_as_in_transformers(minilm_folder)
    alone = load_tokenizer(write_folder(tmp_path, {"vocab.txt": (minilm_folder / "vocab.txt").read_bytes()}))
    both = load_tokenizer(minilm_folder)
    assert all(encode(alone, text) == encode(both, text) for text in TEXTS)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (uncased([*VOCABULARY, *"ABC"]), f"{CONFIG}: do_lower_case: true, but 3 of "),
        (uncased(do_lower_case=False), f"{CONFIG}: do_lower_case: false, but no token has a capital"),
        (
            {"tokenizer.json": json_tokenizer([*VOCABULARY, *"ABC"])},
            "tokenizer.json: normalizer.lowercase: true, but 3 of ",
        ),
        (uncased([*VOCABULARY, "A"]), ""),  # one stray capital
        (uncased([*VOCABULARY, *"ABC"], do_lower_case=False), ""),
        (uncased([*SPECIAL_TOKENS, "\u4e00", "##\u4e8c"], do_lower_case=False), ""),  # letters without case
        (VOCAB, ""),
    ],
)
def test_a_casing_that_contradicts_the_vocabulary_is_a_warning(tmp_path, files, says, capsys):
    load_tokenizer(written(tmp_path / "model", files))
    warnings = capsys.readouterr().err
    assert warnings.startswith(f"warning: {tmp_path / 'model'}{os.sep}{says}") if says else warnings == ""
    assert warnings.count("\n") == bool(says)


# ---- a vocab.txt whose casing no file states


@pytest.mark.parametrize(
    ("added", "is_lower", "text", "expected"),
    [
        ([], True, "Clock caf\u00e9", ["clock", "caf", "##e"]),
        (["Clock"], False, "Clock clock", ["Clock", "clock"]),  # a capital
        (["##K"], False, "cK", ["c", "##K"]),  # in a word piece too
        (["[unused1]", "[Q]"], True, "CLOCK", ["clock"]),  # not in special tokens
        (["<S>", "<T>"], True, "CLOCK", ["clock"]),  # nor in those of Google's Chinese and multilingual vocabularies
        (["<S>", "<T>", "Clock"], False, "Clock", ["Clock"]),
    ],
)
def test_a_bare_vocabulary_is_cased_if_a_token_has_a_capital_and_is_saved_so(tmp_path, added, is_lower, text, expected):
    """A folder with only a vocab.txt serves, and every later reader of a saved folder takes the same casing."""
    files, saved = {"vocab.txt": lines([*VOCABULARY, *added])}, write_folder(tmp_path / "saved", {})
    tokenizer = load_tokenizer(write_folder(tmp_path / "bare", files))
    tokenizer.save(saved)
    assert pieces(tokenizer, text) == pieces(load_tokenizer(saved), text) == expected
    assert json.loads((saved / CONFIG).read_bytes()) == {"do_lower_case": is_lower}
    assert (saved / "vocab.txt").read_bytes() == files["vocab.txt"]
    assert repr(tokenizer).startswith("<uncased" if is_lower else "<cased")


# As minilm, bert-base-uncased and DistilBERT publish it.
PUBLISHED: dict = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ],
    "special_tokens": {token: {"id": token, "ids": [2], "tokens": [token]} for token in ("[CLS]", "[SEP]")},
}
PUBLISHED["pair"] = [
    *PUBLISHED["single"],
    {"Sequence": {"id": "B", "type_id": 1}},
    {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
]
UNTYPED = json.loads(json.dumps(PUBLISHED).replace('"type_id": 1', '"type_id": 0'))

NO_TYPE = json.loads(json_tokenizer())
del NO_TYPE["model"]["type"]
ALIKE = {
    **{f"{key} null": VOCAB | {CONFIG: {key: None}} for key in SETTINGS},
    "CRLF": {"vocab.txt": VOCAB["vocab.txt"].replace(b"\n", b"\r\n")},
    "no last line end": {"vocab.txt": VOCAB["vocab.txt"].rstrip(b"\n")},
    "byte order mark": {"vocab.txt": b"\xef\xbb\xbf" + VOCAB["vocab.txt"]},
    "a template": {"tokenizer.json": json_tokenizer(post_processor=PUBLISHED)},
    "a template without token types": {"tokenizer.json": json_tokenizer(post_processor=UNTYPED)},
    "a sequence of one": {
        "tokenizer.json": json_tokenizer(post_processor={"type": "Sequence", "processors": [PUBLISHED]})
    },
    "no post-processor": {"tokenizer.json": json_tokenizer(post_processor=None)},
    "padded at the right": VOCAB | {CONFIG: {"padding_side": "right", "truncation_side": "right"}},
    "an old tokenizer.json, whose model has no type": {"tokenizer.json": NO_TYPE},
}


@pytest.mark.parametrize("name", ALIKE)
def test_is_read_as_the_plain_vocabulary(tmp_path, tokenizer, name):
    found = load_tokenizer(write_folder(tmp_path, ALIKE[name]))
    assert found.backend.get_vocab() == tokenizer.backend.get_vocab()
    assert all(encode(found, text) == encode(tokenizer, text) for text in TEXTS)


# ---- what is refused: name -> (files, message); the message is a regular expression


def changed(wordpiece=(), **changes) -> dict[str, bytes]:
    return {"tokenizer.json": json_tokenizer(VOCABULARY, wordpiece, **changes)}


IDS = {token: i for i, token in enumerate(VOCABULARY)}
BPE = {"type": "BPE", "vocab": IDS, "merges": [], "unk_token": "none"}
PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}  # makes the library panic
MECAB = "BertJapaneseTokenizer"
NO_WORDPIECE = "tokenizer.json: model: is not of type WordPiece"


def without(token: str) -> bytes:
    return lines(other for other in VOCABULARY if other != token)


REFUSED = {
    "an id that leaves a gap": (uncased() | {ADDED: {"covidvax": V + 7}}, f"{ADDED}: .*'covidvax': expected id {V}, "),
    "an id of the vocabulary": (uncased() | {ADDED: {"covidvax": 7}}, f"{ADDED}: .*'covidvax': expected id {V}, "),
    "an id that is no number": (uncased() | {ADDED: {"covidvax": "x"}}, f"{ADDED}: .*expected an id .*found 'x'"),
    "an id that is true": (uncased() | {ADDED: {"covidvax": True}}, f"{ADDED}: .*expected an id .*found True"),
    "no content": (uncased(added_tokens_decoder={str(V): "x"}), f"{CONFIG}: added tokens: .*found 'x'"),
    "a flag in words": (uncased(added_tokens_decoder={str(V): COVID | {"lstrip": "no"}}), f"{CONFIG}: .*true or false"),
    "a decoder that is a list": (uncased(added_tokens_decoder=["x"]), f"{CONFIG}: added_tokens_decoder: .*list"),
    "added tokens a list": (uncased() | {ADDED: ["x"]}, f"{ADDED}: expected a JSON object, found a list"),
    "two lists": (uncased(additional_special_tokens=["a"], extra_special_tokens=["b"]), "different special tokens"),
    "two files": (
        uncased(additional_special_tokens=["a"]) | {MAP: {"additional_special_tokens": ["b"]}},
        f"{CONFIG} and {MAP} list different special tokens",
    ),
    "special tokens to be split": (
        uncased(split_special_tokens=True, added_tokens_decoder=DECODER),
        f"{CONFIG}: split_special_tokens: .*'covidvax'",
    ),
    "never_split": (uncased(never_split=["clock"]), rf"{CONFIG}: never_split: .*\['clock'\]; remove the key"),
    "another cls_token": (uncased(cls_token="<s>"), rf"{CONFIG}: cls_token: expected .\[CLS\]., found '<s>'"),
    "another sep_token": (uncased() | {MAP: {"sep_token": {"content": "</s>"}}}, f"{MAP}: sep_token: .*found '</s>'"),
    "no basic tokenizer": (uncased(do_basic_tokenize=False), f"{CONFIG}: do_basic_tokenize: expected true"),
    "characters": (uncased(subword_tokenizer_type="character"), f"{CONFIG}: subword_tokenizer_type: .*'character'"),
    "own code": (uncased(auto_map={"AutoTokenizer": ["x.Y", None]}), f"{CONFIG}: auto_map: "),
    "MeCab": (uncased(tokenizer_class=MECAB), f"{CONFIG}: tokenizer_class: .*'{MECAB}'; choose"),
    "in config.json": (
        VOCAB | {"config.json": {"tokenizer_class": MECAB}},
        f"config.json: tokenizer_class: .*'{MECAB}'",
    ),
    "a class that is a list": (uncased(tokenizer_class=["BertTokenizer"]), "tokenizer_class: expected"),
    "long words": (changed({"max_input_chars_per_word": 9}), "per_word: .* 9"),
    "no tokenizer at all": ({"config.json": b"{}"}, "has neither tokenizer.json nor vocab.txt"),
    "empty vocab.txt": ({"vocab.txt": b""}, r"vocab.txt: \[CLS\]"),
    "latin-1": ({"vocab.txt": lines(VOCABULARY) + b"caf\xe9\n"}, r"vocab.txt: byte \d+: is not UTF-8"),
    "an LFS pointer": (
        {"vocab.txt": b"version https://git-lfs.github.com/spec/v1\n"},
        "vocab.txt: is a git-LFS pointer",
    ),
    "UTF-16": ({"vocab.txt": lines(VOCABULARY).decode().encode("utf-16")}, "vocab.txt: byte 0: is not UTF-8"),
    **{f"no {t}": ({"vocab.txt": without(t)}, f"vocab.txt: .{t[1:-1]}.: is not in") for t in SPECIAL_TOKENS},
    "settings broken": (VOCAB | {CONFIG: b"{"}, f"{CONFIG}: line 1"),
    "settings a list": (VOCAB | {CONFIG: []}, f"{CONFIG}: expected a JSON object, found a list"),
    **{f"{key} a string": (VOCAB | {CONFIG: {key: "no"}}, f"{key}: expected true .* found 'no'") for key in SETTINGS},
    "truncated": ({"tokenizer.json": json_tokenizer()[:500]}, "tokenizer.json: line "),
    "a list": ({"tokenizer.json": []}, NO_WORDPIECE),
    "broken beside a good vocabulary": (VOCAB | {"tokenizer.json": {}}, NO_WORDPIECE),
    "BPE": (changed(model=BPE), NO_WORDPIECE),
    "another normalizer": (changed(normalizer=PRECOMPILED), "normalizer: is not of type"),
    "no normalizer": (changed(normalizer=...), "normalizer: is not of type"),
    "another pre-tokenizer": (changed(pre_tokenizer={"type": "FixedLength", "length": 0}), "pre_tokenizer: is not"),
    "RoBERTa's separators": (
        changed(post_processor={"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}),
        "post_processor: expected BERT's, .* found another of type 'RobertaProcessing'",
    ),
    "another template": (
        changed(post_processor=PUBLISHED | {"pair": PUBLISHED["single"]}),
        "post_processor: .*Template",
    ),
    "two post-processors": (
        changed(post_processor={"type": "Sequence", "processors": [PUBLISHED, PUBLISHED]}),
        "post_processor: .*'Sequence'",
    ),
    "a post-processor that is a list": (changed(post_processor=[PUBLISHED]), "post_processor: expected"),
    "padded at the left": (uncased(padding_side="left"), f"{CONFIG}: padding_side: expected .right., found 'left'"),
    "truncated at the left": (uncased(truncation_side="left"), f"{CONFIG}: truncation_side: "),
    "another version": (changed(version="9.0"), "version: expected '1.0', found '9.0'"),
    "another unknown token": (changed({"unk_token": "x"}), "model.unk_token: expected .* found 'x'"),
    "another prefix": (changed({"continuing_subword_prefix": "@"}), "_prefix: expected '##', found '@'"),
    "no vocabulary": (changed({"vocab": None}), "model.vocab: expected an object"),
    "ids too large": (changed({"vocab": IDS | {"clock": 2**32 - 1}}), "model.vocab: expected .* ids from 0"),
    "an id twice": (changed({"vocab": {"a": 1, "b": 1}}), "model.vocab: two"),
    "half a surrogate pair": (changed({"vocab": {**IDS, "\ud83d": 1000}}), "token .*surrogate"),
    "added tokens a string": (changed(added_tokens="x"), "added_tokens: expected a list"),
    "an added token without an id": (changed(added_tokens=[{"content": "none"}]), "expected an id .*found None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(tmp_path, name):
    files, message = REFUSED[name]
    folder = write_folder(tmp_path / "model", {"config.json": {"model_type": "bert"}} | files)
    with pytest.raises(BadInput, match=message) as caught:
        load_tokenizer(folder)
    text = str(caught.value)
    assert text.startswith(str(folder)) and "\n" not in text and text.encode()


def test_of_a_repeated_token_the_later_id_counts_with_one_warning(tmp_path, capsys):
    twice = {"vocab.txt": lines([*VOCABULARY, "clock", "##s"]).replace(b"\n", b"\r\n")}
    tokenizer = load_tokenizer(written(tmp_path, twice))
    assert tokenizer.encode(["clocks"])[0][0].tolist() == [V, V + 1] and tokenizer.vocab_size == V + 2
    (warning,) = capsys.readouterr().err.splitlines()
    assert "vocab.txt: 2 tokens appear twice ('clock' on lines 17 and" in warning and "later line counts" in warning


def test_a_normalizer_that_is_overruled_is_named_and_nothing_else(tmp_path, capsys):
    for is_lower, count in ((False, 1), (True, 0)):
        files = {"tokenizer.json": json_tokenizer(), CONFIG: {"do_lower_case": is_lower}}
        folder = written(tmp_path / str(count), files)
        assert pieces(load_tokenizer(folder), "Clock") == (["clock"] if is_lower else ["[UNK]"])
        assert capsys.readouterr().err.count(f"overruled by {CONFIG} ({{'do_lower_case': False}})") == count


# ---- saving


STATED = {CONFIG: b'{"model_max_length":512,\n\n"do_lower_case" : true}'}
SAVED = {
    "all files": {"tokenizer.json": json_tokenizer(), "vocab.txt": VOCAB["vocab.txt"].replace(b"\n", b"\r\n")}
    | STATED
    | {MAP: b'{ "cls_token":"[CLS]"}'},
    "tokenizer.json": {"tokenizer.json": json_tokenizer()},
    "vocab.txt with its casing stated": VOCAB | STATED,
}


@pytest.mark.parametrize("name", SAVED)
def test_the_files_of_a_folder_are_saved_byte_for_byte(tmp_path, name):
    source = write_folder(tmp_path / "source", SAVED[name] | {"config.json": b"{}", "model.safetensors": b"x"})
    target = write_folder(tmp_path / "target", {})
    load_tokenizer(source).save(target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == SAVED[name]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_to_another_file_is_refused_because_its_content_would_be_saved(tmp_path):
    """A stranger's model folder could so bring a private file into a checkpoint, and from there to the hub."""
    folder = written(tmp_path / "model", {"tokenizer.json": json_tokenizer()})
    names = ("../secret", "../" + "0a" * 20, "../SHA256E-s20--ab.txt", "../other/vocab.txt", "bert-vocab.txt")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(lines(VOCABULARY))
        (folder / "vocab.txt").symlink_to(name)
        if name == "../secret":
            with pytest.raises(BadInput, match=r"vocab\.txt: is a link to secret, which training would save"):
                load_tokenizer(folder)
        else:
            assert load_tokenizer(folder).files["vocab.txt"] == lines(VOCABULARY)
        (folder / "vocab.txt").unlink()


def test_the_class_of_config_json_is_saved_with_the_tokenizer(tmp_path):
    """A saved model's config.json has no tokenizer_class."""
    folder = written(tmp_path / "model", HONOURED["general class in config.json"])
    load_tokenizer(folder).save(written(tmp_path / "saved", {}))
    assert json.loads((tmp_path / "saved" / CONFIG).read_bytes()) == {"tokenizer_class": "PreTrainedTokenizerFast"}
