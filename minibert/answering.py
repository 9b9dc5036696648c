"""Examples -> predictions, in batches; and the `pipeline("question-answering")` reader on top of it.

In: texts. Out: `Prediction`s, or for the pipeline dicts {"score", "start", "end", "answer"} with
context[start:end] == answer. Next: `optim.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minibert import distributed
from minibert.batches import collate, prediction_batches
from minibert.device import Machine, choose_machine, prepare_to_answer
from minibert.errors import BadInput
from minibert.folders import find_folder
from minibert.metrics import score
from minibert.model import BertForQuestionAnswering
from minibert.spans import Answer, Prediction, search
from minibert.squad import Example, is_version_2, text_fault
from minibert.tokenizer import Tokenizer, load_tokenizer
from minibert.weights import copy_model, load_model
from minibert.windows import Windows, make_windows, ranges

PADDED_VOCABULARY = 128  # rows that a vocabulary may be short of the model's: sizes get rounded up to this at most


def predict_logits(
    model: BertForQuestionAnswering, windows: Windows, machine: Machine, batch_size: int = 64, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits of every token of every window: two float32 arrays in the flat layout of `windows.ids`.

    The ranks share the batches, which do not depend on the number of ranks; each ends with all logits.
    """
    logits = torch.zeros(2, len(windows.ids))
    batches = prediction_batches(windows.lengths, batch_size)[distributed.rank() :: distributed.world_size()]
    was_training = model.training
    if was_training:  # going through all modules takes as long as a layer of one short window
        model.eval()
    with torch.inference_mode(), machine.autocast(model):
        # Silent off a terminal (disable=None), on other ranks, and where nobody asked for it.
        quiet = None if progress and distributed.is_main() else True
        for indices in tqdm(batches, desc="predict", unit="batch", leave=False, disable=quiet):
            batch = collate(windows, indices)
            inputs = machine.load({name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
            found, lengths = torch.stack(model(**inputs)).cpu(), windows.lengths[indices]
            is_token = torch.from_numpy(np.arange(found.size(2)) < lengths[:, None])
            logits[:, ranges(windows.bounds[indices], lengths)] = found[:, is_token]
    if was_training:
        model.train()
    # Each row was filled by one rank and is 0 on the others, so the sum is exact.
    start_logits, end_logits = distributed.total(logits).numpy()
    return start_logits, end_logits


def mean_loss(windows: Windows, start_logits: np.ndarray, end_logits: np.ndarray) -> float:
    """`span_loss` of all windows, from their flat logits."""
    first = windows.bounds[:-1]
    loss = 0.0
    for logits, positions in ((start_logits, windows.start_positions), (end_logits, windows.end_positions)):
        log_sums = np.logaddexp.reduceat(logits.astype(np.float64), first)
        loss += float(np.mean(log_sums - logits[first + positions])) / 2
    return loss


def predict(
    model: BertForQuestionAnswering,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    machine: Machine,
    *,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    max_query_length: int = 64,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    eval_batch_size: int = 64,
) -> list[Prediction]:
    """A prediction for each example, in order."""
    windows = make_windows(examples, tokenizer, max_seq_length, doc_stride, max_query_length)
    start_logits, end_logits = predict_logits(model, windows, machine, eval_batch_size)
    return search(windows, start_logits, end_logits, examples, n_best_size, max_answer_length)


def evaluate(
    model: BertForQuestionAnswering,
    examples: Sequence[Example],
    windows: Windows,
    machine: Machine,
    settings,
) -> tuple[dict[str, float], list[Prediction]]:
    """Loss and official scores of examples that have answers, and the predictions behind them.

    `settings` has the flags of `add_answer_flags`. Examples that nothing is known about (a test set) give no scores.
    """
    start_logits, end_logits = predict_logits(model, windows, machine, settings.eval_batch_size, progress=True)
    predictions = search(windows, start_logits, end_logits, examples, settings.n_best_size, settings.max_answer_length)
    if not any(example.answers or example.is_impossible for example in examples):
        return {}, predictions
    is_v2, threshold = is_version_2(examples), settings.null_score_diff_threshold
    texts = {e.id: p.best(is_v2, threshold).text for e, p in zip(examples, predictions)}
    return {"eval_loss": mean_loss(windows, start_logits, end_logits)} | score(examples, texts), predictions


def check_pair(model: BertForQuestionAnswering, tokenizer: Tokenizer, name) -> None:
    """BadInput if the tokenizer's ids are not the model's: the answers would be noise, or the process would die."""
    rows = model.config.vocab_size
    if not rows - PADDED_VOCABULARY < tokenizer.vocab_size <= rows:
        what = f"the tokenizer has {tokenizer.vocab_size} tokens, the model {rows}: they do not belong together"
        raise BadInput(name, "vocab_size", what)


def check_trained(model: BertForQuestionAnswering, tokenizer: Tokenizer, name) -> None:
    """BadInput unless the two belong together and the span head was trained: else the answers would be random."""
    check_pair(model, tokenizer, name)
    if model.new_parameters:
        what = "the model has no trained span head; train it first: python train.py --data FILE --model"
        raise BadInput(name, model.new_parameters[0], f"{what} {name}")


def load_trained(name_or_dir, revision: str | None = None) -> tuple[BertForQuestionAnswering, Tokenizer]:
    """Model and tokenizer of a folder or hub id, ready to answer; BadInput if they are not."""
    folder = find_folder(name_or_dir, revision)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    check_trained(model, tokenizer, name_or_dir)
    return model, tokenizer


def pipeline(
    task: str = "question-answering",
    model=None,
    *,
    tokenizer=None,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    batch_size: int = 64,
) -> "QuestionAnswering":
    """A reader to call with questions and contexts. `model` and `tokenizer` are loaded ones, or names to load.

    A loaded model stays as it is: the reader works with a copy. The tokenizer of a named model is its own unless told
    otherwise. Raises BadInput for a model that cannot answer, and for a device or dtype that this machine lacks.
    """
    if task != "question-answering":
        raise BadInput("pipeline", task, "the only task is 'question-answering'")
    name, is_loaded = model, isinstance(model, BertForQuestionAnswering)
    if model is None or (is_loaded and tokenizer is None):
        raise BadInput("pipeline", "model", "name a trained model, or give a loaded model and its tokenizer")
    model = copy_model(model) if is_loaded else load_model(name, revision)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer or name, revision)
    check_trained(model, tokenizer, "pipeline" if is_loaded else name)
    check_least("batch_size", batch_size, 1)
    return QuestionAnswering(model, tokenizer, choose_machine(device, dtype), batch_size)


class QuestionAnswering:
    """Answers questions from their contexts; made by `pipeline`."""

    def __init__(self, model: BertForQuestionAnswering, tokenizer: Tokenizer, machine: Machine, batch_size: int):
        self.model, self.tokenizer = prepare_to_answer(model.eval(), machine), tokenizer
        self.machine, self.batch_size = machine, batch_size

    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        doc_stride: int = 128,
        max_answer_len: int = 15,
        max_seq_len: int = 384,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
    ) -> dict | list:
        """{"score", "start", "end", "answer"} for one question; a list of them for `top_k` > 1; a list of either
        for lists of questions or contexts (one of the two may be a single text for all).

        `max_answer_len`, `max_seq_len`, `max_question_len` and `doc_stride` (the overlap) count tokens. With
        `handle_impossible_answer` the empty answer takes part, with its own score. Raises BadInput for what is no text.
        """
        examples = pair(question, context)
        check_least("top_k", top_k, 1)
        check_least("max_answer_len", max_answer_len, 1)
        check_least("max_question_len", max_question_len, 1)
        check_least("doc_stride", doc_stride, 0)
        check_least("max_seq_len", max_seq_len, 8)
        most = self.model.config.max_position_embeddings
        if max_seq_len > most:
            raise BadInput(
                "pipeline", "max_seq_len", f"must be at most the model's {most} positions, not {max_seq_len}"
            )
        predictions = predict(
            self.model,
            self.tokenizer,
            examples,
            self.machine,
            max_seq_length=max_seq_len,
            doc_stride=doc_stride,
            max_query_length=max_question_len,
            n_best_size=top_k,
            max_answer_length=max_answer_len,
            eval_batch_size=self.batch_size,
        )
        results = []
        for prediction in predictions:
            answers = prediction.answers
            if handle_impossible_answer or not answers:
                answers = sorted([*answers, prediction.null], key=lambda answer: -answer.score)
            dicts = [to_dict(answer) for answer in answers[:top_k]]
            results.append(dicts[0] if top_k == 1 else dicts)
        return results if isinstance(question, (list, tuple)) or isinstance(context, (list, tuple)) else results[0]


def check_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput("pipeline", name, f"must be a whole number of at least {least}, not {value!r}")


def to_dict(answer: Answer) -> dict:
    """An answer under the pipeline's keys."""
    return {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}


def pair(question, context) -> list[Example]:
    """Examples for questions and contexts, a single one of either serving for all of the other."""
    questions = list(question) if isinstance(question, (list, tuple)) else [question]
    contexts = list(context) if isinstance(context, (list, tuple)) else [context]
    for name, texts in (("question", questions), ("context", contexts)):
        for i, text in enumerate(texts):
            if fault := text_fault(text, may_be_blank=name == "context"):
                raise BadInput("pipeline", f"{name} {i}", fault)
    size = max(len(questions), len(contexts)) if questions and contexts else 0
    if {len(questions), len(contexts)} - {1, size}:
        raise BadInput("pipeline", "", f"{len(questions)} questions do not go with {len(contexts)} contexts")
    questions, contexts = (texts * size if len(texts) == 1 else texts for texts in (questions, contexts))
    return [Example(str(i), "", question, context) for i, (question, context) in enumerate(zip(questions, contexts))]


def write_predictions(
    file: Path, examples: Sequence[Example], predictions: Sequence[Prediction], is_v2: bool, threshold: float
) -> None:
    """Write `file` ({id: text}), and beside it nbest_predictions.json and, for v2.0, null_odds.json.

    Every id is in every file. Raises OSError where one cannot be written.
    """
    texts = {e.id: p.best(is_v2, threshold).text for e, p in zip(examples, predictions)}
    n_best = {e.id: n_best_rows(p, is_v2) for e, p in zip(examples, predictions)}
    contents = {file: texts, file.parent / "nbest_predictions.json": n_best}
    if is_v2:
        contents[file.parent / "null_odds.json"] = {e.id: p.null_odds for e, p in zip(examples, predictions)}
    file.parent.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n", "utf-8")


def n_best_rows(prediction: Prediction, is_v2: bool) -> list[dict]:
    """All answers to a question, best first, with a probability: the softmax over the logit sums of those listed."""
    answers = prediction.answers
    if is_v2 or not answers:
        answers = sorted([*answers, prediction.null], key=lambda answer: -answer.logit_sum)
    weights = np.exp([answer.logit_sum - answers[0].logit_sum for answer in answers])
    probabilities = (weights / weights.sum()).tolist()
    return [asdict(answer) | {"probability": probability} for answer, probability in zip(answers, probabilities)]
