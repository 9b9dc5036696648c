"""What minibert is compared with: plain loops over `transformers` models, in two versions.

D, the tutorials' recipe: every window padded to 384, batches of 8 in random order, float32 on a CPU and bfloat16 on
   CUDA, preprocessing by `datasets.map`, and a Python loop over the 20 x 20 best starts and ends of each window.
T, the same tuned: batches of windows of similar length, padded to a multiple of 8, minibert's dtype and batch sizes,
   the faster of the library's two attentions, plain lists instead of `datasets`, evaluation sorted by length.

Both use the fused AdamW, as `transformers` does by default.
"""

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering
from transformers.optimization import get_constant_schedule, get_linear_schedule_with_warmup

MAX_LENGTH, STRIDE = 384, 128
N_BEST, MAX_ANSWER_LENGTH = 20, 30
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def load_model(folder, attention: str = "sdpa", **changes) -> torch.nn.Module:
    """The folder's model with its span head; `changes` are to its config. Other sizes mean random weights."""
    config = AutoConfig.from_pretrained(folder, **changes)
    if "hidden_size" in changes:
        return AutoModelForQuestionAnswering.from_config(config, attn_implementation=attention)
    return AutoModelForQuestionAnswering.from_pretrained(folder, config=config, attn_implementation=attention)


# --- text in ----------------------------------------------------------------------------------------------------------


def columns(examples) -> dict[str, list]:
    """Examples as the columns of a dataset."""
    return {
        "id": [example.id for example in examples],
        "question": [example.question for example in examples],
        "context": [example.context for example in examples],
        "answer": [example.answers[0].text for example in examples],
        "answer_start": [example.answers[0].start for example in examples],
    }


def as_rows(named: dict[str, list]) -> list[dict]:
    """Columns as rows."""
    return [dict(zip(named, values)) for values in zip(*named.values())]


def featurizer(tokenizer, padding, with_labels: bool) -> Callable[[dict[str, list]], dict[str, list]]:
    """A function for `datasets.map`: a batch of columns -> columns of windows, with labels or what decoding needs."""

    def features(batch: dict[str, list]) -> dict[str, list]:
        found = tokenizer(
            [question.lstrip() for question in batch["question"]],
            batch["context"],
            truncation="only_second",
            max_length=MAX_LENGTH,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=padding,
        )
        sources = found.pop("overflow_to_sample_mapping")
        offsets = found.pop("offset_mapping")
        labels = []
        for i, source in enumerate(sources):
            segments = found.sequence_ids(i)
            if with_labels:
                start = batch["answer_start"][source]
                labels.append(label(offsets[i], segments, start, start + len(batch["answer"][source])))
            else:
                offsets[i] = [pair if segment == 1 else None for pair, segment in zip(offsets[i], segments)]
        if with_labels:
            found["start_positions"], found["end_positions"] = map(list, zip(*labels))
        else:
            found["offset_mapping"] = offsets
            found["example_id"] = [batch["id"][source] for source in sources]
        return dict(found)

    return features


def label(offsets, segments, start: int, end: int) -> tuple[int, int]:
    """Token indices of an answer's characters, or (0, 0) if the window does not hold all of it."""
    first, last = 0, len(segments) - 1
    while segments[first] != 1:
        first += 1
    while segments[last] != 1:
        last -= 1
    if offsets[first][0] > start or offsets[last][1] < end:
        return 0, 0
    while first < len(offsets) and offsets[first][0] <= start:
        first += 1
    while offsets[last][1] >= end:
        last -= 1
    return first - 1, last + 1


def with_datasets(tokenizer, examples, with_labels: bool):
    """D's preprocessing: a Dataset of the examples, and that mapped to windows."""
    from datasets import Dataset

    data = Dataset.from_dict(columns(examples))
    features = featurizer(tokenizer, "max_length", with_labels)
    return data, data.map(features, batched=True, remove_columns=data.column_names)


def with_lists(tokenizer, examples, with_labels: bool) -> dict[str, list]:
    """T's preprocessing: the same function on plain lists, a thousand questions at a time, without padding."""
    features, found = featurizer(tokenizer, False, with_labels), {}
    for first in range(0, len(examples), 1000):
        for name, values in features(columns(examples[first : first + 1000])).items():
            found.setdefault(name, []).extend(values)
    return found


# --- training and prediction ------------------------------------------------------------------------------------------


def trainer(model, device: str, dtype: torch.dtype, learning_rate: float = 1e-4, steps: int | None = None):
    """A function that takes one step on a batch: the usual loop's body. `model` may be a compiled one.

    With `steps`, the learning rate rises over a tenth of them and falls to 0 at the last; otherwise it is constant.
    """
    model.train().to(device)
    groups = [{"params": [], "weight_decay": 0.01}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        groups[name.endswith("bias") or "LayerNorm" in name]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    schedule = get_constant_schedule(optimizer)
    if steps:
        schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * steps), steps)

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with precision(device, dtype):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def precision(device: str, dtype: torch.dtype):
    is_half = dtype is not torch.float32
    return torch.autocast(torch.device(device).type, dtype=dtype) if is_half else contextlib.nullcontext()


def padded(windows, indices: np.ndarray, width: int | None = None) -> dict[str, torch.Tensor]:
    """A batch of minibert's windows as `transformers` wants it: padded to `width`, or to a multiple of 8.

    The labels are those of the first answers: there a window has one.
    """
    lengths = windows.lengths[indices]
    width = width or -(-int(lengths.max()) // 8) * 8
    batch = {name: np.zeros((len(indices), width), np.int64) for name in INPUTS}
    for row, i in enumerate(indices):
        window = windows[int(i)]
        batch["input_ids"][row, : lengths[row]] = window.ids
        batch["attention_mask"][row, : lengths[row]] = 1
        batch["token_type_ids"][row, window.context_start : lengths[row]] = 1
    batch |= {name: getattr(windows, name)[indices, 0] for name in ("start_positions", "end_positions")}
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def predict(model, tokenizer, features, batch_size: int, dtype: torch.dtype, is_sorted: bool) -> np.ndarray:
    """Start and end logits (2, windows, 384) on a CPU, padded with -10,000 as the field's own scripts pad them."""
    rows = range(len(features["input_ids"]))
    order = sorted(rows, key=lambda i: -len(features["input_ids"][i])) if is_sorted else list(rows)
    logits = np.full((2, len(order), MAX_LENGTH), -10_000.0, np.float32)
    values = {name: features[name] for name in INPUTS}
    model.eval()
    with torch.inference_mode(), precision("cpu", dtype):
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            batch = {name: [values[name][i] for i in indices] for name in INPUTS}
            output = model(**tokenizer.pad(batch, padding=True, pad_to_multiple_of=8, return_tensors="pt"))
            width = output.start_logits.shape[1]
            logits[0, indices, :width] = output.start_logits.float().numpy()
            logits[1, indices, :width] = output.end_logits.float().numpy()
    return logits


# --- answers out ------------------------------------------------------------------------------------------------------


def n_best_answers(examples: Sequence[dict], features: Sequence[dict], logits: np.ndarray) -> dict[str, str]:
    """{id: text} by the usual loop. `examples` and `features` are sequences of rows: a Dataset, or a list of dicts."""
    windows_of: dict[str, list[int]] = {}
    for i, feature in enumerate(features):
        windows_of.setdefault(feature["example_id"], []).append(i)
    texts = {}
    for example in examples:
        candidates = []
        for i in windows_of[example["id"]]:
            start_logits, end_logits = logits[0][i], logits[1][i]
            offsets = features[i]["offset_mapping"]
            ends = np.argsort(end_logits)[-1 : -N_BEST - 1 : -1].tolist()
            for start in np.argsort(start_logits)[-1 : -N_BEST - 1 : -1].tolist():
                for end in ends:
                    if start >= len(offsets) or end >= len(offsets) or not offsets[start] or not offsets[end]:
                        continue
                    if end < start or end - start + 1 > MAX_ANSWER_LENGTH:
                        continue
                    logit, other = start_logits[start], end_logits[end]
                    span = offsets[start][0], offsets[end][1]
                    candidate = {"offsets": span, "score": logit + other, "start_logit": logit, "end_logit": other}
                    candidates.append(candidate)
        best = sorted(candidates, key=lambda candidate: candidate["score"], reverse=True)[:N_BEST]
        for candidate in best:
            start, end = candidate.pop("offsets")
            candidate["text"] = example["context"][start:end]
        scores = np.array([candidate["score"] for candidate in best] or [0.0])
        weights = np.exp(scores - scores.max())
        for candidate, probability in zip(best, weights / weights.sum()):
            candidate["probability"] = probability
        texts[example["id"]] = best[0]["text"] if best else ""
    return texts
