"""What a Llama is. Start with `llama.py`, which reads like the paper; each part has a file of its own."""

from llamita.config import ModelConfig
from llamita.model.attention import Attention
from llamita.model.cache import KVCache
from llamita.model.feed_forward import SwiGLU
from llamita.model.llama import Block, Llama
from llamita.model.loss import LMHead, cross_entropy
from llamita.model.norm import RMSNorm
from llamita.model.rope import RotaryEmbedding
from llamita.targets import IGNORED

__all__ = [
    "Attention",
    "Block",
    "IGNORED",
    "KVCache",
    "LMHead",
    "Llama",
    "ModelConfig",
    "RMSNorm",
    "RotaryEmbedding",
    "SwiGLU",
    "cross_entropy",
]
