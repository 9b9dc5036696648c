"""Text -> token ids with character offsets: BERT's WordPiece tokenizer, read from a model folder.

The tokenizing itself is the `tokenizers` library's. This file reads a published `tokenizer.json` or `vocab.txt` into
one fixed kind of tokenizer, so that no other setting in the files (padding, truncation, special tokens that match
inside a text) can change a text's tokens. In: a folder or hub id. Out: a `Tokenizer`. Next: `windows.py`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.support.hub import find_folder
from minibert.text.squad import text_fault

# Saved with a model byte for byte, so that other libraries read the folder as they would the original.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")  # of tokenizer_config.json
MOST_TOKENS = 10_000_000  # in a vocabulary; a larger id would allocate gigabytes
CHUNK = 1000  # texts encoded at once: the library's own objects take far more memory than our arrays


class Encodings:
    """The tokens of many texts as flat arrays: text i is rows bounds[i] .. bounds[i + 1] - 1.

    ids (tokens,) int32; offsets (tokens, 2) int32, first character in the text and the one after the last; bounds
    (texts + 1,) int64. Iterating gives (ids, offsets) of one text after the other, as views.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, lengths: Sequence[int]):
        self.ids, self.offsets = ids, offsets
        self.bounds = np.cumsum([0, *lengths], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first, stop in pairwise(self.bounds.tolist()):
            yield self.ids[first:stop], self.offsets[first:stop]

    def __repr__(self) -> str:
        return f"<{len(self.ids)} tokens of {len(self)} texts>"


class Tokenizer:
    """A WordPiece tokenizer with its special ids. `files` is what `save` writes, name -> bytes.

    BadInput names `source`, the file that the vocabulary is from, if it lacks a special token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, files: dict[str, bytes], source: str | Path = "tokenizer"):
        self.backend, self.files = backend, files
        vocab = backend.get_vocab()
        for token in SPECIAL_TOKENS:
            if token not in vocab:
                raise BadInput(source, token, "is not in the vocabulary; use the files of a BERT model")
        self.cls_id, self.sep_id, self.pad_id, _ = (vocab[token] for token in SPECIAL_TOKENS)
        self.vocab_size = 1 + max(vocab.values())

    def __repr__(self) -> str:
        casing = "uncased" if self.backend.normalizer.lowercase else "cased"
        return f"<{casing} WordPiece tokenizer, {self.vocab_size} tokens>"

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Tokenize every text by itself, without special tokens."""
        ids, offsets, lengths = [np.empty(0, np.int32)], [np.empty((0, 2), np.int32)], list[int]()
        for first in range(0, len(texts), CHUNK):
            batch = self.backend.encode_batch(list(texts[first : first + CHUNK]), add_special_tokens=False)
            lengths += map(len, batch)
            ids.append(np.fromiter(chain.from_iterable(e.ids for e in batch), np.int32))
            pairs = chain.from_iterable(e.offsets for e in batch)
            offsets.append(np.fromiter(chain.from_iterable(pairs), np.int32).reshape(-1, 2))
        return Encodings(np.concatenate(ids), np.concatenate(offsets), lengths)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The readable form of ids; "##" marks a piece that continues a word."""
        return [self.backend.id_to_token(int(token_id)) or "" for token_id in ids]

    def save(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def load_tokenizer(name_or_dir: str | os.PathLike, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model folder: from `tokenizer.json`, else from `vocab.txt`. Needs no `config.json`.

    Raises BadInput for a tokenizer other than BERT's. A `vocab.txt` whose casing no file states is cased if an ordinary
    token has a capital letter.
    """
    folder = find_folder(name_or_dir, revision)
    files = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
    settings_file = folder / "tokenizer_config.json"
    if "tokenizer.json" in files:
        source = folder / "tokenizer.json"
        vocab, settings = parse_tokenizer(read_json(source), source)
    elif "vocab.txt" in files:
        source = folder / "vocab.txt"
        vocab, settings = parse_vocab(files["vocab.txt"], source), {}
        if settings_file.name in files:
            settings = read_json(settings_file)
        if not isinstance(settings, dict):
            raise BadInput(settings_file, "", f"expected a JSON object, found a {type(settings).__name__}")
        if settings.get("do_lower_case") is None:
            settings["do_lower_case"] = not has_capitals(vocab)
            # Saved with the other files, so that every later reader of a saved folder takes the same casing.
            files[settings_file.name] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    else:
        raise BadInput(folder, "", "has neither tokenizer.json nor vocab.txt; copy them from the original model")
    return Tokenizer(wordpiece(vocab, settings, source), files, source)


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
    model, normalizer = parts["model"], parts["normalizer"]
    for place, found, expected in (
        ("version", content.get("version"), "1.0"),
        ("model.unk_token", model.get("unk_token"), "[UNK]"),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), "##"),
    ):
        if found != expected:
            raise BadInput(source, place, f"expected {expected!r}, found {found!r}")
    vocab, added_tokens = model.get("vocab"), content.get("added_tokens") or []
    if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i < MOST_TOKENS for i in vocab.values()):
        raise BadInput(source, "model.vocab", f"expected an object of tokens with ids from 0 to {MOST_TOKENS - 1}")
    if len(set(vocab.values())) < len(vocab):
        raise BadInput(source, "model.vocab", "two tokens have the same id")
    if not isinstance(added_tokens, list):
        raise BadInput(source, "added_tokens", f"expected a list, found a {type(added_tokens).__name__}")
    for token in added_tokens:
        if not isinstance(token, dict) or str(token.get("content")) not in vocab:
            raise BadInput(source, "added_tokens", f"{token!r} is not in the vocabulary, which is not supported")
    names = ("lowercase", "strip_accents", "handle_chinese_chars")
    return vocab, {setting: normalizer.get(name) for setting, name in zip(SETTINGS, names)}


def parse_vocab(raw: bytes, source: Path) -> dict[str, int]:
    """token -> id of a `vocab.txt`, one token per line. Only a line feed ends a line: other separators are tokens."""
    try:
        lines = raw.decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(source, f"byte {error.start}", "is not UTF-8; convert the file") from error
    vocab: dict[str, int] = {}
    for number, line in enumerate(lines):
        token = line.removesuffix("\r")
        if token in vocab:
            raise BadInput(source, f"line {number + 1}", f"{token!r} is on line {vocab[token] + 1} too; remove one")
        vocab[token] = number
    return vocab


def has_capitals(vocab: dict[str, int]) -> bool:
    """Whether an ordinary token (not "[CLS]" and the like) has a capital letter: the mark of a cased vocabulary."""
    return any(token != token.lower() for token in vocab if not (token[:1] == "[" and token[-1:] == "]"))


def wordpiece(vocab: dict[str, int], settings: dict[str, Any], source: Path) -> tokenizers.Tokenizer:
    """BERT's tokenizer: clean, lower-case if uncased, split at whitespace and punctuation, then longest pieces first.

    A setting that is absent or null has BERT's default. No special token matches inside a text: "[SEP]" in a question
    is ordinary text and does not end the question.
    """
    for key in SETTINGS:
        if not isinstance(settings.get(key), (bool, type(None))):
            raise BadInput(source, key, f"expected true or false, found {settings[key]!r}")
    for token in vocab:
        if fault := text_fault(token, may_be_blank=True):
            raise BadInput(source, f"token {token!r}", fault)
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case") is not False,
        strip_accents=settings.get("strip_accents"),  # None: stripped if lower-cased
        handle_chinese_chars=settings.get("tokenize_chinese_chars") is not False,
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return backend
