"""The tokenizer files of a model folder -> its vocabulary, its settings and its added tokens.

A published folder has up to five such files, and they can contradict each other. What they ask for is honoured as by
`transformers`' fast BERT tokenizer, or refused with the file's name. Out: a `TokenizerFiles`.
"""

import json
import re
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from minibert.support.errors import BadInput
from minibert.support.files import decode, read_json
from minibert.support.streams import tell
from minibert.text.records import text_fault
from minibert.text.tokenizer_settings import (
    GENERAL_CLASSES,
    SETTINGS,
    SETTINGS_FILE,
    STAY_TEXT,
    check_class,
    check_post_processor,
    check_settings,
    settle,
)

ADDED_FILE, SPECIAL_FILE = "added_tokens.json", "special_tokens_map.json"
# Saved with a model byte for byte, so that other libraries read the folder as they would the original.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", SETTINGS_FILE, ADDED_FILE, SPECIAL_FILE)
FEW_CAPITALS = 0.01  # share of the tokens; bert-base-cased has 0.29
MOST_TOKENS = 10_000_000  # in a vocabulary; a larger id would allocate gigabytes

CACHED = re.compile(r"[0-9a-f]{30,64}|[A-Z0-9]+-s\d+--.+")  # a file's name in the hub's or DVC's cache; in git-annex

SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token


class AddedToken(NamedTuple):
    """A token that is matched in a text before the text is split. `id` None: the next one after the vocabulary."""

    content: str
    id: int | None
    flags: dict[str, bool]
    file: Path


class TokenizerFiles(NamedTuple):
    """What the files say. `source` is the file of the vocabulary; `files` is what to save, name -> bytes."""

    vocab: dict[str, int]
    settings: dict[str, Any]
    added: list[AddedToken]
    source: Path
    files: dict[str, bytes]
    input_names: Any  # `model_input_names` of tokenizer_config.json, None if it states none


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read a folder's tokenizer from `tokenizer.json`, else from `vocab.txt`. BadInput names file, place and remedy."""
    files = {name: read_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    if "tokenizer.json" not in files and "vocab.txt" not in files:
        raise BadInput(folder, "", "has neither tokenizer.json nor vocab.txt; copy them from the original model")
    stated, config = read_object(folder / SETTINGS_FILE), read_object(folder / "config.json")
    check_class(folder / SETTINGS_FILE, stated)
    check_settings(folder / SETTINGS_FILE, stated)
    settings = dict(stated)
    if settings.get("tokenizer_class") is None and config.get("tokenizer_class") is not None:
        check_class(folder / "config.json", config)
        settings["tokenizer_class"] = config["tokenizer_class"]
    if "tokenizer.json" in files:
        source = folder / "tokenizer.json"
        content = read_json(source)
        vocab, chosen = parse_tokenizer(content, source)
        if settings.get("tokenizer_class") not in GENERAL_CLASSES:
            chosen = settle(chosen, settings, source)
    else:
        source, content = folder / "vocab.txt", {}
        vocab, chosen = parse_vocab(files["vocab.txt"], source), {key: settings.get(key) for key in SETTINGS}
        if chosen["do_lower_case"] is None:
            chosen["do_lower_case"] = settings["do_lower_case"] = not has_capitals(vocab)
    is_lower = chosen["do_lower_case"] is not False
    if what := casing_fault(vocab, is_lower):
        is_stated = stated.get("do_lower_case") is is_lower
        place = f"{folder / SETTINGS_FILE}: do_lower_case" if is_stated else f"{source}: normalizer.lowercase"
        tell(f"warning: {place}: {what}")
    if settings != stated:
        # Every later reader of a saved folder takes the same casing, and the class that the saved config.json lacks.
        files[SETTINGS_FILE] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    return TokenizerFiles(
        vocab, chosen, added_tokens(folder, settings, content), source, files, stated.get("model_input_names")
    )


def read_file(file: Path) -> bytes:
    """A file's bytes, which every checkpoint will hold, and a published model with it.

    So a link out of the folder may lead to a file of the same name, or to the hash by which a cache calls its files,
    but not to a private file like `.netrc`.
    """
    target = file.resolve()
    is_plain = not file.is_symlink() or target.is_relative_to(file.parent.resolve())
    if not (is_plain or target.name == file.name or CACHED.fullmatch(target.name)):
        what = f"is a link to {target.name}, which training would save with the model; copy the file that you mean"
        raise BadInput(file, "", what)
    return file.read_bytes()


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file; empty without the file."""
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise BadInput(file, "", f"expected a JSON object, found a {type(content).__name__}")
    return content


def parse_tokenizer(content: Any, source: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """The vocabulary of a `tokenizer.json`, and its settings under the names of tokenizer_config.json."""
    parts: dict[str, dict] = {}
    for key, kind in (("model", "WordPiece"), ("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        part = content.get(key) if isinstance(content, dict) else None
        if isinstance(part, dict) and "continuing_subword_prefix" in part:
            part = {"type": kind} | part  # old files leave out the model's type
        if not isinstance(part, dict) or part.get("type") != kind:
            raise BadInput(source, key, f"is not of type {kind}; only BERT's own tokenizer is supported")
        parts[key] = part
    check_post_processor(source, content.get("post_processor"))
    model, normalizer = parts["model"], parts["normalizer"]
    for place, found, expected in (
        ("version", content.get("version"), "1.0"),
        ("model.unk_token", model.get("unk_token"), "[UNK]"),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), "##"),
        ("model.max_input_chars_per_word", model.get("max_input_chars_per_word", 100), 100),
        ("normalizer.clean_text", normalizer.get("clean_text", True), True),
    ):
        if found != expected:
            raise BadInput(source, place, f"expected {expected!r}, found {found!r}")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i < MOST_TOKENS for i in vocab.values()):
        raise BadInput(source, "model.vocab", f"expected an object of tokens with ids from 0 to {MOST_TOKENS - 1}")
    if len(set(vocab.values())) < len(vocab):
        raise BadInput(source, "model.vocab", "two tokens have the same id")
    names = ("lowercase", "strip_accents", "handle_chinese_chars")
    settings = {setting: normalizer.get(name) for setting, name in zip(SETTINGS, names)}
    check_settings(source, settings)
    return vocab, settings


def parse_vocab(raw: bytes, source: Path) -> dict[str, int]:
    """token -> id of a `vocab.txt`, one token per line. Only a line feed ends a line: other separators are tokens.

    Of two equal tokens the later one counts, as in transformers. An empty line is not a token.
    """
    lines = decode(source, raw).split("\n")
    vocab: dict[str, int] = {}
    repeated = []
    for number, line in enumerate(lines):
        token = line.rstrip() or line.removesuffix("\r")  # whitespace alone can be a token
        if token in vocab:
            repeated.append(f"{token!r} on lines {vocab[token] + 1} and {number + 1}")
        if token:
            vocab[token] = number
    if repeated:
        count = f"{len(repeated)} tokens appear" if len(repeated) > 1 else "a token appears"
        tell(f"warning: {source}: {count} twice ({repeated[0]}); the later line counts")
    return vocab


def has_capitals(vocab: dict[str, int]) -> bool:
    """Whether an ordinary token has a capital letter: the mark of a cased vocabulary.

    Tokens in brackets are special in every vocabulary: "[CLS]", and the "<S>" and "<T>" of Google's uncased Chinese and
    multilingual ones.
    """
    return any(token != token.lower() for token in ordinary_tokens(vocab))


def ordinary_tokens(vocab: Iterable[str]) -> list[str]:
    return [token for token in vocab if (token[:1], token[-1:]) not in (("[", "]"), ("<", ">"))]


def casing_fault(vocab: dict[str, int], is_lower: bool) -> str:
    """How the vocabulary contradicts its casing, "" if it does not. A few capitals prove nothing."""
    tokens = ordinary_tokens(vocab)
    capitals = sum(token != token.lower() for token in tokens)
    if is_lower and capitals > FEW_CAPITALS * len(tokens):
        return f"true, but {capitals} of {len(tokens)} tokens have a capital, and never match; false for a cased model"
    if not is_lower and not capitals and any(token != token.upper() for token in tokens):
        return "false, but no token has a capital: a word with one becomes [UNK]; true for an uncased model"
    return ""


def added_tokens(folder: Path, settings: dict[str, Any], content: dict[str, Any]) -> list[AddedToken]:
    """The tokens that the files add to the vocabulary or match as a whole, but BERT's five, which stay text.

    As in transformers: those of `added_tokens_decoder` in tokenizer_config.json; without that key, those of
    added_tokens.json and tokenizer.json. Then the special tokens that are only named. content: of tokenizer.json.
    """
    decoder = settings.get("added_tokens_decoder")
    special_map = read_object(folder / SPECIAL_FILE) if decoder is None else {}
    check_settings(folder / SPECIAL_FILE, special_map)
    lists = [content[key] for content in (settings, special_map) for key in SPECIAL_LISTS if content.get(key)]
    if any(other != lists[0] for other in lists):
        what = f"{SETTINGS_FILE} and {SPECIAL_FILE} list different special tokens: {lists[0]!r} and {lists[-1]!r}"
        raise BadInput(folder, "additional special tokens", f"{what}; leave one list")
    named = named_tokens(settings | special_map)
    listed = listed_tokens(folder, settings, content, named)
    only_named = [added_token(folder / SETTINGS_FILE, None, fields) for fields in named.values()]
    tokens = {token.content: token for token in (*only_named, *listed) if token.content not in STAY_TEXT}
    if settings.get("split_special_tokens") and tokens:
        what = f"expected false, as there are added tokens ({next(iter(tokens))!r}); remove the key or the tokens"
        raise BadInput(folder / SETTINGS_FILE, "split_special_tokens", what)
    return sorted(tokens.values(), key=lambda token: MOST_TOKENS if token.id is None else token.id)


def listed_tokens(
    folder: Path, settings: dict[str, Any], content: dict[str, Any], named: Container[str]
) -> list[AddedToken]:
    """The added tokens that a file lists with their ids."""
    file, decoder = folder / SETTINGS_FILE, settings.get("added_tokens_decoder")
    if not isinstance(decoder, (dict, type(None))):
        raise BadInput(file, "added_tokens_decoder", f"expected a JSON object, found a {type(decoder).__name__}")
    rows = [(file, token_id, fields) for token_id, fields in (decoder or {}).items()]
    if decoder is None:
        file = folder / ADDED_FILE
        ids = read_object(file).items()
        rows += [(file, token_id, {"content": name, "special": name in named}) for name, token_id in ids]
    if decoder is None or settings.get("tokenizer_class") in GENERAL_CLASSES:
        file, listed = folder / "tokenizer.json", content.get("added_tokens") or []
        if not isinstance(listed, list):
            raise BadInput(file, "added_tokens", f"expected a list, found a {type(listed).__name__}")
        rows += [(file, fields.get("id") if isinstance(fields, dict) else None, fields) for fields in listed]
    for file, token_id, _ in rows:
        if not re.fullmatch("[0-9]{1,7}", str(token_id)):
            raise BadInput(file, "added tokens", f"expected an id from 0 to {MOST_TOKENS - 1}, found {token_id!r}")
    return [added_token(file, int(token_id), fields) for file, token_id, fields in rows]


def named_tokens(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """name -> fields of the special tokens in keys like `mask_token` and in the lists of additional ones."""
    values = [value for key, value in settings.items() if key.endswith("_token")]
    for key in SPECIAL_LISTS:
        several = settings.get(key) or []
        several = list(several.values()) if isinstance(several, dict) else several
        values += several if isinstance(several, list) else [several]
    tokens = [{"content": value} if isinstance(value, str) else value for value in values]
    tokens = [fields for fields in tokens if isinstance(fields, dict) and "content" in fields]
    return {str(fields["content"]): fields | {"special": True} for fields in tokens}


def added_token(file: Path, token_id: int | None, fields: Any) -> AddedToken:
    """An added token whose fields have the right types. One that is not special is matched in the normalised text."""
    content = fields.get("content") if isinstance(fields, dict) else None
    if not isinstance(content, str) or not content.strip():
        raise BadInput(file, "added tokens", f"expected an object with the token's content, found {fields!r}")
    if fault := text_fault(content):
        raise BadInput(file, f"added token {content!r}", fault)
    flags = {key: fields[key] for key in FLAGS if key in fields}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise BadInput(file, f"added token {content!r}", f"expected true or false for its flags, found {flags}")
    return AddedToken(content, token_id, {"normalized": not flags.get("special", False)} | flags, file)
