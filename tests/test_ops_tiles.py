"""Rounding to bf16, and matrix products in tiles by the processor's bf16 instruction, against torch's."""

import math

import pytest
import torch
from tolerances import BF16, needs_bf16_products, randn, relative_error
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS
from llamita.jit.primitives import bf16_ptr, fp32_ptr, round_to_bf16
from llamita.jit.tiles import multiply, pack_columns, pack_rows
from llamita.ops.cpu import attention_blocks, attention_tiles
from llamita.ops.cpu.attention import attention
from llamita.ops.cpu.launch import launch

A = ARGS


@ParallelKernel
def _round(table):
    x, out = fp32_ptr(table[A]), bf16_ptr(table[A + 1])
    for i in range(table[A + 2]):
        out[i] = round_to_bf16(x[i])


def rounded(x: Tensor) -> Tensor:
    out = torch.empty(len(x), dtype=BF16)
    launch(_round, 1, 1, x, out, len(x))
    return out


def test_rounding_matches_torch():
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(0))
    halfway = torch.arange(0x3F80_8000, 0x3F80_8000 + (64 << 16), 1 << 16)
    x = torch.cat([bits, halfway, halfway + 1, halfway - 1]).to(torch.int32).view(torch.float32)
    x = torch.cat([x[x.isfinite()], torch.tensor([0.0, -0.0, math.inf, -math.inf, 3.4e38, 1e-40])])
    assert torch.equal(rounded(x).view(torch.int16), x.to(BF16).view(torch.int16))


def test_nan_stays_nan_when_rounded():
    assert rounded(torch.tensor([math.nan, -math.nan])).isnan().all()


@ParallelKernel
def _multiply_rows(table):
    """C = A · B, where steps of B are pairs of rows; from step `first` on."""
    rows, inner, columns, first, adds = table[A + 4], table[A + 5], table[A + 6], table[A + 7], table[A + 8]
    pack_rows(table[A + 3], table[A + 2], columns, inner, columns)
    start, steps = table[A + 1] + 4 * first, (inner + 1) // 2
    row = (inner + 1) // 2
    multiply(table[A], columns, start, row, 1, table[A + 3], steps, first, rows, columns, steps - first, adds == 1)


@ParallelKernel
def _multiply_columns(table):
    """C = A · Bᵀ."""
    rows, inner, columns, width = table[A + 4], table[A + 5], table[A + 6], table[A + 7]
    pack_columns(table[A + 3], table[A + 2], inner, columns, inner)
    multiply(table[A], width, table[A + 1], inner // 2, 1, table[A + 3], inner // 2, 0, rows, width, inner // 2, False)


@needs_bf16_products
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("shape", [(1, 3, 16), (8, 4, 32), (9, 33, 48), (23, 64, 112), (7, 256, 80)], ids=str)
def test_a_tiled_product_matches_torch(shape, first, adds):
    rows, inner, columns = shape
    a, b = randn(rows, inner), randn(inner, columns, seed=1)
    even = torch.zeros(rows, inner + inner % 2, dtype=BF16)
    even[:, :inner] = a
    packed = torch.full(((inner + 1) // 2 * columns,), -1, dtype=torch.int32)
    c = torch.full((rows + 1, columns), 7.0)
    launch(_multiply_rows, 1, 1, c, even, b, packed, rows, inner, columns, first, int(adds))
    expected = a[:, 2 * first :].double() @ b[2 * first :].double() + (7 if adds else 0)
    assert relative_error(c[:rows], expected) < 1e-6
    assert (c[rows] == 7).all()


@needs_bf16_products
@pytest.mark.parametrize("shape", [(1, 2, 1), (8, 16, 32), (5, 48, 33), (17, 64, 100)], ids=str)
def test_packing_a_transposed_matrix_pads_to_a_full_tile(shape):
    rows, inner, columns = shape
    a, b, width = randn(rows, inner), randn(columns, inner, seed=1), -(-columns // 32) * 32
    packed, c = torch.full((inner // 2 * width,), -1, dtype=torch.int32), torch.full((rows, width), 7.0)
    launch(_multiply_columns, 1, 1, c, a, b, packed, rows, inner, columns, width)
    assert relative_error(c[:, :columns], a.double() @ b.double().T) < 1e-6
    assert (c[:, columns:] == 0).all()


def test_without_the_instruction_torch_multiplies(monkeypatch):
    chosen = []
    monkeypatch.setattr(attention_tiles, "has_bf16_products", lambda: False)
    monkeypatch.setattr(attention_blocks, "forward", lambda *_: chosen.append("blocks"))
    monkeypatch.setattr(attention_tiles, "forward", lambda *_: chosen.append("tiles"))
    attention(*(randn(1, 2, 300, 16, seed=seed) for seed in range(3)))
    assert chosen == ["blocks"]
