"""The sections of `minibert lesson` and of `docs/lesson.md`: what one question looks like at each step.

Each `show_` function returns the text of one section. They run the real model, loss, update and span search; the only
arithmetic here is what the tables need.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from minibert.answers.predict import predict_logits
from minibert.answers.spans import MAX_ANSWER_LENGTH, search
from minibert.model.bert import BertForQuestionAnswering, Layer, attention_by_hand, span_loss
from minibert.support.errors import BadInput
from minibert.support.machine import Machine
from minibert.text.batches import collate
from minibert.text.records import Example
from minibert.text.tokenizer import Tokenizer
from minibert.text.windows import make_windows
from minibert.training.step import Batch, learning_rate_at, make_optimizer, update

MOST_WINDOWS = 8  # they are one batch, whose every step is kept
LINE = 100  # characters of a table's line
CPU = Machine(torch.device("cpu"), torch.float32)


class Lesson:
    """One question, its model and tokenizer, all of its windows as one batch, and the window that is shown.

    sizes: max_seq_length, doc_stride and max_query_length, as for `make_windows`. `shown` is the first window with the
    answer, else the first.
    """

    def __init__(self, example: Example, model: BertForQuestionAnswering, tokenizer: Tokenizer, *sizes: int):
        self.example, self.model = example, model
        self.windows = make_windows([example], tokenizer, *sizes)
        count = len(self.windows)
        if count > MOST_WINDOWS:
            raise BadInput("--context", "", f"expected at most {MOST_WINDOWS} windows, found {count}; shorten it")
        if not self.windows.offsets.any():
            raise BadInput("--context", "", "expected text, found nothing that the tokenizer keeps")
        self.shown = int(np.argmax(self.windows.start_positions[:, 0] > 0))
        self.window = self.windows[self.shown]
        self.tokens = tokenizer.tokens(self.window.ids)
        self.batch: Batch = collate(self.windows, np.arange(count))

    def inputs(self) -> list[Tensor | None]:
        """What the model takes: (B, T) each."""
        return [self.batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]

    def shown_logits(self) -> np.ndarray:
        """Start and end logits of the shown window: (2, T)."""
        rows = slice(*self.windows.bounds[self.shown : self.shown + 2])
        return np.stack(predict_logits(self.model, self.windows, CPU))[:, rows]


def show_window(lesson: Lesson) -> str:
    """The shown window: tokens, types, the characters that each context token stands for, and the label."""
    window, count = lesson.window, len(lesson.tokens)
    types = lesson.batch["token_type_ids"][lesson.shown, :count].tolist()
    in_context = range(window.context_start, count - 1)
    rows = {
        "index": [str(i) for i in range(count)],
        "token": lesson.tokens,
        "type": [str(kind) for kind in types],
        "characters": [f"{start}-{end}" if i in in_context else "" for i, (start, end) in enumerate(window.offsets)],
    }
    start, end = window.start_position, window.end_position
    label = "the whole answer is not in this window, so the label is [CLS]"
    if start:
        label = repr(lesson.example.context[window.offsets[start, 0] : window.offsets[end, 1]])
    place = f"window {lesson.shown} of 0 to {len(lesson.windows) - 1}, {count} tokens"
    return f"{table(rows)}\n\n{place}; label ({start}, {end}): {label}"


def show_shapes(lesson: Lesson) -> str:
    """The shape of every step's result, for the batch of all windows."""
    legend = {
        "input_ids": "B, T",
        "embeddings": "B, T, D",
        "query, key, value": "B, H, T, K",
        "scores": "B, H, T, T",
        "probabilities": "B, H, T, T",
        "weighted values": "B, H, T, K",
        "attention": "B, T, D",
        "feed-forward, inside": "B, T, F",
        "layer 0": "B, T, D",
        "last layer": "B, T, D",
        "span head": "B, T, 2",
        "start logits, end logits": "B, T",
    }
    steps = trace(lesson)
    return "\n".join(f"{name:<26}{tuple(steps[name].shape)!s:<18}({legend[name]})" for name in legend)


def show_attention(lesson: Lesson, layer: int = 0, head: int = 0, count: int = 8) -> str:
    """The `count` largest attention probabilities of one token: the answer's first, or token 1 without an answer."""
    token, tokens = lesson.window.start_position or 1, lesson.tokens
    row = trace(lesson, layer)["probabilities"][lesson.shown, head, token]
    largest = row.argsort(descending=True)[:count].tolist()
    lines = [f"layer {layer}, head {head}: token {token} ({tokens[token]}) attends to"]
    lines += [f"{i:>5}  {tokens[i]:<14}{row[i]:.3f}  {'#' * round(100 * float(row[i]))}" for i in largest]
    rest = len(tokens) - len(largest)
    return "\n".join([*lines, f"       {f'{rest} others':<14}{1 - float(row[largest].sum()):.3f}"])


def show_logits(lesson: Lesson) -> str:
    """The start and end logit of every token of the shown window."""
    starts, ends = ([f"{logit:.2f}" for logit in logits] for logits in lesson.shown_logits())
    return table({"token": lesson.tokens, "start": starts, "end": ends})


def show_loss(lesson: Lesson) -> str:
    """The loss of each window by its first answer, and of the batch, which is their mean."""
    batch, lengths = lesson.batch, lesson.windows.lengths
    with torch.no_grad():
        logits = lesson.model(*lesson.inputs())
    labels = torch.stack([batch["start_positions"], batch["end_positions"]], 1)[..., 0].tolist()  # of the first answer
    lines = ["window  label      -log p(start)  -log p(end)  loss"]
    for i, (tokens, label) in enumerate(zip(lengths, labels)):
        costs = [-float(values[i, :tokens].log_softmax(0)[place]) for values, place in zip(logits, label)]
        lines.append(f"{i:>6}  {tuple(label)!s:<9}{costs[0]:>15.2f}{costs[1]:>13.2f}{sum(costs) / 2:>6.2f}")
    starts, ends = logits
    first = batch["start_positions"][:, :1], batch["end_positions"][:, :1]
    loss = span_loss(starts, ends, *first, batch["attention_mask"])
    guess = np.log(lengths).mean()
    return "\n".join([*lines, f"span_loss of the batch: {loss:.2f}; equal logits would give {guess:.2f}"])


def show_updates(lesson: Lesson, updates: int, peak: float) -> str:
    """Train the model on this one batch; loss and gradient norm are those before each update."""
    optimizer = make_optimizer(lesson.model, peak, weight_decay=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)  # float32 needs none
    lines = ["step  learning rate  loss  gradient norm"]
    for step in range(updates):
        rate = learning_rate_at(step, updates, 0.1, peak)
        loss, norm = update(lesson.model, optimizer, scaler, [(lesson.batch, 1.0)], rate, 1.0, CPU)
        if step in (0, 1, 2, 4, 8, 16, 32, 64, updates - 1):
            lines.append(f"{step:>4}{rate:>15.5f}{loss:>6.2f}{norm:>15.2f}")
    return "\n".join(lines)


def show_matrix(lesson: Lesson, max_answer_length: int = MAX_ANSWER_LENGTH, size: int = 8) -> str:
    """The sums of the legal spans of the shown window, around the best, which is in brackets. "." is not legal."""
    context = slice(lesson.window.context_start, -1)
    starts, ends = lesson.shown_logits()[:, context]
    tokens, places = lesson.tokens[context], np.arange(len(starts))
    length = places - places[:, None] + 1  # of the span from each row's token to each column's
    sums = np.where((length >= 1) & (length <= max_answer_length), starts[:, None] + ends, -np.inf)
    best = divmod(int(sums.argmax()), len(sums))
    room = max(0, len(sums) - size)
    top = min(max(0, best[0] - size // 2), room)
    left = min(max(top, best[1] + 2 - size), room)
    rows, columns = (range(first, min(first + size, len(sums))) for first in (top, left))
    width = max(7, *(len(tokens[i]) + 2 for i in columns))

    def cell(i: int, j: int) -> str:
        value = f"{sums[i, j]:.1f}" if np.isfinite(sums[i, j]) else "."
        return f"[{value}]" if (i, j) == best else f"{value} "

    head = "start \\ end".ljust(width + 4) + "".join(f"{tokens[j]:>{width}} " for j in columns)
    lines = [tokens[i].ljust(width + 4) + "".join(f"{cell(i, j):>{width + 1}}" for j in columns) for i in rows]
    return "\n".join(line.rstrip() for line in [head, *lines])


def show_spans(lesson: Lesson, max_answer_length: int = MAX_ANSWER_LENGTH, count: int = 5) -> str:
    """The best legal spans of all windows, and the null answer."""
    logits = predict_logits(lesson.model, lesson.windows, CPU)
    [prediction] = search(lesson.windows, *logits, [lesson.example], count, max_answer_length)
    lines = ["start  + end  = sum    score  characters  text"]
    for answer in [*prediction.answers, prediction.null]:
        numbers = f"{answer.start_logit:>5.1f}{answer.end_logit:>7.1f}{answer.logit_sum:>7.1f}{answer.score:>9.3f}"
        where = f"{answer.start}-{answer.end}" if answer.text else "[CLS]"
        lines.append(f"{numbers}  {where:<10}  {answer.text!r}")
    return "\n".join(lines)


def trace(lesson: Lesson, layer: int = 0) -> dict[str, Tensor]:
    """Run the model on all windows and keep what each step gives; `layer` is the one whose inside is kept."""
    model = copy.deepcopy(lesson.model)  # to watch; the model itself stays as it is
    steps = {"input_ids": lesson.batch["input_ids"]}
    followed = model.encoder.layers[layer]
    assert isinstance(followed, Layer)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: nn.Dropout) -> Tensor:
        steps["query, key, value"] = query
        steps["scores"] = query / query.size(-1) ** 0.5 @ key.transpose(-1, -2)
        # With the identity as its values, attention returns its probabilities.
        identity = torch.eye(query.size(-2)).expand(*query.shape[:2], -1, -1)
        steps["probabilities"] = attention_by_hand(query, key, identity, mask, dropout)
        steps["weighted values"] = attention_by_hand(query, key, value, mask, dropout)
        return steps["weighted values"]

    followed.attention.attend = attend
    modules = {
        "embeddings": model.embeddings,
        "attention": followed.attention,
        "feed-forward, inside": followed.feed_forward.gelu,
        f"layer {layer}": followed,
        "last layer": model.encoder,
        "span head": model.span_head,
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: steps.update({name: output}))
    with torch.no_grad():
        steps["start logits, end logits"], _ = model(*lesson.inputs())
    return steps


def table(rows: dict[str, list[str]]) -> str:
    """Named rows of equal length as aligned columns; further blocks of lines follow where a line would be too long."""
    margin = max(map(len, rows))
    blocks: list[list[str]] = []
    lines = [name.ljust(margin) for name in rows]
    for column in zip(*rows.values()):
        width = max(map(len, column))
        if len(lines[0]) + 2 + width > LINE:
            blocks.append(lines)
            lines = [name.ljust(margin) for name in rows]
        lines = [f"{line}  {cell:>{width}}" for line, cell in zip(lines, column)]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in [*blocks, lines])
