"""Grouped-query attention."""

from torch import Tensor, nn

from llamita import ops
from llamita.config import ModelConfig
from llamita.model.cache import NO_CACHE, LayerCache, NoCache
from llamita.model.linear import Linear
from llamita.model.norm import RMSNorm
from llamita.model.positions import Rotation, choose_rotation


class Attention(nn.Module):
    """Causal attention in which groups of query heads share one key-value head (GQA; Ainslie et al., 2023).

    With num_kv_heads = num_heads it is the multi-head attention of Vaswani et al. (2017), with num_kv_heads = 1 the
    multi-query attention of Shazeer (2019). Queries and keys are rotated by their positions (RoPE). QK-norm first
    normalizes them to length sqrt(head_dim), which bounds the attention logits (Henry et al., 2020).
    """

    def __init__(self, config: ModelConfig, rope: Rotation | None = None):
        """`rope`: a RoPE table to share between layers; default: the layer creates its own."""
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = Linear(config.hidden_size, config.num_heads * config.head_dim, bias=config.bias)
        self.k_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_dim, bias=config.bias)
        self.v_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_dim, bias=config.bias)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.hidden_size, bias=config.bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.rope = rope or choose_rotation(config)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: LayerCache | NoCache = NO_CACHE
    ) -> Tensor:
        """x (batch, seq, hidden) -> (batch, seq, hidden).

        `positions` (seq,) or (batch, seq). `mask` (batch, 1, seq, keys), True where a query may attend; None: causal
        attention over x and what is cached before it.
        """
        q, k, v = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        q, k = self.rope.rotate(self.q_norm(q), positions), self.rope.rotate(self.k_norm(k), positions)
        k, v = cache.append(k, v, positions)  # (batch, kv_heads, keys, head_dim); unchanged without a cache
        out = ops.attention(q, k, v, mask, cache.lengths)  # (batch, heads, seq, head_dim)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def heads(self, x: Tensor) -> Tensor:
        """(batch, seq, heads · head_dim) -> (batch, heads, seq, head_dim)."""
        # -1, not a head count from the config: under tensor parallelism each rank has only some of the heads.
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
