"""Split a half of SQuAD 2.0's dev set as docs/benchmarks.md has it; writes three files into the current folder.

    python -m benchmarks.split dev-v2.0-half.json

v2-train.json has the first 9 articles without every sixth paragraph, v2-held.json these paragraphs, v2-test.json the
other articles.
"""

import json
import sys
from pathlib import Path

TRAINED, EVERY = 9, 6


def main() -> None:
    articles = json.loads(Path(sys.argv[1]).read_text("utf-8"))["data"]
    paragraphs = [(article["title"], one) for article in articles[:TRAINED] for one in article["paragraphs"]]
    held = paragraphs[EVERY - 1 :: EVERY]
    write("v2-train.json", [pair for i, pair in enumerate(paragraphs, start=1) if i % EVERY])
    write("v2-held.json", held)
    write("v2-test.json", [(article["title"], one) for article in articles[TRAINED:] for one in article["paragraphs"]])


def write(name: str, paragraphs: list[tuple[str, dict]]) -> None:
    data = [{"title": title, "paragraphs": [paragraph]} for title, paragraph in paragraphs]
    Path(name).write_text(json.dumps({"version": "v2.0", "data": data}), "utf-8")
    print(name, sum(len(paragraph["qas"]) for _, paragraph in paragraphs), "questions")


if __name__ == "__main__":
    main()
