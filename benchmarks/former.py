"""Compare this checkout with another one of minibert: `python -m benchmarks.former OLD --data FILE`.

First both compute windows, logits, answers, losses and trained weights from the first questions of the data; the table
says which are equal to the last bit. Then training, evaluation and one question are timed in turn (A B A B ..), each
checkout in a process of its own. Ends with code 1 if a result differs.
"""

import argparse
import os
import sys
import tempfile

import numpy as np

from benchmarks.measure import ROOT, Side, cells, compare, print_head, print_line, run_once, write_part
from minibert.support.hub import DEFAULT_MODEL, find_folder

WORKS = {
    "training": "training, windows/s",
    "evaluation": "evaluation, questions/s",
    "latency": "one question, answers/s",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.former", description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", metavar="OLD", help="the folder of another checkout of minibert")
    parser.add_argument("--data", required=True, metavar="FILE", help="SQuAD JSON with answers: dev-v1.1.json")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="a BERT model, trained or not")
    parser.add_argument("--questions", type=int, default=1500, help="how many to compare and to evaluate")
    parser.add_argument("--steps", type=int, default=20, help="training steps whose losses to compare")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements; 0 compares only the results")
    args = parser.parse_args()
    data, model = os.path.abspath(args.data), os.path.abspath(find_folder(args.model))
    checkouts = str(ROOT), os.path.abspath(args.checkout)
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for checkout in checkouts:
            file = f"{folder}/results-{len(results)}.npz"
            numbers = {"questions": args.questions, "steps": args.steps}
            run_once("checkout", checkout, "results", data=data, model=model, file=file, **numbers)
            results.append(dict(np.load(file)))
        differences = {name: difference(*(result[name] for result in results)) for name in results[0]}
        print_head([f"results of {args.questions} questions", "here and there"])
        for line in differences.items():
            print_line(line)
        if args.rounds:
            print()
            print_speeds(checkouts, data, model, args.rounds, write_part(data, f"{folder}/part.json", args.questions))
    if set(differences.values()) != {"equal"}:
        sys.exit(1)


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """ "equal", or how the two differ."""
    if ours.shape != theirs.shape:
        return f"shapes differ: {ours.shape} and {theirs.shape}"
    if np.array_equal(ours, theirs):
        return "equal"
    largest = f", by at most {np.abs(ours - theirs).max():.2g}" if ours.dtype.kind in "fi" else ""
    return f"{np.sum(ours != theirs)} of {ours.size} differ{largest}"


def print_speeds(checkouts: tuple[str, str], data: str, model: str, rounds: int, part: str) -> None:
    """The speed of each work in both checkouts; `part` is the file to evaluate."""
    print_head(["what", "here", "there", "ratio (lowest-highest)"])
    for work, what in WORKS.items():
        arguments = {"data": part if work == "evaluation" else data, "model": model}
        arguments |= {"count": 6, "changes": {}} if work == "training" else {}
        here, there = (Side("checkout", checkout, work, **arguments) for checkout in checkouts)
        with here, there:
            print_line([what, *cells(*compare(here, there, 3 * rounds if work == "latency" else rounds), digits=2)])


if __name__ == "__main__":
    main()
