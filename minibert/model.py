"""BERT and a span head, by hand: tokens in, one start and one end logit per token out.

"BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al., 2018), with the
layer of "Attention Is All You Need" (Vaswani et al., 2017): normalisation comes after each residual sum. The model
knows nothing of losses to scale, optimizers, devices or ranks.

Shapes, here and everywhere:
    B  windows in the batch                    D  hidden_size            H  attention heads
    T  tokens of the longest (padded) window   F  intermediate_size      K  size of a head, D = H * K
    V  tokens in the vocabulary

Read from the top: each class uses those above it. Next: `weights.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import BertConfig


def attention_by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout) -> Tensor:
    """Scaled dot-product attention, as the formula has it: softmax(Q K^T / sqrt(K)) V.

    query, key, value and the result are (B, H, T, K); mask is (B, 1, 1, T), True at tokens to attend to, or None
    for all of them. `dropout` is applied to the probabilities.
    """
    # Scale the queries rather than the scores: the scores have T / K times as many elements.
    scores = query / math.sqrt(query.size(-1)) @ key.transpose(-1, -2)  # (B, H, T, T)
    if mask is not None:
        # The dtype's own minimum: a fixed -1e9 overflows in half precision, and -10000 can be outweighed. Added rather
        # than filled in: that costs the backward pass nothing, and a score is nothing beside the minimum.
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, torch.finfo(scores.dtype).min)
    probabilities = scores.softmax(dim=-1)
    return dropout(probabilities) @ value


def attention_fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout) -> Tensor:
    """The same by torch's fused kernel, which never holds the (B, H, T, T) scores in memory."""
    p = dropout.p if dropout.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p)


class Embeddings(nn.Module):
    """The sum of what a token is, where it stands, and which text it belongs to; then LayerNorm and dropout."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:  # DistilBERT has none
            self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """(B, T) and (B, T) or None -> (B, T, D)."""
        embedded = self.word(input_ids) + self.position.weight[: input_ids.size(1)]  # (B, T, D) + (T, D)
        if hasattr(self, "token_type"):
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            embedded = embedded + self.token_type(types)
        return self.dropout(self.norm(embedded))


class SelfAttention(nn.Module):
    """Every token gathers from every other, in H independent ways."""

    def __init__(self, config: BertConfig):
        super().__init__()
        D = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(D, D)
        self.key = nn.Linear(D, D)
        self.value = nn.Linear(D, D)
        self.output = nn.Linear(D, D)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.attend = attention_by_hand  # `device.py` may set the fused one

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D), mask (B, 1, 1, T) or None -> (B, T, D)."""
        query, key, value = (
            projection(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for projection in (self.query, self.key, self.value)
        )
        gathered = self.attend(query, key, value, mask, self.dropout)  # (B, H, T, K)
        return self.output(gathered.transpose(1, 2).flatten(2))  # (B, T, D)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them (the exact one, by the error function), for each token alone."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, F) -> (B, T, D)."""
        return self.contract(self.gelu(self.expand(hidden_states)))


class Layer(nn.Module):
    """Attention, then feed-forward, each added to what came in and normalised after the sum ("post-norm")."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D), mask (B, 1, 1, T) or None -> (B, T, D)."""
        gathered = self.dropout(self.attention(hidden_states, mask))
        hidden_states = self.attention_norm(hidden_states + gathered)
        worked = self.dropout(self.feed_forward(hidden_states))
        return self.feed_forward_norm(hidden_states + worked)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D), mask (B, 1, 1, T) or None -> (B, T, D)."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return hidden_states


class BertForQuestionAnswering(nn.Module):
    """BERT with one linear map on top that says, for each token, how well an answer starts and ends there."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.new_parameters: list[str] = []  # those that no file has filled; `weights.py` keeps the list
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.qa_dropout)
        self.span_head = nn.Linear(config.hidden_size, 2)

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The last layer's hidden states (B, T, D); arguments as for `forward`."""
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T)
        return self.encoder(self.embeddings(input_ids, token_type_ids), mask)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Start and end logits, (B, T) each, in float32.

        All arguments are (B, T) int64: `input_ids` below V, `attention_mask` 1 at tokens and 0 at padding (None: no
        padding), `token_type_ids` 0 for [CLS] question [SEP] and 1 for context [SEP] (None: all 0).
        """
        hidden_states = self.dropout(self.encode(input_ids, attention_mask, token_type_ids))
        start_logits, end_logits = self.span_head(hidden_states).float().unbind(-1)  # (B, T, 2) -> 2 x (B, T)
        return start_logits, end_logits


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Mean over windows of (cross-entropy of the start + cross-entropy of the end) / 2.

    Logits (B, T), positions (B,) in 0..T-1. The softmax runs over a window's real tokens: with the padding in it, the
    loss of a window would depend on its neighbours in the batch. A window without the
    answer has both labels 0: it learns to point at [CLS].
    """
    losses = []
    for logits, positions in ((start_logits, start_positions), (end_logits, end_positions)):
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask.bool(), -math.inf)
        losses.append(F.cross_entropy(logits.float(), positions))
    return (losses[0] + losses[1]) / 2
