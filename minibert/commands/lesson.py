"""Follow one question through the model: the walk of `docs/lesson.md`, for any text.

    minibert lesson                                                     the page's question, with a tiny model
    minibert lesson --question "Who made it?" --context "The clock was made by Anna Weiss." --answer "Anna Weiss"

Each `show_` function returns the text of one section. They run the real model, loss, update and span search; the only
arithmetic here is what the tables need. The page calls the same functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minibert.answers.predict import check_pair, predict_logits, window_length
from minibert.answers.spans import MAX_ANSWER_LENGTH, search
from minibert.commands import flags
from minibert.model.bert import BertConfig, BertForQuestionAnswering, Layer, attention_by_hand, span_loss
from minibert.model.weights import load_model
from minibert.support.errors import BadInput
from minibert.support.hub import DEFAULT_MODEL, find_folder
from minibert.support.machine import Machine
from minibert.support.streams import printable
from minibert.text.batches import collate
from minibert.text.squad import Example, Gold, text_fault
from minibert.text.tokenizer import Tokenizer, load_tokenizer, wordpiece
from minibert.text.windows import MAX_QUERY_LENGTH, Windows, make_windows
from minibert.training.settings import WindowSettings, option
from minibert.training.step import Batch, learning_rate_at, make_optimizer, update

# The page's question: the first one of examples/dev.json, with the first two sentences of its context.
QUESTION = "Who built the town clock of Lindach?"
CONTEXT = (
    "The town clock of Lindach was built in 1612 by the clockmaker Jakob Brenner. It hangs in a square tower beside "
    "the copper market and has only one hand, which shows the hours."
)
ANSWER = "Jakob Brenner"
VOCABULARY = """[PAD] [UNK] [CLS] [SEP] [MASK] who built the town clock of lin ##dach ? was in 16 ##12 by ##maker jakob
bren ##ner . it hangs a square tower beside copper market and has only one hand , which shows hours""".split()

PAGE_LEARNING_RATE = 1e-2  # peak; a small model needs a large rate
MOST_WINDOWS = 8  # they are one batch, whose every step is kept
LINE = 100  # characters of a table's line
CPU = Machine(torch.device("cpu"), torch.float32)


@dataclass(frozen=True, kw_only=True)
class LessonOptions(WindowSettings):
    """Follow one question through the model, step by step."""

    question: str | None = option(None, "the question; without it, the one of docs/lesson.md", metavar="Q")
    context: str | None = option(None, "the text that holds the answer", metavar="TEXT")
    answer: str | None = option(None, "the right answer, a part of the context: shows loss and updates", metavar="TEXT")
    model: str = option(DEFAULT_MODEL, "the model to follow; its span head may be untrained", metavar="NAME_OR_DIR")
    revision: str | None = option(None, "branch, tag or commit of a model on the hub", metavar="REV")
    layer: int = option(0, "the layer whose attention is shown, from 0", least=0)
    head: int = option(0, "the head of that layer, from 0", least=0)
    updates: int = option(20, "updates of the weights on this one question", least=1)
    learning_rate: float = option(3e-4, "peak learning rate of these updates", least=0)
    max_answer_length: int = option(MAX_ANSWER_LENGTH, "longest answer, in tokens", least=1)


def main(words: Sequence[str] | None = None) -> None:
    options = flags.make(LessonOptions, flags.parse(LessonOptions, "lesson", words))
    if (options.question is None) != (options.context is None):
        raise BadInput("lesson", "", "expected --question and --context together")
    if options.question is None or options.context is None:
        lesson, peak = page_lesson(), PAGE_LEARNING_RATE
        print("The question and the tiny model of docs/lesson.md. For your own: --question Q --context TEXT")
    else:
        lesson, peak = own_lesson(options, options.question, options.context), options.learning_rate
    config = lesson.model.config
    for name, count in (("layer", config.num_hidden_layers), ("head", config.num_attention_heads)):
        if getattr(options, name) >= count:
            raise BadInput(f"--{name}", "", f"expected 0 to {count - 1}, found {getattr(options, name)}")
    if lesson.model.new_parameters:
        print("The span head is untrained: logits and answers are random until the model is trained.")

    def say(title: str, text: str) -> None:
        print(printable(f"\n{title}\n\n{text}"))

    longest = options.max_answer_length
    say("TOKENS AND TYPES OF ONE WINDOW", show_window(lesson))
    say("SHAPES AT EVERY STEP", show_shapes(lesson))
    say("ONE ROW OF ATTENTION", show_attention(lesson, options.layer, options.head))
    say("START AND END LOGITS", show_logits(lesson))
    say("THE SPAN MATRIX: START + END LOGIT", show_matrix(lesson, longest))
    say("THE BEST SPANS", show_spans(lesson, longest))
    if lesson.example.answers:
        say("LOSS", show_loss(lesson))
        say("UPDATES", show_updates(lesson, options.updates, peak))
        say("THE BEST SPANS AFTER THE UPDATES", show_spans(lesson, longest))
    else:
        print("\nWith --answer TEXT, loss and updates follow.")


@dataclass(frozen=True)
class Lesson:
    """One question, its model and tokenizer, all of its windows, and the one that is shown."""

    example: Example
    model: BertForQuestionAnswering
    tokenizer: Tokenizer
    windows: Windows
    shown: int  # the window with the answer, else the first
    batch: Batch  # all windows


def make_lesson(
    example: Example, model: BertForQuestionAnswering, tokenizer: Tokenizer, max_seq_length: int, *sizes: int
) -> Lesson:
    """Make the windows of one question, and one batch of them. sizes: `doc_stride`, `max_query_length`."""
    windows = make_windows([example], tokenizer, max_seq_length, *sizes)
    if len(windows) > MOST_WINDOWS:
        raise BadInput("--context", "", f"expected at most {MOST_WINDOWS} windows, found {len(windows)}; shorten it")
    if not windows.offsets.any():
        raise BadInput("--context", "", "expected text, found nothing that the tokenizer keeps")
    shown = int(np.argmax(windows.start_positions > 0))
    return Lesson(example, model, tokenizer, windows, shown, collate(windows, np.arange(len(windows))))


def page_lesson() -> Lesson:
    """The question of `docs/lesson.md` and a tiny untrained model: real shapes and rules, random weights."""
    tokenizer = Tokenizer(wordpiece({token: i for i, token in enumerate(VOCABULARY)}, {}, Path("lesson")), {})
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    model = BertForQuestionAnswering(config).eval()  # eval: no dropout, so that every run gives the same numbers
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
    # These biases add the same to every logit, so no softmax changes with them. Their gradient is rounding error, which
    # AdamW would magnify: the page's numbers would depend on the processor.
    for name, parameter in model.named_parameters():
        if name in ("span_head.bias", "encoder.layers.1.feed_forward_norm.bias"):
            parameter.requires_grad_(False)
    example = Example("lesson", "", QUESTION, CONTEXT, (Gold(ANSWER, CONTEXT.index(ANSWER)),))
    return make_lesson(example, model, tokenizer, 32, 4, MAX_QUERY_LENGTH)


def own_lesson(options: LessonOptions, question: str, context: str) -> Lesson:
    """The reader's question, with the model that `--model` names."""
    for name, text in (("--question", question), ("--context", context)):
        if fault := text_fault(text):
            raise BadInput(name, "", fault)
    answers: tuple[Gold, ...] = ()
    if options.answer is not None:
        if not options.answer.strip() or options.answer not in context:
            raise BadInput("--answer", "", f"expected a part of the context, found {options.answer!r}")
        answers = (Gold(options.answer, context.index(options.answer)),)
    folder = find_folder(options.model, options.revision)
    torch.manual_seed(0)  # draws a new span head
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    check_pair(model, tokenizer, options.model)
    sizes = window_length(options.max_seq_length, model.config), options.doc_stride, options.max_query_length
    return make_lesson(Example("lesson", "", question, context, answers), model, tokenizer, *sizes)


def show_window(lesson: Lesson) -> str:
    """The shown window: tokens, types, the characters that each context token stands for, and the label."""
    window, types = lesson.windows[lesson.shown], lesson.batch["token_type_ids"][lesson.shown].tolist()
    in_context = range(window.context_start, len(window.ids) - 1)
    characters = [f"{start}-{end}" if i in in_context else "" for i, (start, end) in enumerate(window.offsets)]
    rows = {"index": list(map(str, range(len(window.ids)))), "token": shown_tokens(lesson)}
    rows |= {"type": list(map(str, types[: len(window.ids)])), "characters": characters}
    start, end = window.start_position, window.end_position
    label = "the whole answer is not in this window, so the label is [CLS]"
    if start:
        label = repr(lesson.example.context[window.offsets[start, 0] : window.offsets[end, 1]])
    place = f"window {lesson.shown} of 0 to {len(lesson.windows) - 1}, {len(window.ids)} tokens"
    return f"{table(rows)}\n\n{place}; label ({start}, {end}): {label}"


def show_shapes(lesson: Lesson) -> str:
    """The shape of every step's result, for the batch of all windows."""
    legend = {
        "input_ids": "B, T",
        "embeddings": "B, T, D",
        "query, key, value": "B, H, T, K",
        "scores": "B, H, T, T",
        "probabilities": "B, H, T, T",
        "attended": "B, H, T, K",
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
    token, tokens = int(lesson.windows.start_positions[lesson.shown]) or 1, shown_tokens(lesson)
    row = trace(lesson, layer)["probabilities"][lesson.shown, head, token]
    largest = row.argsort(descending=True)[:count].tolist()
    lines = [f"layer {layer}, head {head}: token {token} ({tokens[token]}) attends to"]
    lines += [f"{i:>5}  {tokens[i]:<14}{row[i]:.3f}  {'#' * round(100 * float(row[i]))}" for i in largest]
    rest = len(tokens) - len(largest)
    return "\n".join([*lines, f"       {f'{rest} others':<14}{1 - float(row[largest].sum()):.3f}"])


def show_logits(lesson: Lesson) -> str:
    """The start and end logit of every token of the shown window."""
    starts, ends = shown_logits(lesson)
    rows = {"token": shown_tokens(lesson), "start": [f"{x:.2f}" for x in starts], "end": [f"{x:.2f}" for x in ends]}
    return table(rows)


def show_loss(lesson: Lesson) -> str:
    """The loss of each window, and of the batch, which is their mean."""
    batch, mask = lesson.batch, lesson.batch["attention_mask"]
    with torch.no_grad():
        logits = lesson.model(batch["input_ids"], mask, batch["token_type_ids"])
    lines = ["window  label      -log p(start)  -log p(end)  loss"]
    for i, tokens in enumerate(lesson.windows.lengths.tolist()):
        label = int(batch["start_positions"][i]), int(batch["end_positions"][i])
        costs = [-float(values[i, :tokens].log_softmax(0)[place]) for values, place in zip(logits, label)]
        lines.append(f"{i:>6}  {label!s:<9}{costs[0]:>15.2f}{costs[1]:>13.2f}{sum(costs) / 2:>6.2f}")
    loss = span_loss(logits[0], logits[1], batch["start_positions"], batch["end_positions"], mask)
    guess = np.log(lesson.windows.lengths).mean()
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
    context = slice(lesson.windows[lesson.shown].context_start, -1)
    starts, ends = (logits[context] for logits in shown_logits(lesson))
    tokens, places = shown_tokens(lesson)[context], np.arange(len(starts))
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
    steps = {"input_ids": lesson.batch["input_ids"]}
    followed = lesson.model.encoder.layers[layer]
    assert isinstance(followed, Layer)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: nn.Dropout) -> Tensor:
        steps["query, key, value"] = query
        steps["scores"] = query / query.size(-1) ** 0.5 @ key.transpose(-1, -2)
        # With the identity as its values, attention returns its probabilities.
        identity = torch.eye(query.size(-2)).expand(*query.shape[:2], -1, -1)
        steps["probabilities"] = attention_by_hand(query, key, identity, mask, dropout)
        steps["attended"] = attention_by_hand(query, key, value, mask, dropout)
        return steps["attended"]

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda module, inputs, output: steps.update({name: output}))

    hooks = [
        keep("embeddings", lesson.model.embeddings),
        keep("attention", followed.attention),
        keep("feed-forward, inside", followed.feed_forward.gelu),
        keep(f"layer {layer}", followed),
        keep("last layer", lesson.model.encoder),
        keep("span head", lesson.model.span_head),
    ]
    by_itself, followed.attention.attend = followed.attention.attend, attend
    try:
        with torch.no_grad():
            inputs = (lesson.batch[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
            steps["start logits, end logits"], _ = lesson.model(*inputs)
    finally:
        followed.attention.attend = by_itself
        for hook in hooks:
            hook.remove()
    return steps


def shown_tokens(lesson: Lesson) -> list[str]:
    return lesson.tokenizer.tokens(lesson.windows[lesson.shown].ids)


def shown_logits(lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits of the shown window, (T,) each."""
    rows = slice(*lesson.windows.bounds[lesson.shown : lesson.shown + 2])
    starts, ends = predict_logits(lesson.model, lesson.windows, CPU)
    return starts[rows], ends[rows]


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
