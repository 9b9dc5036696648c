"""A side that runs a work of `ours.py` with the minibert of another checkout.

python -m benchmarks.checkout FOLDER WORK JSON

Version 0.1 was one flat package. For such a checkout its modules stand in under the names of today's.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

from benchmarks.measure import serve

FLAT = {  # today's module: the flat one with the names that `ours.py` takes from it
    "answers.pipeline": "answering",
    "answers.predict": "answering",
    "answers.spans": "spans",
    "model.bert": "model",
    "model.config": "config",
    "model.prepare": "device",
    "model.weights": "weights",
    "support.machine": "device",
    "text.batches": "batches",
    "text.records": "squad",
    "text.squad": "squad",
    "text.tokenizer": "tokenizer",
    "text.windows": "windows",
}


def main() -> None:
    folder = Path(sys.argv.pop(1)).resolve()
    sys.path.insert(0, str(folder))
    if not (folder / "minibert" / "text").is_dir():
        stand_in()
    ours = import_module("benchmarks.ours")
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "minibert"]
    for file in (Path(module.__file__) for module in modules if getattr(module, "__file__", None)):
        if folder not in file.resolve().parents:  # of an installed minibert, which lacks no module
            sys.exit(f"error: {folder}: expected all of minibert there, found {file}")
    serve(ours.WORKS)


def stand_in() -> None:
    """Register the flat package's modules under today's names, with today's `update` and `evaluate_windows`."""
    for name, flat in FLAT.items():
        sys.modules[f"minibert.{name}"] = import_module(f"minibert.{flat}")
    optim, training = import_module("minibert.optim"), import_module("minibert.training")
    answering = import_module("minibert.answering")

    def update(model, optimizer, scaler, micro_batches, learning_rate, max_grad_norm, machine):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        ((batch, weight),) = micro_batches  # a step of one micro-batch, whose weight is 1
        windows = len(batch["start_positions"])
        return training.train_step(model, [(batch, weight)], windows, optimizer, scaler, machine, max_grad_norm)

    def evaluate_windows(model, examples, windows, machine, **settings):
        scores, _ = answering.evaluate(model, examples, windows, machine, SimpleNamespace(**settings))
        return SimpleNamespace(scores=scores)

    step, evaluate = ModuleType("minibert.training.step"), ModuleType("minibert.evaluation.evaluate")
    step.update, step.make_optimizer, step.learning_rate_at = update, optim.make_optimizer, optim.learning_rate_at
    evaluate.evaluate_windows = evaluate_windows
    sys.modules |= {module.__name__: module for module in (step, evaluate)}


if __name__ == "__main__":
    main()
