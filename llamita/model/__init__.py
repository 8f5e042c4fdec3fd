"""What a Llama is. Start with `llama.py`, which reads like the paper; each part has a file of its own."""

from llamita.config import ModelConfig
from llamita.model.attention import Attention
from llamita.model.cache import KVCache
from llamita.model.feed_forward import FeedForward, SwiGLU
from llamita.model.llama import Block, Llama, PostNormBlock
from llamita.model.loss import LMHead, cross_entropy
from llamita.model.norm import LayerNorm, RMSNorm
from llamita.model.positions import LearnedPositions, RotaryEmbedding
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
    "Llama",
    "ModelConfig",
    "PostNormBlock",
    "RMSNorm",
    "RotaryEmbedding",
    "SwiGLU",
    "cross_entropy",
]
