"""The settings of a tokenizer: what a model folder may ask for, and which file counts where two disagree.

In: the objects of tokenizer_config.json and of other files that hold such settings. Out: the settings that change how a
text is split, honoured as by `transformers`' fast BERT tokenizer, or BadInput.
"""

import json
from pathlib import Path
from typing import Any

from minibert.support.errors import BadInput
from minibert.support.streams import tell

SETTINGS_FILE = "tokenizer_config.json"
SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
STAY_TEXT = (*SPECIAL_TOKENS, "[MASK]")  # are never matched in a text

# Values of `tokenizer_class`. For BERT's classes, transformers takes only the vocabulary and the added tokens from
# tokenizer.json, and the settings from tokenizer_config.json; for the general ones, everything from tokenizer.json.
BERT_CLASSES = [f"{kind}Tokenizer{fast}" for kind in ("Bert", "DistilBert", "Electra") for fast in ("", "Fast")]
GENERAL_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# The settings of tokenizer_config.json that change how a text is split, and their defaults in transformers.
DEFAULTS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
SETTINGS = tuple(DEFAULTS)
# Others, with the only value that is supported.
FIXED: dict[str, Any] = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
FIXED |= {"do_basic_tokenize": True, "clean_text": True, "wordpieces_prefix": "##", "auto_map": None}
FIXED |= {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece"}
FIXED |= {"padding_side": "right", "truncation_side": "right"}


def template(pieces: str) -> list[dict[str, Any]]:
    """A template of tokenizer.json: "[CLS]:0 A:0" is the special token [CLS], then text A, both of token type 0."""
    pairs = [piece.split(":") for piece in pieces.split()]
    return [
        {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": int(kind)}} for name, kind in pairs
    ]


# What BERT puts around one text and around two; DistilBERT has no token types.
SINGLE = template("[CLS]:0 A:0 [SEP]:0")
PAIRS = [template(f"[CLS]:0 A:0 [SEP]:0 B:{kind} [SEP]:{kind}") for kind in (1, 0)]


def check_class(file: Path, content: dict[str, Any]) -> None:
    """BadInput if the file names a class of tokenizer that does not split texts as BERT's."""
    name = content.get("tokenizer_class")
    if name not in (None, *BERT_CLASSES, *GENERAL_CLASSES):
        what = f"expected BertTokenizer, found {name!r}; choose a model with BERT's WordPiece tokenizer"
        raise BadInput(file, "tokenizer_class", what)


def check_settings(file: Path, settings: dict[str, Any]) -> None:
    """BadInput for a setting that is not true, false or null, and for one that asks for another tokenizer."""
    for key in SETTINGS:
        if not isinstance(settings.get(key), (bool, type(None))):
            raise BadInput(file, key, f"expected true or false, found {settings[key]!r}")
    for key, expected in FIXED.items():
        found = settings.get(key)
        found = found.get("content", found) if isinstance(found, dict) else found
        if found is not None and found != expected:
            what = f"expected {json.dumps(expected)}, found {found!r}; only BERT's own tokenizer is supported"
            raise BadInput(file, key, what)
    never_split = settings.get("never_split") or []
    if not isinstance(never_split, list) or any(token not in STAY_TEXT for token in never_split):
        what = f"expected null, found {never_split!r}; remove the key to split these words as transformers does"
        raise BadInput(file, "never_split", what)


def check_post_processor(file: Path, found: Any) -> None:
    """BadInput if the `post_processor` of a tokenizer.json puts other special tokens around texts than BERT's."""
    if isinstance(found, dict) and found.get("type") == "Sequence":
        inner = found.get("processors")
        found = inner[0] if isinstance(inner, list) and len(inner) == 1 else found
    part = found if isinstance(found, dict) else {}
    kind = part.get("type")
    is_template = kind == "TemplateProcessing" and part.get("single") == SINGLE and part.get("pair") in PAIRS
    if found is not None and kind != "BertProcessing" and not is_template:
        what = f"expected BERT's, [CLS] A [SEP] B [SEP], found another of type {kind!r}; choose a model with BERT's own"
        raise BadInput(file, "post_processor", what)


def settle(in_json: dict[str, Any], settings: dict[str, Any], source: Path) -> dict[str, Any]:
    """The settings where tokenizer.json has some and tokenizer_config.json others.

    What tokenizer_config.json states counts, as in transformers. Where it states nothing, transformers takes defaults,
    whatever tokenizer.json says. The weights may have been trained with either, so a difference is refused.
    """
    stated = {key: settings[key] for key in SETTINGS if settings.get(key) is not None}
    chosen = in_json | stated
    if effective(chosen) != effective(DEFAULTS | stated):
        names = [key for key in SETTINGS if key not in stated and in_json[key] not in (DEFAULTS[key], None)]
        found = ", ".join(f'"{key}": {json.dumps(in_json[key])}' for key in names)
        what = f"asks for {found}, but transformers takes its defaults where {SETTINGS_FILE} does not state them; "
        raise BadInput(source, "normalizer", f"{what}write there what the model was trained with")
    if effective(chosen) != effective(in_json):
        tell(f"warning: {source}: its normalizer is overruled by {SETTINGS_FILE} ({stated}), as in transformers")
    return chosen


def effective(settings: dict[str, Any]) -> tuple[bool, bool, bool]:
    """The settings with their defaults filled in: accents are stripped if letters are lower-cased."""
    lower, strip, chinese = (settings[key] for key in SETTINGS)
    is_lower = lower is not False
    return is_lower, is_lower if strip is None else strip, chinese is not False
