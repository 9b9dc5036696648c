"""Where an answer stands, if its text is not at its `answer_start`: what an error says, and what a repair may use.

Offsets go wrong in few ways: another program counted bytes or UTF-16 units, the context was edited afterwards, or the
answer was typed anew, with another case, accent, width or quotation mark. In: the answer's text, its offset, its
context. Out: a `Diagnosis`.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

MOST_SEARCHED = 2_000_000_000  # characters for one file, a few seconds: many faults in one long text stay linear
MOST_FOLDED = 1_000_000  # characters of a context that is searched for other spellings
NEAR = 2000  # characters around the offset that are searched after that
MOST_SHOWN = 60  # characters of a text in a message
LONGEST_FORM = 8  # characters that one character may stand for: U+FDFA, a whole sentence, would stand for 18

MARKS = dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u2032\u00b4`"), "'")  # quotation marks, dashes
MARKS |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb"), '"')
MARKS |= dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")


def plain_width(text: str) -> str:
    """The text with full-width, half-width and other compatibility characters (NFKC) as ordinary ones.

    Spaces and the quotation marks and dashes of MARKS stay: they are other differences.
    """
    if unicodedata.is_normalized("NFKC", text):
        return text
    forms = ((c, c if c.isspace() or ord(c) in MARKS else unicodedata.normalize("NFKC", c)) for c in text)
    # Composed again, because a half-width kana has its voicing mark beside it.
    return unicodedata.normalize("NFC", "".join(form if len(form) <= LONGEST_FORM else c for c, form in forms))


def without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def without_gaps(text: str) -> str:
    """The text with each run of whitespace as one space, and without invisible characters such as soft hyphens."""
    return re.sub(r"\s+", " ", "".join(c for c in text if unicodedata.category(c) != "Cf"))


# How two spellings of one text differ -> what makes them equal.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "width or compatibility characters": plain_width,
    "case": str.casefold,
    "accents": without_accents,
    "quotation marks or dashes": lambda text: text.translate(MARKS),
    "whitespace or invisible characters": without_gaps,
}


class Diagnosis(NamedTuple):
    """Why an answer is not at its offset, in words, and where it must be, if its text leaves no choice."""

    what: str
    start: int | None = None  # the only place of the text in the context
    unit: str = ""  # what the offset seems to count, if not characters
    unit_start: int | None = None  # the place of the text if it does


def short(text: object) -> str:
    """The `repr` of a text, cut to what fits in a message."""
    shown = text[: MOST_SHOWN + 1] if isinstance(text, str) else text
    written = repr(shown)
    return written if len(written) <= MOST_SHOWN + 2 else f"{written[:MOST_SHOWN]}..{written[0]}"


def fold(text: str, but: str = "") -> str:
    """The text without everything that `SPELLINGS` names, but for one name."""
    for name, change in SPELLINGS.items():
        text = text if name == but else change(text)
    return text


def difference(first: str, second: str) -> str:
    """How two spellings of one text differ, as in "case and accents"."""
    if unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second):
        return "Unicode normalization (NFC and NFD)"
    names = [name for name in SPELLINGS if fold(first, but=name) != fold(second, but=name)]
    if not names:  # two changes remove the same difference: case folding spells a ligature out, too
        names = [name for name, change in SPELLINGS.items() if change(first) == change(second)][:1]
    return " and ".join(names) or "spelling"


def unescaped(text: str) -> str:
    """The text with HTML entities such as "&amp;" as characters; as it is if one of them is a number too long."""
    with suppress(ValueError):
        return html.unescape(text)
    return text


class Search:
    """Diagnoses of wrong offsets. One object for a file: it remembers the last context and bounds the whole search."""

    def __init__(self) -> None:
        self.searched = 0
        self.context, self.folded, self.places, self.unescaped = "", "", list[int](), ""

    def diagnose(self, text: str, start: int | None, context: str) -> Diagnosis:
        """Say why an answer may not be at its offset: another unit, shifted, spelled differently, or nowhere."""
        if start is None:
            message = f"the answer {short(text)} has no answer_start"
        else:
            found = f", where the context has {short(context[start : start + len(text)])}"
            if start >= len(context):
                found = f": the context has only {len(context)} characters"
            message = f"the answer {short(text)} is not at answer_start {start}{found}"
        self.searched += len(context)
        if self.searched > MOST_SEARCHED:
            first = max(0, (start or 0) - NEAR)
            near = context.find(text, first, first + 2 * NEAR + len(text))
            where = f"one is at {near}" if near >= 0 else f"none is within {NEAR} characters"
            many = "too many wrong or missing offsets to search further"
            return Diagnosis(f"{message}; {where}, and the file has {many}")
        matches = list(islice(places_of(text, context), 10))
        if not matches:
            return Diagnosis(f"{message}; the text is nowhere in the context{self.other_spelling(text, context)}")
        only = matches[0] if len(matches) == 1 else None
        if start is None:
            places = f"is at {only}" if only is not None else f"is at {', '.join(map(str, matches))}: name one"
            return Diagnosis(f"{message}; the text {places}", only)
        self.searched += 20 * sum(matches)  # 20, 140, 14: about how much longer these take than a search
        units = [(i, unit) for i in matches if (unit := unit_of(start, context[:i]))]
        if len(units) == 1:
            ((i, unit),) = units
            return Diagnosis(f"{message}; offsets look like {unit}, expected characters (here {i})", only, unit, i)
        around = context.find(text, start), context.rfind(text, 0, start + len(text))
        nearest = min((i for i in around if i >= 0), key=lambda i: abs(i - start))
        how_often = "the text is only at" if only is not None else "the nearest one is at"
        return Diagnosis(f"{message}; {how_often} {nearest}", only)

    def other_spelling(self, text: str, context: str) -> str:
        """Where the context has the text in another spelling, and how the two differ; "" if it has not."""
        if len(context) > MOST_FOLDED:
            return ""
        if context is not self.context:
            self.searched += 140 * len(context)
            self.context, self.folded, self.places = context, *fold_with_places(context)
            self.unescaped = unescaped(context)
        self.searched += len(context) + 14 * len(self.folded)
        if entities := self.entities(text.strip(), context):
            return entities
        folded = fold(text).strip()
        at = self.folded.find(folded) if folded else -1
        if at < 0:
            return ""
        begin, end = self.places[at], self.places[at + len(folded)]
        if (at and self.places[at - 1] == begin) or self.places[at + len(folded) - 1] == end:
            return ""  # only a part of one character, as the 1 of a fraction
        found = context[begin:end].strip()
        again = ", and elsewhere" if self.folded.find(folded, at + 1) >= 0 else ""
        return f"; {short(found)} is at {begin}{again}: it differs in {difference(text.strip(), found)}"

    def entities(self, text: str, context: str) -> str:
        """Whether the text or the context has HTML entities where the other has characters; "" if neither has."""
        plain = unescaped(text)
        if plain not in ("", text) and (at := context.find(plain)) >= 0:
            return f"; {short(plain)} is at {at}: the answer has HTML entities; replace them with html.unescape"
        if text not in context and text in self.unescaped:
            what = "the context has HTML entities where the answer has characters"
            return f"; {what}: replace them with html.unescape, and count answer_start anew"
        return ""


def places_of(text: str, context: str) -> Iterator[int]:
    """Where the text stands in the context, in order; places may overlap, as those of "ha ha" in "ha ha ha" do."""
    place = context.find(text)
    while place >= 0:
        yield place
        place = context.find(text, place + 1)


def unit_of(start: int, before: str) -> str:
    """What `start` counts if it means the place after the text `before`; "" if no known unit fits."""
    if start == len(before.encode()):
        return "bytes"
    if start == len(before.encode("utf-16-le")) // 2:
        return "UTF-16 units"
    line_ends = before.count("\n")
    is_of_lines = start in (len(before) - line_ends, len(before) + line_ends)
    return "characters of a text with other line ends" if is_of_lines else ""


def fold_with_places(context: str) -> tuple[str, list[int]]:
    """`fold(context)`, and for each of its characters, and its end, the place in the context."""
    pieces: list[str] = []
    places: list[int] = []
    known: dict[str, str] = {}
    is_after_space = False
    for i, character in enumerate(context):
        piece = known.get(character)
        if piece is None:
            piece = known[character] = fold(character)
        if piece == " " and is_after_space:
            continue
        is_after_space = piece == " " if piece else is_after_space
        pieces.append(piece)
        places += [i] * len(piece)
    return "".join(pieces), [*places, len(context)]
