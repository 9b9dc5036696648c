"""Show how a SQuAD file is cut into windows: their tokens, character offsets and labels, and the counts.

python -m minibert windows --data examples/dev.json --show 1
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minibert.commands import flags
from minibert.evaluation.check import count_windows
from minibert.support.errors import BadInput
from minibert.support.hub import DEFAULT_MODEL, find_folder
from minibert.support.streams import printable
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.text.tokenizer import Tokenizer, load_tokenizer
from minibert.text.unread import count_unread, warn_of_unread
from minibert.text.windows import Window, make_windows
from minibert.training.settings import REVISION, WindowSettings, option


@dataclass(frozen=True, kw_only=True)
class WindowsOptions(WindowSettings):
    """Cut a SQuAD file into windows and count them."""

    data: Sequence[str | Path] = option((), "SQuAD JSON, v1.1 or v2.0", metavar="FILE")
    model: str = option(DEFAULT_MODEL, "the model whose tokenizer to use", metavar="NAME_OR_DIR")
    revision: str | None = option(None, REVISION, metavar="REV")
    skip_bad_records: bool = option(False, "drop and count questions with faults instead of stopping")
    show: int = option(0, "print the first N questions' windows", least=0)


def main(words: Sequence[str] | None = None) -> None:
    options = flags.read(WindowsOptions, "windows", words)
    if not options.data:
        raise BadInput("--data", "", "name the SQuAD file to cut into windows")
    # As in training, where ids may repeat; and no question needs a mark to be looked at.
    examples = read_squad(options.data, True, options.skip_bad_records, version_2_with_negative=True)
    folder = find_folder(options.model, options.revision)
    tokenizer, options = load_tokenizer(folder), flags.fitted(options, folder)
    windows = make_windows(examples, tokenizer, *options.sizes)
    warn_of_unread(count_unread(examples, windows, tokenizer), options.model)
    for i, example in enumerate(examples[: options.show]):
        gold = repr(example.answers[0].text) if example.answers else "none"
        if len(example.answers) > 1:
            gold += f" (the first of {len(example.answers)}; its label is shown)"
        print(printable(f"question {example.id}: {example.question}\nanswer: {gold}"))
        own = np.flatnonzero(windows.example == i)
        for number, w in enumerate(own):
            lines = f"window {number + 1} of {len(own)}: {picture(example, windows[int(w)], tokenizer)}"
            print(printable(lines), end="\n\n")
    print(json.dumps(count_windows(examples, windows, tokenizer)))


def picture(example: Example, window: Window, tokenizer: Tokenizer) -> str:
    """A window as text: its tokens with character offsets, the label marked, and the answer that it stands for."""
    lines = [f"{len(window.ids)} tokens", "  index  token            characters"]
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
        lines.append("  label (0, 0): the answer is not in this window, so the label is [CLS]")
    return "\n".join(lines)
