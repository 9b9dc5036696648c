"""python -m benchmarks.gpu --data dev-v1.1.json [--seconds 20]: minibert on a CUDA card, checked first, then measured.

Prints one table of checks, which end the script if one fails, and one of speeds for BERT-base sizes with random
weights. `--device cpu --tiny` runs the same lines with tiny sizes anywhere, to test the script itself.
"""

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import peers
from benchmarks.__main__ import print_line
from benchmarks.bench import Bench
from benchmarks.reading import EVALUATION
from benchmarks.timing import matrix_peak, training_flops
from benchmarks.training import BASE, our_model, their_model
from minibert.answering import evaluate
from minibert.batches import collate, training_batches
from minibert.device import Machine, prepare, prepare_to_answer
from minibert.errors import run_command
from minibert.flags import Flags
from minibert.folders import DEFAULT_MODEL, find_folder
from minibert.model import attention_by_hand, attention_fused
from minibert.optim import make_optimizer
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.training import train_step
from minibert.windows import make_windows

HALVES = (torch.bfloat16, torch.float16)
EPOCH = 88_500  # windows of SQuAD's training set
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TINY["max_position_embeddings"] = 384


class Card:
    """The card to measure, and the sizes to measure with."""

    def __init__(self, args):
        self.name, self.seconds = args.device, args.seconds
        self.sizes = TINY if args.tiny else BASE
        self.bench = Bench(Path(args.data), find_folder(args.model), 1)
        self.steps = 6 if args.tiny else 200
        # One epoch of windows, by the lengths of the data again and again.
        self.order = np.resize(np.arange(len(self.bench.windows)), EPOCH)

    def machine(self, dtype: torch.dtype) -> Machine:
        return Machine(torch.device(self.name), dtype)

    def model(self, **changes):
        torch.manual_seed(0)
        return our_model(self.bench, **self.sizes, **changes)

    def batches(self, size: int, seed: int = 0) -> list[np.ndarray]:
        """An epoch's batches, shuffled so that any first few of them are like the whole."""
        windows = self.bench.windows
        batches = training_batches(windows.lengths[self.order], size, seed, 0)
        return [self.order[batch] for batch in batches]

    def wait(self) -> None:
        if self.name != "cpu":
            torch.cuda.synchronize()


# --- first correct ----------------------------------------------------------------------------------------------------


def check(what: str, found: float, bound: float) -> None:
    print_line([what, f"{found:.2g}", f"<= {bound:g}", "ok" if found <= bound else "FAILED"])
    if not found <= bound:
        raise FloatingPointError(f"{what}: {found} is more than {bound}")


def check_all(card: Card) -> None:
    check_logits(card)
    check_attention(card)
    losses = {dtype: train_losses(card, dtype) for dtype in (torch.float32, *HALVES)}
    for dtype in HALVES if card.name != "cpu" else HALVES[:1]:
        ends = [statistics.mean(losses[kind][-card.steps // 10 :]) for kind in (dtype, torch.float32)]
        check(f"{card.steps} steps in {dtype}: loss beside float32's", abs(ends[0] / ends[1] - 1), 0.02)
    if card.name != "cpu":
        check_overflow(card)


@torch.inference_mode()
def check_logits(card: Card) -> None:
    """The same model and batch on the processor in float32 and on the card."""
    batch = collate(card.bench.windows, card.batches(8)[1])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    mask = torch.ones_like(inputs["input_ids"]) if inputs["attention_mask"] is None else inputs["attention_mask"]
    exact = torch.stack(card.model().eval()(**inputs))[:, mask.bool()]
    for dtype in (torch.float32, *HALVES):
        machine = card.machine(dtype)
        for kind, ready in (("", prepare), (" for answering", prepare_to_answer)):
            model = ready(card.model().eval(), machine)
            with machine.autocast(model):
                found = torch.stack(model(**machine.load(inputs))).cpu()[:, mask.bool()]
            if dtype is torch.float32:
                check(f"logits{kind}, {dtype}: largest difference", float((found - exact).abs().max()), 1e-4)
            else:
                check(f"logits{kind}, {dtype}: relative norm", float((found - exact).norm() / exact.norm()), 1e-2)


def check_attention(card: Card) -> None:
    """By hand and fused, values and gradients, with padding."""
    mask = (torch.arange(176) < torch.tensor([176, 90, 140, 33])[:, None])[:, None, None].to(card.name)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)):
        found = []
        for attend in (attention_by_hand, attention_fused):
            generator = torch.Generator().manual_seed(1)
            drawn = [torch.randn(4, 12, 176, 64, generator=generator) for _ in range(3)]
            tensors = [tensor.to(card.name, dtype).requires_grad_() for tensor in drawn]
            attended = attend(*tensors, mask, torch.nn.Dropout(0.0))
            (attended.float() ** 2).sum().backward()
            found.append([attended.detach(), *(tensor.grad for tensor in tensors)])
        differences = [float((a - b).float().norm() / b.float().norm()) for a, b in zip(*found)]
        check(f"attention by hand and fused, {dtype}: relative norm", max(differences), bound)


def train_losses(card: Card, dtype: torch.dtype) -> list[float]:
    """Losses of the first steps of a run in this dtype."""
    if dtype is torch.float16 and card.name == "cpu":
        return []
    work, losses = our_steps(card, dtype, 16), []
    for _ in range(card.steps):
        losses.append(work()[1])
    return [float(loss) for loss in losses]


def check_overflow(card: Card) -> None:
    """float16 gradients that overflow leave the update out, and lower the scale."""
    machine = card.machine(torch.float16)
    model = prepare(card.model().train(), machine)
    optimizer, scaler = make_optimizer(model, 1e-3, 0.0), torch.amp.GradScaler("cuda", init_scale=2.0**40)
    before = [parameter.clone() for parameter in model.parameters()]
    batch = card.batches(8)[1]
    train_step(model, [(collate(card.bench.windows, batch), 1)], len(batch), optimizer, scaler, machine, 1.0)
    changed = sum(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    check("float16 overflow: parameters that changed", changed, 0)
    check("float16 overflow: the scale, of what it was", scaler.get_scale() / 2.0**40, 0.5)


# --- then fast --------------------------------------------------------------------------------------------------------


def our_steps(card: Card, dtype: torch.dtype, size: int, is_compiled: bool = False) -> Callable[[], tuple]:
    """A function that takes minibert's next step and returns (indices of its windows, loss)."""
    machine = card.machine(dtype)
    model = prepare(card.model().train(), machine)
    replica = torch.compile(model, dynamic=True) if is_compiled else model
    optimizer = make_optimizer(model, 3e-5, 0.01)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=dtype is torch.float16)
    batches = iter(card.batches(size))

    def step():
        batch = next(batches)
        micro_batches = [(collate(card.bench.windows, batch), 1)]
        loss, _ = train_step(replica, micro_batches, len(batch), optimizer, scaler, machine, 1.0)
        return batch, loss

    return step


def their_steps(card: Card, size: int, is_tuned: bool) -> Callable[[], tuple]:
    """The same for a peer: T compiles, and takes our batches; D pads batches in random order to 384."""
    model = their_model(card.bench, "sdpa", **card.sizes)
    is_compiled = is_tuned and card.name != "cpu"
    step_on = peers.trainer(torch.compile(model, dynamic=True) if is_compiled else model, card.name, torch.bfloat16)
    mixed = np.random.default_rng(0).permutation(card.order)
    batches = iter(card.batches(size) if is_tuned else np.array_split(mixed, math.ceil(len(mixed) / size)))

    def step():
        batch = next(batches)
        return batch, step_on(peers.padded(card.bench.windows, batch, None if is_tuned else 384))

    return step


def measure_training(card: Card) -> None:
    """All kinds in turn, each for its share of the seconds, three times; the median counts."""
    kinds = {
        "minibert, batch 32": lambda: our_steps(card, torch.bfloat16, 32),
        "minibert --compile, batch 32": lambda: our_steps(card, torch.bfloat16, 32, card.name != "cpu"),
        "minibert, batch 96": lambda: our_steps(card, torch.bfloat16, 96),
        "D, batch 8": lambda: their_steps(card, 8, False),
        "D, batch 32": lambda: their_steps(card, 32, False),
        "T, batch 32": lambda: their_steps(card, 32, True),
    }
    peak = matrix_peak(device=card.name, size=256 if card.sizes is TINY else 8192)
    print_line(["training, bfloat16", "windows/s", "tokens/s", f"of {peak / 1e12:.1f} TFLOP/s", "GiB", "3 epochs, s"])
    print_line(["---"] * 6)
    steps, found, memory = {}, {name: [] for name in kinds}, {}
    for name, make in kinds.items():
        if card.name != "cpu":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        steps[name] = make()
        for _ in range(3 if card.name == "cpu" else 30):  # the longest batch first, and what has to be compiled
            steps[name]()
        card.wait()
        memory[name] = (torch.cuda.max_memory_allocated() - held) / 2**30 if card.name != "cpu" else math.nan
    for _ in range(3):
        for name, step in steps.items():
            found[name].append(timed(card, step))
    config = SimpleNamespace(**card.sizes)
    for name, rows in found.items():
        windows, tokens, flops = (statistics.median(column) for column in zip(*[row(config) for row in rows]))
        cells = f"{windows:.0f}", f"{tokens:.0f}", f"{100 * flops / peak:.0f} %", f"{memory[name]:.1f}"
        print_line([name, *cells, f"{3 * EPOCH / windows:.0f} (extrapolated)"])


def timed(card: Card, step: Callable) -> Callable:
    """Steps for a share of the seconds: a function of the sizes that gives windows, tokens and FLOPs a second."""
    batches, begin = [], time.perf_counter()
    while time.perf_counter() - begin < card.seconds / 3:
        batches.append(step()[0])
        if len(batches) % 10 == 0:
            card.wait()  # or the clock would stop before the card does
    card.wait()
    seconds = time.perf_counter() - begin
    lengths = card.bench.windows.lengths[np.concatenate(batches)]
    return lambda config: (
        len(lengths) / seconds,
        lengths.sum() / seconds,
        training_flops(config, lengths) / seconds,
    )


def measure_attention(card: Card) -> None:
    """Which backend of the fused attention runs at length 176, forward and backward, with and without a mask."""
    dtype = torch.bfloat16
    tensors = [torch.randn(32, 12, 176, 64, device=card.name, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = torch.ones(32, 1, 1, 176, dtype=torch.bool, device=card.name)
    mask[:, :, :, 170:] = False
    print_line(["attention (32, 12, 176, 64), dropout 0.1", "no mask, ms", "mask, ms"])
    print_line(["---"] * 3)
    backends = [backend for name, backend in SDPBackend.__members__.items() if name not in ("ERROR", "OVERRIDEABLE")]
    for allowed in (backends, *([backend] for backend in backends)):
        cells = []
        for this_mask in (None, mask):
            try:
                with sdpa_kernel(allowed):
                    cells.append(f"{1000 * attention_seconds(card, tensors, this_mask):.3f}")
            except RuntimeError:
                cells.append("cannot")
        print_line(["the default" if len(allowed) > 1 else allowed[0].name.lower(), *cells])


def attention_seconds(card: Card, tensors: list[torch.Tensor], mask) -> float:
    def once() -> None:
        F.scaled_dot_product_attention(*tensors, attn_mask=mask, dropout_p=0.1).sum().backward()

    repeats = 2 if card.name == "cpu" else 50
    for _ in range(repeats):
        once()
    card.wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        once()
    card.wait()
    return (time.perf_counter() - begin) / repeats


def measure_evaluation(card: Card) -> None:
    """The whole file in, EM and F1 out; the model is loaded before."""
    machine = card.machine(torch.bfloat16)
    model, tokenizer = prepare_to_answer(card.model().eval(), machine), load_tokenizer(card.bench.folder)
    seconds = []
    for _ in range(2):  # the first one also starts the libraries
        begin = time.perf_counter()
        examples = read_squad(card.bench.data)
        windows = make_windows(examples, tokenizer)
        evaluate(model, examples, windows, machine, EVALUATION)
        seconds.append(time.perf_counter() - begin)
    print_line(
        [f"evaluation of {len(windows)} windows, end to end", f"{seconds[-1]:.1f} s", f"first {seconds[0]:.1f} s"]
    )


def main() -> None:
    flags = Flags(prog="python -m benchmarks.gpu", description="Check and measure minibert on a CUDA card.")
    flags.add("--data", required=True, metavar="FILE", help="SQuAD JSON with answers: dev-v1.1.json")
    flags.add("--model", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="whose vocabulary to use")
    flags.add("--seconds", type=flags.real(0.1), default=20.0, help="of training to measure, for each kind")
    flags.add("--device", default="cuda", help="cuda, or cpu to test this script")
    flags.add("--tiny", action="store_true", help="tiny sizes, to test this script")
    args = flags.parse()
    card = Card(args)
    name = torch.cuda.get_device_name() if card.name != "cpu" else "the processor"
    print(f"{name}, torch {torch.__version__}; {time.strftime('%Y-%m-%d')}")
    print_line(["check", "found", "bound", ""])
    print_line(["---"] * 4)
    check_all(card)
    for measure in (measure_training, measure_attention, measure_evaluation):
        print(flush=True)
        measure(card)


if __name__ == "__main__":
    run_command(main)
