"""A model and SQuAD data -> scores by the official rules, and the predictions behind them.

`evaluate` is the whole way from names to scores: `minibert.evaluate`, and what the command calls. `evaluate_windows` is
its last part, which training calls after each epoch with windows that it makes once. Under torchrun the ranks share
the batches and each rank gets the whole result; the caller decides which rank prints or writes.
"""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from minibert.answers.confidence import NOT_FITTED, Answering
from minibert.answers.predict import check_overlap, load_trained, mean_loss, predict_logits, window_length
from minibert.answers.spans import EVAL_BATCH_SIZE, MAX_ANSWER_LENGTH, N_BEST_SIZE, search
from minibert.evaluation.languages import check_language
from minibert.evaluation.predictions import Evaluation
from minibert.evaluation.scorer import has_golds, needs_version_2, score_version_1, score_version_2
from minibert.model.bert import BertForQuestionAnswering
from minibert.model.prepare import prepare_to_answer
from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.machine import Machine, choose_machine
from minibert.support.streams import counted
from minibert.text.records import Example
from minibert.text.squad import read_squad
from minibert.text.tokenizer import Tokenizer
from minibert.text.unread import count_unread, warn_of_unread
from minibert.text.windows import DOC_STRIDE, MAX_QUERY_LENGTH, Windows, make_windows


def evaluate(
    model: str | os.PathLike | BertForQuestionAnswering,
    data: str | Path | Iterable[str | Path] | Sequence[Example],
    *,
    tokenizer: str | os.PathLike | Tokenizer | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_seq_length: int | None = None,
    doc_stride: int | None = None,
    max_query_length: int = MAX_QUERY_LENGTH,
    n_best_size: int = N_BEST_SIZE,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float | None = None,
    eval_batch_size: int = EVAL_BATCH_SIZE,
    metric_language: str | None = None,
    revision: str | None = None,
    keep_logits: bool = False,
) -> Evaluation:
    """Answer questions with a trained model and score the answers.

    model: a folder, a hub id, or a loaded model, which needs its tokenizer and stays as it is. data: a SQuAD file,
    files, or examples. The other parameters are the flags of `evaluate.py`. A null threshold of None is that of
    the model's `answering.json`, or 0.0 without one. Raises BadInput for a model that cannot answer and for data that
    cannot be read. Warns on stderr of what the model does not read of the data, see `unread.py`.
    """
    check_language(metric_language)
    examples: list[Any] = [data] if isinstance(data, (str, Path)) else list(data)
    if not any(isinstance(item, Example) for item in examples):
        examples = read_squad(examples, version_2_with_negative=version_2_with_negative)
    loaded, loaded_tokenizer, answering = load_trained(model, revision, tokenizer)
    threshold = answering.null_score_diff_threshold if null_score_diff_threshold is None else null_score_diff_threshold
    length = window_length(max_seq_length, loaded.config)
    check_overlap(doc_stride, length)
    machine = choose_machine(device, dtype)
    overlap = DOC_STRIDE if doc_stride is None else doc_stride
    windows = make_windows(examples, loaded_tokenizer, length, overlap, max_query_length)
    if ranks.is_main():
        name = "the model" if isinstance(model, BertForQuestionAnswering) else model
        warn_of_unread(count_unread(examples, windows, loaded_tokenizer), name)
    return evaluate_windows(
        prepare_to_answer(loaded, machine),
        examples,
        windows,
        machine,
        n_best_size=n_best_size,
        max_answer_length=max_answer_length,
        version_2_with_negative=version_2_with_negative,
        null_score_diff_threshold=threshold or 0.0,
        eval_batch_size=eval_batch_size,
        answering=answering,
        keep_logits=keep_logits,
        metric_language=metric_language,
    )


def evaluate_windows(
    model: BertForQuestionAnswering,
    examples: Sequence[Example],
    windows: Windows,
    machine: Machine,
    *,
    n_best_size: int = N_BEST_SIZE,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
    eval_batch_size: int = EVAL_BATCH_SIZE,
    answering: Answering = NOT_FITTED,
    keep_logits: bool = False,
    metric_language: str | None = None,
) -> Evaluation:
    """Answer and score examples whose windows are made. `model` is as `prepare_to_answer` returns it.

    The scores begin with `eval_loss`, the mean `span_loss` over the windows; those of v2.0 end with the best that a
    threshold can do, see `score_thresholds`. A test set gives no scores: no question has an answer and none is marked
    as impossible. With `keep_logits` the result has the windows and their logits.
    """
    is_v2 = needs_version_2(examples, version_2_with_negative)
    if (different := len({example.id for example in examples})) < len(examples):
        what = f"{len(examples)} questions have only {counted(different, 'different id')}; evaluate each file alone"
        raise BadInput("data", "id", what)
    start_logits, end_logits = predict_logits(model, windows, machine, eval_batch_size, progress=True)
    searched = search(windows, start_logits, end_logits, examples, n_best_size, max_answer_length)
    predictions = {example.id: prediction for example, prediction in zip(examples, searched)}
    texts = {name: one.best(is_v2, null_score_diff_threshold).text for name, one in predictions.items()}
    scores: dict[str, float] = {}
    if has_golds(examples):
        scores = {"eval_loss": mean_loss(windows, start_logits, end_logits)}
        if is_v2:
            best = {name: one.best().text for name, one in predictions.items()}
            null_odds = {name: one.null_odds for name, one in predictions.items()}
            # `texts` have passed the threshold already.
            scores |= score_version_2(examples, texts, null_odds, math.inf, metric_language, best)
        else:
            scores |= score_version_1(examples, texts, metric_language)
    kept = (windows, (start_logits, end_logits)) if keep_logits else ()
    return Evaluation(scores, predictions, texts, is_v2, null_score_diff_threshold, answering, *kept)
