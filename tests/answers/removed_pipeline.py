"""Results of the question-answering pipeline of transformers 4.57, for test_pipeline.py: removed_pipeline.json.

`python -m tests.answers.removed_pipeline` writes that file, in an environment with transformers 4.57 and minibert's own
five packages. The model is that of the fixture `tiny_folder`; a text and its question fit into its 70 positions.
"""

import json
import tempfile
import warnings
from pathlib import Path

from tests.builders import VOCABULARY, draw_weights, tiny_config

RESULTS = Path(__file__).with_suffix(".json")
PAIRS = [
    ("Who made the clock?", "The clock tower was made of copper in 1871 by Anna Weiss."),
    ("When was the bridge made?", "The bridge by the river was made in 1902, of wood and iron."),
    ("Where is the queen?", "The queen is in Paris by day; the king is in Lyon by night."),
    ("What is red?", "Red school, blue school, old school: a red train."),
    ("How many trains?", "Seven trains in Basel, nine trains in Paris, seven in Lyon."),
    ("Who was unable?", "John was unable; Maria, the cafés' queen, isn't."),
    ("Where is the café?", "Café 🎉 by the river, made by Maria Weiß; naïve."),
    ("What is it made of?", "時計塔は銅 1871 tower"),
    ("When?", "  the\tclock\r\n\r\nmade  in 1902 \u200b "),
    ("Which town?", "Clockmakers (1871), townsman-queens and kingdoms."),
]
OPTIONS = [
    {"align_to_words": align} | more
    for align in (False, True)
    for more in (
        {},
        {"top_k": 3},
        {"topk": 2, "max_answer_len": 2},
        {"handle_impossible_answer": True},
        {"handle_impossible_answer": True, "top_k": 4},
        {"max_answer_len": 1},
        {"max_answer_len": 5},
        {"max_seq_len": 64, "doc_stride": 16, "max_question_len": 32, "padding": "longest", "batch_size": 2},
    )
]


def main() -> None:
    """Write the rows [score, start, end] of the answers, for each text (a line of the file) and each of `OPTIONS`."""
    from transformers import pipeline

    from minibert.model.bert import BertForQuestionAnswering
    from minibert.model.weights import save_model
    from minibert.text.tokenizer import load_tokenizer

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("".join(token + "\n" for token in VOCABULARY), "utf-8")
        model = draw_weights(BertForQuestionAnswering(tiny_config()))
        save_model(model, load_tokenizer(folder), Path(folder) / "model")
        qa = pipeline("question-answering", model=folder + "/model", device=-1)
    lines = []
    for question, context in PAIRS:
        results = [qa(question=question, context=context, **options) for options in OPTIONS]
        lines.append(json.dumps([as_rows(result) for result in results], separators=(",", ":")))
    RESULTS.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")


def as_rows(result: dict | list) -> list[list]:
    """[score, start, end] of each answer; there, one answer out of several asked for is no list."""
    answers = result if isinstance(result, list) else [result]
    return [[round(answer["score"], 6), answer["start"], answer["end"]] for answer in answers]


if __name__ == "__main__":
    main()
