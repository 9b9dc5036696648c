"""What a model computed for one question and its text, as one page to look at.

In: a reader, a question and a text. Out: an HTML page with the probability of start and end over the text, the sums of
start and end logits, and the attention of every head in the window that holds the best answer.
"""

import base64
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minibert.answers.inputs import pair
from minibert.answers.pipeline import QuestionAnswering
from minibert.answers.predict import predict_logits, window_length
from minibert.answers.spans import MAX_ANSWER_LENGTH, Chunk, Prediction, search, token_probabilities
from minibert.model.bert import Layer, attention_by_hand
from minibert.support.page import fill_page
from minibert.text.batches import collate
from minibert.text.windows import Windows, make_windows

PAGE = Path(__file__).with_name("explain.html")
SHOWN_ANSWERS = 5
MATRIX_SIZE = 12  # rows and columns of the span matrix: the highest starts and ends
TARGETS = 6  # tokens kept of each row of attention
LEAST_PROBABILITY = 0.001  # of a token, to be coloured


def explain(reader: QuestionAnswering, question: str, context: str, max_answer_length: int = MAX_ANSWER_LENGTH) -> str:
    """The page for one question, in the reader's windows. Raises BadInput for anything but text."""
    examples, options = pair(question, context), reader.defaults
    length = window_length(options["max_seq_len"], reader.model.config)
    windows = make_windows(examples, reader.tokenizer, length, options["doc_stride"], options["max_question_len"])
    logits = predict_logits(reader.model, windows, reader.machine, options["batch_size"])
    (prediction,) = search(windows, *logits, examples, SHOWN_ANSWERS, max_answer_length)
    shown = window_of(prediction, windows, logits)
    rows = slice(windows.bounds[shown], windows.bounds[shown + 1])
    data = {
        "question": question,
        "answers": [[answer.text, answer.score, answer.start_logit, answer.end_logit] for answer in prediction.answers],
        "null": [prediction.null.score, prediction.null.start_logit, prediction.null.end_logit],
        "pieces": coloured(context, windows, logits, prediction),
        "window": [shown + 1, len(windows)],
        "tokens": reader.tokenizer.tokens(windows.ids[rows]),
        "matrix": span_matrix(windows, shown, logits, max_answer_length),
        "attention": sparse_attention(reader, windows, shown),
    }
    return fill_page(PAGE, data)


def window_of(prediction: Prediction, windows: Windows, logits: tuple[np.ndarray, np.ndarray]) -> int:
    """The index of the window that the best answer comes from; 0 if there is no answer."""
    if not len(prediction.scores):
        return 0
    start = prediction.characters[0, 0]
    is_start = (logits[0] == prediction.logits[0, 0]) & (windows.offsets[:, 0] == start)
    row = int(np.argmax(is_start))
    return int(np.searchsorted(windows.bounds, row, side="right")) - 1


def coloured(
    context: str, windows: Windows, logits: tuple[np.ndarray, np.ndarray], prediction: Prediction
) -> list[list[Any]]:
    """The text in pieces [text, p(start), p(end), is in the best answer]; their texts join to the context."""
    chunk = Chunk(windows, *logits, np.array([0, len(windows)]))
    starts, ends = (token_probabilities(chunk, values)[:-1] for values in logits)
    offsets = np.zeros((len(starts), 2), np.int64)
    offsets[chunk.token_slot] = windows.offsets[chunk.token_row]
    best = prediction.best()
    cuts = {0, len(context), best.start, best.end}
    probabilities = {}
    for i in np.flatnonzero((starts > LEAST_PROBABILITY) | (ends > LEAST_PROBABILITY)):
        first, stop = offsets[i].tolist()
        cuts |= {first, stop}
        probabilities[first] = [round(float(starts[i]), 4), round(float(ends[i]), 4)]
    places = sorted(cuts)
    return [
        [context[first:stop], *probabilities.get(first, [0, 0]), best.start <= first < best.end]
        for first, stop in pairwise(places)
    ]


def span_matrix(windows: Windows, shown: int, logits: tuple[np.ndarray, np.ndarray], max_length: int) -> dict[str, Any]:
    """The highest starts and ends of the shown window's context, and the logit sum of each legal pair, else None."""
    first = int(windows.context_start[shown])
    starts, ends = (values[windows.bounds[shown] : windows.bounds[shown + 1]] for values in logits)
    context = np.arange(first, len(starts) - 1)
    rows, columns = (np.sort(context[np.argsort(-v[context], kind="stable")[:MATRIX_SIZE]]) for v in (starts, ends))
    sums = [[round(float(starts[i] + ends[j]), 2) if i <= j < i + max_length else None for j in columns] for i in rows]
    return {"starts": rows.tolist(), "ends": columns.tolist(), "sums": sums}


def sparse_attention(reader: QuestionAnswering, windows: Windows, shown: int) -> dict[str, Any]:
    """Of every layer, head and token of the shown window, the tokens attended to most, as base64 of arrays.

    targets and weights: (layers, heads, tokens, TARGETS) uint16 and uint8; 255 stands for probability 1.
    """
    batch = reader.machine.load(dict(collate(windows, np.array([shown]))))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.inference_mode(), reader.machine.autocast(reader.model):
        probabilities = recorded_attention(reader.model, inputs)[:, :, : windows.lengths[shown]]
    largest = probabilities.topk(min(TARGETS, probabilities.size(-1)))
    targets = largest.indices.cpu().numpy().astype("<u2")
    weights = (largest.values.cpu() * 255).round().numpy().astype("u1")
    encoded = {name: base64.b64encode(a.tobytes()).decode() for name, a in (("targets", targets), ("weights", weights))}
    return encoded | {"shape": list(targets.shape)}


def recorded_attention(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The attention probabilities of one window: (layers, heads, T, T) float32."""
    recorded: list[Tensor] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: nn.Dropout) -> Tensor:
        # With the identity as its values, attention returns its probabilities.
        identity = torch.eye(query.size(-2), device=query.device).expand(*query.shape[:2], -1, -1)
        recorded.append(attention_by_hand(query.float(), key.float(), identity, mask, dropout)[0])
        return attention_by_hand(query, key, value, mask, dropout)

    layers = [module for module in model.modules() if isinstance(module, Layer)]
    former = [layer.attention.attend for layer in layers]
    try:
        for layer in layers:
            layer.attention.attend = attend
        model(**inputs)
    finally:
        for layer, function in zip(layers, former):
            layer.attention.attend = function
    return torch.stack(recorded)
