"""The shape and batch of a model from one number: its parameters, or its number of layers. Nothing here needs torch.

The rules of `--size` and `--depth`; what the user sets is kept, and the rest follows:

- Width: 64 per layer, as in nanochat, in the default model, and in most presets of up to 12 layers. `--depth` is just
  that; `--size` is the shape closest to it among those within 10 % of the requested number of parameters.
- Heads of 32, or of 64 from a width of 512 on.
- Learning rate: inverse to the width (Yang et al., 2022), as without these settings.
- Tokens per update: those of the default run, times (parameters / 664,192) to the 2/3. DeepSeek LLM (Bi et al., 2024)
  fits the best batch as compute to the 0.327; compute grows as parameters squared (Hoffmann et al., 2022).
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

WIDTH_PER_LAYER = 64
ASPECT_RATIOS = 16, 256  # the least and the most width per layer that `--size` chooses
WIDE = 512
TOLERANCE = 0.1
DEEPEST = 160
WIDTHS = *range(16, 128, 16), *range(128, WIDE, 32), *range(WIDE, 2**16 + 1, 64)
"""The widths that `--size` chooses from."""
DEFAULT_WIDTH, DEFAULT_LAYERS, DEFAULT_BATCH = 128, 2, 16
DEFAULT_PARAMETERS, DEFAULT_TOKENS = 664_192, 4096
"""Of the default run: parameters, and tokens per update if every window fills the context."""
SIZES = "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size"
FROM_SIZE = *SIZES, "learning_rate", "batch_size", "grad_accum_steps"
"""Settings that follow from size or depth: setting one of these on a higher level removes them from lower levels."""


class Shape(NamedTuple):
    """Width and depth of a model."""

    hidden_size: int
    num_layers: int

    @property
    def unevenness(self) -> float:
        """How far the width is from 64 per layer, as a factor's logarithm."""
        return abs(math.log(self.hidden_size / (WIDTH_PER_LAYER * self.num_layers)))


def derived_shape(model: Mapping[str, Any]) -> Shape:
    """Width and depth, where `model` has 0 for those that are derived. `model` is all fields of `ModelConfig`."""
    width, layers, depth = model["hidden_size"], model["num_layers"], model["depth"]
    if model["size"] and not (width and layers):
        return _shape_of_size(tuple((name, value) for name, value in model.items() if name != "depth"))
    if depth:
        layers = layers or depth
        return Shape(width or WIDTH_PER_LAYER * layers, layers)
    return Shape(width or DEFAULT_WIDTH, layers or DEFAULT_LAYERS)


def derived_sizes(
    hidden_size: int, num_heads: int = 0, mlp: str = "swiglu", *, wide_heads: bool = False
) -> dict[str, int | None]:
    """Default sizes of a model; head_dim is None if num_heads does not divide the width.

    `wide_heads`: heads of 64 from a width of 512 on, as models with a `size` or a `depth` have.
    """
    is_wide = wide_heads and hidden_size >= WIDE and hidden_size % 64 == 0
    default = hidden_size // 64 if is_wide else _default_heads(hidden_size)
    heads = num_heads or default
    return {
        "num_heads": default,
        "num_kv_heads": heads,
        "head_dim": hidden_size // heads if heads > 0 and hidden_size % heads == 0 else None,
        "intermediate_size": -(-hidden_size // 6) * 16 if mlp == "swiglu" else 4 * hidden_size,
    }


def _default_heads(hidden_size: int) -> int:
    """Heads of 32 elements, a width that every fused attention kernel supports, if 32 divides the hidden size.

    Otherwise the most heads of at least 32 elements that divide it: an even number, so that it can form groups, or one.
    """
    if hidden_size % 32 == 0:
        return max(1, hidden_size // 32)
    counts = range(hidden_size // 64 * 2, 0, -2)
    return next((count for count in counts if hidden_size % (2 * count) == 0), 1)


def number_of_parameters(model: Mapping[str, Any]) -> int:
    """Parameters of a model, embeddings included; `model` is all fields of `ModelConfig`, with every value."""
    width, bias = model["hidden_size"], int(model["bias"])
    queries, keys = model["num_heads"] * model["head_dim"], model["num_kv_heads"] * model["head_dim"]
    inner, inputs = model["intermediate_size"], 2 if model["mlp"] == "swiglu" else 1
    norm = {"none": 0, "rms": width, "layer": width * (1 + bias)}[model["norm"]]
    layer = 2 * width * (queries + keys) + bias * (queries + 2 * keys + width)  # attention
    layer += (inputs + 1) * width * inner + bias * (inputs * inner + width)  # feed-forward
    layer += 2 * norm + (2 * model["head_dim"] if model["qk_norm"] else 0)
    embeddings = model["vocab_size"] * width * (1 if model["tie_embeddings"] else 2)
    positions = model["max_seq_len"] * width if model["position"] == "learned" else 0
    return embeddings + positions + model["num_layers"] * layer + (norm if model["norm_position"] == "pre" else 0)


def default_batch_size(model: Mapping[str, Any], grad_accum_steps: int) -> int:
    """Sequences per batch: 16, or with `size` or `depth` by the tokens per update of the rule above."""
    if not (model["size"] or model["depth"]):
        return DEFAULT_BATCH
    tokens = DEFAULT_TOKENS * (number_of_parameters(model) / DEFAULT_PARAMETERS) ** (2 / 3)
    sequences = tokens / model["max_seq_len"] / grad_accum_steps
    return max(1, round(sequences) if sequences < 12 else 8 * round(sequences / 8))


def explain_shape(model: Mapping[str, Any]) -> str:
    """The shape and the rules that it follows, for the plan of a run; empty if neither size nor depth is set."""
    if not (model["size"] or model["depth"]):
        return ""
    shape = f"{model['num_layers']} layers x {model['hidden_size']}, heads of {model['head_dim']}"
    return f"{shape}: {_why(model)}; learning rate as 1 / width, batch as parameters^(2/3), where not set"


def _why(model: Mapping[str, Any]) -> str:
    """The reason for the shape of a model with a size or a depth."""
    size, count = model["size"], number_of_parameters(model)
    if not size:
        return f"{WIDTH_PER_LAYER} wide per layer, where not set"
    if abs(count / size - 1) > TOLERANCE:
        return f"{count:,} parameters, the closest to {size:,} that the vocabulary and the other settings allow"
    return f"within 10% of {size:,} parameters, the closest to {WIDTH_PER_LAYER} wide per layer"


@lru_cache(maxsize=256)
def _shape_of_size(settings: tuple[tuple[str, Any], ...]) -> Shape:
    """The shape closest to 64 wide per layer within 10 % of the size, or else that with the closest size."""
    model = dict(settings)
    ratio = {shape: _parameters(model, shape) / model["size"] for shape in _candidates(model)}
    error = {shape: abs(math.log(each)) for shape, each in ratio.items()}
    near = [shape for shape, each in ratio.items() if abs(each - 1) <= TOLERANCE]
    if near:
        return min(near, key=lambda shape: (round(shape.unevenness, 9), error[shape]))
    return min(error, key=lambda shape: (error[shape], shape.unevenness))


def _candidates(model: Mapping[str, Any]) -> Iterator[Shape]:
    """For each depth, the two widths around the size. What the user set is kept, whatever the ratio."""
    widths = [width for width in WIDTHS if _fits(model, width)] or WIDTHS
    for layers in [model["num_layers"]] if model["num_layers"] else range(1, DEEPEST + 1):
        if model["hidden_size"]:
            yield Shape(model["hidden_size"], layers)
            continue
        least, most = (0, math.inf) if model["num_layers"] or layers == 1 else (r * layers for r in ASPECT_RATIOS)
        around = _widths_around(model, layers, widths)
        yield from (Shape(width, layers) for width in around if least <= width <= most)


def _fits(model: Mapping[str, Any], width: int) -> bool:
    """Whether heads of an even size divide this width, and key-value heads the heads, where the user set numbers."""
    default = derived_sizes(width, model["num_heads"], wide_heads=True)
    # Heads that do not divide the width have no size.
    heads, head_dim = (model[name] or default[name] or 1 for name in ("num_heads", "head_dim"))
    return head_dim % 2 == 0 and heads % (model["num_kv_heads"] or heads) == 0


def _widths_around(model: Mapping[str, Any], layers: int, widths: Sequence[int]) -> Sequence[int]:
    """Of `widths`, the widest model with `layers` layers that has at most the size, and the next wider one."""
    wider = bisect_right(widths, model["size"], key=lambda width: _parameters(model, Shape(width, layers)))
    return widths[max(0, wider - 1) : wider + 1]


def _parameters(model: Mapping[str, Any], shape: Shape) -> int:
    """Parameters of `model` with this shape; what is 0 in it follows from the shape."""
    width, layers = shape
    default = derived_sizes(width, model["num_heads"], model["mlp"], wide_heads=True)
    # Heads that do not divide the width have no size: `ModelConfig` refuses them.
    chosen = {name: model[name] or value or 1 for name, value in default.items()}
    return number_of_parameters({**model, **chosen, "hidden_size": width, "num_layers": layers})
