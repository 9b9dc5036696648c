"""How far work has come: lines where stderr is not a terminal, and nothing where nobody should speak."""

import pytest

from minibert.support import progress as module
from minibert.support.progress import Progress, over


@pytest.fixture
def clock(monkeypatch):
    """A clock that each reading moves on by `clock.step` seconds."""

    class Clock:
        now, step = 0.0, 0.0

        def monotonic(self):
            self.now += self.step
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_line_every_half_minute_with_the_figures_and_the_time_left(clock, capfd):
    with Progress("train", 100, done=10, unit="step") as progress:
        for _ in range(6):
            clock.now += 10
            progress.update(lambda: "loss 2.310")
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "train: step 13 of 100, loss 2.310, 14 min left",
        "train: step 16 of 100, loss 2.310, 14 min left",
    ]


def test_figures_are_read_only_when_they_are_shown(clock, capfd):
    with Progress("train", 10) as progress:
        progress.update(lambda: pytest.fail("read"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("is_shown", "is_main"), [(True, True), (False, True), (True, False)])
def test_items_pass_through_and_rank_0_alone_speaks(clock, capfd, monkeypatch, is_shown, is_main):
    monkeypatch.setattr(module.ranks, "is_main", lambda: is_main)
    clock.step = 40
    assert list(over([1, 2, 3], "predict", is_shown=is_shown)) == [1, 2, 3]
    assert capfd.readouterr().err.startswith("predict: batch 1 of 3, ") is (is_shown and is_main)
