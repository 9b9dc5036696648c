"""Which number ranks the answers of several documents best? Measured, not assumed.

    python -m benchmarks.ranking --model runs/shifts --data dev-v1.1.json --questions 1000

Each question is asked over its own paragraph and 9 others of the same article, and over it and 9 of other articles. For
each candidate: how often the own paragraph comes first, and how often the first answer is an exact match. `--peer` also
asks the pipeline of transformers 4.57 about each document and ranks by its score; it needs that version installed.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable
from itertools import islice

import numpy as np

from minibert.answers.inputs import pair
from minibert.answers.pipeline import pipeline
from minibert.answers.spans import Prediction
from minibert.evaluation.scorer import exact_match
from minibert.support.hub import find_folder
from minibert.text.records import Example
from minibert.text.squad import read_squad

OTHERS = 9  # paragraphs beside the own one
CANDIDATES: dict[str, Callable[[Prediction], float]] = {
    "score (one softmax per document)": lambda one: one.best().score,
    "logit sum (one softmax over all)": lambda one: one.best().logit_sum,
    "logit sum above the null": lambda one: -one.null_odds,
    "logit sum above half of the null": lambda one: one.best().logit_sum - one.null.logit_sum / 2,
}
PEER = "transformers' pipeline, by its score"


def load_peer(model: str) -> Callable[..., dict]:
    from transformers import pipeline as peer

    return peer("question-answering", model=model, tokenizer=model, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--peer", action="store_true", help="the pipeline of transformers 4.57 too")
    options = parser.parse_args()
    reader, examples = pipeline(model=options.model, dtype="auto"), read_squad(options.data)
    theirs = load_peer(str(find_folder(options.model))) if options.peer else None
    drawn = random.Random(0)
    chosen = drawn.sample(examples, min(options.questions, len(examples)))
    for place in ("same article", "other articles"):
        groups = [draw_contexts(example, examples, place == "same article", drawn) for example in chosen]
        asked = [one for example, contexts in zip(chosen, groups) for one in pair(example.question, contexts)]
        predictions = iter(reader.predictions(asked, {}, is_shown=True))
        counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        for example, contexts in zip(chosen, groups):
            own = list(islice(predictions, len(contexts)))
            texts = [one.best().text for one in own]
            ranked = {name: ([value(one) for one in own], texts) for name, value in CANDIDATES.items()}
            if theirs:
                found = [theirs(question=example.question, context=context) for context in contexts]
                ranked[PEER] = [one["score"] for one in found], [one["answer"] for one in found]
            for name, (values, answers) in ranked.items():
                first = int(np.argmax(values))
                is_match = max(exact_match(answers[first], gold.text) for gold in example.answers)
                counts[name] += first == 0, is_match
        for name, sums in counts.items():
            right, matches = (100 * sums / len(chosen)).round(1).tolist()
            print(json.dumps({"documents": place, "ranked by": name, "own paragraph": right, "exact_match": matches}))


def draw_contexts(example: Example, examples: list[Example], is_same_article: bool, drawn: random.Random) -> list[str]:
    """The question's own paragraph, then others of its article, or of other articles."""
    paragraphs = dict.fromkeys(
        one.context
        for one in examples
        if one.context != example.context and (one.title == example.title) == is_same_article
    )
    return [example.context, *drawn.sample(list(paragraphs), min(OTHERS, len(paragraphs)))]


if __name__ == "__main__":
    main()
