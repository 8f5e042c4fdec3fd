"""The code that is read is the code that runs: an edit of any function of `model/` changes what it serves.

Each function and method of `llamita.model` is replaced by one that returns something else, as an edit of its source
would. Then initial weights, training loss, gradients, validation loss and the logits of generation are compared with
those of before, in fp32 and bf16, with fused kernels, with the reference, and compiled.
"""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
from runs import cache as prepared_tokens  # noqa: F401
from runs import rows, tiny_config
from runs import text as text
from torch import Tensor, nn
from torch.nn.utils import parametrize

import llamita.model
from llamita import ops
from llamita.config import GenerationConfig
from llamita.generate import Engine
from llamita.model import Attention, Block, Llama, ModelConfig
from llamita.model.positions import NoRotation
from llamita.train import train

SEQ, VOCAB = 16, 64
EVERYTHING = ("training loss", "gradients", "validation loss", "generation")
LEARNING = ("training loss", "gradients", "validation loss")


@pytest.fixture(autouse=True)
def linear_layers_of_any_size_are_fused(monkeypatch):
    """Small ones are torch's, as they are by the reference."""
    monkeypatch.setattr(ops.cpu.linear, "MIN_ELEMENTS", 0)


Way = tuple[str, str, str | None]
"""Precision, op backend, backend of torch.compile."""
WAYS: dict[str, Way] = {
    "fp32": ("fp32", "native", None),
    "fp32 by the reference": ("fp32", "plain", None),
    "bf16 by fused kernels": ("bf16", "native", None),
    "bf16 by the reference": ("bf16", "plain", None),
    "bf16 compiled": ("bf16", "native", "eager"),
}
INDUCTOR: Way = ("bf16", "native", "inductor")
NOT_COMPILED = [name for name, way in WAYS.items() if not way[2]]


def nothing(model: Llama) -> None:
    """Leave a model as it is."""


def effects(switches: dict[str, Any], way: Way, prepare: Callable[[Llama], Any] = nothing) -> dict[str, Tensor]:
    """What a model of these switches computes, by what it is for."""
    precision, backend, compiler = way
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_seq_len": SEQ}
    packed = switches.get("packed", False)
    config = ModelConfig(**sizes, **{name: value for name, value in switches.items() if name != "packed"})
    drawn = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(VOCAB, (2, 4, SEQ), generator=drawn)
    documents = {"document_ids": torch.arange(SEQ).expand(4, SEQ) // 5} if packed else {}

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()

    with ops.backend(backend):
        model = Llama(config, seed=0)
        prepare(model)
        found = {"initial weights": torch.cat([p.detach().flatten() for p in model.parameters()])}
        step_model = torch.compile(model, dynamic=False, backend=compiler) if compiler else model
        with autocast():
            loss = step_model(ids, targets, reduction="sum", **documents)
        loss.backward()
        found["training loss"] = loss.detach()
        found["gradients"] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.eval()
        with torch.no_grad(), autocast():
            found["validation loss"] = model(ids, targets, reduction="sum", **documents)
            found["generation"] = generated(model, ids[:, :6].tolist())
    return found


def generated(model: Llama, prompts: list[list[int]]) -> Tensor:
    """The log-probabilities of all tokens, at each of the two tokens that the decoding engine adds to each prompt."""
    engine, settings = Engine(model, len(prompts)), GenerationConfig(2, temperature=0.0, logprobs=VOCAB)
    sequences = [engine.add(prompt, settings) for prompt in prompts]
    assert len(list(engine.run())) == 2 * len(prompts)
    tops = [sorted(scored.top) for sequence in sequences for scored in sequence.logprobs]
    return torch.tensor([[logprob for _, logprob in top] for top in tops])


@cache
def unedited(switches: tuple[tuple[str, Any], ...], way: Way) -> dict[str, Tensor]:
    """The same of the code as it is."""
    torch.compiler.reset()
    return effects(dict(switches), way)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not same(value, after[name])}


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def ramp(x: Tensor) -> Tensor:
    """Another tensor, also after a norm, which would undo a mere factor."""
    return x * (torch.linspace(0.5, 1.5, x.shape[-1]).to(x.dtype) if x.dim() else 0.5)


def halved(x: Tensor) -> Tensor:
    return x // 2


def first_key_only(mask: Tensor | None) -> Tensor:
    shape = (4, 1, 1, SEQ) if mask is None else mask.shape
    return (torch.arange(shape[-1]) == 0).expand(shape)


class Ramp(nn.Module):
    """Stands in the place of a part, and lets through what it is given, changed."""

    def forward(self, x: Tensor) -> Tensor:
        return ramp(x)

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        return ramp(x)


@dataclass
class Edit:
    """What a function returns after the edit, given what it returned; the model that uses it; what must change."""

    change: Callable[[Any], Any]
    must_change: tuple[str, ...] = EVERYTHING
    switches: dict[str, Any] = field(default_factory=dict)


GPT2 = {"norm": "layer", "position": "learned", "mlp": "gelu", "bias": True}
WEIGHTS = ("initial weights", *EVERYTHING)

EDITS = {
    "attention.Attention.forward": Edit(ramp),
    "attention.Attention.heads": Edit(ramp),
    "cache.NoCache.append": Edit(lambda kv: (ramp(kv[0]), ramp(kv[1])), LEARNING),
    "cache.KVCache.next_positions": Edit(halved, ("generation",)),
    "cache.KVCache.causal_mask": Edit(first_key_only, ("generation",)),
    "cache.KVCache.layer": Edit(
        lambda layer: type(layer)(ramp(layer.keys), layer.values, layer.lengths), ("generation",)
    ),
    "cache.LayerCache.append": Edit(lambda kv: (ramp(kv[0]), ramp(kv[1])), ("generation",)),
    "feed_forward.SwiGLU.forward": Edit(ramp),
    "feed_forward.FeedForward.forward": Edit(ramp, switches={"mlp": "relu2"}),
    "feed_forward.tanh_gelu": Edit(ramp, switches={"mlp": "gelu"}),
    "feed_forward.squared_relu": Edit(ramp, switches={"mlp": "relu2"}),
    "feed_forward.choose_feed_forward": Edit(lambda part: Ramp(), WEIGHTS),
    "init.normal": Edit(ramp, WEIGHTS),
    "linear.Linear.forward": Edit(ramp),
    "llama.Block.forward": Edit(ramp),
    "llama.PostNormBlock.forward": Edit(ramp, switches={"norm_position": "post"}),
    "llama.Decoder.forward": Edit(ramp),
    "llama.Llama.forward": Edit(ramp),
    "llama.Llama._positions": Edit(halved),
    "llama.Llama._mask": Edit(first_key_only),
    "llama.same_document": Edit(first_key_only, LEARNING, {"packed": True}),
    "loss.LMHead.forward": Edit(ramp),
    "norm.RMSNorm.forward": Edit(ramp),
    "norm.LayerNorm.forward": Edit(ramp, switches=GPT2),
    "norm.choose_norm": Edit(lambda part: Ramp(), WEIGHTS),
    "positions.RotaryEmbedding.rotate": Edit(ramp),
    "positions.frequencies": Edit(ramp),
    "positions.NoRotation.rotate": Edit(ramp, switches={"position": "none"}),
    "positions.LearnedPositions.add": Edit(ramp, switches=GPT2),
    "positions.NoPositions.add": Edit(ramp),
    "positions.choose_rotation": Edit(lambda part: NoRotation()),
    "positions.choose_embedding": Edit(lambda part: Ramp()),
}
"""By the name of the function, without `llamita.model.`."""

IN_PLACE = {
    "init.initialize": Edit(lambda model: [p.data.mul_(1.5) for p in model.parameters()], WEIGHTS),
    "init.init_copy_heads": Edit(
        lambda attention: attention.o_proj.weight.data.mul_(0.5), WEIGHTS, {"head_init": "copy"}
    ),
}
"""Functions that change what they are given: the edit changes it once more."""

EXEMPT = {
    "cache.KVCache.reserve": "bookkeeping: raises if the cache is too short; without it nothing is visible",
    "cache.KVCache.slot": "a view of the cache, in which the engine prefills one slot",
    "cache.KVCache.copy_slot": "copies what the model computed, for equal prompts",
    "positions.RotaryEmbedding._apply": "moves the tables with the model",
    "cache.KVCache.clear": "bookkeeping of slots, called by the engine between sequences",
    "llama.Llama._check_size": "raises for what does not fit, and computes nothing",
    "llama.Llama.num_parameters": "counts for people; computes nothing",
}
CONSTRUCTORS = (
    "__init__"  # they compute nothing: what they choose is edited in `choose_...`, what they build in `forward`
)


def functions() -> Iterator[tuple[str, Any, str]]:
    """(name, holder, attribute) of each function and method that is defined in a module of llamita.model."""
    for info in pkgutil.iter_modules(llamita.model.__path__):
        module = import_module(f"llamita.model.{info.name}")
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                yield f"{info.name}.{name}", module, name
            elif inspect.isclass(value):
                for method, function in vars(value).items():
                    if inspect.isfunction(function) and method != CONSTRUCTORS:
                        yield f"{info.name}.{name}.{method}", value, method


FUNCTIONS = {name: (holder, attribute) for name, holder, attribute in functions()}


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, name: str, edited: Callable[..., Any]) -> None:
    """As an edit of the source would: in the class, or under every name by which a module of llamita knows it."""
    holder, attribute = FUNCTIONS[name]
    original = getattr(holder, attribute)
    holders = [holder] if inspect.isclass(holder) else [m for n, m in sys.modules.items() if n.startswith("llamita")]
    for place in holders:
        if vars(place).get(attribute) is original:
            monkeypatch.setattr(place, attribute, edited)


def with_result(original: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    def edited(*arguments: Any, **options: Any) -> Any:
        return change(original(*arguments, **options))

    return edited


def with_argument_changed(original: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    def edited(subject: Any, *arguments: Any, **options: Any) -> None:
        original(subject, *arguments, **options)
        change(subject)

    return edited


def test_every_function_of_the_model_is_edited_or_has_a_reason_not_to_be():
    known = {*EDITS, *IN_PLACE, *EXEMPT}
    assert known == set(FUNCTIONS)


@pytest.mark.parametrize("way", WAYS)
def test_without_an_edit_nothing_changes(way):
    assert changed(unedited((), WAYS[way]), effects({}, WAYS[way])) == set()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*EDITS, *IN_PLACE])
def test_an_edit_changes_all_that_the_function_serves(monkeypatch, name, way):
    assert_takes_effect(monkeypatch, name, WAYS[way])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EDITS, *IN_PLACE])
def test_an_edit_takes_effect_where_inductor_compiles(monkeypatch, name):
    assert_takes_effect(monkeypatch, name, INDUCTOR)


def assert_takes_effect(monkeypatch: pytest.MonkeyPatch, name: str, way: Way) -> None:
    edit, wrapped = (EDITS[name], with_result) if name in EDITS else (IN_PLACE[name], with_argument_changed)
    before = unedited(tuple(edit.switches.items()), way)
    holder, attribute = FUNCTIONS[name]
    replace_everywhere(monkeypatch, name, wrapped(getattr(holder, attribute), edit.change))
    torch.compiler.reset()  # as a new process would begin
    assert changed(before, effects(edit.switches, way)) >= set(edit.must_change)


# Parts that are replaced, subclassed or watched


class Damped(nn.Linear):
    """A subclass of torch's own layer, as adapters and other precisions bring."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 0.5


class Halved(nn.Module):
    """A parametrization of a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * 0.5


def in_its_place(layer: nn.Linear, kind: type[nn.Linear]) -> nn.Linear:
    made = kind(layer.in_features, layer.out_features, bias=layer.bias is not None)
    made.weight = nn.Parameter(layer.weight.detach() * 0.5) if kind is nn.Linear else layer.weight
    return made


PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj")  # fmt: skip
TREATMENTS: dict[str, Callable[[nn.Module, str], Any]] = {
    "replaced": lambda block, part: block.set_submodule(part, in_its_place(block.get_submodule(part), nn.Linear)),
    "subclassed": lambda block, part: block.set_submodule(part, in_its_place(block.get_submodule(part), Damped)),
    "hooked": lambda block, part: block.get_submodule(part).register_forward_hook(lambda m, i, out: out * 0.5),
    "hooked before": lambda block, part: block.get_submodule(part).register_forward_pre_hook(
        lambda m, inputs: (inputs[0] * 0.5,)
    ),
    "parametrized": lambda block, part: parametrize.register_parametrization(
        block.get_submodule(part), "weight", Halved()
    ),
    "given another forward": lambda block, part: setattr(
        block.get_submodule(part), "forward", with_result(block.get_submodule(part).forward, lambda out: out * 0.5)
    ),
}


@pytest.mark.parametrize(
    ("part", "way"),
    [*((part, way) for part in PARTS for way in NOT_COMPILED), ("self_attn.v_proj", "bf16 compiled")],
)
@pytest.mark.parametrize("treatment", TREATMENTS)
def test_a_linear_layer_that_is_exchanged_or_watched_computes_otherwise(part, treatment, way):
    before = unedited((), WAYS[way])
    torch.compiler.reset()
    after = effects({}, WAYS[way], lambda model: TREATMENTS[treatment](model.model.layers[0], part))
    assert changed(before, after) >= set(EVERYTHING)


@pytest.mark.parametrize("part", ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp", ""])
@pytest.mark.parametrize("way", WAYS)
def test_a_hook_on_any_part_of_a_block_is_called_and_obeyed(part, way):
    def watch(model: Llama) -> None:
        model.model.layers[0].get_submodule(part).register_forward_hook(lambda m, i, out: ramp(out))

    before = unedited((), WAYS[way])
    torch.compiler.reset()
    assert changed(before, effects({}, WAYS[way], watch)) >= set(EVERYTHING)


class Silent(Attention):
    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        return super().forward(*arguments, **options) * 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_subclass_of_attention_changes_what_a_run_logs(monkeypatch, tmp_path, text, precision):
    def losses(name: str) -> list[float]:
        run = train(tiny_config(text, output_dir=str(tmp_path / name), max_steps=4, precision=precision))
        return [row[loss] for row in rows(run) for loss in ("train_loss", "val_loss") if row.get(loss) is not None]

    before = losses("as it is")
    monkeypatch.setattr("llamita.model.llama.Attention", Silent)
    after = losses("silent")
    assert len(before) >= 6
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_blocks_and_their_parts_are_called_once_for_each_forward_pass(monkeypatch):
    calls: dict[str, int] = {}
    for cls in (Block, Attention):
        monkeypatch.setattr(cls, "forward", counted(cls.forward, cls.__name__, calls))
    effects({}, WAYS["bf16 by fused kernels"])
    # 2 layers: training, validation, four prompts that are prefilled one by one, a decode step
    assert calls == {"Block": 14, "Attention": 14}


def counted(function: Callable[..., Any], name: str, calls: dict[str, int]) -> Callable[..., Any]:
    def counting(*arguments: Any, **options: Any) -> Any:
        calls[name] = calls.get(name, 0) + 1
        return function(*arguments, **options)

    return counting
