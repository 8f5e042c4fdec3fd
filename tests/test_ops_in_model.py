"""A model with fused kernels against the same weights in plain fp32: loss, gradients, training."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from runs import cache as cache
from runs import rows, tiny_config
from tolerances import relative_error
from torch import Tensor
from torch.func import functional_call
from torch.func import grad as functional_gradient
from torch.utils.checkpoint import checkpoint

from llamita import ops
from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate import generate_ids
from llamita.model import KVCache, Llama, ModelConfig
from llamita.ops import cpu
from llamita.ops.cpu import scratch
from llamita.runtime.hardware import Hardware
from llamita.train import train

SIZES = {"vocab_size": 97, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_seq_len": 160}
SWITCHES = {
    "Llama": {},
    "grouped heads": {"num_kv_heads": 2},
    "multi-query, narrow heads": {"num_kv_heads": 1, "head_dim": 10},
    "a head of its own": {"tie_embeddings": False},
    "qk_norm": {"qk_norm": True, "num_kv_heads": 2},
    "gpt2-baseline": {"norm": "layer", "position": "learned", "mlp": "gelu", "bias": True},
    "post-norm": {"norm_position": "post"},
    "no norm, no positions": {"norm": "none", "position": "none", "mlp": "relu2"},
}


@pytest.fixture(autouse=True)
def threads_and_backend_as_before():
    threads = torch.get_num_threads()
    with ops.backend("native"):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def linear_layers_of_any_size_are_fused(monkeypatch):
    """Use the linear kernel for the small models of tests, too."""
    monkeypatch.setattr(cpu.linear, "MIN_ELEMENTS", 0)


def hardware(precision: str = "bf16") -> Hardware:
    return Hardware("cpu", precision, 2)


def models(**switches) -> tuple[Llama, Llama]:
    """(with kernels, plain): the same weights, perturbed from their initialization, so that all of them matter."""
    fast, plain = (Llama(ModelConfig(**{**SIZES, **switches})) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for name, weight in plain.named_parameters():
        size = 0.1 if weight.dim() < 2 else 0.5 / math.sqrt(weight.shape[1])
        weight.data += size * torch.randn(weight.shape, generator=generator)
        fast.get_parameter(name).data.copy_(weight)
    return hardware().apply(fast), plain


def batch(seq: int = 150) -> tuple[Tensor, Tensor]:
    """ids, targets (3, seq), some of which are ignored."""
    ids = torch.randint(97, (3, seq + 1), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[1, 70:90] = -100
    return ids[:, :-1], targets


def assert_learns_alike(fast: Llama, plain: Llama, **options) -> None:
    """About twenty successive bf16 roundings leave a gradient 2 to 3 % off, with or without kernels."""
    ids, targets = batch()
    with hardware().autocast():
        loss = fast(ids, targets, **options)
    expected = plain(ids, targets, **options)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    whole = torch.cat([gradient(weight) for weight in plain.parameters()]).norm().item()
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        error = (gradient(ours) - gradient(theirs)).norm().item()
        # (A bias of the keys shifts all scores of a query equally, so its gradient is rounding error only.)
        assert error < 0.04 * gradient(theirs).norm().item() + 1e-4 * whole, name


def gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad.flatten()


@pytest.mark.parametrize("name", SWITCHES)
def test_a_model_with_kernels_has_the_loss_and_gradients_of_the_plain_one(name):
    assert_learns_alike(*models(**SWITCHES[name]))


def test_packed_documents_attend_only_to_themselves():
    documents = torch.arange(150).expand(3, -1) // torch.tensor([[40], [77], [150]])
    assert_learns_alike(*models(num_kv_heads=2), document_ids=documents)


def test_positions_may_be_given():
    assert_learns_alike(*models(), positions=torch.arange(150).flip(0))
    assert_learns_alike(*models(), positions=torch.stack([torch.arange(150) + i for i in (0, 3, 10)]))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 129)], ids=str)
def test_short_and_odd_batches_have_the_plain_loss(shape):
    fast, plain = models(num_kv_heads=2)
    ids = torch.randint(97, shape)
    with hardware().autocast():
        loss = fast(ids, ids)
    assert loss.item() == pytest.approx(plain(ids, ids).item(), rel=1e-2)
    loss.backward()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)], ids=str)
def test_empty_batches_have_no_logits_and_no_loss(shape):
    fast, _ = models(num_kv_heads=2)
    ids = torch.empty(shape, dtype=torch.int64)
    with hardware().autocast():
        assert fast(ids).shape == (*shape, 97)
        loss = fast(ids, ids, reduction="sum")
    loss.backward()
    assert loss.item() == 0
    assert not any(gradient(weight).any() for weight in fast.parameters())


FUSED = {"linear", "norm", "rope", "swiglu", "attention", "cross_entropy"}


@pytest.fixture
def computed(monkeypatch) -> set[str]:
    """The fused kernels that ran."""
    called: set[str] = set()
    for name in FUSED:
        module = getattr(cpu, name)
        function = next(f for f in (name, "rms_norm", "linear_cross_entropy") if hasattr(module, f))
        monkeypatch.setattr(module, function, counted(getattr(module, function), name, called))
    return called


def counted(kernel: Callable[..., Tensor], name: str, called: set[str]) -> Callable[..., Tensor]:
    def counting(*arguments: Any) -> Tensor:
        called.add(name)
        return kernel(*arguments)

    return counting


def test_fused_kernels_run_in_bf16_and_nowhere_else(computed):
    model = hardware().apply(Llama(ModelConfig(**SIZES)))
    learn(model)
    assert computed == FUSED
    computed.clear()
    with hardware().autocast(), torch.no_grad():
        model(*batch(20))
    assert computed == FUSED - {"linear"}  # without gradients, autocast caches cast weights
    computed.clear()
    model(*batch(20))  # without autocast: fp32
    with ops.backend("plain"):
        learn(model)
    assert not computed


def test_attention_with_a_mask_uses_the_reference(computed):
    learn(hardware().apply(Llama(ModelConfig(**SIZES))), document_ids=torch.zeros_like(batch(20)[0]))
    assert computed == FUSED - {"attention"}


@pytest.mark.parametrize("way", ["compiled", "functional gradient"])
def test_tracers_see_only_the_reference(computed, way):
    torch.compiler.reset()
    model = hardware().apply(Llama(ModelConfig(**{**SIZES, "num_layers": 1})))
    ids, targets = batch(20)
    with hardware().autocast():
        if way == "compiled":
            torch.compile(model, backend="eager")(ids, targets).backward()
        else:
            weights = dict(model.named_parameters())
            functional_gradient(lambda weights: functional_call(model, weights, (ids, targets)))(weights)
    assert not computed


def test_tensor_subclasses_use_the_reference(computed):
    model = hardware().apply(Llama(ModelConfig(**{**SIZES, "num_layers": 1})))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(module.weight.detach().mT.contiguous().mT)
    learn(model)
    assert "linear" not in computed


def learn(model: Llama, **options) -> None:
    ids, targets = batch(20)
    with hardware().autocast():
        model(ids, targets, **options).backward()


def test_a_copied_model_trains_independently():
    model = hardware().apply(Llama(ModelConfig(**SIZES)))
    copied = deepcopy(model)
    learn(copied)
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in copied.parameters())


def test_frozen_weights_get_no_gradient():
    model, other = models(num_kv_heads=2)
    frozen = "layers.0.self_attn.q_proj", "layers.1.mlp.up_proj", "layers.1.input_layernorm"
    for name, weight in [*model.named_parameters(), *other.named_parameters()]:
        weight.requires_grad_(not any(part in name for part in frozen))
    ids, targets = batch()
    with hardware().autocast():
        model(ids, targets).backward()
    other(ids, targets).backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert relative_error(ours.grad, theirs.grad) < 0.05, name


def test_gradients_accumulate_over_batches():
    model, _ = models()
    learn(model)
    once = [gradient(weight).clone() for weight in model.parameters()]
    learn(model)
    for weight, expected in zip(model.parameters(), once, strict=True):
        assert torch.equal(gradient(weight), 2 * expected)


def test_two_forward_passes_before_their_backward_passes_do_not_disturb_each_other():
    model, _ = models(num_kv_heads=2)
    (first, second), losses = [batch(40), batch(90)], []
    expected = []
    for ids, targets in (first, second):
        model.zero_grad()
        with hardware().autocast():
            model(ids, targets).backward()
        expected.append([gradient(weight).clone() for weight in model.parameters()])
    with hardware().autocast():
        losses = [model(ids, targets) for ids, targets in (first, second)]
    for loss, grads in zip(losses, expected, strict=True):
        model.zero_grad()
        loss.backward()
        for weight, grad in zip(model.parameters(), grads, strict=True):
            assert torch.equal(gradient(weight), grad)


def test_a_second_backward_pass_through_the_layers_has_the_same_gradients():
    model, _ = models()
    with hardware().autocast():
        hidden = model.model(batch(20)[0], torch.arange(20), None, None)
    hidden.sum().backward(retain_graph=True)
    once = [gradient(weight).clone() for weight in model.model.parameters()]
    model.zero_grad()
    hidden.sum().backward()
    assert all(torch.equal(gradient(w), g) for w, g in zip(model.model.parameters(), once, strict=True))


def test_a_second_derivative_is_refused_and_not_silently_zero():
    model, _ = models()
    with hardware().autocast():
        loss = model(*batch(20))
    with pytest.raises(RuntimeError, match="second derivative"):
        loss.backward(create_graph=True)


def test_checkpointed_layers_have_the_same_gradients():
    model, _ = models()
    learn(model)
    once = [gradient(weight).clone() for weight in model.parameters()]
    model.zero_grad()
    for block in model.model.layers:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    learn(model)
    assert all(torch.equal(gradient(weight), g) for weight, g in zip(model.parameters(), once, strict=True))


def test_the_input_of_a_norm_is_saved_once_and_its_output_never():
    """The output that three products read is recomputed: only the norm's input and 1/rms are saved."""
    x, gain = (torch.randn(shape, requires_grad=True) for shape in ((8, 64), (64,)))
    weights = [torch.randn(64, 64, requires_grad=True) for _ in range(3)]
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), hardware().autocast():
        normed = ops.rms_norm(x, gain, 1e-5)
        sum(ops.linear(normed, weight) for weight in weights)
    own = {tensor.data_ptr() for tensor in (x, gain, *weights)}
    assert normed.data_ptr() not in saved
    assert sum(size for place, size in saved.items() if place not in own) <= 8 * 4  # one fp32 value per row


@pytest.mark.parametrize(
    "edit",
    [
        lambda out: out.mul_(0.5),
        lambda out: out * 0.5,
        lambda out: out.clone().mul_(0.5),
        lambda out: out.detach().requires_grad_() * 0.5 + out * 0,
    ],
    ids=["in place", "replaced", "cloned", "detached"],
)
def test_a_modified_output_is_saved_and_not_recomputed(edit):
    def gradients(backend: str) -> list[Tensor]:
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        gain, weight = torch.ones(64, requires_grad=True), torch.eye(64).requires_grad_()
        with ops.backend(backend), hardware().autocast():
            out = edit(ops.rms_norm(x, gain, 1e-5))
            (ops.linear(out, weight).float() ** 2).sum().backward()
        return [gradient(tensor) for tensor in (gain, weight) if tensor.grad is not None]

    for ours, theirs in zip(gradients("native"), gradients("plain"), strict=True):
        assert relative_error(ours, theirs) < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (2, 7, 24), (24,)], ids=str)
def test_a_linear_layer_matches_torch_under_autocast(shape, bias, dtype):
    def results(linear: Callable[..., Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        weight = torch.randn(10, 24, generator=generator).requires_grad_()
        shift = torch.randn(10, generator=generator).requires_grad_() if bias else None
        with hardware().autocast():
            out = linear(x, weight, shift)
        out.sum().backward()
        found = [out, x.grad, weight.grad, shift.grad if shift is not None else None]
        return [tensor.detach() for tensor in found if tensor is not None]

    for ours, theirs in zip(results(ops.linear), results(torch.nn.functional.linear), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert relative_error(ours, theirs) < 0.01


def test_small_linear_layers_use_torch_which_has_less_overhead(monkeypatch):
    monkeypatch.undo()
    assert not cpu.linear.supports(torch.ones(768, 128), torch.ones(341, 128), None)
    assert cpu.linear.supports(torch.ones(4096, 256), torch.ones(256, 256), None)
    assert cpu.linear.supports(torch.ones(1, 1024), torch.ones(1024, 1024), None)


@pytest.mark.parametrize("changed", ["weight", "input"])
def test_the_backward_of_a_linear_layer_whose_operands_were_modified_in_place_raises(changed):
    x, weight = torch.randn(8, 24, requires_grad=True), torch.randn(10, 24, requires_grad=True)
    with hardware().autocast():
        out = ops.linear(x, weight)
    with torch.no_grad():
        (weight if changed == "weight" else x).add_(1)
    with pytest.raises(RuntimeError, match="in place"):
        out.sum().backward()


def test_the_backend_is_restored_after_a_block_and_refuses_other_names():
    with ops.backend("plain"):
        with pytest.raises(ZeroDivisionError), ops.backend("native"):
            raise ZeroDivisionError
        assert ops.backend.name == "plain"
    assert ops.backend.name == "native"
    with pytest.raises(UserError, match="choose native or plain"):
        ops.backend.use("fast")


def test_reused_scratch_memory_is_no_larger_than_the_largest_use():
    scratch.clear()
    model, _ = models()
    for seq in (20, 30, 40, 150, 150, 100, 90):
        learn_of_length(model, seq)
    held = scratch.allocated_bytes()
    for _ in range(3):
        learn_of_length(model, 150)
    assert scratch.allocated_bytes() == held
    scratch.clear()
    assert scratch.allocated_bytes() == 0


def test_a_backward_pass_in_another_thread_leaks_no_memory_there():
    model, _ = models()
    kept = []
    with ThreadPoolExecutor(1) as thread:
        for _ in range(3):
            with hardware().autocast():
                loss = model(*batch(40))
            thread.submit(loss.backward).result()
            kept.append(thread.submit(scratch.allocated_bytes).result())
    assert all(weight.grad is not None for weight in model.parameters())
    assert kept[0] == kept[1] == kept[2]


def test_a_model_trains_after_inference_mode():
    """Inference tensors cannot be written to outside inference mode."""
    scratch.clear()
    model, _ = models()
    with torch.inference_mode(), hardware().autocast():
        model(*batch(150))
    learn(model)
    assert all(weight.grad is not None for weight in model.parameters())


def learn_of_length(model: Llama, seq: int) -> None:
    with hardware().autocast():
        model(*batch(seq)).backward()


def test_fp32_logits_are_bitwise_those_of_the_reference():
    model, ids = Llama(ModelConfig(**SIZES)), batch()[0]
    with ops.backend("plain"):
        expected = model(ids)
    assert torch.equal(model(ids), expected)


@pytest.mark.parametrize("name", ["embed_tokens", "q_proj", "v_proj", "gate_proj", "down_proj", "layernorm", "lm_head"])
def test_a_non_finite_weight_makes_a_non_finite_loss(name):
    fast, _ = models(tie_embeddings=False)
    weight = next(weight for key, weight in fast.named_parameters() if name in key)
    ids, targets = batch()
    with torch.no_grad():
        weight.view(-1)[ids[0, 0] * 64 if name == "embed_tokens" else 5] = math.nan
    with hardware().autocast():
        assert fast(ids, targets).isnan()


@torch.no_grad()
def test_an_evaluated_loss_is_the_same_however_it_is_reduced():
    fast, plain = models(num_kv_heads=2)
    ids, targets = batch()
    with hardware().autocast():
        mean, total, each = (fast.eval()(ids, targets, reduction=kind) for kind in ("mean", "sum", "none"))
    expected = plain(ids, targets, reduction="none")
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-2)
    assert mean.item() == pytest.approx(total.item() / (targets != -100).sum().item(), rel=1e-6)
    assert each.sum().item() == pytest.approx(total.item(), rel=1e-3)
    assert relative_error(each, expected) < 0.02


@torch.inference_mode()
def test_prompts_of_different_lengths_are_prefilled_into_a_cache():
    """The shorter ones are padded, at position -1."""
    fast, plain = models(num_kv_heads=2)
    ids, _ = batch(12)
    positions = torch.arange(12).expand(3, -1).clone()
    positions[1, 5:] = positions[2, 1:] = -1
    config = plain.config
    with hardware().autocast():
        found = fast(ids, positions=positions, cache=KVCache(config, 3, 160, torch.bfloat16))
    expected = plain(ids, positions=positions, cache=KVCache(config, 3, 160))
    assert relative_error(found[positions >= 0], expected[positions >= 0]) < 0.02
    assert found.isfinite().all()


def test_a_model_with_kernels_generates():
    fast, _ = models(max_seq_len=16)
    config = GenerationConfig(max_new_tokens=30, temperature=0.0)
    with hardware().autocast():
        written = generate_ids(fast, [[1, 2, 3], [4]], config)
    assert [len(ids) for ids in written] == [30, 30]
    assert all(token in range(97) for ids in written for token in ids)


@torch.inference_mode()
def test_a_model_in_bf16_computes_with_kernels_what_it_computes_without():
    """Its weights are bf16, too, and its tables of angles stay fp32."""
    fast, _ = models(num_kv_heads=2)
    fast = fast.to(torch.bfloat16)
    assert fast.model.layers[0].self_attn.rope.cos.dtype == torch.float32
    ids, _ = batch()
    native = fast(ids)
    with ops.backend("plain"):
        assert relative_error(native.float(), fast(ids).float()) < 0.02


@pytest.mark.slow
def test_three_hundred_steps_in_bf16_end_where_fp32_ends(tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        config = tiny_config(
            "stories",
            output_dir=str(tmp_path / precision),
            precision=precision,
            tokenizer="bpe",
            vocab_size=512,
            max_documents=3000,
            hidden_size=64,
            num_layers=2,
            num_heads=2,
            max_seq_len=64,
            batch_size=16,
            max_steps=300,
            warmup_steps=30,
            learning_rate=3e-3,
            log_every=50,
            eval_every=300,
            eval_sequences=256,
            save_every=300,
        )
        losses[precision] = rows(train(config))[-1]["val_loss"]
    assert losses["fp32"] < 1
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-3)
