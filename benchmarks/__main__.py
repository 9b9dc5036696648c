"""python -m benchmarks --data dev-v1.1.json [--model NAME_OR_DIR] [--rows training latency] [--rounds 5]

Prints one table of medians and ratios. Let nothing else run: on two cores a second busy process costs more than half.
"""

import os
import platform
import time
from pathlib import Path

import torch
import transformers

from benchmarks import breakdown, growth, reading, training
from benchmarks.bench import Bench
from minibert.errors import run_command
from minibert.flags import Flags
from minibert.folders import DEFAULT_MODEL, find_folder

ROWS = {
    function.__name__: function
    for function in (
        reading.preprocessing,
        training.training,
        training.training_no_attention_dropout,
        training.training_base,
        reading.evaluation,
        reading.postprocessing,
        reading.latency,
        breakdown.breakdown,
        growth.startup,
        training.memory,
        growth.growth,
        growth.stream,
    )
}
HEAD = ["what", "peer", "minibert", "peer's", "ratio (lowest-highest)"]


def main() -> None:
    flags = Flags(prog="python -m benchmarks", description="Measure minibert against transformers.")
    flags.add("--data", required=True, metavar="FILE", help="SQuAD JSON with answers: dev-v1.1.json")
    flags.add("--model", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="a BERT model, trained or not")
    flags.add("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to measure")
    flags.add("--rounds", type=flags.whole(1), default=5, help="pairs of measurements")
    args = flags.parse()
    transformers.logging.set_verbosity_error()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    bench = Bench(Path(args.data), find_folder(args.model), args.rounds)
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}; load before {os.getloadavg()[0]:.2f}")
    print_line(HEAD)
    print_line(["---"] * len(HEAD))
    for name in args.rows:
        for line in ROWS[name](bench):
            print_line(line)
    print(f"load after {os.getloadavg()[0]:.2f}")


def machine() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name}, {torch.get_num_threads()} threads, {versions}"


def print_line(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run_command(main)
