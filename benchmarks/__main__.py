"""Print a table of medians and ratios: `python -m benchmarks --data dev-v1.1.json [--rows training latency]`.

Let nothing else run: on two cores a second busy process costs more than half.
"""

import argparse
import os
import platform
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.measure import print_head, print_line
from benchmarks.rows import ROWS
from minibert.support.hub import DEFAULT_MODEL, find_folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure minibert beside others.")
    parser.add_argument("--data", required=True, metavar="FILE", help="SQuAD JSON with answers: dev-v1.1.json")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="a BERT model, trained or not")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements")
    args = parser.parse_args()
    data, model = os.path.abspath(args.data), os.path.abspath(find_folder(args.model))
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}; load before {os.getloadavg()[0]:.2f}")
    print_head(["what", "peer", "minibert", "peer's", "ratio (lowest-highest)"])
    for name in args.rows:
        for line in ROWS[name](data, model, args.rounds):
            print_line(line)
    print(f"load after {os.getloadavg()[0]:.2f}")


def machine() -> str:
    """The processor, its threads and the versions that the figures depend on."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    packages = ["torch", "transformers", *filter(find_spec, ("onnxruntime", "openvino", "nncf"))]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{name}, {torch.get_num_threads()} threads, {versions}"


if __name__ == "__main__":
    main()
