"""The [model] table: the architecture. Nothing here needs torch."""

from dataclasses import dataclass, field
from typing import Literal

from llamita.config.checks import require_not_negative, require_positive, require_share
from llamita.config.data import EXECUTION
from llamita.config.derived import Derives, set_derived
from llamita.config.size import SIZES, derived_shape, derived_sizes
from llamita.errors import UserError


@dataclass(frozen=True)
class ModelConfig(Derives):
    """Architecture of a Llama (Touvron et al., 2023). Sizes in elements; raises `UserError` if they do not fit.

    Sizes given as 0 are derived, and read as the derived value. `llamita.config.replace` derives them again;
    `dataclasses.replace` replaces values and keeps all others, derived ones included.
    """

    vocab_size: int = 2048
    """Number of token ids: of a BPE tokenizer trained here, at most; the model takes the size of its tokenizer."""
    size: int = field(default=0, metadata=EXECUTION, kw_only=True)
    """Number of parameters, within 10 %: all sizes below that are not set follow from it, and learning rate and batch;
    0: off."""
    depth: int = field(default=0, metadata=EXECUTION, kw_only=True)
    """Number of layers, each 64 wide: the same follow from it; 0: off."""
    hidden_size: int = 0
    """Width of the residual stream; 0: from size or depth, else 128."""
    intermediate_size: int = 0
    """Feed-forward width; 0: 8/3 of hidden_size, rounded up to a multiple of 16; 4 times it for gelu, relu2."""
    num_layers: int = 0
    """Number of blocks; 0: from size or depth, else 2."""
    num_heads: int = 0
    """Number of query heads; 0: hidden_size / 32, or an even number of wider heads if 32 does not divide it;
    with size or depth, hidden_size / 64 from 512 on."""
    num_kv_heads: int = 0
    """Number of key and value heads, a divisor of num_heads; 1: multi-query attention; 0: num_heads (multi-head)."""
    head_dim: int = 0
    """Width of one head, an even number with rotary positions; 0: hidden_size / num_heads."""
    max_seq_len: int = 256
    """Context length, in tokens."""
    norm: Literal["rms", "layer", "none"] = "rms"
    """`rms`: RMSNorm, as in Llama; `layer`: LayerNorm, as in GPT-2; `none`."""
    norm_position: Literal["pre", "post"] = "pre"
    """`pre`: normalize the input of each layer; `post`: the residual stream after it (Vaswani et al., 2017)."""
    norm_eps: float = 1e-5
    """Epsilon: added to the mean square in RMSNorm, to the variance in LayerNorm."""
    qk_norm: bool = False
    """Apply RMSNorm to the queries and keys of each head, before RoPE (Henry et al., 2020; Qwen3)."""
    position: Literal["rope", "learned", "none"] = "rope"
    """`rope`: rotary embedding, as in Llama; `learned`: a learned vector per position, as in GPT-2; `none`."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths (Su et al., 2021)."""
    rope_scaling_factor: float = 1.0
    """Factor by which Llama 3 lengthens long wavelengths, to extend the context of a trained model; 1: no scaling."""
    rope_low_freq_factor: float = 1.0
    """Wavelengths above rope_original_max_seq_len / this are scaled in full."""
    rope_high_freq_factor: float = 4.0
    """Wavelengths below rope_original_max_seq_len / this are not scaled; those between are, in part."""
    rope_original_max_seq_len: int = 8192
    """Context length before scaling, for rope_scaling_factor."""
    mlp: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    """Feed-forward layer: SwiGLU, as in Llama; GELU (tanh), as in GPT-2; or squared ReLU (So et al., 2021)."""
    bias: bool = False
    """Add a learned bias to every linear layer (except the head) and to LayerNorm, as in GPT-2."""
    tie_embeddings: bool = True
    """Share one matrix between the token embedding and the output head."""
    dropout: float = 0.0
    """Dropout probability after the embedding, attention and feed-forward layers, in training; 0: off."""
    head_init: Literal["auto", "random", "copy"] = "auto"
    """Initial attention heads: `random`, or `copy`: they copy what they see. auto: copy for stories, else random."""

    def __post_init__(self) -> None:
        self._derive()
        self._check()
        self._check_norm()
        self._check_position()

    def _derive(self) -> None:
        if self.size and self.depth:
            raise UserError(f"size {self.size:,} and depth {self.depth} both set the shape: give one")
        require_positive(self, "vocab_size", "max_seq_len")
        require_not_negative(self, "size", "depth", *SIZES)
        shape = derived_shape(vars(self))
        wide_heads = bool(self.size or self.depth)
        sizes = shape._asdict() | derived_sizes(shape.hidden_size, self.num_heads, self.mlp, wide_heads=wide_heads)
        set_derived(self, {name: size for name, size in sizes.items() if not getattr(self, name)})
        if self.head_dim is None:
            raise UserError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}: "
                f"choose a divisor of {self.hidden_size}, or set head_dim"
            )

    def _check(self) -> None:
        require_positive(self, "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
        require_positive(self, "num_kv_heads", "head_dim", "max_seq_len")
        if self.num_heads % self.num_kv_heads:
            raise UserError(f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}")
        require_share(self, "dropout")

    def _check_norm(self) -> None:
        require_positive(self, "norm_eps")
        if self.norm == "none" and self.norm_position == "post":
            raise UserError("norm_position is post, but norm is none: choose norm rms or layer, or leave norm_position")

    def _check_position(self) -> None:
        require_positive(self, "rope_theta", "rope_scaling_factor", "rope_low_freq_factor", "rope_high_freq_factor")
        require_positive(self, "rope_original_max_seq_len")
        if self.position == "rope" and self.head_dim % 2:
            raise UserError(
                f"head_dim {self.head_dim} (hidden_size / num_heads) is odd, but rotary positions rotate pairs: "
                "choose hidden_size and num_heads so that it is even"
            )
        if self.rope_scaling_factor < 1:
            raise UserError(f"rope_scaling_factor is {self.rope_scaling_factor}, but must be at least 1 (no scaling)")
        if self.position != "rope" and self.rope_scaling_factor != 1:
            raise UserError(
                f"rope_scaling_factor is {self.rope_scaling_factor}, but position is {self.position}, which has no "
                "wavelengths to scale: choose position rope, or leave the factor at 1"
            )
        if self.rope_low_freq_factor >= self.rope_high_freq_factor:
            raise UserError(
                f"rope_low_freq_factor {self.rope_low_freq_factor} is not below rope_high_freq_factor "
                f"{self.rope_high_freq_factor}: lower it (Llama 3 has 1 and 4)"
            )
