"""BERT and a span head: token ids in, one start logit and one end logit per token out.

The encoder of "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al., 2018),
whose layer is that of "Attention Is All You Need" (Vaswani et al., 2017). The input is one window:

    tokens  [CLS] when was the clock made [SEP] the clock was made in basel in 1871 . [SEP] [PAD] [PAD]
    types   0     0    0   0   0     0    0     1   1     1   1    1  1     1  1    1 1     0     0
    mask    1     1    1   1   1     1    1     1   1     1   1    1  1     1  1    1 1     0     0

[CLS] opens a window and [SEP] ends each text. [PAD] fills a window up to the longest of its batch; the mask
(`attention_mask`) is 0 there, so that no token attends to it.

What pre-training on billions of words has taught BERT's weights:
    the words and positions   Guessing masked-out words made each vector describe its token in its sentence.
    the token types           The second task was to say of two texts whether the second follows the first. Type 0
                              marks the first, type 1 the second. Here the question is the first text and the context
                              is the second.
    [CLS]                     That task read its result here, so [CLS] sums up the window. We use it to say "no answer".
DistilBERT learned to imitate BERT, without token types. The default model descends from MiniLM, which learned to
imitate UniLM v2, a model like BERT, and was then trained to compare sentences.
The span head is the one part that pre-training has not touched: two vectors, one for starts and one for ends.

Shapes, in the same letters in every file:
    B  windows in the batch                    D  hidden_size            H  attention heads
    T  tokens of the longest (padded) window   F  intermediate_size      K  size of a head, D = H * K
    V  tokens in the vocabulary                A  labels of a window, one for each answer

Read from the top: each class uses the ones above it. Next in the lesson: `training/step.py`, one update of these
weights.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BertConfig:
    """The sizes and rates of an encoder. Names and defaults are those of BERT's `config.json` (BERT-base)."""

    model_type: str = "bert"  # or "distilbert", whose files have other names
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"  # the only one
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    qa_dropout: float = 0.0  # before the span head; 0.1 in DistilBERT
    max_position_embeddings: int = 512
    type_vocab_size: int = 2  # 0: no token types (DistilBERT)
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0


def attention_by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: nn.Dropout) -> Tensor:
    """Scaled dot-product attention: softmax(query @ key^T / sqrt(K)) @ value.

    Each token compares its query with the keys of all tokens, and takes the mean of their values, weighted by how well
    their keys fit.

    query, key, value and the result are (B, H, T, K). mask is (B, 1, 1, T), True at the tokens to attend to; None means
    all of them. `dropout` is applied to the probabilities.
    """
    # Why sqrt(K): a dot product of K independent terms of variance 1 has variance K. Unscaled, one score would outweigh
    # the others, the softmax would saturate, and its gradient would vanish. Dividing by sqrt(K) restores variance 1.
    # The queries are divided rather than the scores, because the scores have T / K times as many elements.
    scores = query / math.sqrt(query.size(-1)) @ key.transpose(-1, -2)  # (B, H, T, T)
    if mask is not None:
        # Adding the dtype's minimum to a padded token's score makes its softmax weight 0 (-1e9 would overflow in
        # float16). An addition costs nothing in the backward pass, where `masked_fill` would copy the scores' gradient.
        scores += (~mask).to(scores.dtype) * torch.finfo(scores.dtype).min
    probabilities = scores.softmax(dim=-1)
    return dropout(probabilities) @ value


def attention_fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: nn.Dropout) -> Tensor:
    """The same result from torch's fused kernel, which never stores the (B, H, T, T) scores."""
    p = dropout.p if dropout.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p)


class Embeddings(nn.Module):
    """What a token is + where it stands + which text it belongs to; then LayerNorm and dropout."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        # Attention sees a set of tokens, not a sequence. The learned position vectors give the order.
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """(B, T) and (B, T) or None -> (B, T, D)."""
        # Tokens stand at positions 0 .. T - 1 in every window, so the first T rows are added to each.
        embedded = self.word(input_ids) + self.position.weight[: input_ids.size(1)]  # (B, T, D) + (T, D)
        if self.token_type is not None:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            embedded = embedded + self.token_type(types)
        return self.dropout(self.norm(embedded))


class SelfAttention(nn.Module):
    """Each token collects information from all tokens, in H heads that attend independently."""

    def __init__(self, config: BertConfig):
        super().__init__()
        D = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(D, D)
        self.key = nn.Linear(D, D)
        self.value = nn.Linear(D, D)
        self.output = nn.Linear(D, D)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.attend = attention_by_hand  # `prepare.py` puts a faster function of this signature here

    def split_heads(self, projected: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H, K) -> (B, H, T, K)."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D), mask (B, 1, 1, T) or None -> (B, T, D)."""
        query = self.split_heads(self.query(hidden_states))  # (B, H, T, K)
        key = self.split_heads(self.key(hidden_states))
        value = self.split_heads(self.value(hidden_states))
        weighted_values = self.attend(query, key, value, mask, self.dropout)  # (B, H, T, K)
        return self.output(weighted_values.transpose(1, 2).flatten(2))  # (B, T, D)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them, applied to each token alone."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.gelu = nn.GELU()  # the exact one, by the error function, as in BERT
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, F) -> (B, T, D)."""
        return self.contract(self.gelu(self.expand(hidden_states)))


class Layer(nn.Module):
    """Attention, then feed-forward. Each result is added to its input, and the sum is normalised ("post-norm").

    Why after the sum: BERT was pre-trained this way, and the published weights fit no other order. The price: training
    post-norm models from scratch needs a learning rate that warms up (Xiong et al., 2020). Later models normalise each
    block's input instead ("pre-norm"), which trains more stably.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D), mask (B, 1, 1, T) or None -> (B, T, D)."""
        attended = self.dropout(self.attention(hidden_states, mask))
        hidden_states = self.attention_norm(hidden_states + attended)
        transformed = self.dropout(self.feed_forward(hidden_states))
        return self.feed_forward_norm(hidden_states + transformed)


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
    """BERT with a linear map that scores each token as the start and as the end of the answer."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.new_parameters: list[str] = []  # names that `load_model` found in no file: random until trained
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.qa_dropout)
        self.span_head = nn.Linear(config.hidden_size, 2)

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The last layer's hidden states (B, T, D); arguments as for `forward`."""
        # (B, 1, 1, T): the same for every head and every query. Padding is masked as a key only. Its own outputs are
        # arbitrary, but no token attends to them, and the loss and the span search skip them.
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
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
    """Mean over windows and answers of (cross-entropy of the start + cross-entropy of the end) / 2.

    Logits (B, T); positions in 0..T-1: (B, A), a column for each label, or (B,). A window without the answer has
    (0, 0), so that the model learns to choose [CLS] there.

    Why the mean over answers: "1871" and "in 1871" are both right, and which of them an annotator writes down is a
    matter of taste. So the model learns which share of the annotated answers starts, and ends, at each token.

    Why two cross-entropies: the start is one choice among T tokens and the end another. Treating them as independent
    takes 2 T logits where a joint choice would take T * T. Their mean keeps the loss on the scale of one choice: an
    untrained head gives about log(n) for a window of n tokens.
    """

    def cross_entropy(logits: Tensor, positions: Tensor) -> Tensor:
        if attention_mask is not None:
            # Without padding in the softmax, a window's loss does not depend on its neighbours in the batch.
            logits = logits.masked_fill(~attention_mask.bool(), -math.inf)
        log_probabilities = logits.float().log_softmax(dim=-1)  # (B, T)
        # `F.cross_entropy` takes one label for each window; with A = 1 it gives the same.
        return -log_probabilities.gather(1, positions.view(len(logits), -1)).mean()  # of (B, A)

    return (cross_entropy(start_logits, start_positions) + cross_entropy(end_logits, end_positions)) / 2
