"""The checks of the exercises in docs/lesson.md.

Each one checks a function of the file that the environment variable EXERCISES names; without the variable, the solution
that stands here. Read the solutions after yours works.

    EXERCISES=mine.py pytest tests/docs/test_exercises.py -k cosine
"""

import math
import os
import runpy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minibert.answers.spans import search_plain
from minibert.commands.lesson import page_lesson
from minibert.commands.walk import CPU
from minibert.model.bert import BertConfig, Embeddings, Layer, span_loss
from minibert.text.windows import window_bounds
from minibert.training.step import learning_rate_at, make_optimizer, update


def solution(name: str, reference: Callable) -> Callable:
    """The learner's function of this name if EXERCISES names a file, else the reference."""
    file = os.environ.get("EXERCISES")
    names = runpy.run_path(file) if file else {name: reference}
    assert name in names, f"{file} has no function {name}"
    return names[name]


# 1. Another window rule: the stride is the step from one window to the next.


def step_rule(context_length, room, step):
    first = 0
    while first + room < context_length:
        yield first, first + room
        first += step
    yield first, context_length


def check_step_rule(step_rule):
    assert list(step_rule(9, 5, 2)) == [(0, 5), (2, 7), (4, 9)]
    for length in range(31):
        for room in range(1, 9):
            for step in range(1, room + 1):
                windows = list(step_rule(length, room, step))
                assert [first for first, _ in windows] == list(range(0, step * len(windows), step))
                assert all(stop == first + room < length for first, stop in windows[:-1])
                first, stop = windows[-1]
                assert first <= stop == length <= first + room


# 2. A cosine schedule.


def cosine(step, total_steps, warmup_ratio, peak):
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def check_cosine(cosine):
    rates = {step: 0.2 * step for step in range(10)}  # the warm-up stays
    rates |= {10: 2.0, 40: 1.5, 55: 1.0, 70: 0.5, 100: 0.0}  # 40 is a third of the way: cos(60 degrees) = 1/2
    assert {step: cosine(step, 100, 0.1, 2.0) for step in rates} == pytest.approx(rates)
    assert cosine(0, 1, 0.0, 2.0) == pytest.approx(2.0)


# 3. The max-context rule: a span counts only in the window that shows most around its first token.


def max_context(windows, question, start_logits, end_logits, n_best_size=20, max_answer_length=30):
    own = np.flatnonzero(windows.example == question)
    first_tokens = windows.first_token[own]
    stops = first_tokens + windows.lengths[own] - windows.context_start[own] - 1
    best = []
    for window, first_token, stop in zip(own, first_tokens, stops):
        shift = windows.bounds[window] + windows.context_start[window] - first_token
        for first in range(first_token, stop):
            around = np.minimum(first - first_tokens, stops - 1 - first)  # negative in a window without the token
            if own[around.argmax()] != window:
                continue
            for last in range(first, min(first + max_answer_length, stop)):
                best.append((float(start_logits[shift + first] + end_logits[shift + last]), int(first), int(last)))
    return sorted(best, key=lambda span: (-span[0], *span[1:]))[:n_best_size]


def check_max_context(max_context):
    windows = page_lesson().windows  # three windows, neighbours share 4 context tokens: 16-19 and 32-35
    room = int(windows.lengths[0] - windows.context_start[0] - 1)
    assert windows.first_token.tolist() == [0, room - 4, 2 * (room - 4)]
    generator = np.random.default_rng(0)
    for count, longest in ((1, 30), (5, 3), (40, 8)):
        starts, ends = generator.normal(size=(2, len(windows.ids))).astype(np.float32)
        # Of the tokens that two windows share, the first two have more context in the earlier window. A start logit of
        # minus infinity says the same to the plain search.
        masked = starts.copy()
        for i in range(3):
            row = windows.bounds[i] + windows.context_start[i]
            if i > 0:
                masked[row : row + 2] = -np.inf
            if i < 2:
                masked[windows.bounds[i + 1] - 3 : windows.bounds[i + 1] - 1] = -np.inf
        expected = search_plain(windows, 0, masked, ends, count, longest)
        found = max_context(windows, 0, starts, ends, count, longest)
        assert [span[1:] for span in found] == [span[1:] for span in expected]
        assert [span[0] for span in found] == pytest.approx([span[0] for span in expected])


# 4. Another loss: label smoothing over the real tokens.


def smooth_loss(start_logits, end_logits, start_positions, end_positions, attention_mask=None, smoothing=0.1):
    losses = []
    for logits, positions in ((start_logits, start_positions), (end_logits, end_positions)):
        is_token = torch.ones_like(logits) if attention_mask is None else attention_mask
        log_p = logits.masked_fill(is_token == 0, -math.inf).log_softmax(-1)
        target = smoothing * is_token / is_token.sum(-1, keepdim=True)
        target = target + (1 - smoothing) * F.one_hot(positions, logits.size(-1)).float().mean(1)  # of (B, A, T)
        losses.append(-(target * log_p.masked_fill(is_token == 0, 0.0)).sum(-1).mean())
    return (losses[0] + losses[1]) / 2


def check_smooth_loss(smooth_loss):
    torch.manual_seed(0)
    starts, ends = torch.randn(2, 3, 7)
    positions = torch.tensor([[0, 1], [2, 2], [4, 0]]), torch.tensor([[1, 1], [2, 4], [4, 0]])
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]])
    plain = span_loss(starts, ends, *positions, mask)
    torch.testing.assert_close(smooth_loss(starts, ends, *positions, mask, smoothing=0.0), plain)
    together = smooth_loss(starts, ends, *positions, mask, smoothing=0.3)
    alone = [
        smooth_loss(starts[i : i + 1, :n], ends[i : i + 1, :n], *(p[i : i + 1] for p in positions), smoothing=0.3)
        for i, n in enumerate(mask.sum(1).tolist())
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())  # padding neither costs nor takes a share
    assert together != plain
    # The loss is smallest where the probabilities are the smoothed target: 0.3 shared by all tokens, 0.7 at the labels.
    target = 0.3 / 7 + 0.35 * F.one_hot(positions[0], 7).sum(1)
    logits = target.log().requires_grad_()
    smooth_loss(logits, logits, positions[0], positions[0], smoothing=0.3).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6
    torch.testing.assert_close(smooth_loss(torch.zeros(3, 7), torch.zeros(3, 7), *positions), torch.tensor(math.log(7)))


# 5. RoBERTa's positions: tokens count from padding_idx + 1, and padding has position padding_idx.


def roberta_positions(self, input_ids, token_type_ids):
    is_token = input_ids != self.word.padding_idx
    positions = is_token.cumsum(1) * is_token + self.word.padding_idx
    types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    embedded = self.word(input_ids) + self.position(positions) + self.token_type(types)
    return self.dropout(self.norm(embedded))


def check_roberta_positions(roberta_positions):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=11, hidden_size=6, max_position_embeddings=9, pad_token_id=1)
    embeddings = Embeddings(config).eval()
    ids, types = torch.tensor([[5, 7, 2, 9], [3, 3, 10, 4]]), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    expected = embeddings.norm(
        embeddings.word(ids) + embeddings.position(torch.tensor([2, 3, 4, 5])) + embeddings.token_type(types)
    )
    padding, no_types = torch.full((2, 3), 1), torch.zeros(2, 3, dtype=torch.long)
    padded = embeddings.norm(embeddings.word(padding) + embeddings.position(padding) + embeddings.token_type(no_types))
    torch.testing.assert_close(roberta_positions(embeddings, ids, types), expected)
    for order in (1, -1):  # padding behind the tokens, and before them
        both = torch.cat([ids, padding][::order], 1), torch.cat([types, no_types][::order], 1)
        torch.testing.assert_close(roberta_positions(embeddings, *both), torch.cat([expected, padded][::order], 1))
    longest = torch.full((2, 7), 3)  # 9 positions, of which 0 and 1 are not a token's
    assert roberta_positions(embeddings, longest, None).shape == (2, 7, 6)


# 6. A wrong order: clip first, unscale afterwards. What breaks?


def clip_first(model, optimizer, scaler, micro_batches, learning_rate, max_grad_norm, machine):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    step_loss = torch.zeros((), device=machine.device)
    for batch, weight in micro_batches:
        start_logits, end_logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        positions = batch["start_positions"], batch["end_positions"]
        loss = span_loss(start_logits, end_logits, *positions, batch["attention_mask"]) * weight
        scaler.scale(loss).backward()
        step_loss += loss.detach()
    gradient_norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return step_loss, gradient_norm


def step_size(update: Callable, scale: float) -> tuple[float, float]:
    """The gradient norm that an update reports, and how far it moves the weights at learning rate 1, clipped to 0.5."""
    lesson = page_lesson()
    before = nn.utils.parameters_to_vector(lesson.model.parameters()).detach().clone()
    # Plain gradient descent moves the weights by the clipped gradient itself. AdamW would hide most of the damage.
    optimizer = torch.optim.SGD([{"params": lesson.model.parameters(), "layer_share": 1.0}], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    _, norm = update(lesson.model, optimizer, scaler, [(lesson.batch, 1.0)], 1.0, 0.5, CPU)
    moved = nn.utils.parameters_to_vector(lesson.model.parameters()).detach() - before
    return float(norm), float(moved.norm())


def check_clip_first(clip_first):
    norm, moved = step_size(update, 1.0)
    assert norm > 0.5 and moved == pytest.approx(0.5, rel=1e-3)
    assert step_size(update, 1024.0) == pytest.approx((norm, 0.5), rel=1e-3)  # the right order does not feel the scale
    # The wrong order reports a norm that is 1024 times too large, and moves the weights 1024 times too little.
    assert step_size(clip_first, 1024.0) == pytest.approx((1024 * norm, 0.5 / 1024), rel=1e-2)
    assert step_size(clip_first, 1.0) == pytest.approx((norm, 0.5), rel=1e-3)  # without a scale nothing shows


# 7. Weight decay on all parameters.


def decay_all(model, learning_rate, weight_decay):
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay
    )


def check_decay_all(decay_all):
    model = page_lesson().model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
            parameter.grad = torch.zeros_like(parameter)  # with a gradient of 0 only the decay is left
    optimizer = decay_all(model, 0.1, 0.5)
    assert isinstance(optimizer, torch.optim.AdamW)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 2.0 * (1 - 0.1 * 0.5)), msg=name)


# 8. Pre-norm: normalise what goes into each block, not the sum that comes out.


def pre_norm(self, hidden_states, mask):
    attended = self.dropout(self.attention(self.attention_norm(hidden_states), mask))
    hidden_states = hidden_states + attended
    transformed = self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))
    return hidden_states + transformed


def check_pre_norm(pre_norm):
    torch.manual_seed(0)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda module, inputs, output: seen.update({f"{name} in": inputs[0], f"{name} out": output})

    layer = Layer(BertConfig(hidden_size=12, num_attention_heads=3, intermediate_size=20)).eval()
    nn.init.constant_(layer.attention_norm.weight, 2.0)
    nn.init.constant_(layer.feed_forward_norm.weight, 3.0)
    layer.attention.register_forward_hook(keep("attention"))
    layer.feed_forward.register_forward_hook(keep("feed-forward"))
    x = 7 + 5 * torch.randn(2, 4, 12)
    y = pre_norm(layer, x, None)
    # Both results are added to the hidden states, which nothing normalises on their way through.
    torch.testing.assert_close(y, x + seen["attention out"] + seen["feed-forward out"])
    for name, gain, what_enters in (("attention", 2.0, x), ("feed-forward", 3.0, x + seen["attention out"])):
        torch.testing.assert_close(seen[f"{name} in"], gain * F.layer_norm(what_enters, (12,)))


EXERCISES = {  # a solution, its check, and the package's own function, which the check must reject
    "step_rule": (step_rule, check_step_rule, window_bounds),
    "cosine": (cosine, check_cosine, learning_rate_at),
    "max_context": (max_context, check_max_context, search_plain),
    "smooth_loss": (smooth_loss, check_smooth_loss, lambda *batch, smoothing=0.1: span_loss(*batch)),
    "roberta_positions": (roberta_positions, check_roberta_positions, Embeddings.forward),
    "clip_first": (clip_first, check_clip_first, update),
    "decay_all": (decay_all, check_decay_all, make_optimizer),
    "pre_norm": (pre_norm, check_pre_norm, Layer.forward),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise(name):
    reference, check, ours = EXERCISES[name]
    check(solution(name, reference))
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        check(ours)
