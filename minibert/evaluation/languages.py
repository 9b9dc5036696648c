"""Words and normal forms of other languages, for scores by `--metric_language`.

The official SQuAD rules are made for English: where a text has no spaces, an answer that is one character too long has
no word in common with the right one, and F1 is 0. In: a text and a language. Out: its normal form, and its words.
"""

import re
import string
import unicodedata
from typing import NamedTuple

from minibert.support.errors import BadInput


class Language(NamedTuple):
    """What differs between languages."""

    articles: str = ""  # a pattern: what matches is removed
    characters: str = ""  # a class of a pattern: each of these characters is a word
    spaced: str = ""  # punctuation that becomes a space; any other is removed without one


def articles(words: str) -> str:
    return rf"\b({words.replace(' ', '|')})\b"


# Articles and characters from MLQA's evaluation script: ar de en es hi vi zh. It removes the Arabic article wherever
# its letters stand. Articles from MKQA's script, elided ones included: da fr hu it nl no pt sv. F1 over characters and
# the marks that become spaces from KorQuAD's script: ko. Characters of the other scripts without spaces are ours.
LANGUAGES = {
    "ar": Language("ال"),
    "bo": Language(characters="\u0f00-\u0fff"),
    "da": Language(articles("en et")),
    "de": Language(articles("ein eine einen einem eines einer der die das den dem des")),
    "en": Language(articles("a an the")),
    "es": Language(articles("un una unos unas el la los las")),
    "fr": Language(articles("le la l les du de d des un une"), spaced="'’"),
    "hu": Language(articles("a az egy")),
    "it": Language(articles("il lo la l i gli le del dello della dell dei degli degl delle un uno una"), spaced="'’"),
    "ja": Language(characters="\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f\U00020000-\U0003ffff"),
    "km": Language(characters="\u1780-\u17ff"),
    "ko": Language(spaced="'\"()<>‘’《》〈〉"),
    "lo": Language(characters="\u0e80-\u0eff"),
    "my": Language(characters="\u1000-\u109f"),
    "nl": Language(articles("de het een des der den")),
    "no": Language(articles("en et ei")),
    "pt": Language(articles("o a os as um uma uns umas")),
    "sv": Language(articles("en ett")),
    "th": Language(characters="\u0e00-\u0e7f"),
    "vi": Language(articles("của là cái chiếc những")),
    "zh": Language(characters="\u4e00-\u9fa5"),
    # Words between spaces and no articles; `other` stands for every language that is not listed.
    **dict.fromkeys(("bn", "fi", "hi", "id", "ru", "sw", "te", "tr", "other"), Language()),
}


def check_language(language: str | None) -> None:
    """BadInput for a language without rules here; None stands for the official rules."""
    if language is not None and language not in LANGUAGES:
        raise BadInput("metric_language", "", f"expected one of {', '.join(sorted(LANGUAGES))}, found {language!r}")


def normalize(text: str, language: str) -> str:
    """Lower-case, remove the punctuation of all scripts, then articles, then set words apart by one space each."""
    rules = LANGUAGES[language]
    kept = ""
    for character in text.lower():
        if character in rules.spaced:
            kept += " "
        elif not is_punctuation(character):
            kept += character
    if rules.articles:
        kept = re.sub(rules.articles, " ", kept)
    if rules.characters:
        kept = re.sub(f"([{rules.characters}])", r" \1 ", kept)
    return " ".join(kept.split())


def is_punctuation(character: str) -> bool:
    """ASCII punctuation, which includes $ and +, and Unicode's category P."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def words(text: str, language: str) -> list[str]:
    """What F1 counts: the words of the normal form. In Korean, characters: spaces separate phrases there."""
    normal = normalize(text, language)
    return list(normal.replace(" ", "")) if language == "ko" else normal.split()
