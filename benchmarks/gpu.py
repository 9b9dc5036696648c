"""The speed of minibert on a CUDA device: `python -m benchmarks.gpu --data dev-v1.1.json [--seconds 20]`.

Measures training at BERT-base sizes with random weights, eager and compiled, beside the peers of `peers.py`, and an
evaluation. tests/gpu tests that the results are right. `--device cpu --tiny` runs the same lines with tiny sizes
anywhere, to test the script itself.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import ours, theirs
from benchmarks.measure import matrix_peak, print_head, print_line, training_flops
from minibert.evaluation.evaluate import evaluate_windows
from minibert.model.prepare import prepare_to_answer
from minibert.support.hub import DEFAULT_MODEL, find_folder
from minibert.support.machine import Machine
from minibert.text.batches import training_batches
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows

EPOCH = 88_500  # windows of SQuAD's training set
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def measure_training(args: argparse.Namespace, machine: Machine, sizes: dict) -> None:
    """All kinds in turn, each for a third of its seconds, three times; the median counts."""
    is_cuda, folder = machine.device.type == "cuda", find_folder(args.model)
    windows = ours.load_windows(args.data, folder)
    epoch = np.resize(np.arange(len(windows)), EPOCH)  # the lengths of the data, again and again
    mixed = np.random.default_rng(0).permutation(epoch)

    def alike(size: int) -> list[np.ndarray]:  # windows of similar length; any first few batches are like the whole
        return [epoch[batch] for batch in training_batches(windows.lengths[epoch], size, seed=0, epoch=0)]

    def minibert(is_compiled: bool = False) -> Callable:
        return ours.trainer(ours.changed_model(folder, sizes), windows, machine, is_compiled)

    def peer(name: str) -> Callable:
        return theirs.trainer(name, folder, "sdpa", windows, sizes, args.device)

    kinds = {
        "minibert, batch 32": (minibert, alike(32)),
        "minibert --compile, batch 32": (lambda: minibert(is_compiled=is_cuda), alike(32)),
        "minibert, batch 96": (minibert, alike(96)),
        "D, batch 8": (lambda: peer("D"), np.array_split(mixed, EPOCH // 8)),
        "D, batch 32": (lambda: peer("D"), np.array_split(mixed, EPOCH // 32)),
        "T, batch 32": (lambda: peer("T"), alike(32)),
    }
    peak = matrix_peak(torch.bfloat16, args.device, 8192 if is_cuda else 256)
    print_head(["training, bfloat16", "windows/s", "tokens/s", f"of {peak / 1e12:.1f} TFLOP/s", "3 epochs, s"])
    runs = {}
    for name, (make, batches) in kinds.items():
        step, batches = runs[name] = make(), iter(batches)
        for _ in range(30 if is_cuda else 3):  # the longest batch first, and what has to be compiled
            step(next(batches))
    rounds = [{name: rates(args, sizes, windows.lengths, *run) for name, run in runs.items()} for _ in range(3)]
    for name in kinds:
        per_second, tokens, flops = (statistics.median(column) for column in zip(*(found[name] for found in rounds)))
        cells = f"{per_second:.0f}", f"{tokens:.0f}", f"{100 * flops / peak:.0f} %"
        print_line([name, *cells, f"{3 * EPOCH / per_second:.0f} (extrapolated)"])


def rates(args: argparse.Namespace, sizes: dict, lengths: np.ndarray, step: Callable, batches) -> tuple[float, ...]:
    """Windows, tokens and FLOPs per second, over a third of the seconds."""
    wait(args)
    done, began = [], time.perf_counter()
    while time.perf_counter() - began < args.seconds / 3:
        done.append(next(batches))
        step(done[-1])
        if len(done) % 10 == 0:
            wait(args)  # otherwise the device would lag far behind the clock
    wait(args)
    seconds = time.perf_counter() - began
    of_windows = lengths[np.concatenate(done)]
    flops = training_flops(argparse.Namespace(**sizes), of_windows)
    return len(of_windows) / seconds, of_windows.sum() / seconds, flops / seconds


def wait(args: argparse.Namespace) -> None:
    """Wait until the device has done its work."""
    if args.device != "cpu":
        torch.cuda.synchronize()


def measure_evaluation(args: argparse.Namespace, machine: Machine, sizes: dict) -> None:
    """The whole file in, EM and F1 out; the model is loaded before."""
    folder, seconds = find_folder(args.model), []
    model, tokenizer = prepare_to_answer(ours.changed_model(folder, sizes).eval(), machine), load_tokenizer(folder)
    for _ in range(2):  # the first run also starts the libraries
        began = time.perf_counter()
        examples = read_squad(args.data)
        windows = make_windows(examples, tokenizer)
        evaluate_windows(model, examples, windows, machine, **ours.SETTINGS)
        seconds.append(time.perf_counter() - began)
    print_head([f"evaluation of {len(windows)} windows", f"{seconds[1]:.1f} s", f"first {seconds[0]:.1f} s"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, metavar="FILE", help="SQuAD JSON with answers: dev-v1.1.json")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="whose vocabulary to use")
    parser.add_argument("--seconds", type=float, default=20.0, help="of training to measure, for each kind")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to test this script")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test this script")
    args = parser.parse_args()
    machine = Machine(torch.device(args.device), torch.bfloat16)
    name = torch.cuda.get_device_name() if machine.device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; {time.strftime('%Y-%m-%d')}")
    for measure in (measure_training, measure_evaluation):
        print(flush=True)
        measure(args, machine, TINY if args.tiny else ours.BASE)


if __name__ == "__main__":
    main()
