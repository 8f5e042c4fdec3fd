"""Llama, top to bottom as in the paper (Touvron et al., 2023). Parameter names are those of Hugging Face's Llama.

    ids ─ embedding ─ [ + attention(norm) ─ + feed-forward(norm) ] × num_layers ─ norm ─ head ─ logits or loss

The components that the config can replace (norm, positions, feed-forward layer, norm position) are selected here once,
in constructors, by the `choose_…` function of the component's file.

The model knows nothing of devices, precision, optimizers or ranks: those are applied to it from outside.
"""

import torch
from torch import Tensor, nn

from llamita.config import ModelConfig
from llamita.model.attention import Attention
from llamita.model.cache import NO_CACHE, KVCache, LayerCache, NoCache
from llamita.model.feed_forward import choose_feed_forward
from llamita.model.init import init_copy_heads, initialize
from llamita.model.loss import LMHead
from llamita.model.norm import choose_norm
from llamita.model.positions import Rotation, choose_embedding, choose_rotation
from llamita.ops import Reduction


class Block(nn.Module):
    """One layer: attention, then feed-forward, each normed before and added to the residual stream (pre-norm)."""

    def __init__(self, config: ModelConfig, rope: Rotation | None = None):
        super().__init__()
        self.input_layernorm = choose_norm(config)
        self.self_attn = Attention(config, rope)
        self.post_attention_layernorm = choose_norm(config)
        self.mlp = choose_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: LayerCache | NoCache = NO_CACHE
    ) -> Tensor:
        """x (batch, seq, hidden) -> (batch, seq, hidden); the other arguments are those of `Attention`."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), positions, mask, cache))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class PostNormBlock(nn.Module):
    """One layer as first published: each sum is normed, the residual stream with it (Vaswani et al., 2017)."""

    def __init__(self, config: ModelConfig, rope: Rotation | None = None):
        super().__init__()
        self.self_attn = Attention(config, rope)
        self.post_attention_layernorm = choose_norm(config)
        self.mlp = choose_feed_forward(config)
        self.post_feedforward_layernorm = choose_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: LayerCache | NoCache = NO_CACHE
    ) -> Tensor:
        """x (batch, seq, hidden) -> (batch, seq, hidden); the other arguments are those of `Attention`."""
        x = self.post_attention_layernorm(x + self.dropout(self.self_attn(x, positions, mask, cache)))
        return self.post_feedforward_layernorm(x + self.dropout(self.mlp(x)))


class Decoder(nn.Module):
    """Everything but the head: token ids to hidden states."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        rope, pre_norm = choose_rotation(config), config.norm_position == "pre"
        layer = Block if pre_norm else PostNormBlock
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = choose_embedding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(layer(config, rope) for _ in range(config.num_layers))
        self.norm = choose_norm(config) if pre_norm else nn.Identity()  # post-norm blocks end with a norm

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """ids (batch, seq) -> (batch, seq, hidden)."""
        x = self.dropout(self.embed_positions.add(self.embed_tokens(ids), positions))
        for index, block in enumerate(self.layers):
            x = block(x, positions, mask, cache.layer(index) if cache else NO_CACHE)
        return self.norm(x)


class Llama(nn.Module):
    """A Llama language model.

    >>> model = Llama(ModelConfig(vocab_size=65, hidden_size=128, num_layers=4, num_heads=4))
    >>> logits = model(ids)                 # (batch, seq, vocab_size)
    >>> model(ids, targets).backward()      # the mean loss in nats
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        """Weights are initialized from `seed`: the same config and seed give the same model everywhere."""
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        tied = self.model.embed_tokens.weight if config.tie_embeddings else None  # Press & Wolf, 2017
        self.lm_head = LMHead(config.hidden_size, config.vocab_size, tied)
        initialize(self, config.num_layers, seed)
        if config.head_init == "copy":
            for module in self.modules():
                if isinstance(module, Attention):
                    init_copy_heads(module)

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
        logits_at: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Logits (batch, seq, vocab_size), or the loss in nats if targets are given.

        ids, targets       (batch, seq) int64; targets of -100 are ignored
        positions          (seq,) or (batch, seq) int64; default: 0, 1, 2, … from the start of each document, or after
                           the cached tokens
        document_ids       (batch, seq) int64: tokens attend only within their own document
        cache              keys and values of earlier calls; those of this call are appended
        logits_at          (batch,) int64: compute logits at this index of `ids` only, as
                           (batch, 1, vocab_size); default: at every index
        reduction          of the loss: "mean" over the targets that are not ignored, "sum", or "none"

        Raises `ValueError` for sequences longer than `max_seq_len` and for tokens that do not fit into the cache.
        """
        self._check_size(ids, document_ids, cache)
        own = None if document_ids is None else same_document(document_ids)
        positions = self._positions(ids, positions, own, cache)
        mask = self._mask(positions, own, cache)
        hidden = self.model(ids, positions, mask, cache)  # (batch, seq, hidden)
        if logits_at is not None:
            rows = torch.arange(len(hidden), device=hidden.device)
            hidden = hidden[rows, logits_at].unsqueeze(1)  # (batch, 1, hidden)
        return self.lm_head(hidden, targets, reduction)

    def _check_size(self, ids: Tensor, document_ids: Tensor | None, cache: KVCache | None) -> None:
        if ids.shape[1] > self.config.max_seq_len:
            raise ValueError(f"{ids.shape[1]} tokens do not fit into the context of {self.config.max_seq_len}")
        if cache is not None and len(ids) != len(cache.lengths):
            raise ValueError(f"the cache has {len(cache.lengths)} slots, but the batch has {len(ids)} rows")
        if cache is not None and document_ids is not None:
            raise ValueError("document_ids and a cache cannot be given together: give each document its own slot")

    def _positions(self, ids: Tensor, positions: Tensor | None, own: Tensor | None, cache: KVCache | None) -> Tensor:
        if positions is not None:
            return positions if cache is None or positions.dim() == 2 else positions.expand(ids.shape)
        if own is not None:
            return own.squeeze(1).sum(dim=-1) - 1  # (batch, seq): preceding tokens of the same document
        return torch.arange(ids.shape[1], device=ids.device) if cache is None else cache.next_positions(ids.shape[1])

    def _mask(self, positions: Tensor, own: Tensor | None, cache: KVCache | None) -> Tensor | None:
        """Which keys queries attend to, (batch, 1, seq, keys) bool; None for plain causal attention."""
        if cache is None:
            return own
        cache.reserve(positions)
        return cache.causal_mask(positions)

    def num_parameters(self) -> dict[str, int]:
        """Parameter counts by group: embedding, attention, feed_forward, norm, head; a tied head counts as 0.

        Learned positions count as embedding, the gains of QK-norm as attention.
        """
        groups: dict[str, int] = {"embedding": 0, "attention": 0, "feed_forward": 0, "norm": 0, "head": 0}
        marks = {"embed_": "embedding", "self_attn.": "attention", "mlp.": "feed_forward", "lm_head.": "head"}
        for name, parameter in self.named_parameters():
            group = next((g for mark, g in marks.items() if mark in name), "norm")
            groups[group] += parameter.numel()
        return groups


def same_document(document_ids: Tensor) -> Tensor:
    """document_ids (batch, seq) -> (batch, 1, seq, seq) bool: a causal mask within each document."""
    same = document_ids.unsqueeze(-1) == document_ids.unsqueeze(-2)  # (batch, seq, seq)
    return same.tril().unsqueeze(1)
