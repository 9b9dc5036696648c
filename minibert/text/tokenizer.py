"""Text -> token ids with character offsets: BERT's WordPiece tokenizer, read from a model folder.

The tokenizing itself is the `tokenizers` library's. This file makes one fixed kind of tokenizer of a folder's
vocabulary, settings and added tokens, so that nothing else in its files (padding, truncation, special tokens that match
inside a text) can change a text's tokens. In: a folder or hub id. Out: a `Tokenizer`.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.text.records import text_fault
from minibert.text.tokenizer_files import read_tokenizer_files
from minibert.text.tokenizer_settings import SPECIAL_TOKENS

CHUNK = 1000  # texts encoded at once: the library's own objects take far more memory than our arrays


class Tokenizer:
    """A WordPiece tokenizer with its special ids. `files` is what `save` writes, name -> bytes.

    input_names: the inputs that its files want for a model, None if they do not say.

    BadInput names `source`, the file that the vocabulary is from, if it lacks a special token.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        files: dict[str, bytes],
        source: str | Path = "tokenizer",
        input_names: Any = None,
    ):
        self.backend, self.files, self.input_names = backend, files, input_names
        vocab = backend.get_vocab()
        for token in SPECIAL_TOKENS:
            if token not in vocab:
                raise BadInput(source, token, "is not in the vocabulary; use the files of a BERT model")
        self.cls_id, self.sep_id, self.pad_id, self.unk_id = (vocab[token] for token in SPECIAL_TOKENS)
        self.vocab_size = 1 + max(vocab.values())

    def __repr__(self) -> str:
        casing = "uncased" if self.backend.normalizer.lowercase else "cased"
        return f"<{casing} WordPiece tokenizer, {self.vocab_size} tokens>"

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokenize every text by itself, without special tokens: (ids, offsets) of each.

        ids (tokens,) int32; offsets (tokens, 2) int32, first character in the text and the one after the last.
        """
        arrays = []
        for first in range(0, len(texts), CHUNK):
            for encoding in self.backend.encode_batch(list(texts[first : first + CHUNK]), add_special_tokens=False):
                offsets = np.fromiter(chain.from_iterable(encoding.offsets), np.int32).reshape(-1, 2)
                arrays.append((np.array(encoding.ids, np.int32), offsets))
        return arrays

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
    read = read_tokenizer_files(find_folder(name_or_dir, revision))
    backend = wordpiece(read.vocab, read.settings, read.source)
    # All at once: after each call the library builds its search for all of them anew.
    backend.add_tokens([tokenizers.AddedToken(token.content, **token.flags) for token in read.added])
    for token in read.added:
        found = backend.token_to_id(token.content)
        if token.id not in (None, found):
            what = f"expected id {found}, as the vocabulary and the added tokens before it say, found {token.id}"
            raise BadInput(token.file, f"added token {token.content!r}", what)
    return Tokenizer(backend, read.files, read.source, read.input_names)


def wordpiece(vocab: dict[str, int], settings: dict[str, Any], source: str | Path) -> tokenizers.Tokenizer:
    """BERT's tokenizer: clean, lower-case if uncased, split at whitespace and punctuation, then longest pieces first.

    A setting that is absent or null has BERT's default. No special token matches inside a text: "[SEP]" in a question
    is ordinary text and does not end the question.
    """
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
