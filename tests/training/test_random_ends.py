"""Runs that are killed and signalled at random moments, again and again: nothing is lost."""

import collections
import os
import random
import shutil
import signal
import time

import pytest

pytest.importorskip("resource", reason="the ranks are forked processes, which Windows lacks")

from minibert.training.run_folder import checkpoints, verify
from tests.training.forks import leftovers, outcome, wait_for
from tests.training.test_signals import CODES, ends, start_ranks  # noqa: F401

KILLS, SIGNALS = (int(os.environ.get(f"MINIBERT_{name}", number)) for name, number in (("KILLS", 12), ("SIGNALS", 6)))
SEED = int(os.environ.get("MINIBERT_SEED", "3"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_ends_at_random_moments_ends_as_the_whole_one(tmp_path, start_ranks, job, ranks):  # noqa: F811
    """MINIBERT_KILLS times SIGKILL and MINIBERT_SIGNALS times another signal, to one rank or all, in any order.

    Half of them come at any time, the others a little after something began to be written.
    """
    begin = time.perf_counter()
    assert ends(start_ranks(ranks, "train", [*job, "--output_dir", tmp_path / "whole"])) == [0] * ranks
    seconds, whole = time.perf_counter() - begin, outcome(tmp_path / "whole")
    patience = 20 + 10 * seconds  # on a slow disk each save takes its time
    draw, found, runs = random.Random(SEED), collections.Counter(), 0
    left = [signal.SIGKILL] * KILLS + [draw.choice(list(CODES)) for _ in range(SIGNALS)]
    draw.shuffle(left)
    while left:
        runs += 1
        run, codes = tmp_path / f"run-{runs}", []
        while codes != [0] * ranks:
            before, old = (checkpoints(run), leftovers(run)) if run.is_dir() else ([], [])
            again = "--resume" if before else "--overwrite"
            processes = start_ranks(ranks, "train", [*job, "--output_dir", run, again])
            number = left.pop() if left else 0
            if number:
                for process in processes:
                    wait_for(lambda process=process: "started" in process.read()[0], process)
                if draw.random() < 0.5:
                    time.sleep(draw.random() * seconds)
                else:
                    until = time.perf_counter() + seconds
                    while time.perf_counter() < until and not leftovers(run):
                        time.sleep(0.0002)
                    time.sleep(draw.random() * 0.02)
                for process in draw.choice([processes[:1], processes[-1:], processes]):
                    process.kill(number)
            codes = ends(processes, patience)
            said = "\n\n".join(process.err for process in processes)
            assert "Traceback" not in said, said
            if codes == [0] * ranks:
                if number:  # it came after the end: wait less
                    left, seconds = [*left, number], 0.9 * seconds
                break
            saved = checkpoints(run)
            # A rank that ends while all of them connect leaves the others waiting for it: a launcher ends those.
            is_waiting = None in codes
            assert not is_waiting or saved == before, (number, saved, said)
            assert number and (number == signal.SIGKILL or CODES[number] in codes), (number, codes, said)
            # A kill may leave what was being written or removed, but aside; a signal what was being removed.
            assert all(verify(checkpoint) is None for checkpoint in saved), (number, saved, said)
            new = set(leftovers(run)) - set(old)
            assert number == signal.SIGKILL or all(name.startswith(".tmp-old-") for name in new), (number, new, said)
            newest = saved[-1].name if saved else "none"
            found[signal.Signals(number).name, newest, len(leftovers(run)) > 0, is_waiting] += 1
        assert outcome(run) == whole
        shutil.rmtree(run)
    print(
        f"\n{ranks} ranks, {runs} runs; signal, newest checkpoint, whether something is left over, whether one waits:"
    )
    print(*(f"{count:4} {state}" for state, count in sorted(found.items())), sep="\n")
    assert len(found) > 3
