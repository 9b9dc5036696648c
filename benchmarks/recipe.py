"""A whole run by T, the tuned peer, to compare with a run of `train.py` and `evaluate.py`.

python -m benchmarks.recipe --data shifts-new-wiki.json shifts-amazon.json shifts-reddit.json --eval_data dev-v1.1.json

Trains on minibert's windows in minibert's batches of 16, on each question's first answer, with a peak learning rate of
1e-4 and no attention dropout (so that the library can fuse its attention), evaluates once at the end, and prints one
JSON object.
"""

import argparse
import json
import time

import torch
import transformers

from benchmarks import peers
from benchmarks.measure import fastest
from minibert.evaluation.scorer import score
from minibert.support.hub import DEFAULT_MODEL, find_folder
from minibert.support.machine import choose_machine
from minibert.text.batches import training_batches
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, nargs="+", metavar="FILE", help="SQuAD JSON to train on")
    parser.add_argument("--eval_data", required=True, metavar="FILE", help="SQuAD JSON with answers")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="a pre-trained BERT")
    parser.add_argument("--epochs", type=int, default=2, help="passes through the data")
    parser.add_argument("--seed", type=int, default=0, help="of the span head, the batches and the dropout")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    folder, machine = find_folder(args.model), choose_machine("cpu", "auto")
    windows = make_windows(read_squad(args.data), load_tokenizer(folder))
    epochs = [training_batches(windows.lengths, 16, args.seed, epoch) for epoch in range(args.epochs)]
    batches = [batch for epoch in epochs for batch in epoch]

    def load(attention: str):
        torch.manual_seed(args.seed)
        return peers.load_model(folder, attention, attention_probs_dropout_prob=0.0)

    def some_steps(attention: str):
        step = peers.trainer(load(attention), "cpu", machine.dtype)
        return lambda: [step(peers.padded(windows, batch)) for batch in batches[1:9]]

    names = ["sdpa", "eager"]
    trials = [some_steps(attention) for attention in names]
    attention = names[trials.index(fastest(trials))]
    del trials

    model = load(attention)
    step = peers.trainer(model, "cpu", machine.dtype, 1e-4, len(batches))
    began = time.perf_counter()
    for batch in batches:
        step(peers.padded(windows, batch))
    seconds = time.perf_counter() - began

    examples, tokenizer = read_squad(args.eval_data), transformers.AutoTokenizer.from_pretrained(folder)
    features = peers.with_lists(tokenizer, examples, False)
    logits = peers.predict(model, tokenizer, features, 64, machine.dtype, is_sorted=True)
    texts = peers.n_best_answers(peers.as_rows(peers.columns(examples)), peers.as_rows(features), logits)
    print(json.dumps({"attention": attention, "train_runtime": round(seconds, 1)} | score(examples, texts)))


if __name__ == "__main__":
    main()
