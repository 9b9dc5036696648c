"""A folder's tokenizer files: split as transformers splits, or refused with the file, the key and a remedy."""

import json
from itertools import product
from pathlib import Path

import pytest

from minibert.support.errors import BadInput
from minibert.text.tokenizer import load_tokenizer
from tests.builders import VOCABULARY
from tests.text.test_tokenizer import ODD_TEXTS, VOCAB, encode, json_tokenizer, lines, pieces, write_folder

CONFIG, ADDED, MAP, V = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", len(VOCABULARY)
# No literal [SEP]: it is a special token in transformers, and text here.
TEXTS = [text for text in ODD_TEXTS if "[SEP]" not in text]
TEXTS += [
    "the CovidVax covidvax xcovidvaxy <e1> <E1> a <e1>b  <e1>  clock [E] [e] [unused1] \u00e9<e1>",
    "COVIDVAX <e1>",
]

FIVE = json.loads(json_tokenizer())["added_tokens"]
COVID = dict(id=V, content="covidvax", single_word=False, lstrip=False, rstrip=False, normalized=True, special=False)
E1 = COVID | dict(id=V + 1, content="<e1>", lstrip=True, normalized=False, special=True)
DECODER = {str(row["id"]): {key: row[key] for key in row if key != "id"} for row in (*FIVE, COVID, E1)}
DECODER_OF_FIVE = {key: DECODER[key] for key in list(DECODER)[:5]}
JSON = {"tokenizer.json": json_tokenizer(added_tokens=[*FIVE, COVID, E1])}


def uncased(**keys) -> dict:
    """A vocab.txt with its casing stated, and these keys of tokenizer_config.json."""
    return VOCAB | {CONFIG: {"do_lower_case": True} | keys}


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
    "an unused token is special": {"vocab.txt": lines([*VOCABULARY, "[unused1]"])}
    | {CONFIG: {"do_lower_case": True, "additional_special_tokens": ["[unused1]"]}},
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
    "a token twice": {"vocab.txt": lines([*VOCABULARY, "clock", "##s"])} | {CONFIG: {"do_lower_case": True}},
    "empty lines": {"vocab.txt": lines([*VOCABULARY, "", "", ""])} | {CONFIG: {"do_lower_case": True}},
    "spaces after a token": {"vocab.txt": lines(["[PAD] ", *VOCABULARY[1:], "Basel \u3000"])}
    | {CONFIG: {"do_lower_case": False}},
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


@pytest.mark.parametrize("class_name", [None, "BertTokenizer", "PreTrainedTokenizerFast"])
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


# name -> (files, message)
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
    "MeCab": (
        uncased(tokenizer_class="BertJapaneseTokenizer"),
        f"{CONFIG}: tokenizer_class: .*'BertJapaneseTokenizer'",
    ),
    "a class in config.json": (
        VOCAB | {"config.json": {"tokenizer_class": "BertJapaneseTokenizer"}},
        "config.json: tokenizer_class: .*'BertJapaneseTokenizer'; choose",
    ),
    "a class of no library": (uncased(tokenizer_class="KoBertTokenizer"), "'KoBertTokenizer'"),
    "a class that is a list": (uncased(tokenizer_class=["BertTokenizer"]), "tokenizer_class: expected"),
    "long words": (
        {"tokenizer.json": json_tokenizer(wordpiece={"max_input_chars_per_word": 9})},
        "per_word: .* 9",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(tmp_path, name):
    files, message = REFUSED[name]
    folder = written(tmp_path / "model", files)
    with pytest.raises(BadInput, match=message) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


def test_of_a_repeated_token_the_later_id_counts_with_one_warning(tmp_path, capsys):
    twice = {"vocab.txt": lines([*VOCABULARY, "clock", "##s"]).replace(b"\n", b"\r\n")}
    tokenizer = load_tokenizer(written(tmp_path, twice))
    assert tokenizer.encode(["clocks"]).ids.tolist() == [V, V + 1] and tokenizer.vocab_size == V + 2
    (warning,) = capsys.readouterr().err.splitlines()
    assert "vocab.txt: 2 tokens appear twice ('clock' on lines 17 and" in warning and "later line counts" in warning


def test_a_normalizer_that_is_overruled_is_named_and_nothing_else(tmp_path, capsys):
    for is_lower, count in ((False, 1), (True, 0)):
        files = {"tokenizer.json": json_tokenizer(), CONFIG: {"do_lower_case": is_lower}}
        folder = written(tmp_path / str(count), files)
        assert pieces(load_tokenizer(folder), "Clock") == (["clock"] if is_lower else ["[UNK]"])
        assert capsys.readouterr().err.count(f"overruled by {CONFIG} ({{'do_lower_case': False}})") == count


def test_the_class_of_config_json_is_saved_with_the_tokenizer(tmp_path):
    """A saved model's config.json has no tokenizer_class."""
    folder = written(tmp_path / "model", HONOURED["general class in config.json"])
    load_tokenizer(folder).save(written(tmp_path / "saved", {}))
    assert json.loads((tmp_path / "saved" / CONFIG).read_bytes()) == {"tokenizer_class": "PreTrainedTokenizerFast"}
