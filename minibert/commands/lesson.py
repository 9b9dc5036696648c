"""Follow one question through the model: the walk of `docs/lesson.md`, for any text.

    minibert lesson                                                     the page's question, with a tiny model
    minibert lesson --question "Who made it?" --context "The clock was made by Anna Weiss." --answer "Anna Weiss"

The sections are those of `walk.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minibert.answers.predict import check_pair, window_length
from minibert.answers.spans import MAX_ANSWER_LENGTH
from minibert.commands import flags, walk
from minibert.model.bert import BertConfig, BertForQuestionAnswering
from minibert.model.weights import load_model
from minibert.support.errors import BadInput
from minibert.support.hub import DEFAULT_MODEL, find_folder
from minibert.support.streams import printable
from minibert.text.records import Example, Gold, text_fault
from minibert.text.tokenizer import Tokenizer, load_tokenizer, wordpiece
from minibert.text.windows import MAX_QUERY_LENGTH
from minibert.training.settings import REVISION, WindowSettings, option

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
OF_THE_PAGE = {"layer", "head", "updates", "max_answer_length"}  # the flags that change what is shown of it


@dataclass(frozen=True, kw_only=True)
class LessonOptions(WindowSettings):
    """Follow one question through the model, step by step."""

    question: str | None = option(None, "the question; without it, the one of docs/lesson.md", metavar="Q")
    context: str | None = option(None, "the text that holds the answer", metavar="TEXT")
    answer: str | None = option(None, "the right answer, a part of the context: shows loss and updates", metavar="TEXT")
    model: str = option(DEFAULT_MODEL, "the model to follow; its span head may be untrained", metavar="NAME_OR_DIR")
    revision: str | None = option(None, REVISION, metavar="REV")
    layer: int = option(0, "the layer whose attention is shown, from 0", least=0)
    head: int = option(0, "the head of that layer, from 0", least=0)
    updates: int = option(20, "updates of the weights on this one question", least=1)
    learning_rate: float = option(3e-4, "peak learning rate of these updates", least=0)
    max_answer_length: int = option(MAX_ANSWER_LENGTH, "longest answer, in tokens", least=1)


def main(words: Sequence[str] | None = None) -> None:
    given = flags.parse(LessonOptions, "lesson", words)
    options = flags.make(LessonOptions, given)
    if (options.question is None) != (options.context is None):
        raise BadInput("lesson", "", "expected --question and --context together")
    if options.question is None or options.context is None:
        if unused := sorted(given.keys() - OF_THE_PAGE):
            raise BadInput(f"--{unused[0]}", "", "goes with --question and --context: the page's model is its own")
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
    say("TOKENS AND TYPES OF ONE WINDOW", walk.show_window(lesson))
    say("SHAPES AT EVERY STEP", walk.show_shapes(lesson))
    say("ONE ROW OF ATTENTION", walk.show_attention(lesson, options.layer, options.head))
    say("START AND END LOGITS", walk.show_logits(lesson))
    say("THE SPAN MATRIX: START + END LOGIT", walk.show_matrix(lesson, longest))
    say("THE BEST SPANS", walk.show_spans(lesson, longest))
    if lesson.example.answers:
        say("LOSS", walk.show_loss(lesson))
        say("UPDATES", walk.show_updates(lesson, options.updates, peak))
        say("THE BEST SPANS AFTER THE UPDATES", walk.show_spans(lesson, longest))
    else:
        print("\nWith --answer TEXT, loss and updates follow.")


def page_lesson() -> walk.Lesson:
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
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        # These two add the same to every logit, so no softmax changes with them. Their gradient is rounding error,
        # which AdamW would magnify: the page's numbers would depend on the CPU.
        parameter.requires_grad_(name not in ("span_head.bias", "encoder.layers.1.feed_forward_norm.bias"))
    example = Example("lesson", "", QUESTION, CONTEXT, (Gold(ANSWER, CONTEXT.index(ANSWER)),))
    return walk.Lesson(example, model, tokenizer, 32, 4, MAX_QUERY_LENGTH)


def own_lesson(options: LessonOptions, question: str, context: str) -> walk.Lesson:
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
    sizes = window_length(options.max_seq_length, model.config), *options.sizes[1:]
    return walk.Lesson(Example("lesson", "", question, context, answers), model, tokenizer, *sizes)
