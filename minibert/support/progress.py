"""How far long work has come, on stderr: a bar on a terminal, elsewhere a line every half minute. Only rank 0 prints.

In: the number of steps, and figures to show beside them. A file or a log gets lines, because a bar overwrites its line.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from minibert.support import ranks
from minibert.support.streams import tell

LINE_SECONDS = 30  # between two lines
BAR_SECONDS = 1  # between two readings of the figures: on a GPU a reading waits for the device
Item = TypeVar("Item")
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {remaining} left{postfix}"  # fits into 80 columns


class Progress:
    """Counts steps towards `total`; use as a context, and call `update` after each step."""

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "batch", is_shown: bool = True):
        self.what, self.total, self.first, self.done, self.unit = what, total, done, done, unit
        self.is_shown = is_shown and ranks.is_main()
        is_disabled = None if self.is_shown else True  # None: no bar unless stderr is a terminal
        self.bar = tqdm(desc=what, total=total, initial=done, leave=False, bar_format=BAR, delay=1, disable=is_disabled)
        self.began = self.last = time.monotonic()  # last: when the figures were shown

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, figures: Callable[[], str] = str) -> None:
        """Count one step. `figures` gives the words to show beside it; it is called only when they are shown."""
        self.done += 1
        if not self.is_shown:
            return
        now = time.monotonic()
        is_bar = not self.bar.disable
        if now - self.last >= (BAR_SECONDS if is_bar else LINE_SECONDS):
            self.last = now
            if is_bar:
                self.bar.set_postfix_str(figures(), refresh=False)
            else:
                tell(self.line(figures()))
        self.bar.update()

    def line(self, figures: str) -> str:
        """The state in words, with the time that is left at the mean speed so far."""
        seconds = (time.monotonic() - self.began) / (self.done - self.first) * (self.total - self.done)
        left = f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
        return ", ".join(filter(None, [f"{self.what}: {self.unit} {self.done} of {self.total}", figures, left]))


def over(items: Sequence[Item], what: str, is_shown: bool = True) -> Iterator[Item]:
    """The items, one after the other, with their progress shown."""
    with Progress(what, len(items), is_shown=is_shown) as progress:
        for item in items:
            yield item
            progress.update()
