"""minibert: BERT question answering in plain PyTorch, written to be read.

The packages. Each imports only from those below it, and its own docstring lists its files in the
order in which they import each other:

    commands    flags -> the rest -> a result
    training    one update, and the loop around it
    evaluation  EM and F1 by the official rules
    answers     logits -> the best legal spans
    model       the encoder, the span head, the loss, published weights
    text        SQuAD JSON -> examples -> windows -> batches
    support     errors, signals, files, downloads, ranks, the machine

The lesson's path: `text/windows.py`, `model/bert.py`, `training/step.py`, `answers/spans.py` (see docs/lesson.md).
Importing this package imports nothing else: each public name is fetched on its first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minibert.answers.pipeline import pipeline as pipeline
    from minibert.evaluation.evaluate import evaluate as evaluate
    from minibert.evaluation.scorer import score as score
    from minibert.model.bert import BertConfig as BertConfig
    from minibert.model.bert import BertForQuestionAnswering as BertForQuestionAnswering
    from minibert.model.bert import span_loss as span_loss
    from minibert.model.weights import load_model as load_model
    from minibert.model.weights import save_model as save_model
    from minibert.support.errors import BadInput as BadInput
    from minibert.text.squad import read_squad as read_squad
    from minibert.text.tokenizer import load_tokenizer as load_tokenizer
    from minibert.training.run import train as train

__version__ = "0.2.0"
MODULES = {
    "BadInput": "support.errors",
    "BertConfig": "model.bert",
    "BertForQuestionAnswering": "model.bert",
    "evaluate": "evaluation.evaluate",
    "load_model": "model.weights",
    "load_tokenizer": "text.tokenizer",
    "pipeline": "answers.pipeline",
    "read_squad": "text.squad",
    "save_model": "model.weights",
    "score": "evaluation.scorer",
    "span_loss": "model.bert",
    "train": "training.run",
}
__all__ = [*MODULES]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULES])
