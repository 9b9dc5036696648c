"""The `pipeline("question-answering")` reader: a question and a context in, the answer's text and place out.

The call and its defaults are those of the pipeline of this name that `transformers` had until v5.3; what differs is
listed in docs/migration.md.

Next: `evaluation/scorer.py`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch

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
    device: str | int | torch.device | None = "cpu",
    dtype: str | torch.dtype | None = None,
    torch_dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    batch_size: int = EVAL_BATCH_SIZE,
    framework: str | None = None,
) -> "QuestionAnswering":
    """A reader to call with questions and contexts.

    model, tokenizer: loaded, or names of folders or hub ids. A loaded model needs its tokenizer; it is copied and stays
    as it is. device: a name, or the number of a GPU; -1 and None are the CPU. dtype, torch_dtype: two names of one
    setting; None is float32. batch_size: windows computed together. framework: "pt" or None, without an effect. Raises
    BadInput for a model that cannot answer, and for a device or dtype that this machine lacks.
    """
    if task != "question-answering":
        raise BadInput("pipeline", "task", f"expected 'question-answering', found {task!r}")
    if model is None:
        raise BadInput("pipeline", "model", "is missing; name a trained model, or give a loaded one and its tokenizer")
    if framework not in (None, "pt"):
        raise BadInput("pipeline", "framework", f"expected 'pt', which is PyTorch, found {framework!r}")
    check_least("batch_size", batch_size, 1)
    if device is None or isinstance(device, int):
        device = "cpu" if device is None or device == -1 else f"cuda:{int(device)}"
    dtype = one_of("dtype", dtype, "torch_dtype", torch_dtype)
    machine = choose_machine(str(device), "float32" if dtype is None else str(dtype))
    loaded, loaded_tokenizer = load_trained(model, revision, tokenizer)
    return QuestionAnswering(loaded, loaded_tokenizer, machine, batch_size)


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
        question: Any = None,
        context: Any = None,
        *more: Mapping[str, str],
        data: Any = None,
        X: Any = None,
        top_k: int | None = None,
        topk: int | None = None,
        doc_stride: int = DOC_STRIDE,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = MAX_QUERY_LENGTH,
        handle_impossible_answer: bool = False,
        align_to_words: bool = False,
        batch_size: int | None = None,
        padding: bool | str | None = None,
    ) -> Any:
        """{"score", "start", "end", "answer"} for one question, with context[start:end] == answer.

        The question and its context are two texts, or a dict {"question", "context"}, by position or as `data` or `X`.
        With `top_k` > 1 a list of them, best first; with lists (arrays, Series) of questions, contexts or dicts a list
        of either, in order (one text goes with all of the other list); with a generator of dicts a generator.
        `max_answer_len`, `max_seq_len`, `max_question_len` and `doc_stride` (the overlap of windows) count tokens;
        `max_seq_len` None is 384, or the model's positions if fewer. `handle_impossible_answer` adds the empty answer
        with its own score. `align_to_words` widens an answer to the words that it cuts, as that pipeline's default did.
        `topk` is `top_k`; `padding` has no effect. Raises BadInput for anything but text.
        """
        count = one_of("top_k", top_k, "topk", topk)
        options: dict[str, Any] = {
            "top_k": 1 if count is None else count,
            "doc_stride": doc_stride,
            "max_answer_len": max_answer_len,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
            "batch_size": self.batch_size if batch_size is None else batch_size,
        }
        least = {"doc_stride": 0, "max_seq_len": 8}
        for name, value in options.items():
            if name != "max_seq_len" or value is not None:
                check_least(name, value, least.get(name, 1))
        options |= {"handle_impossible_answer": handle_impossible_answer, "align_to_words": align_to_words}
        given = one_of("data", data, "X", X)
        if given is not None and (question is not None or context is not None):
            raise BadInput("pipeline", "data", "does not go with question and context")
        if more or (isinstance(question, Mapping) and isinstance(context, Mapping)):
            question, context = [question, context, *more], None
        samples = given if given is not None else question if context is None else None
        if isinstance(samples, Iterator):
            return self.stream(samples, options)
        if isinstance(samples, Mapping) and {"question", "context"} <= samples.keys():
            question, context = samples["question"], samples["context"]
        elif (rows := as_list(samples)) is not None:
            question, context = split_dicts(rows, 0)
        elif given is not None:
            raise BadInput("pipeline", "data", f"expected a dict of question and context, found {given!r}")
        results = self.answer(pair(question, context), **options)
        return results[0] if as_list(question) is None and as_list(context) is None else results

    def stream(self, samples: Iterator[Any], options: dict[str, Any]) -> Iterator[Any]:
        """Answers to the dicts of an iterator, in their order; it is read by `batch_size` dicts at a time."""
        first = 0
        while rows := list(islice(samples, options["batch_size"])):
            yield from self.answer(pair(*split_dicts(rows, first)), **options)
            first += len(rows)

    def answer(
        self,
        examples: list[Example],
        *,
        top_k: int,
        doc_stride: int,
        max_answer_len: int,
        max_seq_len: int | None,
        max_question_len: int,
        batch_size: int,
        handle_impossible_answer: bool,
        align_to_words: bool,
    ) -> list[Any]:
        """A dict for each example, or with `top_k` > 1 a list of dicts."""
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
            eval_batch_size=batch_size,
        )
        results: list[Any] = []
        for example, prediction in zip(examples, predictions):
            answers = [to_dict(answer) for answer in prediction.answers]
            if align_to_words:
                answers = self.widen(answers, example.context)
            if handle_impossible_answer or not answers:
                answers = sorted([*answers, to_dict(prediction.null)], key=lambda answer: -answer["score"])
            results.append(answers[0] if top_k == 1 else answers[:top_k])
        return results

    def widen(self, answers: list[dict[str, Any]], context: str) -> list[dict[str, Any]]:
        """Answers with both ends moved outward to the borders of words; those that become equal add up their scores.

        Words are the tokenizer's, before it cuts them into pieces.
        """
        encoding = self.tokenizer.backend.encode(context, add_special_tokens=False)
        widened: dict[tuple[int, int], float] = {}
        for answer in answers:
            start, end = answer["start"], answer["end"]
            if (first := encoding.char_to_word(start)) is not None:
                start = min(start, (encoding.word_to_chars(first) or (start, end))[0])
            if (last := encoding.char_to_word(end - 1)) is not None:
                end = max(end, (encoding.word_to_chars(last) or (start, end))[1])
            widened[start, end] = widened.get((start, end), 0.0) + answer["score"]
        rows = [{"score": s, "start": a, "end": b, "answer": context[a:b]} for (a, b), s in widened.items()]
        return sorted(rows, key=lambda row: -row["score"])


def one_of(name: str, value: Any, other: str, other_value: Any) -> Any:
    """The value of a setting with two names; BadInput if both are given."""
    if value is not None and other_value is not None:
        raise BadInput("pipeline", name, f"is the same as {other}; give one of them")
    return other_value if value is None else value


def as_list(values: Any) -> list[Any] | None:
    """The items of a list, an array or another collection; None for one text or one dict, and for what has no items."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        return None
    return list(values)


def split_dicts(rows: list[Any], first: int) -> tuple[list[Any], list[Any]]:
    """The questions and contexts of dicts; `first` is the number of the first one, for the message."""
    for i, row in enumerate(rows, first):
        if not isinstance(row, Mapping) or not {"question", "context"} <= row.keys():
            raise BadInput("pipeline", f"question {i}", f"expected a dict of question and context, found {row!r:.80}")
    return [row["question"] for row in rows], [row["context"] for row in rows]


def check_least(name: str, value: int, least: int) -> None:
    """BadInput unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput("pipeline", name, f"expected an integer of at least {least}, found {value!r}")


def to_dict(answer: Answer) -> dict[str, Any]:
    """An answer under the pipeline's keys."""
    return {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}


def pair(question: Any, context: Any) -> list[Example]:
    """An example for each question with its context; one text goes with all texts of the other list."""
    questions, contexts = ([one] if (many := as_list(one)) is None else many for one in (question, context))
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
