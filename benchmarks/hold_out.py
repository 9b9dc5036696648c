"""Hold out paragraphs for the choices in docs/recipes.md; writes two files into the current folder.

    python -m benchmarks.hold_out shifts-amazon.json shifts-new-wiki.json shifts-reddit.json

held.json has a tenth of all paragraphs, drawn at random. all.json has a third of the others.
"""

import json
import random
import sys
from pathlib import Path

TENTH, THIRD = 10, 3


def main() -> None:
    paragraphs = [
        (f"{Path(file).stem}: {article['title']}", paragraph)
        for file in sys.argv[1:]
        for article in json.loads(Path(file).read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    random.Random(0).shuffle(paragraphs)
    held = len(paragraphs) // TENTH
    write("held.json", paragraphs[:held])
    write("all.json", paragraphs[held : held + (len(paragraphs) - held) // THIRD])


def write(name: str, paragraphs: list[tuple[str, dict]]) -> None:
    data = [{"title": title, "paragraphs": [paragraph]} for title, paragraph in paragraphs]
    Path(name).write_text(json.dumps({"version": "1.1", "data": data}), "utf-8")
    print(name, sum(len(paragraph["qas"]) for _, paragraph in paragraphs), "questions")


if __name__ == "__main__":
    main()
