"""Named variants of the architecture, and ladders of them: what each tests, and which settings it changes."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llamita.config import ModelConfig
from llamita.errors import UserError

Settings = dict[str, Any]

BASELINE = "baseline"
"""The group of the base configuration itself."""


@dataclass(frozen=True)
class Variant:
    """A change of the architecture.

    Attributes:
        name: as in --variants.
        tests: what it tests, in one sentence, with the paper.
        settings: the model of the base configuration -> the settings that differ.
    """

    name: str
    tests: str
    settings: Callable[[ModelConfig], Settings]


def plain_width(model: ModelConfig) -> int:
    """The width of a feed-forward layer of two matrices with as many weights as the one of `model`."""
    return model.intermediate_size * 3 // 2 if model.mlp == "swiglu" else model.intermediate_size


def gated_width(model: ModelConfig) -> int:
    """The width of a feed-forward layer of three matrices with as many weights as the one of `model`."""
    return model.intermediate_size if model.mlp == "swiglu" else model.intermediate_size * 2 // 3


def matched(model: ModelConfig, settings: Mapping[str, Any]) -> Settings:
    """`settings`, with the feed-forward width that keeps the number of weights if 3 matrices become 2, or 2 become 3.

    A width that `settings` already has stays.
    """
    mlp = settings.get("mlp", model.mlp)
    if "intermediate_size" in settings or "hidden_size" in settings or (mlp == "swiglu") == (model.mlp == "swiglu"):
        return dict(settings)
    return {**settings, "intermediate_size": gated_width(model) if mlp == "swiglu" else plain_width(model)}


def _fixed(**settings: Any) -> Callable[[ModelConfig], Settings]:
    return lambda model: matched(model, settings)


def _grouped(model: ModelConfig) -> Settings:
    """Half as many key-value heads as query heads, or a quarter from 8 query heads on, as in Llama 3."""
    groups = 4 if model.num_heads % 4 == 0 and model.num_heads >= 8 else 2
    if model.num_heads % groups:
        raise UserError(f"the variant gqa needs an even number of query heads, but num_heads is {model.num_heads}")
    return {"num_kv_heads": model.num_heads // groups}


def _gpt2(model: ModelConfig) -> Settings:
    shape = {"norm": "layer", "norm_position": "pre", "position": "learned", "mlp": "gelu", "bias": True}
    return matched(model, {**shape, "num_kv_heads": model.num_heads, "tie_embeddings": True, "qk_norm": False})


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            "no-norm",
            "Whether training needs normalization to be stable (Zhang et al., 2019, and Brock et al., 2021, "
            "replace it).",
            _fixed(norm="none"),
        ),
        Variant(
            "post-norm",
            "Whether normalizing the residual stream after each sum, as first published (Vaswani et al., 2017), trains "
            "as well as pre-norm, which needs less warmup (Xiong et al., 2020).",
            _fixed(norm_position="post"),
        ),
        Variant(
            "nope",
            "How far causal attention alone, without position encoding, tells positions apart (Haviv et al., 2022; "
            "Kazemnejad et al., 2023).",
            _fixed(position="none"),
        ),
        Variant(
            "learned-positions",
            "Learned absolute positions, as in GPT-2 (Radford et al., 2019), against rotary ones (Su et al., 2021).",
            _fixed(position="learned"),
        ),
        Variant(
            "layernorm",
            "Whether centering and shifting, as in LayerNorm (Ba et al., 2016), add anything to RMSNorm (Zhang & "
            "Sennrich, 2019).",
            _fixed(norm="layer"),
        ),
        Variant(
            "gelu",
            "A plain feed-forward layer with GELU (Hendrycks & Gimpel, 2016) against the gated SwiGLU (Shazeer, 2020), "
            "with as many weights.",
            _fixed(mlp="gelu"),
        ),
        Variant(
            "relu2",
            "A plain feed-forward layer with squared ReLU (So et al., 2021) against the gated SwiGLU (Shazeer, 2020), "
            "with as many weights.",
            _fixed(mlp="relu2"),
        ),
        Variant(
            "mqa",
            "Whether all query heads can share one key-value head (multi-query attention; Shazeer, 2019), which "
            "shrinks the cache most.",
            lambda model: {"num_kv_heads": 1},
        ),
        Variant(
            "gqa",
            "Whether groups of query heads can share a key-value head (grouped-query attention; Ainslie et al., 2023).",
            _grouped,
        ),
        Variant(
            "mha",
            "What a key-value head for every query head gains (multi-head attention; Vaswani et al., 2017).",
            lambda model: {"num_kv_heads": model.num_heads},
        ),
        Variant(
            "untied",
            "Whether the head should have weights of its own rather than share the embedding's (Press & Wolf, 2017).",
            _fixed(tie_embeddings=False),
        ),
        Variant(
            "qk-norm",
            "Whether normalizing queries and keys makes training more stable (Henry et al., 2020; Dehghani et al., "
            "2023).",
            _fixed(qk_norm=True),
        ),
        Variant(
            "gpt2-baseline",
            "All that Llama changed, together: the architecture of GPT-2 (Radford et al., 2019), as wide and deep.",
            _gpt2,
        ),
    )
}  # fmt: skip

LADDERS: dict[str, tuple[tuple[str, Callable[[ModelConfig], Settings]], ...]] = {
    "gpt2-to-llama": (
        ("gpt2", lambda model: {}),
        ("rmsnorm", _fixed(norm="rms")),
        ("rope", _fixed(position="rope")),
        ("swiglu", _fixed(mlp="swiglu")),
        ("gqa", _grouped),
        ("no-bias", _fixed(bias=False)),
    ),
}
"""Name -> its rungs: each changes one switch of the model that the rungs below it have made of `gpt2-baseline`."""


def find_variant(name: str) -> Variant:
    """The variant of this name. Raises `UserError` with the nearest name that exists."""
    return _find(name, VARIANTS, "variant")


def find_ladder(name: str) -> tuple[tuple[str, Callable[[ModelConfig], Settings]], ...]:
    """The rungs of the ladder of this name. Raises `UserError` with the names that exist."""
    return _find(name, LADDERS, "ladder")


def _find(name: str, known: Mapping[str, Any], what: str) -> Any:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.replace("_", "-"), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise UserError(f"unknown {what} {name!r}: {hint}")
