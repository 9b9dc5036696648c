"""Which number ranks the answers of several documents best? Measured, not assumed.

    python -m benchmarks.ranking --model runs/shifts --data dev-v1.1.json --questions 1000

Each question is asked over its own paragraph and 9 others of the same article, and over it and 9 of other articles. For
each candidate: how often the own paragraph comes first, and how often the first answer is an exact match. `--peer` also
asks the pipeline of transformers 4.57 about each document and ranks by its score; it needs that version installed.
"""

import argparse
import json
import random
from collections.abc import Callable

import numpy as np

from minibert.answers.inputs import pair
from minibert.answers.pipeline import QuestionAnswering, pipeline
from minibert.answers.spans import Prediction
from minibert.evaluation.scorer import exact_match
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
    reader, examples = pipeline(model=options.model), read_squad(options.data)
    theirs = load_peer(options.model) if options.peer else None
    paragraphs = list(dict.fromkeys((example.title, example.context) for example in examples))
    drawn = random.Random(0)
    names = [*CANDIDATES, *[PEER] * options.peer]
    counts = {place: {name: np.zeros(2) for name in names} for place in ("same article", "other articles")}
    chosen = drawn.sample(examples, min(options.questions, len(examples)))
    for example in chosen:
        for place, count in counts.items():
            others = [
                context
                for title, context in paragraphs
                if context != example.context and (title == example.title) == (place == "same article")
            ]
            contexts = [example.context, *drawn.sample(others, min(OTHERS, len(others)))]
            for name, (values, texts) in ask_over(contexts, example.question, reader, theirs).items():
                first = int(np.argmax(values))
                is_match = max(exact_match(texts[first], gold.text) for gold in example.answers)
                count[name] += first == 0, is_match
    for place, count in counts.items():
        for name, sums in count.items():
            right, matches = (100 * sums / len(chosen)).round(1).tolist()
            print(json.dumps({"documents": place, "ranked by": name, "own paragraph": right, "exact_match": matches}))


def ask_over(
    contexts: list[str], question: str, reader: QuestionAnswering, theirs: Callable[..., dict] | None
) -> dict[str, tuple[list[float], list[str]]]:
    """For each candidate, the values of the contexts' best answers and their texts. theirs: the peer, or None."""
    predictions = reader.predictions(pair(question, contexts), {})
    texts = [one.best().text for one in predictions]
    ranked = {name: ([value(one) for one in predictions], texts) for name, value in CANDIDATES.items()}
    if theirs:
        found = [theirs(question=question, context=context) for context in contexts]
        ranked[PEER] = [one["score"] for one in found], [one["answer"] for one in found]
    return ranked


if __name__ == "__main__":
    main()
