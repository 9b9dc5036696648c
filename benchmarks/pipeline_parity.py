"""Compare `minibert.pipeline` with the pipeline of transformers 4.57, over questions whose context fits one window.

First there, in an environment with transformers 4.57, then here; the file of results also names the questions:

    python -m benchmarks.pipeline_parity --model FOLDER --data dev-v1.1.json --write RESULTS.json
    python -m benchmarks.pipeline_parity --model FOLDER --data dev-v1.1.json --reference RESULTS.json

The second command prints a line for each case of the file, and every difference. It ends with code 1 if fewer than
99.5 % of the answers of a case are equal, or the scores of equal answers differ by more than 1e-4. One difference is
intended, printed and not counted: with `top_k` > 1 and `align_to_words=False`, equal texts at two places are one there
and two here. Both compute in float32 on a CPU.
"""

import argparse
import json
import sys
import warnings
from typing import Any

QUESTIONS, FEWER = 1000, 200
WINDOW = 384
TOLERANCE = 1e-4
LEAST_EQUAL = 0.995

# Options of the call, and how many questions. Two are none of the call: with "as_list" all questions go into one call,
# with "other_context" each is asked of another one's text, so that "no answer" wins now and then.
CASES: list[tuple[dict[str, Any], int]] = [
    *(({"align_to_words": align}, QUESTIONS) for align in (False, True)),
    *(
        ({"align_to_words": align} | option, FEWER)
        for option in ({"top_k": 3}, {"handle_impossible_answer": True}, {"max_answer_len": 5}, {"as_list": True})
        for align in (False, True)
    ),
    ({"align_to_words": False, "handle_impossible_answer": True, "top_k": 3, "other_context": True}, FEWER),
    ({"align_to_words": True, "handle_impossible_answer": True, "other_context": True}, FEWER),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline_parity")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a trained BERT or DistilBERT model")
    parser.add_argument("--data", required=True, metavar="FILE", help="SQuAD JSON: dev-v1.1.json")
    side = parser.add_mutually_exclusive_group(required=True)
    side.add_argument("--write", metavar="RESULTS", help="compute the results of transformers 4.57")
    side.add_argument("--reference", metavar="RESULTS", help="compare with these results")
    args = parser.parse_args()
    with open(args.data, encoding="utf-8") as file:
        paragraphs = [paragraph for article in json.load(file)["data"] for paragraph in article["paragraphs"]]
    texts = {row["id"]: (row["question"], paragraph["context"]) for paragraph in paragraphs for row in paragraph["qas"]}
    if args.write:
        write(args.model, texts, args.write)
    else:
        sys.exit(compare(args.model, texts, args.reference))


def write(model: str, texts: dict[str, tuple[str, str]], target: str) -> None:
    """Save the results of transformers for questions from all over the file."""
    import torch
    from transformers import pipeline

    warnings.simplefilter("ignore")
    qa = pipeline("question-answering", model=model, device=-1, dtype=torch.float32)
    lengths = qa.tokenizer([q for q, _ in texts.values()], [c for _, c in texts.values()])["input_ids"]
    short = [name for name, ids in zip(texts, lengths) if len(ids) <= WINDOW]
    chosen = short[:: max(1, len(short) // QUESTIONS)][:QUESTIONS]
    pairs = [texts[name] for name in chosen]
    results: dict[str, Any] = {"ids": chosen}
    for options, count in CASES:
        results[json.dumps(options)] = answers(qa, pairs[:count], **options)
    with open(target, "w", encoding="utf-8") as file:
        json.dump(results, file)


def answers(
    qa: Any, pairs: list[tuple[str, str]], as_list: bool = False, other_context: bool = False, **options: Any
) -> list[Any]:
    questions, contexts = map(list, zip(*pairs))
    if other_context:
        half = len(contexts) // 2
        contexts = contexts[half:] + contexts[:half]
    if as_list:
        return qa(question=questions, context=contexts, **options)
    return [qa(question=question, context=context, **options) for question, context in zip(questions, contexts)]


def compare(model: str, texts: dict[str, tuple[str, str]], reference: str) -> int:
    """Print what differs from the results of `reference`; 1 if it is more than allowed, else 0."""
    from minibert import pipeline

    qa = pipeline("question-answering", model=model)
    with open(reference, encoding="utf-8") as file:
        results = json.load(file)
    code = 0
    for options, count in (case for case in CASES if json.dumps(case[0]) in results):
        ids, theirs = results["ids"][:count], results[json.dumps(options)]
        ours = answers(qa, [texts[name] for name in ids], **options)
        differing, largest = [], 0.0
        for name, *pair in zip(ids, ours, theirs):
            here, there = (answer if isinstance(answer, list) else [answer] for answer in pair)
            gap = max(abs(a["score"] - b["score"]) for a, b in zip(here, there))
            if spans(here) == spans(there):
                largest = max(largest, gap)
            else:
                differing.append(f"    {name}\n        here  {here}\n        there {there}")
        equal = len(ids) - len(differing)
        print(f"{options}: {equal} of {len(ids)} equal, the scores of these to {largest:.1e}", *differing, sep="\n")
        is_counted = options["align_to_words"] or "top_k" not in options
        code |= is_counted and (equal < LEAST_EQUAL * len(ids) or largest > TOLERANCE)
    return int(code)


def spans(answers: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(answer["answer"], answer["start"], answer["end"]) for answer in answers]


if __name__ == "__main__":
    main()
