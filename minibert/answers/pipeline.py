"""The `pipeline("question-answering")` reader: a question and a context in, the answer's text and place out.

The call and its defaults are those of the pipeline of this name that `transformers` had until v5.3.

Next: `explain.py`.
"""

import os
from collections.abc import Sequence
from typing import Any

from minibert.answers.predict import load_trained, predict, window_length
from minibert.answers.spans import EVAL_BATCH_SIZE, Answer
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.prepare import prepare_to_answer
from minibert.support.errors import BadInput
from minibert.support.machine import Machine, choose_machine
from minibert.text.squad import Example, text_fault
from minibert.text.tokenizer import Tokenizer
from minibert.text.windows import DOC_STRIDE, MAX_QUERY_LENGTH


def pipeline(
    task: str = "question-answering",
    model: str | os.PathLike | BertForQuestionAnswering | None = None,
    *,
    tokenizer: str | os.PathLike | Tokenizer | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    batch_size: int = EVAL_BATCH_SIZE,
) -> "QuestionAnswering":
    """A reader to call with questions and contexts.

    model, tokenizer: loaded, or names of folders or hub ids. A loaded model needs its tokenizer; it is copied and stays
    as it is. batch_size: windows computed together. Raises BadInput for a model that cannot answer, and for a device or
    dtype that this machine lacks.
    """
    if task != "question-answering":
        raise BadInput("pipeline", "task", f"expected 'question-answering', found {task!r}")
    if model is None:
        raise BadInput("pipeline", "model", "is missing; name a trained model, or give a loaded one and its tokenizer")
    check_least("batch_size", batch_size, 1)
    loaded, loaded_tokenizer = load_trained(model, revision, tokenizer)
    return QuestionAnswering(loaded, loaded_tokenizer, choose_machine(device, dtype), batch_size)


class QuestionAnswering:
    """A model that answers questions from their contexts; made by `pipeline`. It prepares `model` for its machine."""

    def __init__(self, model: BertForQuestionAnswering, tokenizer: Tokenizer, machine: Machine, batch_size: int):
        self.model, self.tokenizer = prepare_to_answer(model.eval(), machine), tokenizer
        self.machine, self.batch_size = machine, batch_size

    def __repr__(self) -> str:
        config = self.model.config
        size = f"{config.num_hidden_layers} layers, hidden_size {config.hidden_size}"
        return f"<QuestionAnswering: {config.model_type}, {size}, on {self.machine}>"

    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        doc_stride: int = DOC_STRIDE,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = MAX_QUERY_LENGTH,
        handle_impossible_answer: bool = False,
    ) -> Any:
        """{"score", "start", "end", "answer"} for one question, with context[start:end] == answer.

        With `top_k` > 1 a list of them, best first; with lists of questions or contexts a list of either, in order (one
        text goes with all of the other list). `max_answer_len`, `max_seq_len`, `max_question_len` and `doc_stride` (the
        overlap of windows) count tokens; `max_seq_len` None is 384, or the model's positions if fewer.
        `handle_impossible_answer` adds the empty answer with its own score. Raises BadInput for anything but text.
        """
        examples = pair(question, context)
        check_least("top_k", top_k, 1)
        check_least("max_answer_len", max_answer_len, 1)
        check_least("max_question_len", max_question_len, 1)
        check_least("doc_stride", doc_stride, 0)
        if max_seq_len is not None:
            check_least("max_seq_len", max_seq_len, 8)
        predictions = predict(
            self.model,
            self.tokenizer,
            examples,
            self.machine,
            max_seq_length=window_length(max_seq_len, self.model.config, "max_seq_len"),
            doc_stride=doc_stride,
            max_query_length=max_question_len,
            n_best_size=top_k,
            max_answer_length=max_answer_len,
            eval_batch_size=self.batch_size,
        )
        results: list[Any] = []
        for prediction in predictions:
            answers = prediction.answers
            if handle_impossible_answer or not answers:
                answers = sorted([*answers, prediction.null], key=lambda answer: -answer.score)
            dicts = [to_dict(answer) for answer in answers[:top_k]]
            results.append(dicts[0] if top_k == 1 else dicts)
        return results if isinstance(question, (list, tuple)) or isinstance(context, (list, tuple)) else results[0]


def check_least(name: str, value: int, least: int) -> None:
    """BadInput unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput("pipeline", name, f"expected an integer of at least {least}, found {value!r}")


def to_dict(answer: Answer) -> dict[str, Any]:
    """An answer under the pipeline's keys."""
    return {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}


def pair(question: str | Sequence[str], context: str | Sequence[str]) -> list[Example]:
    """An example for each question with its context; one text goes with all texts of the other list."""
    questions: list[Any] = list(question) if isinstance(question, (list, tuple)) else [question]
    contexts: list[Any] = list(context) if isinstance(context, (list, tuple)) else [context]
    for name, texts in (("question", questions), ("context", contexts)):
        for i, text in enumerate(texts):
            if fault := text_fault(text, may_be_blank=name == "context"):
                raise BadInput("pipeline", f"{name} {i}", fault)
    size = max(len(questions), len(contexts)) if questions and contexts else 0
    if {len(questions), len(contexts)} - {1, size}:
        what = f"expected as many contexts as questions, or one; found {len(contexts)} for {len(questions)} questions"
        raise BadInput("pipeline", "", what)
    questions, contexts = (texts * size if len(texts) == 1 else texts for texts in (questions, contexts))
    return [Example(str(i), "", *texts) for i, texts in enumerate(zip(questions, contexts))]
