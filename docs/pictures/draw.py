"""Draw the pictures of the docs as SVG files, beside this script. Needs the standard library only.

    python docs/pictures/draw.py

Each picture stands on a white panel, so that it reads the same on a light page and on a dark one.
"""

from html import escape
from itertools import pairwise
from pathlib import Path

INK, FAINT, LINE, PANEL = "#1f2933", "#66727f", "#c3ccd5", "#ffffff"
QUESTION, CONTEXT, SPECIAL, ANSWER = "#cfe3f7", "#e9edf1", "#ffffff", "#f9c784"
BLUE, ORANGE, ILLEGAL = "#2b6cb0", "#c05f00", "#e3e7eb"
SANS, MONO = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", "ui-monospace, Menlo, Consolas, monospace"

# The window of the overview: tokens, and illustrative logits of an answer that starts at "jakob" and ends at "brenner".
TOKENS = "[CLS] who built the clock ? [SEP] it was built in 1612 by jakob brenner . [SEP]".split()
CONTEXT_START = 7
STARTS = [6, 1, 2, 1, 2, 1, 1, 3, 2, 4, 3, 9, 7, 22, 10, 2, 1]
ENDS = [6, 1, 1, 1, 3, 1, 1, 2, 1, 3, 2, 10, 3, 9, 23, 6, 2]
# The windows of the second picture: 30 context tokens, room for 14, overlap 5; the answer is tokens 16 to 18.
CONTEXT_LENGTH, ROOM, OVERLAP, LABEL = 30, 14, 5, (16, 18)
WINDOWS = [(0, 14), (9, 23), (18, 30)]
# The steps of the learning rate's picture, and its peak.
STEPS, WARMUP_RATIO, PEAK = 100, 0.1, 1e-4


class Picture:
    """An SVG under construction: shapes in the order in which they are drawn."""

    def __init__(self, width: int, height: int, title: str):
        self.shapes = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' role="img" font-family="{SANS}" font-size="14" fill="{INK}">',
            f"<title>{escape(title)}</title>",
        ]
        self.box(0.5, 0.5, width - 1, height - 1, PANEL, stroke=LINE, radius=8)

    def box(self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", radius: float = 3):
        size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"'
        self.shapes.append(f'<rect {size} fill="{fill}" stroke="{stroke}"/>')

    def text(self, x: float, y: float, words: str, anchor: str = "start", **style: object):
        more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{more}>{escape(words)}</text>')

    def line(self, *points: tuple[float, float], stroke: str = FAINT, width: float = 1, dash: str = "none"):
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        look = f'stroke="{stroke}" stroke-width="{width:g}" stroke-dasharray="{dash}"'
        self.shapes.append(f'<polyline points="{path}" fill="none" {look}/>')

    def arrow(self, x: float, top: float, bottom: float, stroke: str = FAINT):
        self.line((x, top), (x, bottom), stroke=stroke, width=1.5)
        self.line((x - 4, bottom - 6), (x, bottom), (x + 4, bottom - 6), stroke=stroke, width=1.5)

    def __str__(self) -> str:
        return "\n".join([*self.shapes, "</svg>"]) + "\n"


def token_fill(position: int) -> str:
    """The colour of a token of the overview's window."""
    if TOKENS[position].startswith("["):
        return SPECIAL
    return QUESTION if position < CONTEXT_START else CONTEXT


def draw_overview() -> Picture:
    """From question and context to the answer: window, embeddings, layers, logits, span."""
    left, column = 172, 47
    width = left + column * len(TOKENS) + 20
    picture = Picture(width, 560, "From question and context to the answer")
    centres = [left + column * (i + 0.5) for i in range(len(TOKENS))]
    best_start, best_end = STARTS.index(max(STARTS)), ENDS.index(max(ENDS))

    def label(y: float, name: str, *facts: str) -> None:
        picture.text(18, y, name, font_weight="600")
        for i, fact in enumerate(facts):
            picture.text(18, y + 17 * (i + 1), fact, fill=FAINT, font_size=12, font_family=MONO)

    label(36, "two texts")
    end_of_question = left + column * CONTEXT_START - 8
    picture.box(left, 18, end_of_question - left, 34, QUESTION)
    picture.text((left + end_of_question) / 2, 40, "Who built the clock?", "middle")
    picture.box(end_of_question + 8, 18, width - 20 - end_of_question - 8, 34, CONTEXT)
    picture.text((end_of_question + width - 12) / 2, 40, "It was built in 1612 by Jakob Brenner.", "middle")
    picture.arrow((left + width - 20) / 2, 58, 78)

    label(100, "one window", "text/windows.py", "(T,) ids, types")
    for i, token in enumerate(TOKENS):
        picture.box(left + column * i + 1, 84, column - 2, 28, token_fill(i), stroke=LINE)
        picture.text(centres[i], 102, token, "middle", font_size=10, font_family=MONO)
        picture.text(centres[i], 128, str(int(i >= CONTEXT_START)), "middle", fill=FAINT, font_size=12)
    picture.text(left - 8, 128, "type", "end", fill=FAINT, font_size=12)
    picture.arrow((left + width - 20) / 2, 136, 156)

    label(178, "embeddings", "model/bert.py", "(T, D)")
    for i, x in enumerate(centres):
        for row, fill in enumerate(("#8fb8de", "#b9c6d3", QUESTION if i < CONTEXT_START else "#dfe5ea")):
            picture.box(x - 12, 164 + 15 * row, 24, 13, fill)
    for row, name in enumerate(("word", "position", "type")):
        picture.text(left - 8, 175 + 15 * row, name, "end", fill=FAINT, font_size=11)
    picture.arrow((left + width - 20) / 2, 214, 234)

    label(276, "the layers", "model/bert.py", "(T, D) again")
    picture.box(left, 240, width - 20 - left, 96, "#f6f8fa", stroke=LINE)
    for i, x in enumerate(centres):
        strength = 3.0 if i in (1, 2, best_end) else 0.6
        picture.line((x, 252), (centres[best_start], 308), stroke=BLUE, width=strength)
    for x in centres:
        picture.box(x - 3, 249, 6, 6, FAINT, radius=3)
    picture.box(centres[best_start] - 4, 304, 8, 8, BLUE, radius=4)
    caption = "each token attends to all tokens (here one of them); then feed-forward"
    picture.text(left + 12, 326, caption, fill=FAINT, font_size=12)
    picture.arrow((left + width - 20) / 2, 342, 362)

    label(394, "span head", "model/bert.py", "2 logits a token")
    for name, base, values, best in (("start", 400, STARTS, best_start), ("end", 442, ENDS, best_end)):
        picture.text(left - 8, base - 2, name, "end", fill=FAINT, font_size=12)
        picture.line((left, base), (width - 20, base), stroke=LINE)
        for i, value in enumerate(values):
            picture.box(
                centres[i] - 9, base - 1.5 * value, 18, 1.5 * value, ORANGE if i == best else "#b9c6d3", radius=1
            )
    picture.arrow((centres[best_start] + centres[best_end]) / 2, 450, 474, stroke=ORANGE)

    label(498, "the best span", "answers/spans.py", "highest start + end")
    sentence = ("It was built in 1612 by ", "Jakob Brenner", ".")
    x = (centres[best_start] + centres[best_end]) / 2 - 8.4 * (len(sentence[0]) + len(sentence[1]) / 2)
    for i, part in enumerate(sentence):
        if i == 1:
            picture.box(x - 3, 482, 8.4 * len(part) + 6, 26, ANSWER)
        picture.text(x, 500, part, font_family=MONO, textLength=f"{8.4 * len(part.rstrip()):g}")
        x += 8.4 * len(part)
    caption = "characters 24 to 37 of the original text"
    picture.text((centres[best_start] + centres[best_end]) / 2, 530, caption, "middle", fill=FAINT, font_size=12)
    return picture


def draw_windows() -> Picture:
    """A context longer than one window, and the three windows that cover it."""
    left, cell, gap = 232, 18, 54
    width = left + cell * CONTEXT_LENGTH + 130
    picture = Picture(width, 264, "Windows with overlap over a long context")
    picture.text(18, 40, f"context, {CONTEXT_LENGTH} tokens", font_weight="600")

    def strip(y: float, first: int, stop: int) -> None:
        for token in range(first, stop):
            shared = sum(start <= token < end for start, end in WINDOWS) > 1
            fill = ANSWER if LABEL[0] <= token <= LABEL[1] else "#c9d6e2" if shared else CONTEXT
            picture.box(left + cell * token + 0.5, y, cell - 1, 24, fill, stroke=LINE, radius=2)

    strip(24, 0, CONTEXT_LENGTH)
    for number, (first, stop) in enumerate(WINDOWS):
        y = 76 + gap * number
        start = left + cell * first
        picture.text(18, y + 17, f"window {number}", font_weight="600")
        # The question and the special tokens stand directly before the window's part of the context.
        for x, wide, word, fill in (
            (start - 132, 38, "[CLS]", SPECIAL),
            (start - 93, 54, "question", QUESTION),
            (start - 38, 36, "[SEP]", SPECIAL),
            (left + cell * stop + 2, 36, "[SEP]", SPECIAL),
        ):
            picture.box(x, y, wide, 24, fill, stroke=LINE, radius=2)
            picture.text(x + wide / 2, y + 16, word, "middle", font_size=10.5, font_family=MONO)
        strip(y, first, stop)
        inside = first <= LABEL[0] and LABEL[1] < stop
        x = left + cell * stop + 46
        picture.text(x, y + 11, "label", font_size=11, fill=FAINT)
        picture.text(x, y + 24, "the answer" if inside else "(0, 0)", font_size=11, fill=ORANGE if inside else INK)
    for number, ((_, end), (start, _)) in enumerate(pairwise(WINDOWS)):
        y = 76 + gap * number + 24
        for x in (left + cell * start, left + cell * end):
            picture.line((x, y), (x, y + gap - 24), stroke=FAINT, dash="3 3")
        picture.text(left + cell * (start + end) / 2, y + 19, "doc_stride", "middle", fill=FAINT, font_size=11)
    picture.box(left, 232, 14, 14, ANSWER, stroke=LINE, radius=2)
    picture.text(left + 20, 244, "the answer's tokens", font_size=12)
    picture.box(left + 170, 232, 14, 14, "#c9d6e2", stroke=LINE, radius=2)
    picture.text(left + 190, 244, "tokens that two windows share", font_size=12)
    return picture


def draw_matrix() -> Picture:
    """Start + end logit of every pair of context tokens, with the pairs that the search allows."""
    tokens, starts, ends = TOKENS[CONTEXT_START:-1], STARTS[CONTEXT_START:-1], ENDS[CONTEXT_START:-1]
    longest, cell, left, top = 4, 44, 180, 84
    size = cell * len(tokens)
    picture = Picture(left + size + 236, top + size + 20, "The span matrix and its legal band")
    picture.text(left + size / 2, 28, "end of the answer", "middle", font_weight="600")
    picture.text(18, top + size / 2, "start of", font_weight="600")
    picture.text(18, top + size / 2 + 18, "the answer", font_weight="600")
    best = max(start + end for start in starts for end in ends)
    for i, token in enumerate(tokens):
        picture.text(left - 8, top + cell * (i + 0.5) + 4, token, "end", font_size=12, font_family=MONO)
        x, y = left + cell * (i + 0.5), top - 8
        picture.text(x, y, token, "start", font_size=12, font_family=MONO, transform=f"rotate(-35 {x:g} {y:g})")
        for j in range(len(tokens)):
            x, y, total = left + cell * j, top + cell * i, starts[i] + ends[j]
            legal = i <= j < i + longest
            depth = total / best  # from white to blue
            fill = f"rgb({255 - 135 * depth:.0f},{255 - 80 * depth:.0f},{255 - 20 * depth:.0f})" if legal else ILLEGAL
            is_best = total == best
            picture.box(x + 1, y + 1, cell - 2, cell - 2, fill, stroke=ORANGE if is_best else LINE if legal else "none")
            if legal:
                weight = "700" if is_best else "400"
                value = f"{total / 2 - 4:.1f}"  # as if each logit were half its bar, less 2
                picture.text(x + cell / 2, y + cell / 2 + 5, value, "middle", font_size=12, font_weight=weight)
    x = left + size + 20
    for row, (fill, line_1, line_2) in enumerate(
        (
            ("#b4d1f4", "legal: both in the context,", f"at most {longest} tokens long"),
            (ILLEGAL, "below: the end comes", "before the start"),
            (ILLEGAL, "right: longer than", "max_answer_length"),
            (PANEL, "the best legal span:", "jakob brenner"),
        )
    ):
        y = top + 54 * row
        picture.box(x, y, 16, 16, fill, stroke=ORANGE if fill == PANEL else LINE)
        picture.text(x + 26, y + 13, line_1, font_size=13)
        picture.text(x + 26, y + 31, line_2, font_size=13)
    return picture


def rate(step: int) -> float:
    """The learning rate at a step, by the rule of `learning_rate_at` in training/step.py."""
    warmup = round(WARMUP_RATIO * STEPS)
    return PEAK * (step / warmup if step < warmup else (STEPS - step) / (STEPS - warmup))


def draw_learning_rate() -> Picture:
    """Warm-up and decay of the learning rate over the steps of a run."""
    left, top, width, height = 96, 40, 560, 180
    picture = Picture(left + width + 40, top + height + 64, "The learning rate over the steps")
    warmup = round(WARMUP_RATIO * STEPS)

    def place(step: float, value: float) -> tuple[float, float]:
        return left + width * step / STEPS, top + height * (1 - value / PEAK)

    picture.line(place(0, PEAK), place(0, 0), place(STEPS, 0), stroke=INK)
    picture.line(place(0, PEAK), place(warmup, PEAK), stroke=LINE, dash="3 3")
    picture.line(place(warmup, PEAK), place(warmup, 0), stroke=LINE, dash="3 3")
    picture.line(*(place(step, rate(step)) for step in range(STEPS + 1)), stroke=BLUE, width=2.5)
    picture.text(left - 10, top + 5, f"{PEAK:g}", "end")
    picture.text(left - 10, top + height + 5, "0", "end")
    for step in (0, warmup, 50, STEPS):
        picture.text(place(step, 0)[0], top + height + 22, str(step), "middle")
    picture.text(left + width / 2, top + height + 46, "step", "middle", fill=FAINT)
    picture.text(18, 24, "learning rate", fill=FAINT)
    picture.text(
        place(16, 0)[0], top - 2, f"warm-up ends at step ceil({WARMUP_RATIO} x {STEPS}) = {warmup}", font_size=13
    )
    picture.text(place(58, 0)[0], place(0, rate(55))[1] - 6, "then linear decay to 0", font_size=13)
    return picture


PICTURES = {
    "overview.svg": draw_overview,
    "windows.svg": draw_windows,
    "span_matrix.svg": draw_matrix,
    "learning_rate.svg": draw_learning_rate,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (Path(__file__).parent / name).write_text(str(draw()), "utf-8", newline="\n")
