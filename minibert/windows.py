"""`Example`s -> overlapping windows with labels. (A window is what other code calls a feature.)

BERT reads at most `max_seq_length` tokens, so a long context is read through a window that slides over it:

    context   c0 c1 c2 c3 c4 c5 c6 c7 c8
    window 0  [CLS] question [SEP] c0 c1 c2 c3 c4 [SEP]
    window 1  [CLS] question [SEP]          c3 c4 c5 c6 c7 [SEP]        overlap (`doc_stride`) 2 tokens
    window 2  [CLS] question [SEP]                   c6 c7 c8 [SEP]     the last one ends with the context

A window's label is the token span of the answer if the window holds all of it, else (0, 0), the [CLS] token.
Every context is tokenised once for all its questions, and every window is cut from that one encoding by array
operations. `python -m minibert.windows --data FILE --show 1` prints a picture. Next: `config.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minibert.errors import run_command
from minibert.flags import Flags, add_window_flags, check_window_flags
from minibert.folders import DEFAULT_MODEL
from minibert.squad import Example, read_squad
from minibert.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Window:
    """One window as a view: `ids` and `offsets` (T,), and where its context begins among its tokens."""

    example: int  # index of its question
    ids: np.ndarray
    offsets: np.ndarray  # (T, 2) characters of the context; (0, 0) outside it
    context_start: int  # the context's tokens are context_start .. T - 2
    start_position: int  # the label: token indices in this window, end inclusive, 0 = not here
    end_position: int


@dataclass(frozen=True)
class Windows:
    """All windows, as flat arrays: window i is rows bounds[i] .. bounds[i+1] of `ids` and `offsets`.

    Windows of one question stand together, in the order of the questions. Every question has at least one.
    """

    ids: np.ndarray  # (tokens of all windows,) int32
    offsets: np.ndarray  # (tokens of all windows, 2) int32
    bounds: np.ndarray  # (N + 1,) int64
    example: np.ndarray  # (N,) index of the window's question
    first_token: np.ndarray  # (N,) the context token that the window's context begins with
    context_start: np.ndarray  # (N,) index, in the window, of that token
    start_positions: np.ndarray  # (N,) labels
    end_positions: np.ndarray  # (N,)
    pad_id: int
    counts: dict[str, int]  # what became of the questions and their answers

    def __len__(self) -> int:
        return len(self.example)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens in each window, special ones included."""
        return self.bounds[1:] - self.bounds[:-1]

    def __getitem__(self, i: int) -> Window:
        rows = slice(self.bounds[i], self.bounds[i + 1])
        label = int(self.start_positions[i]), int(self.end_positions[i])
        return Window(int(self.example[i]), self.ids[rows], self.offsets[rows], int(self.context_start[i]), *label)


def make_windows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    max_query_length: int = 64,
) -> Windows:
    """Tokenise, cut and label. `doc_stride` is the overlap of neighbouring windows, in tokens.

    A question loses its outer blanks, then all but its first `max_query_length` tokens (fewer where the window is
    too short to leave room for one token of context). Where a question leaves no more room than `doc_stride`, its
    windows overlap by half their room.
    """
    place = {}  # context -> its row among the unique contexts
    context_of = np.array([place.setdefault(example.context, len(place)) for example in examples], np.int64)
    contexts = tokenizer.encode(list(place))
    questions = tokenizer.encode([example.question.strip() for example in examples])
    question_lengths = np.minimum(questions.lengths, min(max_query_length, max_seq_length - 4))
    context_lengths = contexts.lengths[context_of]

    room = max_seq_length - question_lengths - 3  # context tokens per window of this question
    step = room - np.where(doc_stride < room, doc_stride, room // 2)
    count = 1 + np.maximum(0, -(-(context_lengths - room) // step))  # stop when a window reaches the end

    example = np.repeat(np.arange(len(examples)), count)
    first_token = (np.arange(len(example)) - np.repeat(np.cumsum(count) - count, count)) * step[example]
    in_window = np.minimum(room[example], context_lengths[example] - first_token)
    context_start = question_lengths[example] + 2
    bounds = np.cumsum(np.concatenate([[0], context_start + in_window + 1]))

    ids = np.full(bounds[-1], tokenizer.sep_id, np.int32)
    offsets = np.zeros((bounds[-1], 2), np.int32)
    ids[bounds[:-1]] = tokenizer.cls_id
    source = ranges(questions.bounds[:-1][example], question_lengths[example])
    ids[ranges(bounds[:-1] + 1, question_lengths[example])] = questions.ids[source]
    source = ranges(contexts.bounds[context_of[example]] + first_token, in_window)
    target = ranges(bounds[:-1] + context_start, in_window)
    ids[target] = contexts.ids[source]
    offsets[target] = contexts.offsets[source]

    span, counts = answer_spans(examples, context_of, contexts)
    start, end = span[example, 0] - first_token, span[example, 1] - first_token
    is_inside = (start >= 0) & (start <= end) & (end < in_window)
    counts["windows"] = len(example)
    counts["lost"] = int(np.sum(span[:, 0] >= 0) - len(np.unique(example[is_inside])))
    counts["cut_questions"] = int(np.sum(question_lengths < questions.lengths))
    return Windows(
        ids,
        offsets,
        bounds,
        example,
        first_token,
        context_start,
        np.where(is_inside, start + context_start, 0),
        np.where(is_inside, end + context_start, 0),
        tokenizer.pad_id,
        counts,
    )


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[0], starts[0]+1, .. (lengths[0] numbers), then starts[1], ..: index arrays for flat rows."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def answer_spans(examples: Sequence[Example], context_of: np.ndarray, contexts) -> tuple[np.ndarray, dict[str, int]]:
    """(questions, 2) first and last context token of `answers[0]`, (-1, -1) where there is none; and counts.

    The span is the smallest that covers the answer's characters: from the first token that ends after the answer
    begins to the last that begins before it ends. It is wider than the answer where that cuts a word piece.
    """
    golds = [trimmed(example) for example in examples]
    has_gold = np.array([gold is not None for gold in golds], bool)
    start, end = np.array([gold or (0, 0) for gold in golds], np.int64).reshape(-1, 2).T
    # One sorted list for all contexts: characters of context c count from c * FAR.
    FAR = 1 << 32
    owner = np.repeat(np.arange(len(contexts.lengths)), contexts.lengths) * FAR
    base = contexts.bounds[context_of]
    first = np.searchsorted(owner + contexts.offsets[:, 1], context_of * FAR + start, side="right") - base
    last = np.searchsorted(owner + contexts.offsets[:, 0], context_of * FAR + end, side="left") - 1 - base
    has_span = has_gold & (first <= last)
    span = np.where(has_span[:, None], np.stack([first, last], axis=1), -1)

    found = np.flatnonzero(has_span)
    rows = base[found]
    is_exact = (contexts.offsets[rows + first[found], 0] == start[found]) & (
        contexts.offsets[rows + last[found], 1] == end[found]
    )
    return span, {
        "questions": len(examples),
        "windows": 0,
        "exact": int(is_exact.sum()),  # the tokens cover the answer and nothing else
        "widened": int((~is_exact).sum()),  # the tokens cover a little more
        "unanswered": int((~has_gold).sum()),
        "untokenized": int((has_gold & ~has_span).sum()),  # the answer's characters belong to no token
    }


def trimmed(example: Example) -> tuple[int, int] | None:
    """Character start and end of `answers[0]` without its outer blanks, or None without an answer."""
    if not example.answers:
        return None
    text, start = example.answers[0]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def picture(example: Example, window: Window, tokenizer: Tokenizer, number: int, total: int) -> str:
    """A window as text: its tokens with character offsets, the label marked, and the answer that it stands for."""
    lines = [f"window {number + 1} of {total}: {len(window.ids)} tokens", "  index  token            characters"]
    for i, token in enumerate(tokenizer.tokens(window.ids)):
        is_context = window.context_start <= i < len(window.ids) - 1
        start, end = window.offsets[i]
        text = f"{start:>5}-{end:<5}{example.context[start:end]!r}" if is_context else ""
        is_label = window.start_position <= i <= window.end_position and window.start_position > 0
        lines.append(f"  {i:>5}  {token:<16} {text:<28}{' <-- answer' if is_label else ''}".rstrip())
    if window.start_position:
        start, end = window.offsets[window.start_position, 0], window.offsets[window.end_position, 1]
        lines.append(f"  label ({window.start_position}, {window.end_position}): {example.context[start:end]!r}")
    else:
        lines.append("  label (0, 0): the answer is not in this window, so it points at [CLS]")
    return "\n".join(lines)


def main() -> None:
    flags = Flags(prog="python -m minibert.windows", description="Cut a SQuAD file into windows and count them.")
    flags.add_model("--model", default=DEFAULT_MODEL)
    flags.add("--data", required=True, nargs="+", metavar="FILE", help="SQuAD JSON, v1.1 or v2.0")
    flags.add("--show", type=flags.whole(0), default=0, metavar="N", help="print the first N questions' windows")
    add_window_flags(flags)
    args = flags.parse()
    check_window_flags(args)

    examples = read_squad(args.data)
    tokenizer = load_tokenizer(args.model, args.revision)
    windows = make_windows(examples, tokenizer, args.max_seq_length, args.doc_stride, args.max_query_length)
    for i, example in enumerate(examples[: args.show]):
        gold = repr(example.answers[0].text) if example.answers else "none"
        print(f"question {example.id}: {example.question}\nanswer: {gold}")
        mine = np.flatnonzero(windows.example == i)
        for number, w in enumerate(mine):
            print(picture(example, windows[int(w)], tokenizer, number, len(mine)), end="\n\n")
    print(json.dumps(windows.counts))


if __name__ == "__main__":
    run_command(main)
