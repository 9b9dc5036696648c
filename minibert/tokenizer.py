"""Text -> token ids and character offsets: a thin layer over the `tokenizers` library.

In: strings. Out: int32 arrays, without [CLS] and [SEP]; `windows.py` sets those. A literal "[SEP]" in a text
stays text, and nothing is padded or cut here, whatever the tokenizer's own file asks for. Next: `windows.py`.
"""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers

from minibert.errors import BadInput
from minibert.folders import find_folder
from minibert.squad import read_json, text_fault

# Saved with a model byte for byte, so that other libraries read the folder as they would the original.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
MOST_TOKENS = 10_000_000
CHUNK = 1000  # texts encoded at once: the library's own objects take far more memory than our arrays


class Encodings:
    """Many texts as flat arrays: text i is ids[bounds[i]:bounds[i+1]] with offsets of the same rows.

    ids (tokens,) int32; offsets (tokens, 2) int32, character start and end in the text; bounds (texts + 1,) int64.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, lengths: np.ndarray):
        self.ids, self.offsets = ids, offsets
        self.bounds = np.cumsum(np.concatenate([[0], lengths]))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.bounds)


class Tokenizer:
    """A WordPiece tokenizer with its special ids. `files` holds what `save` writes, name -> bytes."""

    def __init__(self, backend: tokenizers.Tokenizer, files: dict[str, bytes], source: str = "tokenizer"):
        self.backend, self.files = backend, files
        self.cls_id, self.sep_id, self.pad_id, _ = (
            self.special_id(token, source) for token in ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
        )
        self.vocab_size = 1 + max(backend.get_vocab().values())

    def special_id(self, token: str, source: str) -> int:
        """The id of a token that BERT needs; BadInput where the vocabulary lacks it."""
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise BadInput(source, token, "is not in the vocabulary; this is no BERT tokenizer")
        return token_id

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Tokenise every text by itself, without special tokens."""
        ids, offsets, lengths = [np.empty(0, np.int32)], [np.empty((0, 2), np.int32)], []
        for first in range(0, len(texts), CHUNK):
            batch = self.backend.encode_batch(list(texts[first : first + CHUNK]), add_special_tokens=False)
            lengths += map(len, batch)
            ids.append(np.fromiter(chain.from_iterable(e.ids for e in batch), np.int32))
            pairs = chain.from_iterable(e.offsets for e in batch)
            offsets.append(np.fromiter(chain.from_iterable(pairs), np.int32).reshape(-1, 2))
        return Encodings(np.concatenate(ids), np.concatenate(offsets), np.array(lengths, np.int64))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The readable form of ids, "##" marking a piece that continues a word."""
        return [self.backend.id_to_token(int(token_id)) for token_id in ids]

    def save(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def load_tokenizer(name_or_dir, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model folder: from `tokenizer.json`, else from `vocab.txt`. Needs no `config.json`.

    Only the vocabulary and the few settings of BERT's tokenizer are taken from either: nothing that a file says beyond
    them (padding, special tokens within texts) takes effect. Raises BadInput for another kind of tokenizer.
    """
    folder = find_folder(name_or_dir, revision)
    files = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
    if "tokenizer.json" in files:
        source = folder / "tokenizer.json"
        vocab, settings = parse_tokenizer(read_json(source), source)
    elif "vocab.txt" in files:
        source = folder / "vocab.txt"
        vocab = parse_vocab(files["vocab.txt"], source)
        settings = read_json(folder / "tokenizer_config.json") if "tokenizer_config.json" in files else {}
        if not isinstance(settings, dict):
            raise BadInput(folder / "tokenizer_config.json", "", "expected a JSON object")
        if settings.get("do_lower_case") is None:
            # State the casing that was found out, so that every later reader of a saved folder agrees.
            settings["do_lower_case"] = not has_capitals(vocab)
            files["tokenizer_config.json"] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    else:
        raise BadInput(folder, "", "has neither tokenizer.json nor vocab.txt")
    return Tokenizer(wordpiece(vocab, settings, source), files, str(source))


def parse_tokenizer(content, source: Path) -> tuple[dict[str, int], dict]:
    """Vocabulary and settings (in the words of tokenizer_config.json) of a `tokenizer.json`."""
    parts = {}
    for key, kind in (("model", "WordPiece"), ("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        part = content.get(key) if isinstance(content, dict) else None
        # Old files leave out the kind of model, but have its prefix.
        if (
            not isinstance(part, dict)
            or part.get("type", kind if "continuing_subword_prefix" in part else None) != kind
        ):
            raise BadInput(source, key, f"is not of type {kind}: only BERT's own tokenizer is supported")
        parts[key] = part
    vocab, normalizer = parts["model"].get("vocab"), parts["normalizer"]
    for name, found, wanted in (
        ("version", content.get("version"), "1.0"),
        ("model.unk_token", parts["model"].get("unk_token"), "[UNK]"),
        ("model.continuing_subword_prefix", parts["model"].get("continuing_subword_prefix"), "##"),
    ):
        if found != wanted:
            raise BadInput(source, name, f"must be {wanted!r}, not {found!r}")
    if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i < MOST_TOKENS for i in vocab.values()):
        raise BadInput(
            source, "model.vocab", f"expected an object of tokens and their ids, from 0 to {MOST_TOKENS - 1}"
        )
    if len(set(vocab.values())) < len(vocab):
        raise BadInput(source, "model.vocab", "two tokens have one id")
    if not isinstance(content.get("added_tokens") or [], list):
        raise BadInput(source, "added_tokens", "expected a list")
    for token in content.get("added_tokens") or ():
        if not isinstance(token, dict) or str(token.get("content")) not in vocab:
            raise BadInput(source, "added_tokens", f"{token!r} is not in the vocabulary, which is not supported")
    return vocab, {
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }


def parse_vocab(raw: bytes, source: Path) -> dict[str, int]:
    """token -> id, one token a line. Splits at line feeds alone: other line separators are tokens."""
    try:
        lines = raw.decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(source, f"byte {error.start}", "is not UTF-8") from error
    vocab = {}
    for number, line in enumerate(lines):
        token = line.removesuffix("\r")
        if token in vocab:
            raise BadInput(source, f"line {number + 1}", f"{token!r} stands at line {vocab[token] + 1} too")
        vocab[token] = number
    return vocab


def has_capitals(vocab: dict[str, int]) -> bool:
    """Whether an ordinary token (not "[CLS]" and its like) has a capital letter: the mark of a cased vocabulary."""
    return any(token != token.lower() for token in vocab if not (token[:1] == "[" and token[-1:] == "]"))


def wordpiece(vocab: dict[str, int], settings: dict, source: Path) -> tokenizers.Tokenizer:
    """BERT's tokenizer: clean and maybe lower-case, split at blanks and punctuation, then longest pieces first.

    It knows no special tokens: "[SEP]" in a question is text, and does not end the question.
    """
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not isinstance(settings.get(key), (bool, type(None))):
            raise BadInput(source, key, f"must be true or false, not {settings[key]!r}")
    if fault := next((token for token in vocab if text_fault(token, may_be_blank=True)), None):
        raise BadInput(source, repr(fault), "is not a usable token")
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case") is not False,
        strip_accents=settings.get("strip_accents"),  # None: as lowercase says
        handle_chinese_chars=settings.get("tokenize_chinese_chars") is not False,
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return backend
