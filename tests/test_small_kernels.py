"""The kernels that read each number once, against torch's own operations in fp64; and threads, for all of them."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from llamita.ops.cpu.attention_in_blocks import QUERIES
from llamita.ops.cpu.flat import STRETCH
from llamita.ops.cpu.gate import gated_silu
from llamita.ops.cpu.rotation import rotate
from llamita.ops.cpu.squares import joint_norm
from nearness import BF16, LAYOUTS, ROUNDING, assert_rounded_once, distance, drawn, gradients, learned, wide
from torch import Tensor, nn
from torch.nn import functional

from llamita.jit import pool
from llamita.jit.machine_code import Body
from llamita.jit.numbers import exp, fp32s, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.model.positions import rotate_pairs
from llamita.ops.cpu import norm
from llamita.ops.cpu.adamw import adamw
from llamita.ops.cpu.attention import blocked_attention
from llamita.ops.cpu.cross_entropy import linear_cross_entropy
from llamita.ops.cpu.launch import run
from llamita.ops.cpu.norm import rms_norm
from llamita.optim import AdamW, clip_grad_norm_
from llamita.optim.adamw import Row, Update, reference_adamw
from llamita.optim.dispatch import use_fused_kernel

# RMSNorm


def assert_norms(x: Tensor, eps: float = 1e-5) -> None:
    x, weight = learned(x, 1 + 0.3 * drawn(x.shape[-1], seed=1, dtype=torch.float32))
    grad = drawn(*x.shape, seed=2)
    found = gradients(lambda *y: rms_norm(*y, eps), (x, weight), grad)
    expected = gradients(lambda a, w: functional.rms_norm(a, a.shape[-1:], w, eps), (wide(x), wide(weight)), grad)
    assert found[0].dtype == BF16
    assert_rounded_once(found[0], expected[0])
    # Gradients are fp32; but that of x is a difference of two numbers as large as r · |g|.
    factor = (x.detach().double().square().mean(-1, keepdim=True) + eps).rsqrt()
    size = factor * (grad * weight).detach().abs().amax(-1, keepdim=True)
    assert ((found[1] - expected[1]).abs() <= 1e-5 * size).all()
    assert distance(found[2], expected[2]) < 1e-5


@pytest.mark.parametrize("size", [1, 2, 7, 16, 48, 63, 64, 129, 256, 700])
@pytest.mark.parametrize("rows", [(1,), (3, 11)], ids=str)
def test_the_norm_is_that_of_torch(size, rows):
    assert_norms(drawn(*rows, size, dtype=torch.float32))


@pytest.mark.parametrize("at_once", [1, 100, 1 << 14])
def test_the_norm_is_the_same_in_blocks_of_any_size(monkeypatch, at_once):
    monkeypatch.setattr(norm, "ELEMENTS_AT_ONCE", at_once)
    assert_norms(drawn(2, 301, 48, dtype=torch.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_norm_takes_vectors_wherever_they_lie_in_memory(layout):
    assert_norms(LAYOUTS[layout](drawn(2, 3, 20, 48, dtype=torch.float32)))


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e-10, 1e4, 1e10, 1e15])
def test_the_norm_of_small_and_large_vectors_is_that_of_torch(factor):
    x = drawn(6, 64, dtype=torch.float32)
    x[::2] *= factor
    assert_norms(x)


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_the_norm_hands_on_what_is_no_number(bad):
    x = drawn(3, 48, dtype=torch.float32)
    x[1, 40] = bad
    out = rms_norm(x, torch.ones(48), 1e-5)
    assert not out[1].isfinite().all()
    assert out[::2].isfinite().all()


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001, 0x7FFF8000], ids=hex)
def test_no_kind_of_nan_is_lost_when_it_is_rounded(bits):
    """NVIDIA's GPUs write 0x7FFFFFFF, which rounded as a number is zero."""
    ones, spoilt = torch.ones(3, 48), torch.ones(3, 48)
    spoilt.view(torch.int32)[1] = bits
    assert rms_norm(spoilt, ones[0], 1e-5).isnan().all(dim=1).tolist() == [False, True, False]
    assert rms_norm(ones, spoilt[1], 1e-5).isnan().all()


def test_a_gain_may_be_of_another_type_and_lie_apart():
    x = drawn(9, 48, dtype=torch.float32)
    gain = drawn(96, seed=1)[::2]
    out, grad = gradients(lambda w: rms_norm(x, w, 1e-5), learned(gain), x)
    assert_rounded_once(out, functional.rms_norm(x.double(), (48,), gain.double(), 1e-5))
    assert grad.dtype == BF16


def test_the_norm_of_no_vectors_is_nothing():
    x, weight = learned(torch.empty(0, 48), torch.ones(48))
    out, d_x, d_weight = gradients(lambda *y: rms_norm(*y, 1e-5), (x, weight), torch.empty(0, 48))
    assert out.shape == d_x.shape == (0, 48)
    assert torch.equal(d_weight, torch.zeros(48))


# The gate


def every_bf16() -> Tensor:
    return torch.arange(1 << 16).to(torch.int32).to(torch.int16).view(BF16)


def test_the_gate_is_that_of_torch_for_every_number_there_is():
    gate, up = learned(every_bf16(), drawn(1 << 16))
    grad = drawn(1 << 16, seed=1)
    found = gradients(gated_silu, (gate, up), grad)
    expected = gradients(lambda g, u: functional.silu(g) * u, (wide(gate), wide(up)), grad)
    ordinary = (gate.detach().abs() < 1e30).nonzero().squeeze()
    for ours, theirs in zip(found, expected, strict=True):
        # e^-g ends at e^88, so that σ never is less than 2⁻¹²⁷: what little is left of a large -g.
        left = 2**-126 * gate.detach()[ordinary].double().abs().clamp(min=1) ** 2 * 8
        error = (ours[ordinary].double() - theirs[ordinary]).abs()
        assert (error <= ROUNDING * theirs[ordinary].abs() + 2e-6 + left).all()


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_the_gate_hands_on_what_is_no_number(bad):
    ones = torch.ones(100, dtype=BF16)
    spoilt = ones.index_fill(0, torch.tensor([70]), bad)
    assert not gated_silu(ones, spoilt)[70].isfinite()
    assert not gated_silu(spoilt, ones)[70].isfinite()
    assert gated_silu(spoilt, ones)[:70].isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (0, 3, 5, 7), (2, 4, 64, 48)], ids=str)
def test_the_gate_takes_numbers_wherever_they_lie_in_memory(shape, layout):
    gate, up, grad = (LAYOUTS[layout](drawn(*shape, seed=seed)) for seed in range(3))
    found = gradients(gated_silu, learned(gate, up), grad)
    expected = gradients(lambda g, u: functional.silu(g) * u, (wide(gate), wide(up)), grad)
    for ours, theirs in zip(found, expected, strict=True):
        assert_rounded_once(ours, theirs, smallest=1e-5)


@Body
def _exponentials(table):
    """out = e^x, both fp32, for the test below."""
    x, out = fp32s(table[FIRST_ARGUMENT]), fp32s(table[FIRST_ARGUMENT + 1])
    i = take_rows(table)
    while i < table[ROWS]:
        out[i] = exp(x[i])
        i = take_rows(table)


def exponentials(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    run(_exponentials, len(x), 1, x, out)
    return out


def test_the_exponential_is_exact_to_some_bits_of_fp32():
    x = torch.cat([torch.linspace(-100, 88, 40_001), torch.linspace(-1, 1, 2_001)])
    found, expected = exponentials(x).double(), x.double().exp()
    near_zero, all_there = (x.abs() <= 1), (x >= -87)
    error = (found / expected - 1).abs()
    assert error[near_zero].max() < 2.5e-7
    assert error[all_there].max() < 4e-6  # x / ln 2 is rounded: 2⁻²⁴ of 126
    assert (found[~all_there] == 0).all()


def test_the_exponential_of_what_is_no_number():
    bad = torch.tensor([math.nan, -math.nan, -math.inf, -3e38, 0.0, -0.0, 1e-40])
    found = exponentials(bad)
    assert found[:2].isnan().all()
    assert found[2:].tolist() == [0, 0, 1, 1, 1]
    assert (exponentials(torch.tensor([88.0, 89.0, 1e30, math.inf])) > 1e38).all()


# Rotation


def table_of_angles(positions: int, half: int) -> tuple[Tensor, Tensor]:
    angles = torch.outer(torch.arange(positions).float(), 10 ** -torch.linspace(0, 4, half))
    return angles.cos(), angles.sin()


def assert_turns(x: Tensor, positions: Tensor) -> None:
    cos, sin = table_of_angles(50, x.shape[-1] // 2)
    grad = drawn(*x.shape, seed=1)
    found = gradients(lambda y: rotate(y, cos, sin, positions), learned(x), grad)
    plain = gradients(lambda y: rotate_pairs(y, cos.double(), sin.double(), positions), (wide(x),), grad)
    for ours, theirs, before in zip(found, plain, (x, grad), strict=True):
        # A difference of products may be next to nothing: fp32's rounding of the products is left.
        assert_rounded_once(ours, theirs, smallest=2**-22 * before.detach().abs().sum().item())
    assert found[0].is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 20, 8), (1, 5, 50, 38), (3, 2, 7, 128), (0, 2, 7, 8)], ids=str)
def test_heads_are_turned_as_by_the_plain_function(shape, layout):
    x = LAYOUTS[layout](drawn(*shape))
    places = torch.randint(50, shape[::2], generator=torch.Generator().manual_seed(0))  # (batch, seq)
    assert_turns(x, torch.arange(shape[2]))
    assert_turns(x, places)
    assert_turns(x, places.T.contiguous().T)


def test_positions_are_looked_up_as_torch_does():
    x = drawn(2, 3, 4, 8)
    assert_turns(x, torch.tensor([[0, 1, 2, -1], [5, -1, -1, -50]]))  # -1 is padding
    assert_turns(x, torch.tensor([[3, 1, 4, 1]]))  # of one row, for all
    assert_turns(x, torch.tensor([3, 1, 4, 1], dtype=torch.int32))


@pytest.mark.parametrize("place", [50, -51])
def test_a_position_outside_of_the_table_is_refused_as_torch_does(place):
    with pytest.raises(IndexError, match=str(place)):
        rotate(drawn(1, 1, 2, 8), *table_of_angles(50, 4), torch.tensor([0, place]))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
def test_a_turned_head_hands_on_what_is_no_number(bad):
    x = drawn(1, 2, 3, 8)
    x[0, 1, 2, 5] = bad
    out = rotate(x, *table_of_angles(50, 4), torch.arange(3))
    assert not out[0, 1, 2, 1::4].isfinite().any()
    assert out[0, 0].isfinite().all()


# AdamW


SIZES = (1, 3, STRETCH - 1, STRETCH, STRETCH + 1, 3 * STRETCH + 5, 0)


def drawn_rows() -> list[Row]:
    return [tuple(drawn(size, seed=4 * size + i, dtype=torch.float32).abs() for i in range(4)) for size in SIZES]


@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.4, 0.999), (0.0, 0.0)], ids=str)
def test_adamw_is_the_plain_one(step, betas):
    update = Update(1e-2, *betas, 1e-8, 0.1, step)
    found, expected = drawn_rows(), drawn_rows()
    assert all(map(use_fused_kernel, found))
    adamw(found, **dataclasses.asdict(update))
    reference_adamw(expected, update)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_adamw_writes_nothing_beside_the_parameters():
    memory = torch.full((4, 30), 7.0)
    memory[1] = 5.0  # the gradient
    adamw([tuple(memory[:, 3:20])], 1e-2, 0.9, 0.95, 1e-8, 0.1, 1)
    updated = memory[[0, 2, 3]] != 7
    assert updated[:, 3:20].all()
    assert not updated[:, :3].any()
    assert not updated[:, 20:].any()
    assert (memory[1] == 5).all()


PLAIN = {
    "gaps": lambda: nn.Parameter(torch.ones(6, 8)[:, ::2]),
    "columns first": lambda: nn.Parameter(torch.ones(6, 8).T),
    "fp64": lambda: nn.Parameter(torch.ones(5, dtype=torch.float64)),
    "bf16": lambda: nn.Parameter(torch.ones(5, dtype=BF16)),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_lies_otherwise_in_memory_takes_the_plain_path(kind):
    ours, theirs = ([PLAIN[kind](), nn.Parameter(torch.ones(7))] for _ in range(2))
    for parameter in (*ours, *theirs):
        parameter.grad = torch.full_like(parameter, 0.5)
    assert not use_fused_kernel(ours)
    for optimizer in (AdamW(ours, 1e-2), torch.optim.AdamW(theirs, 1e-2, (0.9, 0.95), weight_decay=0.1)):
        for _ in range(3):
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_parameters_that_had_different_numbers_of_updates_go_as_with_torch():
    ours, theirs = ([nn.Parameter(drawn(40, seed=i, dtype=torch.float32)) for i in range(3)] for _ in range(2))
    for parameters, kind in ((ours, AdamW), (theirs, torch.optim.AdamW)):
        optimizer = kind(parameters, 1e-2, (0.9, 0.95), weight_decay=0.1)
        for step in range(6):
            for index, parameter in enumerate(parameters):
                late = step < 2 * index
                parameter.grad = None if late else drawn(40, seed=10 * step + index, dtype=torch.float32)
            optimizer.step()
        assert [int(optimizer.state[p]["step"]) for p in parameters] == [6, 4, 2]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# The joint norm


def test_the_joint_norm_is_exact_to_fp32():
    tensors = [drawn(size, seed=size, dtype=torch.float32) * 10**-i for i, size in enumerate(SIZES)]
    expected = torch.cat(tensors).double().norm()
    assert joint_norm(tensors).item() == pytest.approx(expected.item(), rel=1e-6)
    assert joint_norm([torch.zeros(5), torch.zeros(0)]).item() == 0


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, STRETCH - 1, STRETCH + 3])
def test_one_gradient_that_is_no_number_is_seen_in_the_joint_norm(bad, where):
    parameters = [nn.Parameter(torch.zeros(9)), nn.Parameter(torch.zeros(STRETCH + 4))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[1].grad[where] = bad
    found = clip_grad_norm_(parameters, math.inf)
    assert found.isnan() if math.isnan(bad) else found.isposinf()


# Threads


def attend(queries: int = 0) -> tuple[Tensor, ...]:
    q, k, v, grad = (drawn(2, heads, 150, 16, seed=heads) for heads in (4, 2, 2, 4))
    return gradients(partial(blocked_attention, queries=queries), learned(q, k, v), grad)


def attend_in_blocks() -> tuple[Tensor, ...]:
    return attend(QUERIES)


def score() -> tuple[Tensor, ...]:
    targets = torch.arange(600) % 301 - 1  # one of them is ignored
    inputs = learned(drawn(600, 24), drawn(300, 24, dtype=torch.float32))
    return gradients(lambda *x: linear_cross_entropy(*x, targets), inputs, torch.tensor(0.1))


def normalize() -> tuple[Tensor, ...]:
    inputs = learned(drawn(2000, 48, dtype=torch.float32), drawn(48, dtype=torch.float32))
    return gradients(lambda *x: rms_norm(*x, 1e-5), inputs, drawn(2000, 48, seed=1))


def gate() -> tuple[Tensor, ...]:
    return gradients(gated_silu, learned(drawn(300, 200), drawn(300, 200, seed=1)), drawn(300, 200, seed=2))


def turn() -> tuple[Tensor, ...]:
    tables = table_of_angles(50, 8)
    return gradients(lambda x: rotate(x, *tables, torch.arange(50)), learned(drawn(3, 4, 50, 16)), drawn(3, 4, 50, 16))


def update() -> tuple[Tensor, ...]:
    rows = drawn_rows()
    adamw(rows, 1e-2, 0.9, 0.95, 1e-8, 0.1, 3)
    return tuple(tensor for row in rows for tensor in row)


def measure() -> tuple[Tensor, ...]:
    return (joint_norm([tensor for row in drawn_rows() for tensor in row]),)


@pytest.fixture
def threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("threads_as_before")
@pytest.mark.parametrize("compute", [attend, attend_in_blocks, score, normalize, gate, turn, update, measure])
def test_results_do_not_depend_on_the_number_of_threads_or_their_kind(monkeypatch, compute: Callable):
    torch.set_num_threads(1)
    expected = compute()
    found = []
    for threads in (2, 5):
        torch.set_num_threads(threads)
        found.append(compute())
        with monkeypatch.context() as patch:
            patch.setattr(pool, "_parallel", lambda has_torch: pool._in_python_threads)
            found.append(compute())
    for result in found:
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
