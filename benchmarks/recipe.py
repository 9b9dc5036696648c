"""A whole run by T, the tuned peer, to stand beside the same run of `train.py` and `evaluate.py`.

python -m benchmarks.recipe --data shifts-new-wiki.json shifts-amazon.json shifts-reddit.json --eval_data dev-v1.1.json

Trains on minibert's windows in minibert's batches, evaluates once at the end, and prints one JSON object.
"""

import json
import time

import torch
import transformers

from benchmarks import peers
from benchmarks.reading import row_dicts
from benchmarks.timing import faster
from minibert.batches import training_batches
from minibert.errors import run_command
from minibert.flags import Flags
from minibert.folders import DEFAULT_MODEL, find_folder
from minibert.metrics import score
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.windows import make_windows


def main() -> None:
    flags = Flags(prog="python -m benchmarks.recipe", description="Train and evaluate a model of transformers.")
    flags.add("--data", required=True, nargs="+", metavar="FILE", help="SQuAD JSON to train on")
    flags.add("--eval_data", required=True, metavar="FILE", help="SQuAD JSON with answers")
    flags.add("--model", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="a pre-trained BERT")
    flags.add("--epochs", type=flags.whole(1), default=2, help="passes over the data")
    flags.add("--batch_size", type=flags.whole(1), default=16, help="windows of a step")
    flags.add("--learning_rate", type=float, default=1e-4, help="the peak")
    flags.add("--attention_dropout", type=float, default=0.0, help="0 lets the library use its fused attention")
    flags.add("--seed", type=flags.whole(0), default=0, help="of the span head, the batches and dropout")
    args = flags.parse()
    transformers.logging.set_verbosity_error()
    folder = find_folder(args.model)
    windows = make_windows(read_squad(args.data), load_tokenizer(folder))
    epochs = [training_batches(windows.lengths, args.batch_size, args.seed, epoch) for epoch in range(args.epochs)]
    batches = [batch for epoch in epochs for batch in epoch]

    def load(attention: str):
        torch.manual_seed(args.seed)
        return peers.load_model(folder, attention, attention_probs_dropout_prob=args.attention_dropout)

    def some_steps(attention: str):
        step = peers.trainer(load(attention), "cpu", torch.bfloat16)
        return lambda: [step(peers.padded(windows, batch)) for batch in batches[1:9]] and 8

    tried = {attention: some_steps(attention) for attention in ("sdpa", "eager")}
    best = faster(*tried.values())
    attention = next(name for name, work in tried.items() if work is best)
    tried.clear()

    model = load(attention)
    step = peers.trainer(model, "cpu", torch.bfloat16, args.learning_rate, len(batches))
    begin = time.perf_counter()
    for batch in batches:
        step(peers.padded(windows, batch))
    seconds = time.perf_counter() - begin

    examples, tokenizer = read_squad(args.eval_data), peers.load_tokenizer(folder)
    features = peers.with_lists(tokenizer, examples, False)
    logits = peers.predict(model, tokenizer, features, 64, "cpu", torch.bfloat16, is_sorted=True)
    texts = peers.n_best_answers(row_dicts(peers.columns(examples)), row_dicts(features), logits)
    print(json.dumps({"attention": attention, "train_runtime": round(seconds, 1)} | score(examples, texts)))


if __name__ == "__main__":
    run_command(main)
