"""The Llama architecture. Start with `llama.py`, which reads like the paper; each component has its own file."""

from llamita.config import ModelConfig
from llamita.model.attention import Attention
from llamita.model.cache import KVCache
from llamita.model.feed_forward import FeedForward, SwiGLU
from llamita.model.linear import Linear
from llamita.model.llama import Block, Llama, PostNormBlock
from llamita.model.loss import LMHead
from llamita.model.norm import LayerNorm, RMSNorm
from llamita.model.positions import LearnedPositions, RotaryEmbedding
from llamita.ops import cross_entropy
from llamita.targets import IGNORED

__all__ = [
    "Attention",
    "Block",
    "FeedForward",
    "IGNORED",
    "KVCache",
    "LMHead",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "Llama",
    "ModelConfig",
    "PostNormBlock",
    "RMSNorm",
    "RotaryEmbedding",
    "SwiGLU",
    "cross_entropy",
]
