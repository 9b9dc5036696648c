"""The `pipeline("question-answering")` reader: a question and a context in, the answer's text and place out.

The call and its defaults are those of the pipeline of this name that `transformers` had until v5.3; what differs is
listed in docs/migration.md.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from minibert.answers.confidence import NOT_FITTED, Answering
from minibert.answers.documents import find_answers, spans_needed
from minibert.answers.inputs import Texts, as_list, pair, split, split_dicts
from minibert.answers.options import DEFAULTS, Options, merge, one_of, whole
from minibert.answers.predict import load_trained, parts, predict_logits, window_length
from minibert.answers.spans import Answer, Prediction, search
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.prepare import prepare_to_answer
from minibert.support.errors import BadInput
from minibert.support.machine import Machine, choose_machine
from minibert.text.records import Example
from minibert.text.tokenizer import Tokenizer
from minibert.text.unread import count_unread, warn_of_unread
from minibert.text.windows import make_windows

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` since Python 3.11; type checkers know this one everywhere


def pipeline(
    task: str = "question-answering",
    model: str | os.PathLike | BertForQuestionAnswering | None = None,
    *,
    tokenizer: str | os.PathLike | Tokenizer | None = None,
    device: str | int | torch.device | None = "cpu",
    dtype: str | torch.dtype | None = None,
    torch_dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    framework: str | None = None,
    **options: "Unpack[Options]",
) -> "QuestionAnswering":
    """A reader to call with questions and contexts.

    model, tokenizer: loaded, or names of folders or hub ids. A loaded model needs its tokenizer; it is copied and stays
    as it is. device: a name, or the number of a GPU; -1 and None are the CPU. dtype, torch_dtype: two names of one
    setting; None is float32. framework: "pt" or None, without an effect. options: the defaults of all calls, see
    `Options`. Raises BadInput for a model that cannot answer, and for a device or dtype that this machine lacks.
    """
    if task != "question-answering":
        raise BadInput("pipeline", "task", f"expected 'question-answering', found {task!r}")
    if model is None:
        raise BadInput("pipeline", "model", "is missing; name a trained model, or give a loaded one and its tokenizer")
    if framework not in (None, "pt"):
        raise BadInput("pipeline", "framework", f"expected 'pt', which is PyTorch, found {framework!r}")
    defaults = merge(DEFAULTS, options)
    if device is None or (number := whole(device)) == -1:
        device = "cpu"
    elif number is not None:
        device = f"cuda:{number}"
    dtype = one_of("dtype", dtype, "torch_dtype", torch_dtype)
    machine = choose_machine(str(device), "float32" if dtype is None else str(dtype))
    loaded, loaded_tokenizer, answering = load_trained(model, revision, tokenizer)
    return QuestionAnswering(loaded, loaded_tokenizer, machine, defaults, answering)


class QuestionAnswering:
    """A model that answers questions from their contexts; made by `pipeline`. It prepares `model` for its machine."""

    def __init__(
        self,
        model: BertForQuestionAnswering,
        tokenizer: Tokenizer,
        machine: Machine,
        defaults: Mapping[str, Any],
        answering: Answering = NOT_FITTED,
    ):
        self.model, self.tokenizer = prepare_to_answer(model.eval(), machine), tokenizer
        self.machine, self.defaults, self.answering = machine, defaults, answering
        self.told: set[str] = set()  # warnings of what the model does not read

    def __repr__(self) -> str:
        config = self.model.config
        size = f"{config.num_hidden_layers} layers, hidden_size {config.hidden_size}"
        return f"<QuestionAnswering: {config.model_type}, {size}, on {self.machine}>"

    def __call__(
        self,
        question: Texts = None,
        context: Texts = None,
        *more: Mapping[str, Any],
        data: Texts = None,
        X: Texts = None,
        **options: "Unpack[Options]",
    ) -> Any:
        """{"score", "start", "end", "answer"} for one question, with context[start:end] == answer.

        The question and its context are two texts, or a dict {"question", "context"}, by position or as `data` or `X`.
        `top_k` > 1: a list of answers, best first. Lists (arrays, Series) of questions, contexts or dicts: a list with
        one result per question; a single text is paired with every item of the other list. A generator of dicts: a
        generator. `options` are those of `Options`. Raises BadInput for anything but text.
        """
        chosen = merge(self.defaults, options)
        given = one_of("data", data, "X", X)
        if given is not None and (question is not None or context is not None):
            raise BadInput("pipeline", "data", "does not go with question and context")
        if more or (isinstance(question, Mapping) and isinstance(context, Mapping)):
            given = [question, context, *more]
        elif given is None and context is None:
            given = question
        if isinstance(given, Iterator):
            return self.stream(given, chosen)
        if given is not None:
            question, context = split(given)
        results = self.answer(pair(question, context), chosen)
        return results[0] if as_list(question) is None and as_list(context) is None else results

    def stream(self, samples: Iterator[Any], options: Mapping[str, Any]) -> Iterator[Any]:
        """Answers to the dicts of an iterator, in their order; it is read by `batch_size` dicts at a time."""
        first = 0
        while rows := list(islice(samples, options["batch_size"])):
            yield from self.answer(pair(*split_dicts(rows, first)), options)
            first += len(rows)

    def answer(self, examples: list[Example], options: Mapping[str, Any]) -> list[Any]:
        """A dict for each example, or with `top_k` > 1 a list of dicts. `options` has all of them."""
        top_k, is_widened = options["top_k"], options["align_to_words"]
        count = 2 * top_k + 10 if is_widened else top_k  # some become equal when they are widened
        predictions = self.predictions(examples, {**options, "top_k": count})
        results: list[Any] = []
        for example, prediction in zip(examples, predictions):
            found = list(prediction.answers)
            if options["handle_impossible_answer"] or not found:
                found = sorted([*found, prediction.null], key=lambda answer: -answer.logit_sum)  # the spans' own order
            answers = [to_dict(answer) for answer in found]
            if is_widened:
                answers = self.widen(answers, example.context)
            results.append(answers[0] if top_k == 1 else answers[:top_k])
        return results

    def predictions(
        self,
        examples: list[Example],
        options: Mapping[str, Any],
        is_shown: bool = False,
        counts: Counter[str] | None = None,
    ) -> list[Prediction]:
        """The `top_k` best spans of each example, with their logits.

        is_shown: show how far it has come. counts: adds up what `count_unread` counts; without it, the reader itself
        warns, once of each kind.
        """
        chosen = merge(self.defaults, options)
        length = window_length(chosen["max_seq_len"], self.model.config, "max_seq_len")
        predictions: list[Prediction] = []
        unread = Counter[str]()
        for part in parts(examples):
            windows = make_windows(part, self.tokenizer, length, chosen["doc_stride"], chosen["max_question_len"])
            unread.update(count_unread(part, windows, self.tokenizer))
            logits = predict_logits(self.model, windows, self.machine, chosen["batch_size"], is_shown)
            predictions += search(windows, *logits, part, chosen["top_k"], chosen["max_answer_len"])
        if counts is not None:
            counts.update(unread)
        else:
            warn_of_unread(unread, "the model", self.told)
        return predictions

    def rank(
        self,
        question: str,
        contexts: str | Iterable[str],
        null_score_diff_threshold: float | None = None,
        **options: "Unpack[Options]",
    ) -> list[dict[str, Any]]:
        """The `top_k` best answers to one question over many contexts, best first; see `documents.py`.

        Each is a dict of the pipeline's keys with `document` (the index of its context), `start_logit`, `end_logit`,
        `null_odds` and `confidence` (None if the model is not calibrated). Above the threshold, by default that of the
        model's calibration, an answer is left out; if none is left, the list is one empty answer.
        """
        chosen = merge(self.defaults, options)
        for name in ("align_to_words", "handle_impossible_answer"):
            if options.get(name):
                raise BadInput("pipeline", name, "is not for `rank`, whose answers are ranked by their tokens' logits")
        if as_list(question) is not None:
            raise BadInput("pipeline", "question", "expected one question to rank texts by, found several")
        if not (examples := pair(question, contexts)):
            raise BadInput("pipeline", "contexts", "expected at least one text, found none")
        spans = spans_needed(chosen["top_k"], len(examples), chosen["max_answer_len"])
        predictions = self.predictions(examples, chosen | {"top_k": spans})
        found = find_answers(predictions, self.answering, chosen["top_k"], null_score_diff_threshold)
        return [
            to_dict(one.answer)
            | {"document": one.document, "start_logit": one.answer.start_logit, "end_logit": one.answer.end_logit}
            | {"null_odds": one.null_odds, "confidence": one.confidence}
            for one in found
        ]

    def widen(self, answers: list[dict[str, Any]], context: str) -> list[dict[str, Any]]:
        """Answers with both ends moved outward to the borders of words, best first.

        A word is what the tokenizer splits into pieces. As in the removed pipeline, answers of equal text become one,
        whatever their case: its score is their sum, its place the one of the highest score.
        """
        encoding = self.tokenizer.backend.encode(context, add_special_tokens=False)
        widened: dict[str, dict[str, Any]] = {}
        for answer in answers:
            start, end = answer["start"], answer["end"]
            if not answer["answer"]:  # "no answer" stays
                widened[""] = answer
                continue
            if (first := encoding.char_to_word(start)) is not None:
                start = min(start, (encoding.word_to_chars(first) or (start, end))[0])
            inner = (encoding.char_to_word(i) for i in range(end - 1, start - 1, -1))
            # A mark that follows its letter, as in decomposed text, belongs to no word.
            if (last := next((word for word in inner if word is not None), None)) is not None:
                end = max(end, (encoding.word_to_chars(last) or (start, end))[1])
            text = context[start:end]
            row = widened.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
            row["score"] += answer["score"]
        return sorted(widened.values(), key=lambda row: -row["score"])


def to_dict(answer: Answer) -> dict[str, Any]:
    """An answer under the pipeline's keys."""
    return {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}
