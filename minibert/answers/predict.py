"""Windows -> logits: batches through the model, and what has to be right before.

In: a model and windows. Out: a start and an end logit for every token. It also decides whether a model can answer at
all: with a trained span head, with a tokenizer that fits, in windows that it has positions for.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from minibert.answers.confidence import NOT_FITTED, Answering, read_answering
from minibert.answers.spans import EVAL_BATCH_SIZE
from minibert.model.bert import BertConfig, BertForQuestionAnswering
from minibert.model.weights import copy_model, load_model
from minibert.support import ranks
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.support.machine import Machine
from minibert.support.progress import over
from minibert.support.streams import tell
from minibert.text.batches import collate, prediction_batches, split
from minibert.text.records import Example
from minibert.text.tokenizer import Tokenizer, load_tokenizer
from minibert.text.windows import MAX_SEQ_LENGTH, Windows, flat_rows

CHARACTERS = 10_000_000  # of the contexts that are cut into windows at once; they take about 100 MB
MOST_PADDING = 1024  # rows without a token; bert-base-cased has 1,526 tokens fewer than bert-base-uncased
LARGEST_LOGIT = 1e30  # sums of two stay finite in float32; a trained model's are below 100
SHORTEST_WINDOW = 8  # tokens


def predict_logits(
    model: BertForQuestionAnswering,
    windows: Windows,
    machine: Machine,
    batch_size: int = EVAL_BATCH_SIZE,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits of every token of every window: (tokens,) float32 each, in the flat layout of `windows.ids`.

    The ranks share the batches, and each rank gets all logits. The batches do not depend on the number of ranks.
    A batch of more than `machine.most_positions`, padding included, is computed in parts. `progress` shows how far it
    has come.
    """
    logits = torch.zeros(2, len(windows.ids))
    own = prediction_batches(windows.lengths, batch_size)[ranks.rank() :: ranks.world_size()]
    batches = [part for batch in own for part in split(batch, windows.lengths, machine.most_positions)]
    was_training = model.training
    if was_training:  # for one short window, a visit to all modules costs as much as a layer
        model.eval()
    with torch.inference_mode(), machine.autocast(model):
        for indices in over(batches, "predict", is_shown=progress):
            batch = collate(windows, indices)
            inputs = machine.load({name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
            batch_logits, lengths = torch.stack(model(**inputs)).cpu(), windows.lengths[indices]  # (2, B, T)
            is_token = torch.from_numpy(np.arange(batch_logits.size(2)) < lengths[:, None])
            logits[:, flat_rows(windows.bounds[indices], lengths)] = batch_logits[:, is_token]
    if was_training:
        model.train()
    # One rank has filled a row and the others have 0 there, so the sum is exact.
    start_logits, end_logits = ranks.sum_over_ranks(logits).numpy()
    if not all(np.abs(values).max(initial=0) < LARGEST_LOGIT for values in (start_logits, end_logits)):
        what = f"expected finite logits, found an overflow in {machine.dtype}; use another --dtype or model"
        raise FloatingPointError(what)
    return start_logits, end_logits


def mean_loss(windows: Windows, start_logits: np.ndarray, end_logits: np.ndarray) -> float:
    """`span_loss` over all windows, from their flat logits."""
    cls_row = windows.bounds[:-1, None]
    loss = 0.0
    for logits, positions in ((start_logits, windows.start_positions), (end_logits, windows.end_positions)):
        log_sums = np.logaddexp.reduceat(logits.astype(np.float64), windows.bounds[:-1])[:, None]
        loss += float(np.mean(log_sums - logits[cls_row + positions])) / 2  # (N, 1) - (N, A)
    return loss


def parts(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """The examples in order, in parts whose contexts have at most CHARACTERS together, or one example alone.

    Every question has its own windows, and with them a copy of its context's tokens: a thousand questions about one
    book would take ten gigabytes at once.
    """
    first = characters = 0
    for i, example in enumerate(examples):
        if i > first and characters + len(example.context) > CHARACTERS:
            yield examples[first:i]
            first, characters = i, 0
        characters += len(example.context)
    yield examples[first:]


def window_length(given: int | None, config: BertConfig, name: str = "--max_seq_length") -> int:
    """Tokens in a window: `given`, or for None the default or the model's positions, whichever is less.

    Raises BadInput, which calls the setting `name`, if `given` is more than the model's positions or less than
    SHORTEST_WINDOW, the least with room for a question and a context.
    """
    positions = config.max_position_embeddings
    if given is not None and given > positions:
        raise BadInput(name, "", f"expected at most {positions}, the model's positions, found {given}")
    if given is not None and given < SHORTEST_WINDOW:
        raise BadInput(name, "", f"expected at least {SHORTEST_WINDOW} tokens, found {given}")
    return min(MAX_SEQ_LENGTH, positions) if given is None else given


def check_overlap(given: int | None, length: int) -> None:
    """BadInput if windows of `length` tokens cannot share so many with their neighbours, whatever the question."""
    if given is not None and given >= length - 3:
        what = f"expected less than max_seq_length - 3 = {length - 3}, found {given}; give a smaller one"
        raise BadInput("--doc_stride", "", what)


def check_pair(model: BertForQuestionAnswering, tokenizer: Tokenizer, name: str | os.PathLike) -> None:
    """BadInput if the tokenizer has more tokens than the model has embeddings, or no token types, which the model has.

    A few tokens fewer are common, because embedding tables are padded; many fewer are a warning. Without token types,
    `transformers` gives the model other inputs than we do.
    """
    rows = model.config.vocab_size
    if tokenizer.vocab_size > rows:
        what = f"the model has {rows} tokens, the tokenizer {tokenizer.vocab_size}; use the tokenizer of this model"
        raise BadInput(name, "vocab_size", what)
    if rows - tokenizer.vocab_size > MOST_PADDING and ranks.is_main():
        what = f"the model has {rows} tokens, the tokenizer only {tokenizer.vocab_size}; is it of another model?"
        tell(f"warning: {name}: vocab_size: {what}")
    names = tokenizer.input_names
    wants_types = names is None or (isinstance(names, list) and "token_type_ids" in names)
    if model.config.type_vocab_size and not wants_types:
        what = f"{names!r} are without token_type_ids, which the model has; remove the key if it was trained with them"
        raise BadInput(name, "model_input_names", what)


def check_head(model: BertForQuestionAnswering, name: str | os.PathLike) -> None:
    """BadInput if the span head is new: the answers would be random."""
    if model.new_parameters:
        what = f"the model has no trained span head; train it first: python train.py --data FILE --model {name}"
        raise BadInput(name, model.new_parameters[0], what)


def check_name(what: str, given: object) -> None:
    """BadInput for an object of another library in place of a name."""
    if not isinstance(given, (str, os.PathLike)):
        kind = f"{type(given).__module__}.{type(given).__name__}"
        raise BadInput(what, "", f"expected a folder or a name, or what minibert.load_{what} returns, found a {kind}")


def load_trained(
    model: str | os.PathLike | BertForQuestionAnswering,
    revision: str | None = None,
    tokenizer: str | os.PathLike | Tokenizer | None = None,
) -> tuple[BertForQuestionAnswering, Tokenizer, Answering]:
    """A model, ready for `prepare_to_answer`, its tokenizer, and its calibration.

    model, tokenizer: loaded, or names of folders or hub ids. A loaded model is copied and stays as it is. Without
    `tokenizer`, the named model's own is taken. Raises BadInput if the two do not fit, or if the span head is new: its
    answers would be random.
    """
    name: str | os.PathLike = "model"
    answering = NOT_FITTED
    if isinstance(model, BertForQuestionAnswering):
        if tokenizer is None:
            raise BadInput("tokenizer", "", "is missing; a loaded model needs its tokenizer")
        model = copy_model(model)
    else:
        check_name("model", model)
        name = folder = find_folder(model, revision)
        answering = read_answering(folder)
        model, tokenizer = load_model(folder), folder if tokenizer is None else tokenizer
    if not isinstance(tokenizer, Tokenizer):
        check_name("tokenizer", tokenizer)
        tokenizer = load_tokenizer(tokenizer, None if os.path.isdir(tokenizer) else revision)
    check_pair(model, tokenizer, name)
    check_head(model, name)
    return model, tokenizer, answering
