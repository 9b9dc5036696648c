"""Ask some questions of a second text too, which does not answer them; writes one file of v2.0.

    python -m benchmarks.negatives negatives.json 0.1 all.json

The arguments: a new file, the share of the questions that are asked twice, and the file to read, of v1.1. The second
text is another paragraph of the file, drawn at random, and the question is marked as impossible there.
"""

import json
import random
import sys
from pathlib import Path


def main() -> None:
    target, share, file = sys.argv[1:]
    top = json.loads(Path(file).read_text("utf-8"))
    paragraphs = [paragraph for article in top["data"] for paragraph in article["paragraphs"]]
    draw = random.Random(0)
    questions = [(paragraph, question) for paragraph in paragraphs for question in paragraph["qas"]]
    chosen = draw.sample(questions, round(float(share) * len(questions)))
    for own, question in chosen:
        other = draw.choice([paragraph for paragraph in paragraphs if paragraph["context"] != own["context"]])
        again = {"id": f"{question['id']}-elsewhere", "answers": [], "is_impossible": True}
        other["qas"].append(question | again)
    with open(target, "x", encoding="utf-8") as opened:
        json.dump({"version": "2.0", "data": top["data"]}, opened)
    print(target, len(questions), "questions,", len(chosen), "of them asked twice")


if __name__ == "__main__":
    main()
