"""Join the paragraphs of SQuAD files to documents; writes one file.

    python -m benchmarks.join long.json 3000 1000 all.json

The arguments: a new file, the least number of words of a document and of questions in all, and the files to read, of
v1.1. The paragraphs stand in the order of the files, with an empty line between them.
"""

import json
import sys
from pathlib import Path

BETWEEN = "\n\n"


def main() -> None:
    target, words, most, *files = sys.argv[1:]
    paragraphs = [
        paragraph
        for file in files
        for article in json.loads(Path(file).read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    documents, questions = [{"context": "", "qas": []}], 0
    for paragraph in paragraphs:
        if len(documents[-1]["context"].split()) >= int(words):
            if questions >= int(most):
                break
            documents.append({"context": "", "qas": []})
        append(documents[-1], paragraph)
        questions += len(paragraph["qas"])
    data = [{"title": f"document {i}", "paragraphs": [document]} for i, document in enumerate(documents, start=1)]
    with open(target, "x", encoding="utf-8") as opened:
        json.dump({"version": "1.1", "data": data}, opened)
    print(target, len(documents), "documents", questions, "questions")


def append(document: dict, paragraph: dict) -> None:
    """Add a paragraph at the document's end, and its questions, whose answers move with it."""
    if document["context"]:
        document["context"] += BETWEEN
    moved = len(document["context"])
    document["context"] += paragraph["context"]
    for question in paragraph["qas"]:
        answers = [answer | {"answer_start": answer["answer_start"] + moved} for answer in question["answers"]]
        document["qas"].append(question | {"answers": answers})


if __name__ == "__main__":
    main()
