"""minibert: BERT question answering in plain PyTorch, written to be read.

Reading order, which is also the order of imports (a file imports only from those above it):

    errors        the one error that input can cause, and exit codes
    flags         what the commands share about their flags
    folders       a name -> a local model folder; the only file that downloads
    squad         SQuAD JSON -> Examples
    metrics       exact match and F1, by both official scorers' rules
    tokenizer     text -> token ids and character offsets
    windows       Examples -> overlapping windows with labels
    config        config.json -> BertConfig
    model         the encoder, the span head, the loss
    weights       published safetensors <-> our parameters
    distributed   ranks; the same code for one
    batches       windows -> length-grouped, padded batches
    device        what this machine does best, set on the model from outside
    spans         logits -> the best legal answers
    answering     batched prediction, and the question-answering pipeline
    optim         AdamW's groups, the learning rate
    checkpoint    save, verify, resume
    journal       what a run says: stdout, progress bar, metrics.jsonl
    training      the loop: one step on one screen

Importing this package imports nothing else: each public name is fetched on its first use (PEP 562).
"""

from importlib import import_module

__version__ = "0.1.0"
PUBLIC = {
    "BadInput": "errors",
    "BertConfig": "config",
    "BertForQuestionAnswering": "model",
    "load_model": "weights",
    "load_tokenizer": "tokenizer",
    "pipeline": "answering",
    "save_model": "weights",
    "span_loss": "model",
}
__all__ = list(PUBLIC)


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
