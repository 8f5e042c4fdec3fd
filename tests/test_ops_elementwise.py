"""RMSNorm, SwiGLU and RoPE by fused kernels against torch's own operations in fp64."""

import math

import pytest
import torch
from tolerances import (
    BF16,
    LAYOUTS,
    ROUNDING,
    assert_rounded_once,
    gradients,
    randn,
    relative_error,
    to_fp64,
    with_grad,
)
from torch import Tensor
from torch.nn import functional

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import exp, fp32_ptr, next_chunk
from llamita.ops import reference
from llamita.ops.cpu import norm
from llamita.ops.cpu.launch import launch
from llamita.ops.cpu.norm import rms_norm
from llamita.ops.cpu.rope import rope
from llamita.ops.cpu.swiglu import swiglu

# RMSNorm


def assert_norms(x: Tensor, eps: float = 1e-5) -> None:
    x, weight = with_grad(x, 1 + 0.3 * randn(x.shape[-1], seed=1, dtype=torch.float32))
    grad = randn(*x.shape, seed=2)
    found = gradients(lambda *y: rms_norm(*y, eps), (x, weight), grad)
    expected = gradients(lambda a, w: functional.rms_norm(a, a.shape[-1:], w, eps), (to_fp64(x), to_fp64(weight)), grad)
    assert found[0].dtype == BF16
    assert_rounded_once(found[0], expected[0])
    # Gradients are fp32; that of x is a difference of two terms of size r · |g|.
    factor = (x.detach().double().square().mean(-1, keepdim=True) + eps).rsqrt()
    size = factor * (grad * weight).detach().abs().amax(-1, keepdim=True)
    assert ((found[1] - expected[1]).abs() <= 1e-5 * size).all()
    assert relative_error(found[2], expected[2]) < 1e-5


@pytest.mark.parametrize("size", [1, 2, 7, 16, 48, 63, 64, 129, 256, 700])
@pytest.mark.parametrize("rows", [(1,), (3, 11)], ids=str)
def test_rms_norm_matches_torch(size, rows):
    assert_norms(randn(*rows, size, dtype=torch.float32))


@pytest.mark.parametrize("chunk", [1, 100, 1 << 14])
def test_rms_norm_is_the_same_in_chunks_of_any_size(monkeypatch, chunk):
    monkeypatch.setattr(norm, "CHUNK", chunk)
    assert_norms(randn(2, 301, 48, dtype=torch.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rms_norm_takes_tensors_of_any_strides(layout):
    assert_norms(LAYOUTS[layout](randn(2, 3, 20, 48, dtype=torch.float32)))


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e-10, 1e4, 1e10, 1e15])
def test_rms_norm_of_small_and_large_vectors_matches_torch(factor):
    x = randn(6, 64, dtype=torch.float32)
    x[::2] *= factor
    assert_norms(x)


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_rms_norm_propagates_non_finite_values(bad):
    x = randn(3, 48, dtype=torch.float32)
    x[1, 40] = bad
    out = rms_norm(x, torch.ones(48), 1e-5)
    assert not out[1].isfinite().all()
    assert out[::2].isfinite().all()


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001, 0x7FFF8000], ids=hex)
def test_every_nan_bit_pattern_stays_nan_when_rounded(bits):
    """NVIDIA GPUs write 0x7FFFFFFF, which naive rounding turns into zero."""
    ones, broken = torch.ones(3, 48), torch.ones(3, 48)
    broken.view(torch.int32)[1] = bits
    assert rms_norm(broken, ones[0], 1e-5).isnan().all(dim=1).tolist() == [False, True, False]
    assert rms_norm(ones, broken[1], 1e-5).isnan().all()


def test_the_weight_of_rms_norm_may_have_another_dtype_and_any_stride():
    x = randn(9, 48, dtype=torch.float32)
    gain = randn(96, seed=1)[::2]
    out, grad = gradients(lambda w: rms_norm(x, w, 1e-5), with_grad(gain), x)
    assert_rounded_once(out, functional.rms_norm(x.double(), (48,), gain.double(), 1e-5))
    assert grad.dtype == BF16


def test_rms_norm_of_an_empty_tensor_is_empty():
    x, weight = with_grad(torch.empty(0, 48), torch.ones(48))
    out, d_x, d_weight = gradients(lambda *y: rms_norm(*y, 1e-5), (x, weight), torch.empty(0, 48))
    assert out.shape == d_x.shape == (0, 48)
    assert torch.equal(d_weight, torch.zeros(48))


# SwiGLU


def every_bf16() -> Tensor:
    return torch.arange(1 << 16).to(torch.int32).to(torch.int16).view(BF16)


def test_swiglu_matches_torch_for_every_bf16_number():
    gate, up = with_grad(every_bf16(), randn(1 << 16))
    grad = randn(1 << 16, seed=1)
    found = gradients(swiglu, (gate, up), grad)
    expected = gradients(lambda g, u: functional.silu(g) * u, (to_fp64(gate), to_fp64(up)), grad)
    ordinary = (gate.detach().abs() < 1e30).nonzero().squeeze()
    for ours, theirs in zip(found, expected, strict=True):
        # e^-g is clamped to e^88, so σ is at least 2⁻¹²⁷ for large -g.
        left = 2**-126 * gate.detach()[ordinary].double().abs().clamp(min=1) ** 2 * 8
        error = (ours[ordinary].double() - theirs[ordinary]).abs()
        assert (error <= ROUNDING * theirs[ordinary].abs() + 2e-6 + left).all()


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_swiglu_propagates_non_finite_values(bad):
    ones = torch.ones(100, dtype=BF16)
    broken = ones.index_fill(0, torch.tensor([70]), bad)
    assert not swiglu(ones, broken)[70].isfinite()
    assert not swiglu(broken, ones)[70].isfinite()
    assert swiglu(broken, ones)[:70].isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (0, 3, 5, 7), (2, 4, 64, 48)], ids=str)
def test_swiglu_takes_tensors_of_any_strides(shape, layout):
    gate, up, grad = (LAYOUTS[layout](randn(*shape, seed=seed)) for seed in range(3))
    found = gradients(swiglu, with_grad(gate, up), grad)
    expected = gradients(lambda g, u: functional.silu(g) * u, (to_fp64(gate), to_fp64(up)), grad)
    for ours, theirs in zip(found, expected, strict=True):
        assert_rounded_once(ours, theirs, smallest=1e-5)


@ParallelKernel
def _exponentials(table):
    """out = e^x, both fp32, for the test below."""
    x, out = fp32_ptr(table[ARGS]), fp32_ptr(table[ARGS + 1])
    i = next_chunk(table)
    while i < table[NUM_ROWS]:
        out[i] = exp(x[i])
        i = next_chunk(table)


def exponentials(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    launch(_exponentials, len(x), 1, x, out)
    return out


def test_exp_is_accurate_to_a_few_ulp_of_fp32():
    x = torch.cat([torch.linspace(-100, 88, 40_001), torch.linspace(-1, 1, 2_001)])
    found, expected = exponentials(x).double(), x.double().exp()
    near_zero, all_there = (x.abs() <= 1), (x >= -87)
    error = (found / expected - 1).abs()
    assert error[near_zero].max() < 2.5e-7
    assert error[all_there].max() < 4e-6  # x / ln 2 is rounded: 2⁻²⁴ of 126
    assert (found[~all_there] == 0).all()


def test_exp_of_nan_infinities_and_denormals():
    bad = torch.tensor([math.nan, -math.nan, -math.inf, -3e38, 0.0, -0.0, 1e-40])
    found = exponentials(bad)
    assert found[:2].isnan().all()
    assert found[2:].tolist() == [0, 0, 1, 1, 1]
    assert (exponentials(torch.tensor([88.0, 89.0, 1e30, math.inf])) > 1e38).all()


# RoPE


def table_of_angles(positions: int, half: int) -> tuple[Tensor, Tensor]:
    angles = torch.outer(torch.arange(positions).float(), 10 ** -torch.linspace(0, 4, half))
    return angles.cos(), angles.sin()


def assert_rotates(x: Tensor, positions: Tensor) -> None:
    cos, sin = table_of_angles(50, x.shape[-1] // 2)
    grad = randn(*x.shape, seed=1)
    found = gradients(lambda y: rope(y, cos, sin, positions), with_grad(x), grad)
    plain = gradients(lambda y: reference.rope(y, cos.double(), sin.double(), positions), (to_fp64(x),), grad)
    for ours, theirs, before in zip(found, plain, (x, grad), strict=True):
        # A difference of products may cancel: what remains is the fp32 rounding of the products.
        assert_rounded_once(ours, theirs, smallest=2**-22 * before.detach().abs().sum().item())
    assert found[0].is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 20, 8), (1, 5, 50, 38), (3, 2, 7, 128), (0, 2, 7, 8)], ids=str)
def test_rope_is_the_reference_for_tensors_of_any_strides(shape, layout):
    x = LAYOUTS[layout](randn(*shape))
    places = torch.randint(50, shape[::2], generator=torch.Generator().manual_seed(0))  # (batch, seq)
    assert_rotates(x, torch.arange(shape[2]))
    assert_rotates(x, places)
    assert_rotates(x, places.T.contiguous().T)


def test_positions_index_the_table_as_in_torch():
    x = randn(2, 3, 4, 8)
    assert_rotates(x, torch.tensor([[0, 1, 2, -1], [5, -1, -1, -50]]))  # -1 is padding
    assert_rotates(x, torch.tensor([[3, 1, 4, 1]]))  # one row for all
    assert_rotates(x, torch.tensor([3, 1, 4, 1], dtype=torch.int32))


@pytest.mark.parametrize("place", [50, -51])
def test_a_position_outside_the_table_raises_index_error(place):
    with pytest.raises(IndexError, match=str(place)):
        rope(randn(1, 1, 2, 8), *table_of_angles(50, 4), torch.tensor([0, place]))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
def test_rope_propagates_non_finite_values(bad):
    x = randn(1, 2, 3, 8)
    x[0, 1, 2, 5] = bad
    out = rope(x, *table_of_angles(50, 4), torch.arange(3))
    assert not out[0, 1, 2, 1::4].isfinite().any()
    assert out[0, 0].isfinite().all()
